//! Where a body comes from: its sender, a copy of what another request sends, or what was held of it to be changed.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::BodyError;
use crate::{
    limits::{MAX_MIRROR_BYTES, MAX_MIRROR_FRAMES},
    transform::Held,
};

/// A body to send.
#[derive(Debug)]
pub(crate) enum Source {
    /// As it comes in.
    Caller(Incoming),
    /// As it passes by.
    Copy(CopyBody),
    /// As it was held, and perhaps changed.
    Held(Held),
    /// Our own.
    Whole(Option<Bytes>),
    /// Nothing but the error that it ended with; `None` = that was told.
    Broken(Option<BodyError>),
}

impl Source {
    /// Whether what comes next was counted already.
    pub(super) fn is_counted(&self) -> bool {
        match self {
            Self::Held(held) => held.is_counted(),
            Self::Caller(_) | Self::Copy(_) | Self::Whole(_) | Self::Broken(_) => false,
        }
    }
}

impl From<Incoming> for Source {
    fn from(body: Incoming) -> Self {
        Self::Caller(body)
    }
}

impl From<CopyBody> for Source {
    fn from(body: CopyBody) -> Self {
        Self::Copy(body)
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Caller(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(BodyError::Failed))),
            Self::Copy(body) => body.poll(cx),
            Self::Held(held) => held.poll(cx),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Broken(error) => Poll::Ready(error.take().map(Err)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Caller(body) => body.is_end_stream(),
            Self::Copy(body) => body.over,
            Self::Held(held) => held.is_end_stream(),
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Broken(error) => error.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Caller(body) => body.size_hint(),
            Self::Copy(body) => body.hint,
            Self::Held(held) => held.size_hint(),
            Self::Whole(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Self::Broken(_) => SizeHint::default(),
        }
    }
}

/// Takes a copy of what passes, as long as there is room for it.
#[derive(Debug)]
pub(super) struct CopyTo {
    frames: mpsc::Sender<Part>,
    /// Something is missing: nothing more is copied.
    broken: AtomicBool,
    between: Arc<Between>,
}

/// What both ends of a copy know.
#[derive(Debug, Default)]
struct Between {
    /// Bytes that wait.
    waiting: AtomicUsize,
    /// There was no room.
    lost: AtomicBool,
}

#[derive(Debug)]
enum Part {
    Frame(Frame<Bytes>),
    End,
}

/// A copy of a body.
#[derive(Debug)]
pub(crate) struct CopyBody {
    frames: mpsc::Receiver<Part>,
    over: bool,
    hint: SizeHint,
    between: Arc<Between>,
}

/// Both ends of a copy of a body of that size.
pub(super) fn copy_channel(hint: &SizeHint) -> (CopyTo, CopyBody) {
    let (sender, frames) = mpsc::channel(MAX_MIRROR_FRAMES);
    let between = Arc::<Between>::default();
    let to = CopyTo {
        frames: sender,
        broken: AtomicBool::new(false),
        between: between.clone(),
    };
    let body = CopyBody {
        frames,
        over: false,
        hint: *hint,
        between,
    };
    (to, body)
}

impl CopyTo {
    /// Copies what was read; `over` = nothing follows.
    pub(super) fn take(&self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>, over: bool) {
        if self.broken.load(Ordering::Relaxed) {
            return;
        }
        let frame = match polled {
            Poll::Ready(Some(Ok(frame))) => copy(frame),
            Poll::Ready(Some(Err(_))) => return self.broken.store(true, Ordering::Relaxed),
            Poll::Ready(None) | Poll::Pending => None,
        };
        let end = over.then_some(Part::End);
        for part in frame.map(Part::Frame).into_iter().chain(end) {
            if let Err(error) = self.send(part) {
                let full = matches!(error, mpsc::error::TrySendError::Full(_));
                self.between.lost.fetch_or(full, Ordering::Relaxed);
                self.broken.store(true, Ordering::Relaxed);
            }
        }
        if over {
            self.broken.store(true, Ordering::Relaxed);
        }
    }

    fn send(&self, part: Part) -> Result<(), mpsc::error::TrySendError<Part>> {
        let bytes = part.len();
        let waiting = self.between.waiting.load(Ordering::Relaxed);
        if waiting > 0 && waiting.saturating_add(bytes) > MAX_MIRROR_BYTES {
            return Err(mpsc::error::TrySendError::Full(part));
        }
        self.between.waiting.fetch_add(bytes, Ordering::Relaxed);
        self.frames.try_send(part)
    }
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.data_ref().map_or(0, Bytes::len),
            Self::End => 0,
        }
    }
}

fn copy(frame: &Frame<Bytes>) -> Option<Frame<Bytes>> {
    let data = frame.data_ref().cloned().map(Frame::data);
    data.or_else(|| frame.trailers_ref().cloned().map(Frame::trailers))
}

/// Whether frames of a copy were lost because they were not taken in time.
#[derive(Debug)]
pub(crate) struct Lost(Arc<Between>);

impl Lost {
    /// Whether it has happened so far.
    pub(crate) fn happened(&self) -> bool {
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl CopyBody {
    /// To ask later whether frames were lost.
    pub(crate) fn lost(&self) -> Lost {
        Lost(self.between.clone())
    }

    /// Nothing follows: the body is empty.
    pub(crate) fn empty(mut self) -> Self {
        self.over = true;
        self.hint = SizeHint::with_exact(0);
        self
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let lost = self.between.lost.load(Ordering::Relaxed);
        match self.frames.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) if lost => Poll::Ready(Some(Err(BodyError::Ended))),
            Poll::Ready(Some(part)) => {
                let bytes = part.len();
                self.between.waiting.fetch_sub(bytes, Ordering::Relaxed);
                match part {
                    Part::Frame(frame) => Poll::Ready(Some(Ok(frame))),
                    Part::End => {
                        self.over = true;
                        Poll::Ready(None)
                    }
                }
            }
            // The original ended before its end.
            Poll::Ready(None) => Poll::Ready(Some(Err(BodyError::Ended))),
        }
    }
}
