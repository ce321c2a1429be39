//! The identity agent: where it gets its certificate, and to whom it hands it on.

mod attest;

use std::{fs, path::Path, sync::Arc};

use anyhow::Context;
use futures_util::StreamExt;
use reeve_audit::{EventKind, EventRecord, Wal};
use reeve_ca::{
    Agent, AgentError, AgentHandle, AgentOptions, Attestor, Credential, GrpcIssuer, IdentityEvents,
    IdentitySource, IssuedIdentity, IssuerChannel, JwtSource, RefusedIdentity, RevocationEvent,
    RevokeTarget, RotationEvent, ToldRefusal, serve_agent_socket,
};
use reeve_core::{Clock, SpiffeId, TrustDomain};
use reeve_svid::{Credentials, CredentialsWatch, TrustBundle};
use tokio::{net::UnixListener, sync::watch};
use zeroize::Zeroizing;

use crate::{SidecarArgs, whois::WhoIs};
use attest::OwnApplication;

/// Largest bundle or token file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A running agent.
pub(crate) struct Running {
    pub(crate) credentials: CredentialsWatch,
    pub(crate) jwt: Arc<JwtSource>,
    /// To be told which of them new connections use.
    pub(crate) installed: watch::Sender<Option<Arc<Credentials>>>,
    pub(crate) handle: AgentHandle,
    pub(crate) issuer: GrpcIssuer,
}

/// Starts to ask for certificates: over the mesh's Unix socket, or, from another machine, over TLS with a join token.
pub(crate) fn start(args: &SidecarArgs, clock: &Arc<dyn Clock>) -> anyhow::Result<Running> {
    let (channel, join_token) = match &args.mesh_socket {
        Some(socket) => (IssuerChannel::unix(socket.clone()), None),
        None => joining(args, clock)?,
    };
    let installed = watch::Sender::new(None);
    let mut issuer = GrpcIssuer::new(channel, args.trust_domain.clone());
    if let Some(file) = &args.kubernetes_token_file {
        issuer = issuer.with_service_account(file.clone(), Arc::clone(clock));
    }
    let options = AgentOptions {
        id: args.identity.clone(),
        join_token,
        instance: args.instance.clone(),
        installed: Some(installed.subscribe()),
    };
    let client = Arc::new(issuer.clone());
    let (credentials, handle) = Agent::start(options, client.clone(), Arc::clone(clock));
    let id = args.identity.clone();
    let jwt = JwtSource::new(id, client, credentials.clone(), Arc::clone(clock));
    Ok(Running {
        jwt: Arc::new(jwt),
        credentials,
        installed,
        handle,
        issuer,
    })
}

