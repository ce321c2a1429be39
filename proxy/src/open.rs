//! Open streams and connections with the questions that let them in, to be asked again when the answers may change.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    end::End,
    judge::Question,
    ledger::{Ledger, lock},
    metrics::Metrics,
    snapshot::Snapshot,
};
use foldhash::HashMap;
use reeve_audit::{EventKind, EventRecord};
use reeve_core::{RecordId, UnixTime, model::OutboundPolicy};

/// The open streams of one worker.
#[derive(Debug, Default)]
pub(crate) struct OpenStreams {
    next: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    streams: HashMap<u64, Arc<Stream>>,
    /// When tokens end, soonest first.
    expiries: BTreeSet<(UnixTime, u64)>,
}

/// Where a question was asked, so that the place's present rules can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Inbound(std::net::SocketAddr),
    Outbound,
    /// At a captured connection to an address that stands for no service.
    Passthrough(std::net::SocketAddr),
    /// At this listener, for an authority that nobody knows.
    Elsewhere(std::net::SocketAddr),
}

#[derive(Debug)]
struct Stream {
    question: Question,
    origin: Origin,
    record: RecordId,
    end: End,
}

/// Takes the stream off the list when it goes.
#[derive(Debug)]
pub(crate) struct OpenGuard {
    id: u64,
    expires: Option<UnixTime>,
    registry: Weak<OpenStreams>,
}

impl OpenStreams {
    /// Lists a stream whose permit stands in `record`; `end` is given when it is no longer permitted.
    pub(crate) fn enter(
        self: &Arc<Self>,
        question: Question,
        origin: Origin,
        record: RecordId,
        end: End,
    ) -> OpenGuard {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let expires = question.user.as_ref().and_then(|user| user.expires_at);
        let mut open = lock(&self.open);
        open.expiries.extend(expires.map(|at| (at, id)));
        open.streams.insert(
            id,
            Arc::new(Stream {
                question,
                origin,
                record,
                end,
            }),
        );
        OpenGuard {
            id,
            expires,
            registry: Arc::downgrade(self),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        lock(&self.open).streams.len()
    }

    /// Asks every question again and ends the streams whose answer is now no.
    pub(crate) fn judge_again(&self, snapshot: &Snapshot, ledger: &Ledger, metrics: &Metrics) {
        let all: Vec<Arc<Stream>> = lock(&self.open).streams.values().cloned().collect();
        for stream in all {
            stream.judge_again(snapshot, ledger, metrics);
        }
    }

    /// Asks one question again, for a stream that was let in while the configuration changed.
    pub(crate) fn judge_one_again(
        &self,
        guard: &OpenGuard,
        snapshot: &Snapshot,
        ledger: &Ledger,
        metrics: &Metrics,
    ) {
        let stream = lock(&self.open).streams.get(&guard.id).cloned();
        if let Some(stream) = stream {
            stream.judge_again(snapshot, ledger, metrics);
        }
    }

    /// Ends the streams whose token has ended.
    pub(crate) fn expire(&self, ledger: &Ledger, metrics: &Metrics) {
        let now = ledger.now();
        let mut ended = Vec::new();
        {
            let mut open = lock(&self.open);
            while let Some(first) = open.expiries.first().copied().filter(|(at, _)| *at <= now) {
                open.expiries.remove(&first);
                ended.extend(open.streams.get(&first.1).cloned());
            }
        }
        for stream in ended {
            stream.close("token_expired", ledger, metrics);
        }
    }

    /// Ends every stream.
    pub(crate) fn end_all(&self) {
        let all: Vec<Arc<Stream>> = lock(&self.open).streams.values().cloned().collect();
        for stream in all {
            stream.end.give();
        }
    }
}

impl Stream {
    fn judge_again(&self, snapshot: &Snapshot, ledger: &Ledger, metrics: &Metrics) {
        if self.end.is_given() {
            return;
        }
        let Some(question) = self.question_now(snapshot) else {
            self.close("listener_gone", ledger, metrics);
            return;
        };
        let mut verdict = question.ask(snapshot, ledger.now());
        if verdict.decision.is_allow() {
            return;
        }
        // Ended whether or not it can be recorded.
        ledger.denial(question.record(snapshot, &mut verdict));
        self.close("not_permitted", ledger, metrics);
    }

    /// The question as it would be asked today: the listener's rules may have changed.
    fn question_now(&self, snapshot: &Snapshot) -> Option<Question> {
        let mut question = self.question.clone();
        match self.origin {
            Origin::Inbound(bind) => question.place = snapshot.inbound_at(bind)?.place.clone(),
            Origin::Outbound => {}
            Origin::Elsewhere(bind) => {
                let listener = &snapshot.outbound.get(&bind)?.listener;
                listener
                    .unknown
                    .filter(|p| *p == OutboundPolicy::AllowAny)?;
            }
            Origin::Passthrough(to) => question.place = Arc::new(snapshot.passthrough(to)?),
        }
        Some(question)
    }

    fn close(&self, cause: &'static str, ledger: &Ledger, metrics: &Metrics) {
        metrics.ended(cause);
        let event = EventRecord::new(EventKind::ConnectionClosed)
            .with("cause", cause)
            .with("permit", self.record.to_string());
        let event = match self.question.peer.principal.spiffe_id() {
            Some(id) => event.about(id.clone()),
            None => event,
        };
        ledger.event(&event);
        self.end.give();
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            let mut open = lock(&registry.open);
            open.streams.remove(&self.id);
            if let Some(at) = self.expires {
                open.expiries.remove(&(at, self.id));
            }
        }
    }
}
