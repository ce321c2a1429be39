//! Who may take this workload's identity from the agent's socket.

use reeve_ca::{AttestError, Attestation, Attestor, Evidence, UnixPeer};
use reeve_core::InstanceName;

use crate::whois::{Role, WhoIs, WhoIsError};

/// Lets in the application of one instance, by the supervisor's word.
#[derive(Debug)]
pub(crate) struct OwnApplication {
    instance: InstanceName,
    /// Without a supervisor, any process of our own user is the application.
    supervisor: Option<WhoIs>,
}

impl OwnApplication {
    pub(crate) fn new(instance: InstanceName, supervisor: Option<WhoIs>) -> Self {
        Self {
            instance,
            supervisor,
        }
    }
}

#[tonic::async_trait]
impl Attestor for OwnApplication {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attestation>, AttestError> {
        match evidence {
            Evidence::Process { peer, .. } => self.admit(peer).await.map(Some),
            Evidence::KubernetesToken(_) => Ok(None),
        }
    }
}

impl OwnApplication {
    async fn admit(&self, peer: &UnixPeer) -> Result<Attestation, AttestError> {
        let own = rustix::process::getuid().as_raw();
        // An application that the supervisor started stays root when its sidecar does not.
        let supervised = self.supervisor.is_some() && peer.uid == 0;
        if peer.uid != own && !supervised {
            let why = format!("user {} is not user {own}", peer.uid);
            return Err(AttestError::Refused(why));
        }
        let Some(supervisor) = &self.supervisor else {
            return Ok(Attestation::default());
        };
        let known = supervisor.ask(peer.pid).await?;
        if known.role == Role::App && known.instance == self.instance {
            return Ok(Attestation::default());
        }
        Err(AttestError::Refused(format!(
            "process {} belongs to {}, not to the application of {}",
            peer.pid, known.instance, self.instance
        )))
    }
}

impl From<WhoIsError> for AttestError {
    fn from(error: WhoIsError) -> Self {
        match error {
            WhoIsError::Unknown(why) => Self::Refused(why),
            WhoIsError::Io { .. } | WhoIsError::Impostor { .. } | WhoIsError::Answer(_) => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}