fn joining(
    args: &SidecarArgs,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<(IssuerChannel, Option<Zeroizing<String>>)> {
    let token = args.join_token_file.as_deref().map(join_token_from);
    let file = args.bundle.as_deref();
    let file = file.context("joining needs the mesh's authorities (--bundle FILE)")?;
    let bundle = bundle_from(file, &args.trust_domain)?;
    let channel = IssuerChannel::tls(
        args.mesh_address.clone(),
        args.mesh_identity()?,
        Arc::new(bundle),
        Arc::clone(clock),
    );
    Ok((channel, token.transpose()?))
}

/// The mesh's authorities, from a file of PEM.
///
/// # Errors
/// It cannot be read, has more than 1 MiB, or holds no bundle.
pub fn bundle_from(file: &Path, domain: &TrustDomain) -> anyhow::Result<TrustBundle> {
    TrustBundle::from_pem(domain.clone(), read_bounded(file)?.as_bytes(), 0)
        .with_context(|| format!("the bundle {}", file.display()))
}

/// A join token, from a file of it alone.
///
/// # Errors
/// It cannot be read, or has more than 1 MiB.
pub fn join_token_from(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = Zeroizing::new(read_bounded(file)?);
    Ok(text.trim().to_owned().into())
}

fn read_bounded(path: &Path) -> anyhow::Result<String> {
    let shown = || path.display().to_string();
    let bytes = fs::metadata(path).with_context(shown)?.len();
    anyhow::ensure!(
        bytes <= MAX_FILE_BYTES,
        "{} is larger than {MAX_FILE_BYTES} bytes",
        path.display()
    );
    fs::read_to_string(path).with_context(shown)
}

/// Ends with what is wrong if the mesh turns out to be of another trust domain; asking again would not help.
pub(crate) async fn foreign_mesh(issuer: GrpcIssuer, args: SidecarArgs) -> anyhow::Error {
    loop {
        let refused = match issuer.watch_bundle(None).await {
            Ok(mut bundles) => match bundles.next().await {
                Some(Ok(_)) => return std::future::pending().await,
                Some(Err(error)) => Some(error),
                None => None,
            },
            Err(error) => Some(error),
        };
        if let Some(AgentError::BadAnswer(why)) = refused {
            return anyhow::anyhow!(
                "the mesh at {} is not of trust domain {} ({why}); give --trust-domain and --identity of that mesh, or the address of the right one",
                args.mesh_socket.map_or_else(
                    || args.mesh_address.to_string(),
                    |s| s.display().to_string()
                ),
                args.trust_domain.as_str()
            );
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

/// Who may take the identity.
pub(crate) fn attestor(args: &SidecarArgs) -> Arc<dyn Attestor> {
    let supervisor = args.supervisor_socket.as_deref().map(WhoIs::new);
    Arc::new(OwnApplication::new(args.instance.clone(), supervisor))
}

/// Serves the Workload API and SDS for ever.
pub(crate) async fn serve(
    listener: UnixListener,
    identity: Arc<dyn IdentitySource>,
    events: Arc<AgentEvents>,
    clock: Arc<dyn Clock>,
) {
    if let Err(error) = serve_agent_socket(listener, identity, events, clock).await {
        tracing::error!(%error, "the agent's socket is served no longer");
    }
}

/// Records what happened to identities in a write-ahead log.
#[derive(Debug)]
pub struct AgentEvents(Arc<Wal>);

impl AgentEvents {
    /// Into `wal`.
    pub fn new(wal: Arc<Wal>) -> Self {
        Self(wal)
    }

    /// Records an event. One that cannot be recorded is logged: it took place already.
    pub fn record(&self, event: EventRecord) {
        if let Err(error) = self.0.append(event) {
            tracing::error!(%error, "an event could not be recorded");
        }
    }
}

impl IdentityEvents for AgentEvents {
    fn issued(&self, event: IssuedIdentity) {
        let mut record = EventRecord::new(EventKind::IdentityIssued)
            .about(event.id)
            .with("caller", event.caller.to_string())
            .with("not_after_ms", event.not_after.as_millis().to_string());
        if let Some(entry) = event.entry {
            record = record.with("entry", entry.to_string());
        }
        self.record(match event.credential {
            Credential::X509 { serial } => record.with("serial", serial),
            Credential::Jwt { key_id, audience } => record
                .with("audience", audience.join(" "))
                .with("key_id", key_id),
        });
    }

    fn refused_elsewhere(&self, agent: &SpiffeId, refusal: &ToldRefusal) {
        let record = EventRecord::new(EventKind::IdentityRefused).with("agent", agent.as_str());
        self.record(match refusal {
            ToldRefusal::One {
                at,
                caller,
                requested,
                reason,
                text,
            } => record
                .with("at_ms", at.as_millis().to_string())
                .with("caller", caller)
                .with("requested", requested)
                .with("reason", reason)
                .with("text", text),
            ToldRefusal::LeftOut(count) => record
                .with("reason", "left_out")
                .with("count", count.to_string()),
        });
    }

    fn rotated(&self, event: &RotationEvent) {
        let mut record = EventRecord::new(EventKind::AuthorityRotated)
            .with("bundle_sequence", event.bundle_sequence.to_string())
            .with("renewal", event.renewal.to_string())
            .with("root_sha256", &event.root_sha256);
        if let Some(asked) = event.asked {
            record = record.with("asked", asked.as_str());
        }
        record = match &event.rotation {
            Some(rotation) => record
                .with("cause", rotation.cause.as_str())
                .with("step", rotation.step.as_str()),
            None if event.asked.is_none() => record.with("step", "over"),
            None => record,
        };
        if event.not_waited_for.count > 0 {
            record = record.with("not_waited_for", event.not_waited_for.members.join(", "));
        }
        self.record(record);
    }

    fn revoked(&self, event: &RevocationEvent) {
        let RevocationEvent { revocation, ended } = event;
        let mut record = match ended {
            None => EventRecord::new(EventKind::IdentityRevoked),
            Some(cause) => {
                EventRecord::new(EventKind::RevocationEnded).with("cause", cause.as_str())
            }
        };
        record = match &revocation.target {
            RevokeTarget::Id(id) => record.about(id.clone()),
            RevokeTarget::Serial(serial) => record.with("serial", serial),
        };
        record = record.with("why", &revocation.why);
        if let Some(until) = revocation.until {
            record = record.with("until_ms", until.as_millis().to_string());
        }
        self.record(record);
    }

    fn refused(&self, event: RefusedIdentity) {
        let requested = event.requested.unwrap_or_default();
        let mut record = EventRecord::new(EventKind::IdentityRefused)
            .with("caller", event.caller.to_string())
            .with("requested", &requested)
            .with("reason", event.reason.as_str())
            .with("text", event.reason.to_string());
        if let Ok(id) = SpiffeId::parse(&requested) {
            record = record.about(id);
        }
        self.record(record);
    }
}
