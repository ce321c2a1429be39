//! When connections cannot be accepted: descriptors have run out, as a rule. Trying again at once would only burn the
//! time that those that are open need, and a warning for each try would bury the log.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustix::io::Errno;

use crate::{
    limits::{ACCEPT_BACKOFF, MAX_ACCEPT_BACKOFF},
    metrics::Metrics,
    seldom::Seldom,
};

/// How one listener goes on after it could not accept.
#[derive(Debug)]
pub(crate) struct Accepting {
    bind: SocketAddr,
    next: Duration,
    metrics: Arc<Metrics>,
    /// Of all listeners together.
    warnings: Arc<Seldom>,
}

impl Accepting {
    /// Nothing has failed yet.
    pub(crate) fn new(bind: SocketAddr, metrics: Arc<Metrics>, warnings: Arc<Seldom>) -> Self {
        Self {
            bind,
            next: ACCEPT_BACKOFF,
            metrics,
            warnings,
        }
    }

    /// One was accepted.
    pub(crate) fn succeeded(&mut self) {
        self.next = ACCEPT_BACKOFF;
    }

    /// Counts a failure; how long to wait before the next try.
    pub(crate) fn failed(&mut self, error: &io::Error) -> Duration {
        let kind = kind(error);
        self.metrics.accept_failed(kind);
        if let Some(failures) = self.warnings.due() {
            let bind = self.bind;
            tracing::warn!(%error, %bind, failures, "connections cannot be accepted");
        }
        if kind == "connection" {
            return Duration::ZERO;
        }
        let wait = self.next;
        self.next = (wait * 2).min(MAX_ACCEPT_BACKOFF);
        wait
    }
}

/// What was wrong, in words for a metric (accept(2)).
fn kind(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => "descriptors",
        Some(Errno::NOBUFS | Errno::NOMEM) => "memory",
        // It went away while it waited: the next one may be fine.
        Some(Errno::CONNABORTED | Errno::CONNRESET) => "connection",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    fn accepting() -> (Accepting, Registry) {
        let registry = Registry::new();
        let metrics = Arc::new(Metrics::register(&registry).unwrap());
        let bind = SocketAddr::from(([127, 0, 0, 1], 1));
        (Accepting::new(bind, metrics, Arc::default()), registry)
    }

    fn emfile() -> io::Error {
        Errno::MFILE.into()
    }

    #[tokio::test(start_paused = true)]
    async fn tries_grow_rarer_and_begin_afresh_after_a_success() {
        let (mut accepting, registry) = accepting();
        let waits: Vec<_> = (0..9)
            .map(|_| accepting.failed(&emfile()).as_millis())
            .collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 500, 500, 500]);
        accepting.succeeded();
        assert_eq!(accepting.failed(&emfile()), ACCEPT_BACKOFF);
        let gone = Errno::CONNABORTED.into();
        assert_eq!(accepting.failed(&gone), Duration::ZERO);
        let page = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        for line in [
            "reeve_accept_failures_total{reason=\"descriptors\"} 10",
            "reeve_accept_failures_total{reason=\"connection\"} 1",
        ] {
            assert!(page.contains(line), "{page}");
        }
    }
}
