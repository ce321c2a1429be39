//! JWT-SVIDs of the agent's identity: asked for as they are needed, and kept while they are fresh.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reeve_core::{Clock, SpiffeId, UnixTime};
use reeve_svid::CredentialsWatch;
use zeroize::Zeroizing;

use super::{AgentError, IssuerClient};

/// Most sets of audiences whose tokens are kept; beyond it all are forgotten.
const MAX_KEPT: usize = 128;

/// Gets JWT-SVIDs of one identity.
pub struct JwtSource {
    id: SpiffeId,
    issuer: Arc<dyn IssuerClient>,
    credentials: CredentialsWatch,
    clock: Arc<dyn Clock>,
    kept: Mutex<BTreeMap<Vec<String>, Kept>>,
}

/// A token and until when it is handed out again.
#[derive(Clone)]
struct Kept {
    token: Arc<Zeroizing<String>>,
    fresh_until: UnixTime,
    /// Sequence of the trust bundle that it was issued under.
    bundle: u64,
}

impl JwtSource {
    /// Tokens of `id` from `issuer`, to whom `credentials` prove who asks.
    pub fn new(
        id: SpiffeId,
        issuer: Arc<dyn IssuerClient>,
        credentials: CredentialsWatch,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            id,
            issuer,
            credentials,
            clock,
            kept: Mutex::default(),
        }
    }

    /// Whose tokens these are.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub(crate) fn credentials(&self) -> &CredentialsWatch {
        &self.credentials
    }

    /// A token for these audiences that has at least half of its life before it.
    pub async fn token(&self, audience: &[String]) -> Result<Arc<Zeroizing<String>>, AgentError> {
        let held = self.credentials.borrow().clone();
        let bundle = held.as_ref().map(|held| held.bundle.sequence());
        let bundle = bundle.unwrap_or_default();
        let now = self.clock.now();
        let kept = self.lock().get(audience).cloned();
        // Keys that are trusted no more leave with the bundle that had them.
        if let Some(kept) = kept.filter(|kept| now < kept.fresh_until && kept.bundle == bundle) {
            return Ok(kept.token);
        }
        let issued = self.issuer.issue_jwt(&self.id, audience, held).await?;
        let token = Arc::new(issued.token);
        let mut all = self.lock();
        if all.len() >= MAX_KEPT {
            all.clear();
        }
        let kept = Kept {
            token: Arc::clone(&token),
            fresh_until: now.plus(issued.expires_at.since(now) / 2),
            bundle,
        };
        all.insert(audience.to_vec(), kept);
        Ok(token)
    }

    #[cfg(test)]
    pub(super) fn kept_tokens(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<String>, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for JwtSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSource")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
