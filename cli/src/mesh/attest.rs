//! Which identity a local process may have from this mesh's authority.

use reeve_ca::{AttestError, Attestation, Attestor, Evidence, UnixPeer};
use reeve_core::TrustDomain;
use reeve_sidecar::whois::{Role, WhoIs};

/// Attests sidecars by the supervisor's word.
#[derive(Debug)]
pub(super) struct SidecarAttestor {
    trust_domain: TrustDomain,
    whois: WhoIs,
}

impl SidecarAttestor {
    /// An attestor for members of `trust_domain`.
    pub(super) fn new(trust_domain: TrustDomain, whois: WhoIs) -> Self {
        Self {
            trust_domain,
            whois,
        }
    }
}

#[tonic::async_trait]
impl Attestor for SidecarAttestor {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attestation>, AttestError> {
        let Evidence::Process { peer, .. } = evidence else {
            return Ok(None);
        };
        let known = self.whois.ask(peer.pid).await?;
        // The supervisor gave it that user: then it is not ours.
        if known.uid != Some(peer.uid) {
            own_user(peer).map_err(AttestError::Refused)?;
        }
        match known.role {
            Role::Sidecar => {
                let (namespace, account) = (&known.namespace, &known.service_account);
                let identity = self.trust_domain.workload(namespace, account);
                Ok(Some(Attestation {
                    identities: vec![identity],
                    ..Attestation::default()
                }))
            }
            // Its identity is served on its sidecar's socket, so that its key never leaves that process unasked.
            Role::App => Err(AttestError::Refused(format!(
                "process {} is the application of {}, not its sidecar",
                peer.pid, known.instance
            ))),
        }
    }
}

/// Refuses processes of other users.
pub(super) fn own_user(peer: &UnixPeer) -> Result<(), String> {
    let own = rustix::process::getuid().as_raw();
    if peer.uid == own {
        return Ok(());
    }
    Err(format!(
        "user {} is not user {own}, whose mesh this is",
        peer.uid
    ))
}
