//! `reeve authz`: decides for proxies that are not ours.

mod courts;
mod doors;
pub(crate) mod grants;
pub(crate) mod trail;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use axum::{Router, http::StatusCode, routing::get};
use clap::{Args, Subcommand};
use http::{HeaderName, HeaderValue};
use reeve_ca::MeshAddress;
use reeve_control::{ConfigEvents, Controller, ControllerOptions};
use reeve_core::{Clock, SystemClock};
use reeve_ext_authz::{AnswerOptions, Health, Judge, JudgeOptions, Spoken, raw_http::ClientCert};
use reeve_sidecar::process_metrics;
use tokio_util::sync::CancellationToken;

use crate::{
    output,
    problem::Verdict,
    supervisor::obey_signals,
    verb::{
        authz::{courts::Courts, doors::Door, grants::Safe},
        daemon,
        policy::pair,
    },
};

const SERVE_EXAMPLES: &str = "\
Examples:
  reeve authz serve -f mesh --state /var/lib/reeve-authz --grpc 127.0.0.1:9191
  reeve authz serve -f mesh --state state --grpc unix:/run/authz.sock --http 127.0.0.1:9192
  reeve authz serve -f mesh --state state --grpc 10.0.0.7:9191 --tls-cert cert.pem --tls-key key.pem --client-ca ca.pem
  reeve ca token create --identity spiffe://mesh.local/ns/reeve-system/sa/ext-authz > join.token
  reeve authz serve -f mesh --state state --mesh-address unix:MESH/control.sock --join-token-file join.token \\
    --bundle MESH/bundle.pem
  reeve audit query --state state --effect deny
  reeve audit verify --state state

Envoy asks on --grpc (envoy.service.auth.v3.Authorization), or on --http with a path_prefix of /check/SERVICE. The policies,
the tokens' issuers and the states of services are those of the folder, which is read again when it changes; a faulty one is
told, and the last good one kept. What a request is for is told by the route's context_extensions (reeve.dev/service or
reeve.dev/workload), else by Envoy's own certificate; what the folder does not know is denied.
Each decision is in the write-ahead log of the state directory before it is answered, and goes from there to an
audit log beside it, or, with --mesh-address, to that of a mesh.

Exit codes: 0 = ended by a signal, 2 = it could not run.";

/// How long what is under way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// `reeve authz`.
#[derive(Args, Debug)]
pub(crate) struct AuthzArgs {
    /// What to do.
    #[command(subcommand)]
    verb: AuthzVerb,
}

#[derive(Debug, Subcommand)]
enum AuthzVerb {
    /// Serve Envoy's external authorization, v3, over gRPC and HTTP
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
}

#[derive(Args, Debug)]
struct ServeArgs {
    /// The folder of YAML files.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: PathBuf,
    /// Where the audit log and its keys are kept; it is no mesh's state directory.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Send records to the log of the mesh at this address, rather than to one of its own.
    #[arg(long, value_name = "ADDR:PORT|unix:PATH", requires_all = ["join_token_file", "bundle"])]
    mesh_address: Option<MeshAddress>,
    /// A file with a join token for the identity `ext-authz` in the mesh's root namespace.
    #[arg(long, value_name = "FILE", requires = "mesh_address")]
    join_token_file: Option<PathBuf>,
    /// PEM file with the mesh's authorities, to know it by before joining.
    #[arg(long, value_name = "FILE", requires = "mesh_address")]
    bundle: Option<PathBuf>,
    /// Where to serve gRPC: ADDRESS:PORT or unix:PATH.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9191")]
    grpc: Door,
    /// Where to serve the HTTP form: ADDRESS:PORT or unix:PATH.
    #[arg(long, value_name = "ADDRESS")]
    http: Option<Door>,
    /// Where to serve /metrics and /healthz.
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// The servers' certificate chain, PEM: both are then served over TLS alone.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Who may ask: those with a certificate of these authorities, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Let anybody who reaches a plaintext port beyond this machine ask, and say who its callers are.
    #[arg(long)]
    danger_plaintext: bool,
    /// In the HTTP form, believe x-forwarded-client-cert: the asking proxy must replace what its callers send.
    #[arg(long, requires = "http")]
    http_client_cert: bool,
    /// A header that every allowed request is given, as NAME=VALUE; repeat for several.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    set_header: Vec<(String, String)>,
    /// A header that every allowed request loses; repeat for several.
    #[arg(long, value_name = "NAME")]
    remove_header: Vec<HeaderName>,
    /// Give the application the decision's id, in x-reeve-decision-id.
    #[arg(long)]
    tell_application: bool,
}

