//! The proof that something may be forwarded.
//!
//! INVARIANT: an upstream request is built by [`Permit::request`] and nothing else, from the head that was judged;
//! a [`Permit<Recorded>`] exists only after its decision is in the write-ahead log (or, with `dangerPassUnrecorded`, is
//! counted as one that could not be written there). A [`Permit<ReceiverJudges>`] has
//! no decision behind it and can only take a hop to a mesh proxy, which decides and records itself.

use std::sync::Arc;

use http::{HeaderValue, Request, Uri, Version, header, uri};
use reeve_audit::decision_id;
use reeve_core::{RecordId, UnixTime, decision::Decision};

use crate::{
    head::{Head, join_query},
    judge::{Question, Verdict},
    ledger::Ledger,
    route::HeaderEdits,
    snapshot::Snapshot,
};

/// A decision that is in the write-ahead log.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) record: RecordId,
    pub(crate) decision: Arc<Decision>,
    /// When it was asked for.
    pub(crate) asked: UnixTime,
}

/// No decision here: the proxy at the other end of the mesh hop makes it.
#[derive(Clone, Debug)]
pub(crate) struct ReceiverJudges;

/// May be forwarded; owns the head that was judged.
#[derive(Clone, Debug)]
pub(crate) struct Permit<P> {
    head: Arc<Head>,
    proof: P,
}

/// May be connected: the permit of a TCP connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectPermit {
    proof: Recorded,
}

/// What is not permitted.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The policies (or what stands before them) say no; the denial is recorded.
    Denied {
        decision: Box<Decision>,
        /// For the caller.
        decision_id: String,
        record: RecordId,
    },
    /// The same, of somebody whose denials are so many that they are counted alone.
    Counted,
    /// Nothing can be recorded, so nothing is permitted.
    NotRecorded,
}

/// Asks, records, and only then permits a request.
pub(crate) async fn permit_request(
    question: &Question,
    head: &Arc<Head>,
    snapshot: &Snapshot,
    ledger: &Ledger,
    now: UnixTime,
) -> Result<Permit<Recorded>, Refused> {
    let verdict = question.ask(snapshot, now);
    let proof = assertion_recorded(question, verdict, snapshot, ledger).await?;
    Ok(Permit {
        head: head.clone(),
        proof,
    })
}

/// The same; `is_recorded` says whether a denial may have a record of its own.
pub(crate) async fn permit_request_within(
    question: &Question,
    head: &Arc<Head>,
    snapshot: &Snapshot,
    (ledger, now): (&Ledger, UnixTime),
    is_recorded: impl FnOnce() -> bool,
) -> Result<Permit<Recorded>, Refused> {
    let verdict = question.ask(snapshot, now);
    if !verdict.decision.is_allow() && !is_recorded() {
        return Err(Refused::Counted);
    }
    let proof = assertion_recorded(question, verdict, snapshot, ledger).await?;
    Ok(Permit {
        head: head.clone(),
        proof,
    })
}

/// Asks, records, and only then permits a TCP connection.
pub(crate) async fn permit_connection(
    question: &Question,
    snapshot: &Snapshot,
    ledger: &Ledger,
    now: UnixTime,
) -> Result<ConnectPermit, Refused> {
    let verdict = question.ask(snapshot, now);
    let proof = assertion_recorded(question, verdict, snapshot, ledger).await?;
    Ok(ConnectPermit { proof })
}

/// Records a verdict that is a refusal already.
pub(crate) async fn record_refusal(
    question: &Question,
    mut verdict: Verdict,
    snapshot: &Snapshot,
    ledger: &Ledger,
) -> Refused {
    let decision = Box::new(verdict.decision.clone());
    let record = question.record(snapshot, &mut verdict);
    match ledger.decision(record, snapshot.unrecorded()).await {
        Ok(record) => Refused::Denied {
            decision,
            decision_id: decision_id(&record),
            record,
        },
        Err(_) => Refused::NotRecorded,
    }
}

async fn assertion_recorded(
    question: &Question,
    mut verdict: Verdict,
    snapshot: &Snapshot,
    ledger: &Ledger,
) -> Result<Recorded, Refused> {
    if !verdict.decision.is_allow() {
        return Err(record_refusal(question, verdict, snapshot, ledger).await);
    }
    let record = ledger
        .decision(
            question.record(snapshot, &mut verdict),
            snapshot.unrecorded(),
        )
        .await
        .map_err(|_| Refused::NotRecorded)?;
    Ok(Recorded {
        record,
        asked: verdict.access.context.time,
        decision: Arc::new(verdict.decision),
    })
}

impl ConnectPermit {
    /// The record behind it.
    pub(crate) fn proof(&self) -> &Recorded {
        &self.proof
    }
}

impl Permit<ReceiverJudges> {
    /// A permit for a hop to another mesh proxy.
    pub(crate) fn for_mesh_hop(head: Arc<Head>) -> Self {
        Self {
            head,
            proof: ReceiverJudges,
        }
    }
}

impl Permit<Recorded> {
    /// The record behind it.
    pub(crate) fn proof(&self) -> &Recorded {
        &self.proof
    }
}

/// How the judged head is changed on its way: by configuration alone, never by the peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes<'r> {
    pub(crate) path: Option<&'r str>,
    pub(crate) authority: Option<&'r str>,
    /// Before `edits`.
    pub(crate) first_edits: Option<&'r HeaderEdits>,
    pub(crate) edits: Option<&'r HeaderEdits>,
    pub(crate) header: Option<(http::HeaderName, HeaderValue)>,
    /// The protocols that the caller would rather speak.
    pub(crate) upgrade: Option<&'r HeaderValue>,
}

/// A request on its way upstream; `P` says how it is permitted.
#[derive(Debug)]
pub(crate) struct UpstreamRequest<P, B> {
    request: Request<B>,
    _proof: std::marker::PhantomData<P>,
}

impl<P, B> UpstreamRequest<P, B> {
    /// The request, for the transport.
    pub(crate) fn into_http(self) -> Request<B> {
        self.request
    }
}

impl<P> Permit<P> {
    /// The head that was judged.
    pub(crate) fn head(&self) -> &Arc<Head> {
        &self.head
    }

    /// Builds the upstream request. Can be called again for a retry.
    pub(crate) fn request<B>(
        &self,
        version: Version,
        changes: &Changes<'_>,
        body: B,
    ) -> Result<UpstreamRequest<P, B>, http::Error> {
        let head = &self.head;
        let authority = changes
            .authority
            .or_else(|| changes.edits.and_then(HeaderEdits::authority))
            .unwrap_or(&head.authority);
        let target = join_query(changes.path.unwrap_or(&head.path), head.query.as_deref());
        let mut headers = head.headers.clone();
        for edits in [changes.first_edits, changes.edits].into_iter().flatten() {
            edits.apply(&mut headers);
        }
        if let Some((name, value)) = &changes.header {
            headers.insert(name.clone(), value.clone());
        }
        if let Some(protocols) = changes.upgrade {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocols.clone());
        }
        headers.remove(header::HOST);
        let uri = if version == Version::HTTP_2 {
            let uri = Uri::builder().scheme(uri::Scheme::HTTP);
            uri.authority(authority).path_and_query(target).build()?
        } else {
            headers.insert(header::HOST, HeaderValue::try_from(authority)?);
            Uri::builder().path_and_query(target).build()?
        };
        let mut request = Request::builder().method(head.method.clone()).uri(uri);
        request = request.version(version);
        let mut request = request.body(body)?;
        *request.headers_mut() = headers;
        Ok(UpstreamRequest {
            request,
            _proof: std::marker::PhantomData,
        })
    }
}
