//! One write for the decisions of one turn of a worker's event loop.
//!
//! The first record of a turn takes the lead: its task goes to the end of the run queue, and what other tasks record until
//! it comes round is written with it in one call. Nobody's request moves on before that write, and when it fails, all of
//! them are denied and none of their records exists. Who leads and is dropped writes before it goes.
//!
//! Where turns are of one record, as they are while little is asked, waiting for the end of the turn is a detour: then
//! records are written at once, and only now and then it is tried whether company has come.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use reeve_core::RecordId;

use super::{AppendError, line::Line, writer::Mark};

/// Most records of one turn; then they are written without waiting for its end.
pub(crate) const MAX_TURN_RECORDS: usize = 64;

/// After a turn of one record, so many are written at once.
const LONE_RECORDS: u32 = 31;

/// Records that wait for one write.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Where the line stood when it began.
    pub(crate) before: Mark,
    /// Bytes that waited already.
    pub(crate) length: usize,
    /// The records whose requests wait.
    pub(crate) sequences: Vec<u64>,
    outcome: Arc<Outcome>,
}

impl Turn {
    pub(crate) fn begin(before: Mark, length: usize) -> Self {
        Self {
            before,
            length,
            sequences: Vec::new(),
            outcome: Arc::default(),
        }
    }

    /// A place among those who wait. The first one leads.
    pub(crate) fn seat(&mut self, id: RecordId) -> Seat {
        let leads = self.sequences.is_empty();
        self.sequences.push(id.sequence);
        Seat {
            id,
            leads,
            outcome: Arc::clone(&self.outcome),
        }
    }

    /// Tells those who wait.
    pub(crate) fn end(&self, result: Result<(), Fault>) {
        let waiting = match std::mem::replace(&mut *self.outcome.state(), State::Ended(result)) {
            State::Waiting(waiting) => waiting,
            State::Ended(_) => return,
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Whether waiting for the end of a turn is worth it.
#[derive(Debug, Default)]
pub(crate) struct Company {
    alone: u32,
}

impl Company {
    /// To be asked before each record.
    pub(crate) fn is_expected(&mut self) -> bool {
        match self.alone.checked_sub(1) {
            Some(left) => {
                self.alone = left;
                false
            }
            None => true,
        }
    }

    /// Notes how many a turn was of.
    pub(crate) fn note(&mut self, records: usize) {
        self.alone = if records > 1 { 0 } else { LONE_RECORDS };
    }
}

/// Why none of a turn's records was written; each of those who wait gets an error of its own from it.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Full { max_bytes: u64 },
    System(i32),
    Other(io::ErrorKind, String),
}

impl From<&AppendError> for Fault {
    fn from(error: &AppendError) -> Self {
        match error {
            AppendError::Full { max_bytes } => Self::Full {
                max_bytes: *max_bytes,
            },
            AppendError::Io(error) => match error.raw_os_error() {
                Some(code) => Self::System(code),
                None => Self::Other(error.kind(), error.to_string()),
            },
            AppendError::TooLong { .. } | AppendError::Canonical(_) => {
                Self::Other(io::ErrorKind::InvalidData, error.to_string())
            }
        }
    }
}

impl From<Fault> for AppendError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Full { max_bytes } => Self::Full { max_bytes },
            Fault::System(code) => Self::Io(io::Error::from_raw_os_error(code)),
            Fault::Other(kind, text) => Self::Io(io::Error::new(kind, text)),
        }
    }
}

#[derive(Debug, Default)]
struct Outcome(Mutex<State>);

#[derive(Debug)]
enum State {
    Waiting(Vec<Waker>),
    Ended(Result<(), Fault>),
}

impl Default for State {
    fn default() -> Self {
        Self::Waiting(Vec::new())
    }
}

impl Outcome {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request's place in a turn.
#[derive(Debug)]
pub(crate) struct Seat {
    id: RecordId,
    leads: bool,
    outcome: Arc<Outcome>,
}

/// A record on its way: written at once, or waiting for the end of the turn.
#[derive(Debug)]
pub(crate) enum Taken {
    Written(RecordId),
    Waits(Seat),
}

/// Ends when the record is written, or cannot be.
pub(crate) enum Recording<'a> {
    Done(Option<Result<RecordId, AppendError>>),
    Waits(Waiting<'a>),
}

impl<'a> Recording<'a> {
    pub(crate) fn new(line: &'a Line, taken: Result<Taken, AppendError>) -> Self {
        match taken {
            Ok(Taken::Waits(seat)) => Self::Waits(Waiting {
                line,
                seat,
                gave_way: false,
            }),
            Ok(Taken::Written(id)) => Self::Done(Some(Ok(id))),
            Err(error) => Self::Done(Some(Err(error))),
        }
    }
}

impl Future for Recording<'_> {
    type Output = Result<RecordId, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Done(result) => result.take().map_or(Poll::Pending, Poll::Ready),
            Self::Waits(waiting) => waiting.poll(cx),
        }
    }
}

/// Ends with the turn of a [`Seat`].
pub(crate) struct Waiting<'a> {
    line: &'a Line,
    seat: Seat,
    /// Whether the leader has given way to the others yet.
    gave_way: bool,
}

impl Waiting<'_> {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<RecordId, AppendError>> {
        if self.seat.leads {
            if !self.gave_way {
                self.gave_way = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.line.end_turn(&self.seat);
        }
        match &mut *self.seat.outcome.state() {
            State::Waiting(waiting) => {
                // Polled again for another reason, it may stand there already; a wake too many does no harm.
                if !waiting.iter().any(|w| w.will_wake(cx.waker())) {
                    waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
            State::Ended(Ok(())) => Poll::Ready(Ok(self.seat.id.clone())),
            State::Ended(Err(fault)) => Poll::Ready(Err(fault.clone().into())),
        }
    }
}

impl Drop for Waiting<'_> {
    /// INVARIANT: a turn always ends: others wait for it.
    fn drop(&mut self) {
        if self.seat.leads && !self.seat.has_ended() {
            self.line.end_turn(&self.seat);
        }
    }
}

impl Seat {
    fn has_ended(&self) -> bool {
        matches!(&*self.outcome.state(), State::Ended(_))
    }

    /// Whether this seat is of `turn`.
    pub(crate) fn is_of(&self, turn: &Turn) -> bool {
        Arc::ptr_eq(&self.outcome, &turn.outcome)
    }
}
