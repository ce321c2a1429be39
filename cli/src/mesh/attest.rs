//! Who may have which identity from this mesh's authority.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use reeve_ca::{AttestError, Attestor, CallerEvidence, JoinTokens, UnixPeer};
use reeve_core::{SpiffeId, TrustDomain};
use reeve_sidecar::whois::{Role, WhoIs};

/// Attests sidecars by the supervisor's word, joiners by their token, and renewals by the certificate in use.
#[derive(Debug)]
pub(super) struct MeshAttestor {
    trust_domain: TrustDomain,
    whois: WhoIs,
    tokens: Arc<JoinTokens>,
}

impl MeshAttestor {
    /// An attestor for members of `trust_domain`.
    pub(super) fn new(trust_domain: TrustDomain, whois: WhoIs, tokens: Arc<JoinTokens>) -> Self {
        Self {
            trust_domain,
            whois,
            tokens,
        }
    }

    async fn process(&self, peer: &UnixPeer) -> Result<Vec<SpiffeId>, AttestError> {
        own_user(peer)?;
        let known = self.whois.ask(peer.pid()).await;
        let known = known.map_err(|e| AttestError(e.to_string()))?;
        // SECURITY: the answer was about a number; it counts only if the process behind it is still the caller.
        if !peer.is_alive() {
            return Err(AttestError("the process has ended".to_owned()));
        }
        match known.role {
            Role::Sidecar => {
                let id = self
                    .trust_domain
                    .workload(&known.namespace, &known.service_account);
                Ok(vec![id])
            }
            Role::App => Err(AttestError(format!(
                "process {} is the application of {}; its identity is served on its sidecar's socket",
                peer.pid(),
                known.instance
            ))),
        }
    }
}

impl Attestor for MeshAttestor {
    fn attest<'a>(
        &'a self,
        evidence: &'a CallerEvidence,
        requested: &'a SpiffeId,
    ) -> BoxFuture<'a, Result<Vec<SpiffeId>, AttestError>> {
        async move {
            match evidence {
                CallerEvidence::Process(peer) => self.process(peer).await,
                CallerEvidence::JoinToken(token) => match self.tokens.redeem(token, requested) {
                    Ok(()) => Ok(vec![requested.clone()]),
                    Err(error) => Err(AttestError(error.to_string())),
                },
                CallerEvidence::Svid(peer) => Ok(vec![peer.id().clone()]),
            }
        }
        .boxed()
    }
}

/// Refuses processes of other users.
pub(super) fn own_user(peer: &UnixPeer) -> Result<(), AttestError> {
    let own = rustix::process::getuid().as_raw();
    if peer.uid() == own {
        return Ok(());
    }
    let uid = peer.uid();
    Err(AttestError(format!(
        "user {uid} is not user {own}, whose mesh this is"
    )))
}
