//! Bodies held whole, so that they can be changed: bounded in bytes, in time, and all of them together.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use super::edit::Unfit;
use crate::{
    body::{BodyError, Source},
    callers::Share,
    headers::clean_trailers,
    limits::{MAX_TRANSFORM_BYTES, MAX_TRANSFORM_THREADS, TRANSFORM_BODY_TIMEOUT},
};

/// What all bodies that one proxy holds to change them take: memory, and threads.
#[derive(Debug)]
pub(crate) struct Room {
    bytes: AtomicUsize,
    /// Those that change long bodies.
    threads: Semaphore,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            threads: Semaphore::new(MAX_TRANSFORM_THREADS),
        }
    }
}

impl Room {
    /// A thread to change a long body on, as soon as there is one.
    pub(super) async fn thread(&self) -> Result<SemaphorePermit<'_>, Unfit> {
        self.threads.acquire().await.map_err(|_| Unfit::Failed)
    }
}

#[cfg(test)]
impl Room {
    pub(super) fn taken(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    pub(super) fn taken_up(bytes: usize) -> Self {
        Self {
            bytes: AtomicUsize::new(bytes),
            ..Self::default()
        }
    }
}

/// Where a body is held: in the proxy's room, as a part of its caller's share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Space {
    pub(crate) room: Arc<Room>,
    pub(crate) share: Option<Arc<Share>>,
}

/// A part of it.
#[derive(Debug)]
struct Taken {
    space: Space,
    bytes: usize,
}

impl Taken {
    fn more(&mut self, bytes: usize) -> Result<(), Unfit> {
        let Space { room, share } = &self.space;
        let taken = room.bytes.fetch_add(bytes, Ordering::AcqRel);
        let has_share = share.as_ref().is_none_or(|share| share.take_bytes(bytes));
        self.bytes = self.bytes.saturating_add(bytes);
        if taken.saturating_add(bytes) > MAX_TRANSFORM_BYTES {
            Err(Unfit::NoRoom)
        } else if !has_share {
            Err(Unfit::NoShare)
        } else {
            Ok(())
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.space
            .room
            .bytes
            .fetch_sub(self.bytes, Ordering::AcqRel);
        if let Some(share) = &self.space.share {
            share.give_bytes(self.bytes);
        }
    }
}

/// What was read of a body, and what follows it.
#[derive(Debug)]
pub(crate) struct Held {
    pieces: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    rest: Option<Box<Source>>,
    _taken: Taken,
}

/// What came of reading a body.
#[derive(Debug)]
pub(crate) enum Gathering {
    /// All of it.
    Whole(Held),
    /// Not all of it, and why; the rest follows.
    Part(Held, Unfit),
    /// It broke off.
    Broken(BodyError),
}

impl Gathering {
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        let held = match self {
            Self::Whole(held) | Self::Part(held, _) => Some(held),
            Self::Broken(_) => None,
        };
        held.into_iter().flat_map(|held| &held.pieces)
    }
}

/// Pieces shorter than this are held together, so that a body takes as much memory as it has bytes, however it comes in.
const SHORT_PIECE: usize = 1024;

/// Pieces as they come in.
#[derive(Default)]
struct Pieces {
    pieces: VecDeque<Bytes>,
    /// Those that are short.
    short: BytesMut,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        let is_short = piece.len() < SHORT_PIECE;
        if is_short {
            self.short.extend_from_slice(&piece);
        }
        if !is_short || self.short.len() >= SHORT_PIECE {
            self.end();
        }
        if !is_short {
            self.pieces.push_back(piece);
        }
    }

    fn end(&mut self) {
        if !self.short.is_empty() {
            self.pieces.push_back(self.short.split().freeze());
        }
    }

    fn all(mut self) -> VecDeque<Bytes> {
        self.end();
        self.pieces
    }
}

