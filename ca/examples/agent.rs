//! An agent with a certificate authority of its own, for trying Workload API and SDS clients:
//! `cargo run -p reeve-ca --example agent -- /tmp/agent.sock 10` serves an SVID of 10 seconds to every process of this
//! user. All keys are in memory and end with the process.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use reeve_ca::{
    Agent, AgentOptions, AttestError, Attestation, Attestor, CaOptions, CertificateAuthority,
    Evidence, JwtSource, LocalIssuer, LogEvents, OneIdentity, Store, serve_agent_socket,
};
use reeve_core::{Clock, SpiffeId, SystemClock, TrustDomain};
use tokio::net::UnixListener;

#[derive(Debug)]
struct SameUser;

#[tonic::async_trait]
impl Attestor for SameUser {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attestation>, AttestError> {
        let Evidence::Process { peer, .. } = evidence else {
            return Ok(None);
        };
        match peer.uid == rustix::process::geteuid().as_raw() {
            true => Ok(Some(Attestation::default())),
            false => Err(AttestError::Refused(format!("{peer} is a stranger"))),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("name a path for the socket")?;
    let seconds = arguments
        .next()
        .unwrap_or_else(|| "3600".to_owned())
        .parse()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let options = CaOptions {
        trust_domain: TrustDomain::parse("mesh.local")?,
        root_ttl: Duration::from_secs(365 * 24 * 3600),
        intermediate_ttl: Duration::from_secs(30 * 24 * 3600),
        svid_ttl: Duration::from_secs(seconds),
        consumer_wait: Duration::ZERO,
        store: Store::DangerMemory,
        vault: None,
        upstream: None,
    };
    let ca = CertificateAuthority::open(options, Arc::clone(&clock))?;
    let options = AgentOptions {
        id: SpiffeId::parse("spiffe://mesh.local/ns/default/sa/example")?,
        join_token: None,
        instance: "example-0".parse()?,
        installed: None,
    };
    let issuer = Arc::new(LocalIssuer::new(ca));
    let id = options.id.clone();
    let (credentials, _agent) = Agent::start(options, issuer.clone(), Arc::clone(&clock));
    let jwt = JwtSource::new(id, issuer, credentials, Arc::clone(&clock));
    let listener = UnixListener::bind(Path::new(&path))?;
    serve_agent_socket(
        listener,
        Arc::new(OneIdentity::new(Arc::new(jwt), Arc::new(SameUser))),
        Arc::new(LogEvents),
        clock,
    )
    .await?;
    Ok(())
}
