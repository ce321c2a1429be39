//! What opens a lock: a statement that names it, signed by one of its approvers.

use std::time::Duration;

use reeve_authz::break_glass::{SigningKey, verifies};
use reeve_core::{Namespace, TrustDomain, UnixTime, model::SignerKey};
use serde::{Deserialize, Serialize};

use super::Lock;

/// Longest time from signing to the end of an approval: who approved it should still know why.
pub const MAX_APPROVAL_VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// Longest approval, in bytes of its file.
const MAX_APPROVAL_BYTES: usize = 8 * 1024;
/// Longest reason.
const MAX_REASON_BYTES: usize = 512;
/// The version of the format.
const SCHEMA: &str = "reeve.mtls-approval/v1";
/// SECURITY: what is signed begins with this, so that no signature made for anything else is one of an approval.
const DOMAIN: &[u8] = b"reeve.dev/mtls-approval/v1\n";

/// What is signed. Its fields stand in the order of canonical JSON (by name).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// From then on it opens nothing.
    pub expires_at: UnixTime,
    /// The lock's id.
    pub lock: String,
    /// The namespace.
    pub namespace: Namespace,
    /// Why.
    pub reason: String,
    /// The format's version.
    pub schema: String,
    /// The only mesh that takes it.
    pub trust_domain: TrustDomain,
}

/// An approval as it is handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedApproval {
    /// What is approved.
    pub approval: Approval,
    /// By whom.
    pub signer: SignerKey,
    /// Ed25519, in base64, over a fixed prefix and the approval's canonical JSON.
    pub signature: String,
}

/// Why an approval opens nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalRefused {
    /// It is none.
    #[error("this is no approval: {0}")]
    Malformed(String),
    /// Nobody whom the lock names signed it.
    #[error("its signer {0} is no approver of the lock")]
    UnknownSigner(SignerKey),
    /// It was altered, or not signed by whom it says.
    #[error("its signature does not verify")]
    BadSignature,
    /// It is for another lock.
    #[error("it opens lock {0} alone")]
    OtherLock(String),
    /// It is for another mesh.
    #[error("it is for trust domain {0}")]
    OtherTrustDomain(TrustDomain),
    /// It cannot be used any more, or for longer than anything may be approved.
    #[error("it is over, or was signed for more than {} h", MAX_APPROVAL_VALIDITY.as_secs() / 3600)]
    NotNow,
}

impl Approval {
    /// Approves that `lock` is opened.
    pub fn new(
        (namespace, lock): (Namespace, String),
        trust_domain: TrustDomain,
        reason: String,
        expires_at: UnixTime,
    ) -> Self {
        Self {
            expires_at,
            lock,
            namespace,
            reason,
            schema: SCHEMA.to_owned(),
            trust_domain,
        }
    }

    /// Signs it.
    pub fn sign(self, key: &SigningKey) -> Result<SignedApproval, ApprovalRefused> {
        self.check_form()?;
        Ok(SignedApproval {
            signer: key.public(),
            signature: key.sign(&self.message()?),
            approval: self,
        })
    }

    fn check_form(&self) -> Result<(), ApprovalRefused> {
        let fault = match (self.schema == SCHEMA, self.reason.len()) {
            (false, _) => format!("its schema is not {SCHEMA}"),
            (true, 0) => "it has no reason".to_owned(),
            (true, 1..=MAX_REASON_BYTES) => return Ok(()),
            (true, _) => format!("a reason has {MAX_REASON_BYTES} bytes at most"),
        };
        Err(ApprovalRefused::Malformed(fault))
    }

    fn message(&self) -> Result<Vec<u8>, ApprovalRefused> {
        let mut message = DOMAIN.to_vec();
        serde_json::to_writer(&mut message, self)
            .map_err(|error| ApprovalRefused::Malformed(error.to_string()))?;
        Ok(message)
    }
}

impl SignedApproval {
    /// Reads one. Nothing it says is to be believed before [`Self::check`].
    pub fn read(text: &[u8]) -> Result<Self, ApprovalRefused> {
        if text.len() > MAX_APPROVAL_BYTES {
            let fault = format!("it is longer than {MAX_APPROVAL_BYTES} bytes");
            return Err(ApprovalRefused::Malformed(fault));
        }
        let signed: Self = serde_json::from_slice(text)
            .map_err(|error| ApprovalRefused::Malformed(error.to_string()))?;
        signed.approval.check_form()?;
        Ok(signed)
    }

    /// Whether it opens `lock` of this mesh now.
    pub fn check(
        &self,
        lock: &Lock,
        trust_domain: &TrustDomain,
        now: UnixTime,
    ) -> Result<(), ApprovalRefused> {
        let approval = &self.approval;
        if !lock.approvers.contains(&self.signer) {
            return Err(ApprovalRefused::UnknownSigner(self.signer));
        }
        if !verifies(&self.signer, &approval.message()?, &self.signature) {
            return Err(ApprovalRefused::BadSignature);
        }
        // SECURITY: what follows looks at signed content only.
        if approval.trust_domain != *trust_domain {
            return Err(ApprovalRefused::OtherTrustDomain(
                approval.trust_domain.clone(),
            ));
        }
        if approval.lock != lock.id || approval.namespace != lock.namespace {
            return Err(ApprovalRefused::OtherLock(approval.lock.clone()));
        }
        let left = approval.expires_at.since(now);
        if now >= approval.expires_at || left > MAX_APPROVAL_VALIDITY {
            return Err(ApprovalRefused::NotNow);
        }
        Ok(())
    }
}