/// Reads `source` to its end, as far as there is room and time for it, and until more than `most` bytes have come.
pub(crate) async fn gather(mut source: Source, space: &Space, most: usize) -> Gathering {
    let until = Instant::now() + TRANSFORM_BODY_TIMEOUT;
    let mut held = Held {
        pieces: VecDeque::new(),
        trailers: None,
        rest: None,
        _taken: Taken {
            space: space.clone(),
            bytes: 0,
        },
    };
    let mut bytes = 0usize;
    let mut incoming = Pieces::default();
    loop {
        // Cancel-safe: what was read stands in `incoming`.
        let unfit = match timeout_at(until, source.frame()).await {
            Err(_) => Some(Unfit::Late),
            Ok(None) => {
                held.pieces = incoming.all();
                return Gathering::Whole(held);
            }
            Ok(Some(Err(error))) => return Gathering::Broken(error),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    bytes = bytes.saturating_add(data.len());
                    let room = held._taken.more(data.len());
                    incoming.push(data);
                    let too_long = bytes > most;
                    room.err().or_else(|| too_long.then_some(Unfit::TooLong))
                }
                Err(frame) => {
                    held.trailers = frame.into_trailers().ok().map(|mut trailers| {
                        clean_trailers(&mut trailers);
                        trailers
                    });
                    None
                }
            },
        };
        if let Some(unfit) = unfit {
            held.pieces = incoming.all();
            held.rest = Some(Box::new(source));
            return Gathering::Part(held, unfit);
        }
    }
}

impl Held {
    #[cfg(test)]
    pub(super) fn of(bytes: Bytes) -> Self {
        Self::in_pieces([bytes])
    }

    #[cfg(test)]
    pub(super) fn in_pieces(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        Self {
            pieces: pieces.into_iter().collect(),
            trailers: None,
            rest: None,
            _taken: Taken {
                space: Space::default(),
                bytes: 0,
            },
        }
    }

    #[cfg(test)]
    pub(super) fn followed_by(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self
    }

    /// How many bytes were read.
    pub(crate) fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// What was read, in one piece.
    pub(crate) fn bytes(&mut self) -> Bytes {
        if self.pieces.len() > 1 {
            let mut all = BytesMut::with_capacity(self.pieces.iter().map(Bytes::len).sum());
            self.pieces
                .iter()
                .for_each(|piece| all.extend_from_slice(piece));
            self.pieces = VecDeque::from([all.freeze()]);
        }
        self.pieces.front().cloned().unwrap_or_default()
    }

    /// Something else in its place. Trailers may say what the old bytes were, too (RFC 9530 section 2).
    pub(super) fn replace(&mut self, bytes: Bytes) {
        if let Some(trailers) = &mut self.trailers {
            super::forget_bytes(trailers);
        }
        self.pieces.clear();
        if !bytes.is_empty() {
            self.pieces.push_back(bytes);
        }
    }

    /// Whether what comes next was read, and so counted, already.
    pub(crate) fn is_counted(&self) -> bool {
        !self.pieces.is_empty()
    }

    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(rest) = &mut self.rest {
            return Pin::new(&mut **rest).poll_frame(cx);
        }
        Poll::Ready(self.trailers.take().map(|all| Ok(Frame::trailers(all))))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let rest = self.rest.as_ref().is_none_or(|rest| rest.is_end_stream());
        self.pieces.is_empty() && self.trailers.is_none() && rest
    }

    /// Exact, but where trailers follow, which only a body of unknown length can have in HTTP/1.1.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let held: u64 = self.pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut hint = SizeHint::new();
        match (&self.rest, &self.trailers) {
            (None, None) => hint.set_exact(held),
            (None, Some(_)) => hint.set_lower(held),
            (Some(rest), _) => {
                let rest = rest.size_hint();
                hint.set_lower(held.saturating_add(rest.lower()));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(held.saturating_add(upper));
                }
            }
        }
        hint
    }
}
