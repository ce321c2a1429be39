//! Bodies on their way through: counted, endable from outside, never held whole.

use std::{
    num::NonZeroU64,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use tokio::time::{Instant, Sleep, sleep};

pub(crate) use source::{CopyBody, Source};
use source::{CopyTo, copy_channel};

use crate::{
    end::End,
    exchange::Exchange,
    headers::clean_trailers,
    io::Flow,
    ledger::lock,
    limits::{CONTINUE_TIMEOUT, MAX_RETRY_BODY_BYTES, MAX_RETRY_BODY_PIECES},
    messages::Messages,
    tap::Bodies,
    transform::{Gathering, Space, gather},
};

mod source;

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
    body: Mutex<Source>,
    /// Who gets a copy of it.
    copies: OnceLock<Vec<CopyTo>>,
    started: AtomicBool,
    bytes: Arc<AtomicU64>,
    end: End,
    empty: bool,
    /// Given when all of it is on its way; `None` = there is nothing to send.
    sent: Option<End>,
    /// Given when the upstream wants the body of a caller that asked first.
    wanted: Option<End>,
    /// Keeps its beginning for taps.
    kept: Option<Arc<Bodies>>,
    /// Counts the messages of a gRPC call.
    messages: Option<(Mutex<Messages>, Arc<Flow>)>,
    /// Keeps it for another try.
    replay: OnceLock<Mutex<Replay>>,
    /// The newest try; an older one gets no more.
    newest: AtomicU32,
}

/// What was read of a body, for another try.
#[derive(Debug, Default)]
struct Replay {
    pieces: Vec<Piece>,
    bytes: usize,
    /// More was read than is kept: nothing is.
    overflown: bool,
}

#[derive(Clone, Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Replay {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return,
        };
        if let Piece::Data(data) = &piece {
            self.bytes = self.bytes.saturating_add(data.len());
        }
        if self.bytes > MAX_RETRY_BODY_BYTES || self.pieces.len() >= MAX_RETRY_BODY_PIECES {
            self.overflown = true;
            self.pieces = Vec::new();
        }
        if !self.overflown {
            self.pieces.push(piece);
        }
    }
}

impl UploadState {
    fn count(&self, data: &[u8]) {
        self.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        if let Some(kept) = &self.kept {
            kept.add_request(data);
        }
        if let Some((messages, flow)) = &self.messages {
            flow.count_read(lock(messages).read(data));
        }
    }
}

impl Upload {
    /// Wraps a body; `bytes` counts it, `end` ends it.
    pub(crate) fn new(body: impl Into<Source>, bytes: Arc<AtomicU64>, end: End) -> Self {
        let body = body.into();
        let empty = body.is_end_stream();
        Self(Arc::new(UploadState {
            copies: OnceLock::new(),
            empty,
            sent: (!empty).then(End::default),
            body: Mutex::new(body),
            started: AtomicBool::new(false),
            bytes,
            end,
            wanted: None,
            kept: None,
            messages: None,
            replay: OnceLock::new(),
            newest: AtomicU32::new(0),
        }))
    }

    /// From now on what is read of it is kept for other tries, as far as there is room ([`MAX_RETRY_BODY_BYTES`]).
    pub(crate) fn keep_for_retries(&self) {
        if !self.0.empty {
            self.0.replay.get_or_init(Mutex::default);
        }
    }

    /// The same, and its gRPC messages are counted as read from `flow`, its beginning is kept in `bodies`.
    pub(crate) fn watched(mut self, flow: Option<Arc<Flow>>, bodies: Option<Arc<Bodies>>) -> Self {
        if let Some(state) = Arc::get_mut(&mut self.0) {
            state.kept = bodies;
            state.messages = flow.map(|flow| (Mutex::default(), flow));
        }
        self
    }

    /// The same for a caller that waits for `100 Continue` (RFC 9110 section 10.1.1): its body is not asked for before
    /// the upstream has, or [`CONTINUE_TIMEOUT`] has passed. Asking is what makes this proxy say `100 Continue`.
    pub(crate) fn when_wanted(mut self, headers: &HeaderMap, version: Version) -> Self {
        let expects = headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        if expects
            && version == Version::HTTP_11
            && let Some(state) = Arc::get_mut(&mut self.0)
        {
            state.wanted = Some(End::default());
        }
        self
    }

    /// Whether the caller waits for `100 Continue`.
    pub(crate) fn awaits_continue(&self) -> bool {
        self.0.wanted.is_some()
    }

    /// Whether another try can still send it: nothing of it has been read, or all that was is kept.
    pub(crate) fn is_whole(&self) -> bool {
        let kept = |replay: &Mutex<Replay>| !lock(replay).overflown;
        self.0.empty
            || !self.0.started.load(Ordering::Acquire)
            || self.0.replay.get().is_some_and(kept)
    }

