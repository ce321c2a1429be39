//! What an operator may look at beyond configuration: certificates, how the process was started, its log level.
//!
//! SECURITY: nothing here leads to a private key; certificates are told by [`CertificateSummary`] alone.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use reeve_core::{Clock, SystemClock, UnixTime};
use reeve_svid::{CertificateSummary, CredentialsWatch};
use serde::{Deserialize, Serialize};

use crate::{SidecarArgs, logging::LogFilter};

/// What these routes look at.
#[derive(Debug)]
pub(crate) struct Inspect {
    bootstrap: Bootstrap,
    credentials: CredentialsWatch,
    log: LogFilter,
}

/// How the process was started.
#[derive(Clone, Debug, Serialize)]
struct Bootstrap {
    version: &'static str,
    pid: u32,
    started: UnixTime,
    instance: String,
    identity: String,
    trust_domain: String,
    mesh_address: String,
    mesh_socket: Option<String>,
    join_token_file: Option<String>,
    wal_dir: String,
    wal_max_bytes: u64,
    audit_level: String,
    agent_socket: Option<String>,
    admin_socket: Option<String>,
    drain_deadline: u64,
}

/// One certificate that the proxy holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Secret {
    /// `default` (own chain) or `ROOTCA` (trust bundle), as Envoy's SDS names them.
    name: &'static str,
    /// `certificate chain` or `certificate authority`.
    r#type: &'static str,
    valid: bool,
    serial: String,
    not_before: UnixTime,
    not_after: UnixTime,
    subject: String,
    issuer: String,
    uris: Vec<String>,
}

#[derive(Serialize)]
struct Secrets {
    /// The trust domain of the bundle; absent before the first certificate.
    trust_domain: Option<String>,
    /// The issuer's count of changes of the bundle.
    bundle_sequence: Option<u64>,
    secrets: Vec<Secret>,
}

impl Inspect {
    /// Looks at a sidecar that was started with `args`.
    pub(crate) fn new(args: &SidecarArgs, credentials: CredentialsWatch, log: LogFilter) -> Self {
        Self {
            bootstrap: Bootstrap::of(args),
            credentials,
            log,
        }
    }

    fn secrets(&self, now: UnixTime) -> Secrets {
        let Some(held) = self.credentials.borrow().clone() else {
            return Secrets {
                trust_domain: None,
                bundle_sequence: None,
                secrets: Vec::new(),
            };
        };
        let chain = held.svid.chain().iter();
        let chain = chain.map(|der| ("default", "certificate chain", der));
        let roots = held.bundle.authorities().iter();
        let roots = roots.map(|der| ("ROOTCA", "certificate authority", der));
        let secret = |(name, r#type, der)| {
            let summary = CertificateSummary::of(der).ok()?;
            Some(Secret {
                name,
                r#type,
                valid: summary.is_valid_at(now),
                serial: summary.serial,
                not_before: summary.not_before,
                not_after: summary.not_after,
                subject: summary.subject,
                issuer: summary.issuer,
                uris: summary.uris,
            })
        };
        Secrets {
            trust_domain: Some(held.bundle.trust_domain().to_string()),
            bundle_sequence: Some(held.bundle.sequence()),
            secrets: chain.chain(roots).filter_map(secret).collect(),
        }
    }
}

impl Bootstrap {
    fn of(args: &SidecarArgs) -> Self {
        let path =
            |path: &Option<std::path::PathBuf>| path.as_ref().map(|p| p.display().to_string());
        Self {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started: SystemClock.now(),
            instance: args.instance.to_string(),
            identity: args.identity.to_string(),
            trust_domain: args.trust_domain.to_string(),
            mesh_address: args.mesh_address.to_string(),
            mesh_socket: path(&args.mesh_socket),
            join_token_file: path(&args.join_token_file),
            wal_dir: args.wal_dir.display().to_string(),
            wal_max_bytes: args.wal_max_bytes,
            audit_level: format!("{:?}", args.audit_level).to_lowercase(),
            agent_socket: path(&args.agent_socket),
            admin_socket: path(&args.admin_socket),
            drain_deadline: args.drain_deadline,
        }
    }
}

/// The routes: `/secrets`, `/bootstrap` and `/log`.
pub(crate) fn routes(inspect: Inspect) -> Router {
    Router::new()
        .route("/secrets", get(secrets))
        .route("/bootstrap", get(bootstrap))
        .route("/log", get(log).post(set_log))
        .with_state(Arc::new(inspect))
}

async fn secrets(State(inspect): State<Arc<Inspect>>) -> impl IntoResponse {
    Json(inspect.secrets(SystemClock.now()))
}

async fn bootstrap(State(inspect): State<Arc<Inspect>>) -> impl IntoResponse {
    Json(inspect.bootstrap.clone())
}

#[derive(Serialize)]
struct Log {
    filter: String,
}

/// `?filter=info,reeve_proxy=debug`
#[derive(Deserialize)]
struct SetLog {
    filter: String,
}

async fn log(State(inspect): State<Arc<Inspect>>) -> impl IntoResponse {
    Json(Log {
        filter: inspect.log.get(),
    })
}

async fn set_log(State(inspect): State<Arc<Inspect>>, Query(set): Query<SetLog>) -> Response {
    match inspect.log.set(&set.filter) {
        Ok(()) => {
            tracing::info!(filter = %set.filter, "the log's filter was changed");
            log(State(inspect)).await.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}
