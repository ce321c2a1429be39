//! Who is refused at an agent away from the authority goes on the authority's record: it waits here until that has it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reeve_core::{Clock, SpiffeId};
use reeve_svid::CredentialsWatch;
use tokio::{sync::Notify, time::sleep};

use crate::{
    GrpcIssuer, IdentityEvents, IssuedIdentity, LogEvents, RefusedIdentity, RevocationEvent,
    RotationEvent, events::MAX_TOLD_AT_ONCE, proto::issuer::Refusal,
};

/// Most refusals that wait for the authority; further ones are counted.
const MAX_WAITING: usize = 256;
/// Shortest time between two reports, and from a failed one to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// Logs what happens to identities, and tells the authority of refusals.
#[derive(Debug)]
pub struct ToldEvents {
    clock: Arc<dyn Clock>,
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Oldest first.
    refusals: VecDeque<Refusal>,
    left_out: u64,
}

impl ToldEvents {
    /// Nothing happened yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            waiting: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// Tells the authority, as `agent`, for ever. What it did not acknowledge is told again.
    pub async fn tell(&self, agent: SpiffeId, issuer: GrpcIssuer, mut held: CredentialsWatch) {
        loop {
            self.news.notified().await;
            while let Some((refusals, left_out)) = self.next() {
                let credentials = held.wait_for(Option::is_some).await;
                let credentials = credentials.ok().and_then(|held| held.clone());
                let count = refusals.len();
                match issuer
                    .tell_refusals(&agent, credentials, refusals, left_out)
                    .await
                {
                    Ok(()) => self.told(count, left_out),
                    Err(error) => tracing::debug!(%error, "the authority is told no refusals"),
                }
                sleep(PAUSE).await;
            }
        }
    }

    /// What is to be told next.
    fn next(&self) -> Option<(Vec<Refusal>, u64)> {
        let waiting = self.lock();
        let some = waiting.refusals.iter().take(MAX_TOLD_AT_ONCE);
        let some: Vec<_> = some.cloned().collect();
        (!some.is_empty() || waiting.left_out > 0).then_some((some, waiting.left_out))
    }

    fn told(&self, count: usize, left_out: u64) {
        let mut waiting = self.lock();
        // New ones come last.
        let count = count.min(waiting.refusals.len());
        waiting.refusals.drain(..count);
        waiting.left_out = waiting.left_out.saturating_sub(left_out);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdentityEvents for ToldEvents {
    fn refused(&self, event: RefusedIdentity) {
        {
            let mut waiting = self.lock();
            match waiting.refusals.len() < MAX_WAITING {
                true => waiting.refusals.push_back(Refusal {
                    at_ms: self.clock.now().as_millis(),
                    caller: event.caller.to_string(),
                    requested: event.requested.clone().unwrap_or_default(),
                    reason: event.reason.as_str().to_owned(),
                    text: event.reason.to_string(),
                }),
                false => waiting.left_out = waiting.left_out.saturating_add(1),
            }
        }
        self.news.notify_one();
        LogEvents.refused(event);
    }

    fn issued(&self, event: IssuedIdentity) {
        LogEvents.issued(event);
    }

    fn rotated(&self, event: &RotationEvent) {
        LogEvents.rotated(event);
    }

    fn revoked(&self, event: &RevocationEvent) {
        LogEvents.revoked(event);
    }
}

#[cfg(test)]
mod tests;