    /// Whether there is nothing of it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.empty
    }

    /// Takes the body away.
    fn take(&self) -> Source {
        std::mem::replace(&mut *lock(&self.0.body), Source::Broken(None))
    }

    /// Reads it to its end, or until more than `most` bytes have come; nothing of it was sent yet. [`Self::put_back`] follows.
    pub(crate) async fn gather(&self, space: &Space, most: usize) -> Gathering {
        let source = self.take();
        // What was held before was counted then.
        let mut counted = match &source {
            Source::Held(held) => held.len(),
            Source::Caller(_) | Source::Copy(_) | Source::Whole(_) | Source::Broken(_) => 0,
        };
        let gathered = gather(source, space, most).await;
        for piece in gathered.pieces() {
            let new = piece.get(counted..).unwrap_or_default();
            counted = counted.saturating_sub(piece.len());
            self.0.count(new);
        }
        gathered
    }

    /// What is sent in its place; nobody is asked whether it is wanted, since the caller was told to send it.
    pub(crate) fn put_back(&self, body: Source) {
        *lock(&self.0.body) = body;
        if let Some(wanted) = &self.0.wanted {
            wanted.give();
        }
    }

    /// As many copies of it, each of which gets what the upload itself gets, as far as there is room for it. Once.
    pub(crate) fn copies(&self, count: usize) -> Vec<CopyBody> {
        let hint = lock(&self.0.body).size_hint();
        let (to, bodies): (_, Vec<CopyBody>) = (0..count).map(|_| copy_channel(&hint)).unzip();
        if self.0.empty {
            return bodies.into_iter().map(CopyBody::empty).collect();
        }
        match self.0.copies.set(to) {
            Ok(()) => bodies,
            Err(_) => Vec::new(),
        }
    }

    /// Ready when all of it is on its way.
    pub(crate) async fn sent(&self) {
        if let Some(sent) = &self.0.sent {
            sent.wait().await;
        }
    }

    /// The body for one try.
    pub(crate) fn attempt(&self) -> UploadBody {
        UploadBody {
            number: self.0.newest.fetch_add(1, Ordering::AcqRel) + 1,
            replayed: 0,
            patience: self
                .0
                .wanted
                .is_some()
                .then(|| Box::pin(sleep(CONTINUE_TIMEOUT))),
            state: self.0.clone(),
        }
    }
}

/// [`Upload`] as one try sends it.
#[derive(Debug)]
pub(crate) struct UploadBody {
    state: Arc<UploadState>,
    number: u32,
    /// Kept pieces that it has sent.
    replayed: usize,
    patience: Option<Pin<Box<Sleep>>>,
}

impl UploadBody {
    /// What to give when the upstream wants the body; `None` = it is sent in any case.
    pub(crate) fn wanted(&self) -> Option<&End> {
        self.state.wanted.as_ref()
    }

    /// The next kept piece that this try has not sent.
    fn again(&mut self) -> Option<Frame<Bytes>> {
        let replay = lock(self.state.replay.get()?);
        let piece = replay.pieces.get(self.replayed)?.clone();
        drop(replay);
        self.replayed += 1;
        Some(match piece {
            Piece::Data(data) => Frame::data(data),
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        })
    }

    /// The bytes of kept pieces that this try has not sent; `None` = it has sent them all.
    fn left(&self) -> Option<u64> {
        let replay = lock(self.state.replay.get()?);
        let left = replay.pieces.get(self.replayed..)?;
        let bytes = left.iter().map(|piece| match piece {
            Piece::Data(data) => data.len() as u64,
            Piece::Trailers(_) => 0,
        });
        (!left.is_empty()).then(|| bytes.sum())
    }

    fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Some(wanted), Some(patience)) = (&self.state.wanted, &mut self.patience) else {
            return Poll::Ready(());
        };
        if wanted.poll(cx).is_pending() {
            ready!(patience.as_mut().poll(cx));
        }
        self.patience = None;
        Poll::Ready(())
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.state.end.poll(cx).is_ready() {
            return Poll::Ready(Some(Err(BodyError::Ended)));
        }
        if self.state.newest.load(Ordering::Acquire) != self.number {
            return Poll::Ready(Some(Err(BodyError::Ended)));
        }
        ready!(self.poll_wanted(cx));
        if let Some(again) = self.again() {
            return Poll::Ready(Some(Ok(again)));
        }
        let mut body = lock(&self.state.body);
        let counted = body.is_counted();
        let polled = Pin::new(&mut *body).poll_frame(cx);
        let over = matches!(polled, Poll::Ready(None)) || body.is_end_stream();
        drop(body);
        if let Some(copies) = self.state.copies.get() {
            copies.iter().for_each(|copy| copy.take(&polled, over));
        }
        if over && let Some(sent) = &self.state.sent {
            sent.give();
        }
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(mut frame) => {
                self.state.started.store(true, Ordering::Release);
                if let Some(Ok(frame)) = &mut frame
                    && let Some(trailers) = frame.trailers_mut()
                {
                    clean_trailers(trailers);
                }
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                    && !counted
                {
                    self.state.count(data);
                }
                if let (Some(replay), Some(Ok(frame))) = (self.state.replay.get(), &frame) {
                    lock(replay).keep(frame);
                    self.replayed += 1;
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state.empty || (self.left().is_none() && lock(&self.state.body).is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = lock(&self.state.body).size_hint();
        let Some(left) = self.left() else {
            return rest;
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(left));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(left));
        }
        hint
    }
}

/// A response's body on its way to the caller. When it goes, the exchange is over.
#[derive(Debug)]
pub(crate) struct Download {
    body: Source,
    exchange: Exchange,
    deadline: Option<Pin<Box<Sleep>>>,
    /// It was ended by trailers of our own.
    over: bool,
    pace: Option<Box<Pace>>,
}

/// How fast a response may go, where that is bounded on purpose.
#[derive(Debug)]
struct Pace {
    bytes_per_second: NonZeroU64,
    began: Instant,
    sent: u64,
    wait: Pin<Box<Sleep>>,
}

impl Pace {
    fn new(bytes_per_second: NonZeroU64) -> Self {
        Self {
            bytes_per_second,
            began: Instant::now(),
            sent: 0,
            wait: Box::pin(sleep(Duration::ZERO)),
        }
    }

    /// So much was sent: no more before its time is over.
    fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes as u64);
        let millis = self.sent.saturating_mul(1000) / self.bytes_per_second;
        if let Some(then) = self.began.checked_add(Duration::from_millis(millis)) {
            self.wait.as_mut().reset(then);
        }
    }
}

impl Download {
    /// Wraps a response's body; `deadline` bounds the whole exchange.
    pub(crate) fn new(
        body: impl Into<Source>,
        exchange: Exchange,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            body: body.into(),
            deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at))),
            exchange,
            over: false,
            pace: None,
        }
    }

    /// The same, so many bytes a second at most.
    pub(crate) fn paced(mut self, bytes_per_second: Option<NonZeroU64>) -> Self {
        self.pace = bytes_per_second.map(|rate| Box::new(Pace::new(rate)));
        self
    }

    /// The end of a response that must go no further: gRPC has words for it, other streams break off.
    fn end(&mut self, cut: Cut) -> Result<Frame<Bytes>, BodyError> {
        let (flag, status) = match cut {
            Cut::NotPermitted => ("DPE", "7"),
            Cut::Late => ("UT", "4"),
        };
        self.exchange.flag(flag);
        self.over = true;
        if self.exchange.ends.protocol != "grpc" {
            return Err(BodyError::Ended);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        self.exchange.trailers(&trailers);
        Ok(Frame::trailers(trailers))
    }

    fn cut(&mut self, cx: &mut Context<'_>) -> Option<Cut> {
        if self.exchange.end().poll(cx).is_ready() {
            return Some(Cut::NotPermitted);
        }
        let late = self
            .deadline
            .as_mut()
            .is_some_and(|d| d.as_mut().poll(cx).is_ready());
        late.then_some(Cut::Late)
    }
}

/// Why a response is ended before its end.
#[derive(Clone, Copy, Debug)]
enum Cut {
    NotPermitted,
    Late,
}

impl Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(cut) = self.cut(cx) {
            return Poll::Ready(Some(self.end(cut)));
        }
        if let Some(pace) = &mut self.pace {
            ready!(pace.wait.as_mut().poll(cx));
        }
        let mut frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            clean_trailers(trailers);
        }
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.exchange.sent_data(data);
                    if let Some(pace) = &mut self.pace {
                        pace.sent(data.len());
                    }
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
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of our own making; the exchange is over when it has gone out.
pub(crate) fn whole(text: impl Into<Bytes>, mut exchange: Exchange) -> ResponseBody {
    let bytes = text.into();
    exchange.sent_data(&bytes);
    exchange.finished();
    let body = Full::new(bytes).map_err(|never| match never {});
    // The exchange ends with the body, so that its duration is the caller's.
    body.map_frame(move |frame| {
        let _held = &exchange;
        frame
    })
    .boxed_unsync()
}