/// Does it.
pub(crate) fn run(args: AuthzArgs) -> Verdict {
    match args.verb {
        AuthzVerb::Serve(args) => daemon(serve(*args)),
    }
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    reeve_sidecar::logging::start();
    reeve_sidecar::hardening::forbid_core_dumps()?;
    reeve_sidecar::hardening::raise_open_files();
    let tls = args.tls()?;
    args.refuse_strangers(tls.is_some())?;
    let answers = args.answers()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let registry = prometheus::Registry::new();
    process_metrics::register(&registry, "ext_authz")?;
    let records = trail::Records::open(&args.state, &registry, &clock)?;
    let controller = Controller::start(ControllerOptions {
        folder: args.folder.clone(),
        state: args.state.clone(),
        clock: Arc::clone(&clock),
        events: Arc::clone(&records.events) as Arc<dyn ConfigEvents>,
    })?;
    let Some(mesh) = controller.mesh().borrow().clone() else {
        let faults: Vec<_> = controller.status().faults;
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        bail!("the folder is not valid\n{}", faults.join("\n"));
    };
    let (writer, wal) = (records.wal.writer(0)?, Arc::clone(&records.wal));
    let trail = match args.joining() {
        Some(joining) => trail::Trail::join(&joining, &mesh.settings, records, &clock)?,
        None => trail::Trail::open(&args.state, &mesh.settings, records, &controller, &clock)?,
    };
    let safe = Safe::new(Arc::clone(&wal), &registry, Arc::clone(&clock))?;
    let courts = Arc::new(Courts::open(Arc::clone(&controller), safe));
    let admin = grants::door(&args.state, Arc::clone(&courts), Arc::clone(&wal))?;
    let options = JudgeOptions {
        court: courts.session(),
        writer,
        wal,
        clock,
        answers,
    };
    let judge = Arc::new(Judge::new(options, &registry)?);
    judge.tell(judge.health()).await;
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    obey_signals(stop.clone(), abort.clone()).map_err(|problem| anyhow::anyhow!("{problem}"))?;
    let mut open = doors::Open::new(Arc::clone(&judge), tls, stop.clone());
    open.serve(&args.grpc, Spoken::Grpc, "gRPC").await?;
    if let Some(http) = &args.http {
        let believed = match args.http_client_cert {
            true => ClientCert::Believed,
            false => ClientCert::Ignored,
        };
        open.serve(http, Spoken::Http(believed), "HTTP").await?;
    }
    let metrics = metrics(args.metrics, registry, Arc::clone(&judge)).await?;
    // Cancel-safe: whichever branch ends first, the process ends.
    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = open.ended() => ended,
        () = admin => bail!("the admin socket is served no longer"),
        () = courts.follow() => bail!("the folder is followed no longer"),
        () = Arc::clone(&controller).run() => bail!("the folder is watched no longer"),
        () = trail.run(&controller) => bail!("records are shipped, or keys told, no longer"),
        () = judge.tell_health() => bail!("nobody is told of the health any longer"),
        ended = metrics => ended.context("the port of metrics"),
    };
    judge.leave().await;
    // Cancel-safe: what is still under way is given up.
    tokio::select! {
        () = open.drain(LAST_ANSWERS) => {}
        () = abort.cancelled() => {}
    }
    courts.safe().leave();
    trail.close().await;
    outcome
}

/// `/metrics` and `/healthz`, if they are wanted.
async fn metrics(
    address: Option<SocketAddr>,
    registry: prometheus::Registry,
    judge: Arc<Judge>,
) -> anyhow::Result<impl Future<Output = std::io::Result<()>>> {
    let listener = match address {
        Some(address) => Some(
            tokio::net::TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}"))?,
        ),
        None => None,
    };
    let page = move || {
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather());
        std::future::ready(text.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR))
    };
    let health = move || {
        std::future::ready(match judge.health() {
            Health::Serving => (StatusCode::OK, "ready\n"),
            Health::NoConfiguration => (StatusCode::SERVICE_UNAVAILABLE, "no configuration\n"),
            Health::NotRecording => (
                StatusCode::SERVICE_UNAVAILABLE,
                "decisions cannot be recorded\n",
            ),
        })
    };
    let router = Router::new()
        .route("/metrics", get(page))
        .route("/healthz", get(health));
    Ok(async move {
        match listener {
            Some(listener) => {
                output::note(&format!("metrics on {}", listener.local_addr()?));
                axum::serve(listener, router).await
            }
            None => std::future::pending().await,
        }
    })
}

impl ServeArgs {
    /// How the log of a mesh is reached, if records go there.
    fn joining(&self) -> Option<trail::Joining<'_>> {
        Some(trail::Joining {
            address: self.mesh_address.as_ref()?,
            token: self.join_token_file.as_deref()?,
            bundle: self.bundle.as_deref()?,
        })
    }

    fn tls(&self) -> anyhow::Result<Option<Arc<rustls::ServerConfig>>> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => doors::tls(cert, key, self.client_ca.as_deref()).map(Some),
            _ => Ok(None),
        }
    }

    /// SECURITY: whoever asks says who its callers are, and is believed.
    fn refuse_strangers(&self, secure: bool) -> anyhow::Result<()> {
        let verified = secure && self.client_ca.is_some();
        let doors = [Some(&self.grpc), self.http.as_ref()];
        let exposed = doors.into_iter().flatten().find(|door| !door.is_local());
        match exposed {
            Some(door) if !verified && !self.danger_plaintext => bail!(
                "{door} is reached from other machines, and whoever asks there says who its callers are; give --tls-cert, \
                 --tls-key and --client-ca, listen on a loopback address or a Unix socket, or say --danger-plaintext"
            ),
            Some(door) if !verified => {
                tracing::warn!(%door, "--danger-plaintext: anybody who reaches it can ask in anybody's name");
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn answers(&self) -> anyhow::Result<AnswerOptions> {
        let set = |(name, value): &(String, String)| {
            let name = HeaderName::try_from(name.as_str())
                .with_context(|| format!("{name:?} is not a header's name"))?;
            let value = HeaderValue::try_from(value.as_str())
                .with_context(|| format!("{value:?} cannot stand in a header"))?;
            anyhow::Ok((name, value))
        };
        Ok(AnswerOptions {
            set: self.set_header.iter().map(set).collect::<Result<_, _>>()?,
            remove: self.remove_header.clone(),
            tell_application: self.tell_application,
        })
    }
}
