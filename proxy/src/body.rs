//! Bodies on their way through: counted, endable from outside, never held whole.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::{end::End, exchange::Exchange, ledger::lock};

/// The body of a response to the caller.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// Its other end failed.
    #[error("the other end of the stream failed")]
    Failed(#[source] hyper::Error),
    /// It is no longer permitted, or out of time.
    #[error("the stream was ended")]
    Ended,
}

/// A request's body, handed to one try after another until one of them starts to read it.
#[derive(Clone, Debug)]
pub(crate) struct Upload(Arc<UploadState>);

#[derive(Debug)]
struct UploadState {
    body: Mutex<Incoming>,
    started: AtomicBool,
    bytes: Arc<AtomicU64>,
    end: End,
    empty: bool,
}

impl Upload {
    /// Wraps a body; `bytes` counts it, `end` ends it.
    pub(crate) fn new(body: Incoming, bytes: Arc<AtomicU64>, end: End) -> Self {
        Self(Arc::new(UploadState {
            empty: body.is_end_stream(),
            body: Mutex::new(body),
            started: AtomicBool::new(false),
            bytes,
            end,
        }))
    }

    /// Whether another try can still send it: nothing of it has been read.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.empty || !self.0.started.load(Ordering::Acquire)
    }

    /// The body for one try.
    pub(crate) fn attempt(&self) -> UploadBody {
        UploadBody {
            state: self.0.clone(),
        }
    }
}

/// [`Upload`] as one try sends it.
#[derive(Debug)]
pub(crate) struct UploadBody {
    state: Arc<UploadState>,
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.state.end.poll(cx).is_ready() {
            return Poll::Ready(Some(Err(BodyError::Ended)));
        }
        let polled = Pin::new(&mut *lock(&self.state.body)).poll_frame(cx);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(frame) => {
                self.state.started.store(true, Ordering::Release);
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    self.state
                        .bytes
                        .fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Failed)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state.empty || lock(&self.state.body).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.state.body).size_hint()
    }
}

/// A response's body on its way to the caller. When it goes, the exchange is over.
#[derive(Debug)]
pub(crate) struct Download {
    body: Incoming,
    exchange: Exchange,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Download {
    /// Wraps a response's body; `deadline` bounds the whole exchange.
    pub(crate) fn new(body: Incoming, exchange: Exchange, deadline: Option<Instant>) -> Self {
        Self {
            body,
            deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at))),
            exchange,
        }
    }

    fn cut(&mut self, cx: &mut Context<'_>) -> bool {
        if self.exchange.end().poll(cx).is_ready() {
            self.exchange.flag("DPE");
            return true;
        }
        let late = self
            .deadline
            .as_mut()
            .is_some_and(|d| d.as_mut().poll(cx).is_ready());
        if late {
            self.exchange.flag("UT");
        }
        late
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.cut(cx) {
            return Poll::Ready(Some(Err(BodyError::Ended)));
        }
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.exchange.sent(data.len() as u64);
                }
                if let Some(trailers) = frame.trailers_ref() {
                    self.exchange.trailers(trailers);
                }
            }
            Some(Err(_)) => self.exchange.flag("UC"),
            None => self.exchange.finished(),
        }
        if self.body.is_end_stream() {
            self.exchange.finished();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Failed)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of our own making; the exchange is over when it has gone out.
pub(crate) fn whole(text: impl Into<Bytes>, mut exchange: Exchange) -> ResponseBody {
    let bytes = text.into();
    exchange.sent(bytes.len() as u64);
    exchange.finished();
    let body = Full::new(bytes).map_err(|never| match never {});
    // The exchange ends with the body, so that its duration is the caller's.
    body.map_frame(move |frame| {
        let _held = &exchange;
        frame
    })
    .boxed_unsync()
}
