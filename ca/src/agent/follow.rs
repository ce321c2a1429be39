//! The agent's side of following the authority: it reports what new connections use, takes bundles, and renews early
//! when it is told to.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use futures_util::{StreamExt, future, stream};
use reeve_svid::{Credentials, TrustBundle};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::WatchStream;

use super::{Agent, ReportStream, TrustStream, schedule::Backoff};
use crate::{
    follow::{Report, Trust},
    members::Holding,
};

impl Agent {
    /// Follows the authority until `pause` is over, or until a renewal that it ordered is due.
    pub(super) async fn follow(&self, pause: Duration) {
        let mut due = Instant::now() + pause;
        if self.credentials.borrow().is_none() {
            return sleep_until(due).await;
        }
        let mut backoff = Backoff::default();
        while !*self.leaving.borrow() {
            let held = self.credentials.borrow().clone();
            // Cancel safety: a stream that is not there yet has told nothing.
            let told = tokio::select! {
                () = sleep_until(due) => return,
                told = self.issuer.follow(held, self.reports()) => told,
            };
            match told {
                Ok(told) => {
                    let outcome = self.heed(told, &mut due, &mut backoff).await;
                    if outcome.is_break() {
                        return;
                    }
                }
                Err(error) => tracing::debug!(%error, "the authority cannot be followed"),
            }
            // Cancel safety: nothing is held.
            tokio::select! {
                () = sleep_until(due) => return,
                () = sleep(backoff.next(None)) => {}
            }
        }
    }

    /// Takes what the authority tells until the stream breaks, or until the renewal is due, which it may bring forward.
    async fn heed(
        &self,
        mut told: TrustStream,
        due: &mut Instant,
        backoff: &mut Backoff,
    ) -> ControlFlow<()> {
        let mut heeded = self.renewal;
        loop {
            // Cancel safety: what was told is taken as a whole.
            let trust = tokio::select! {
                () = sleep_until(*due) => return ControlFlow::Break(()),
                trust = told.next() => trust,
            };
            match trust {
                Some(Ok(trust)) => {
                    backoff.reset();
                    self.take_bundle(&trust.bundle);
                    if trust.bundle.revoked().covers_serial(&self.serial) {
                        tracing::warn!(
                            serial = self.serial,
                            "our certificate is revoked: another one is asked for"
                        );
                        return ControlFlow::Break(());
                    }
                    if trust.renewal > heeded {
                        heeded = trust.renewal;
                        *due = (*due).min(soon(&trust));
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "the authority cannot be followed");
                    return ControlFlow::Continue(());
                }
                None => return ControlFlow::Continue(()),
            }
        }
    }

    /// What new connections use, now and as it changes; at the end, that we leave.
    fn reports(&self) -> ReportStream {
        let (id, instance) = (self.options.id.clone(), self.options.instance.clone());
        let (newest, renewal) = (self.serial.clone(), self.renewal);
        let report = move |held: &Credentials, leaving: bool| Report {
            id: id.clone(),
            instance: instance.clone(),
            holding: Holding {
                bundle_sequence: held.bundle.sequence(),
                serial: held.svid.serial().to_owned(),
                renewal: match held.svid.serial() == newest {
                    true => renewal,
                    false => 0,
                },
                not_after: held.svid.not_after(),
            },
            leaving,
        };
        let installed = match &self.options.installed {
            Some(installed) => WatchStream::new(installed.clone()),
            None => WatchStream::new(self.credentials.subscribe()),
        };
        let leaving =
            WatchStream::new(self.leaving.clone()).filter(|leaves| future::ready(*leaves));
        let events = stream::select(
            installed.map(|held| (held, false)),
            leaving.map({
                let credentials = self.credentials.subscribe();
                move |_| (credentials.borrow().clone(), true)
            }),
        );
        Box::pin(events.filter_map(move |(held, leaving)| {
            future::ready(held.map(|held| report(&held, leaving)))
        }))
    }

    fn take_bundle(&self, bundle: &TrustBundle) {
        self.credentials.send_if_modified(|held| {
            let Some(now) = held else {
                return false;
            };
            let ours = bundle.trust_domain() == now.bundle.trust_domain();
            if !ours || bundle.sequence() <= now.bundle.sequence() {
                return false;
            }
            tracing::info!(sequence = bundle.sequence(), "trust bundle installed");
            let svid = Arc::clone(&now.svid);
            let bundle = Arc::new(bundle.clone());
            *held = Some(Arc::new(Credentials { svid, bundle }));
            true
        });
    }
}

/// When to renew because the authority wants it.
fn soon(trust: &Trust) -> Instant {
    let pause = trust.within.mul_f64(rand::random_range(0.0..=1.0));
    tracing::info!(
        renewal = trust.renewal,
        ?pause,
        "the authority wants certificates renewed"
    );
    Instant::now() + pause
}
