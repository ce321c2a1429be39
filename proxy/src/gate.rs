//! The gate: from a head as it came to a permit, or to the answer that says why not. The inbound side and a gateway's
//! outside go through it.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use reeve_authz::{TokenLookup, Verified};
use reeve_core::{UnixTime, decision::Reason};

use crate::{
    answer::Answer,
    body::Upload,
    exchange::Exchange,
    external::{Content, Said},
    head::{Head, HeadError, Rest, Unreadable},
    headers,
    judge::{Peer, Place, Question, Transformed},
    open::Origin,
    path::PathError,
    permit::{self, Permit, Recorded, Refused},
    proxy::Proxy,
    query,
    snapshot::Snapshot,
    trace,
    worker::Worker,
};

const AMBIGUOUS: HeadError = HeadError::Path(PathError::Ambiguous);

/// Decode, normalise, verify tokens, decide, record: the way to a permit, inbound and at a gateway.
pub(crate) async fn judge(
    worker: &Worker,
    snapshot: &Snapshot,
    peer: &Peer,
    place: Arc<Place>,
    (parts, upload): (http::request::Parts, Option<&Upload>),
    exchange: &mut Exchange,
) -> Result<(Permit<Recorded>, Question), Answer> {
    let now = worker.ledger.now();
    let question = |head: Head, user| Question {
        peer: peer.clone(),
        place: place.clone(),
        user,
        head: Some(Arc::new(head)),
        transformed: None,
        said: None,
    };

    let mut head = match Head::read(parts, place.path_normalization(snapshot)) {
        Ok(head) => head,
        Err(Unreadable {
            error,
            rest: Rest::AllButPath(rest),
        }) if error == AMBIGUOUS => {
            if !has_room(worker, peer) {
                return Err(unread_counted(*rest, exchange));
            }
            return Err(ambiguous(worker, snapshot, &question(*rest, None), exchange).await);
        }
        Err(unreadable) => return Err(unread(unreadable, exchange)),
    };
    // What a gateway says of a client's certificate goes on to whom the client's request goes.
    let keep = peer.is_mtls() || snapshot.is_gateway();
    clean_but(worker, &mut head, exchange, keep);
    let asked = (&mut head, upload);
    let said = ask_externally((worker, snapshot), (peer, &place), asked, exchange).await?;

    let verified = match snapshot.jwt.verify(&Tokens(&head), now) {
        Ok(verified) => verified,
        Err(error) => {
            tracing::debug!(%error, "a token does not verify");
            return Err(match has_room(worker, peer) {
                true => {
                    let question = Question {
                        said,
                        ..question(head, None)
                    };
                    invalid_token(worker, snapshot, &question, exchange).await
                }
                false => unread_counted(head, exchange),
            });
        }
    };
    let user = verified.user.clone();
    exchange.user = user.as_ref().map(|user| user.subject.clone());
    let (head, transformed) = transform(snapshot, head, &verified, now, exchange);

    let question = Question {
        transformed,
        said,
        ..question(head, user)
    };
    exchange.head_of(&question);
    let Some(head) = &question.head else {
        return Err(Answer::unbuildable());
    };
    let is_recorded = || question.user.is_some() || has_room(worker, peer);
    let at = (&worker.ledger, now);
    let permit = permit::permit_request_within(&question, head, snapshot, at, is_recorded).await;
    let permit = permit.map_err(|refused| answer_refused(refused, exchange))?;
    let proof = permit.proof();
    exchange.decided(proof.record.clone(), proof.decision.clone());
    if let (Some(applying), Some(transformed)) = (exchange.transforms(), &question.transformed) {
        applying.count_heads(&transformed.by, &worker.proxy.metrics);
    }
    Ok((permit, question))
}

/// The answer to a path that has more than one reading, on record.
async fn ambiguous(
    worker: &Worker,
    snapshot: &Snapshot,
    question: &Question,
    exchange: &mut Exchange,
) -> Answer {
    let answer = refuse(worker, snapshot, question, Reason::AmbiguousPath, exchange).await;
    match answer.status {
        StatusCode::FORBIDDEN => Answer::bad_head(AMBIGUOUS),
        _ => answer,
    }
}

/// What servers say that are asked before anything is decided; it changes the head, or is the answer.
async fn ask_externally(
    (worker, snapshot): (&Worker, &Snapshot),
    (peer, place): (&Peer, &Arc<Place>),
    (head, upload): (&mut Head, Option<&Upload>),
    exchange: &mut Exchange,
) -> Result<Option<Arc<Said>>, Answer> {
    if snapshot.external.is_empty() {
        return Ok(None);
    }
    let content = upload.map(|upload| Content::of(upload, exchange.room()));
    let content = content.unwrap_or_default();
    // On the heap, since few requests are asked about.
    let asking = snapshot
        .external
        .ask((worker, snapshot), (peer, place), head, content);
    let stopped = match Box::pin(asking).await {
        Ok(said) => return Ok(Some(Arc::new(said))),
        Err(stopped) => *stopped,
    };
    if !has_room(worker, peer) {
        return Err(unread_counted(head.clone(), exchange));
    }
    let question = Question {
        peer: peer.clone(),
        place: place.clone(),
        user: None,
        head: Some(Arc::new(head.clone())),
        transformed: None,
        said: None,
    };
    exchange.head_of(&question);
    let (verdict, refusal) = stopped.verdict(&question, snapshot, worker.ledger.now());
    let refused = permit::record_refusal(&question, verdict, snapshot, &worker.ledger).await;
    let answer = answer_refused(refused, exchange);
    Err(match answer.status {
        StatusCode::FORBIDDEN => Answer::externally_refused(exchange.decision_id(), refusal),
        _ => answer,
    })
}

/// The answer to a token that does not verify, on record.
async fn invalid_token(
    worker: &Worker,
    snapshot: &Snapshot,
    question: &Question,
    exchange: &mut Exchange,
) -> Answer {
    exchange.head_of(question);
    let answer = refuse(worker, snapshot, question, Reason::InvalidToken, exchange).await;
    let authority = question.head.as_ref().map(|head| head.authority.as_str());
    match answer.status {
        StatusCode::FORBIDDEN => {
            Answer::invalid_token(exchange.decision_id(), authority.unwrap_or_default())
        }
        _ => answer,
    }
}

/// SECURITY: whoever proves nothing could else fill the log with refusals of junk, until nobody's permit finds room in it.
fn has_room(worker: &Worker, peer: &Peer) -> bool {
    peer.is_mtls() || worker.proxy.strangers.request_refused()
}

/// The answer to a request whose refusal is counted alone.
fn unread_counted(head: Head, exchange: &mut Exchange) -> Answer {
    exchange.head(&Arc::new(head));
    Answer::too_many_refusals()
}

/// The head as it will be sent, and, where transformations concern it, as it was received. What tokens say is put in after
/// them, so that they cannot say it.
fn transform(
    snapshot: &Snapshot,
    mut received: Head,
    verified: &Verified,
    now: UnixTime,
    exchange: &mut Exchange,
) -> (Head, Option<Arc<Transformed>>) {
    let applying = snapshot.transformations.concerning(&received, now);
    let Some(applying) = applying else {
        apply_tokens(&mut received, verified);
        return (received, None);
    };
    let mut sent = received.clone();
    let by = applying.change_head(&mut sent);
    apply_tokens(&mut sent, verified);
    apply_tokens(&mut received, verified);
    exchange.transforming(applying);
    let received = Arc::new(received);
    (sent, Some(Arc::new(Transformed { received, by })))
}

/// Refuses what was clear before the policies were asked, on record.
pub(crate) async fn refuse(
    worker: &Worker,
    snapshot: &Snapshot,
    question: &Question,
    reason: Reason,
    exchange: &mut Exchange,
) -> Answer {
    let verdict = question.refuse(snapshot, worker.ledger.now(), reason);
    let refused = permit::record_refusal(question, verdict, snapshot, &worker.ledger).await;
    answer_refused(refused, exchange)
}

/// Lists the stream as open; if the configuration changed meanwhile, or the time has come at which the answer may be
/// another, asks again at once.
pub(crate) fn enter(
    worker: &Worker,
    snapshot: &Arc<Snapshot>,
    question: Question,
    origin: Origin,
    proof: &Recorded,
    exchange: &mut Exchange,
) {
    let (record, end) = (proof.record.clone(), exchange.end().clone());
    let guard = worker.open.enter(question, origin, record, end);
    let now = worker.ledger.now();
    let outdated = |newer: &Arc<Snapshot>| {
        !Arc::ptr_eq(newer, snapshot) || newer.engine.may_change_between(proof.asked, now)
    };
    if let Some(newer) = worker.proxy.snapshot().filter(outdated) {
        let metrics = &worker.proxy.metrics;
        worker
            .open
            .judge_one_again(&guard, &newer, &worker.ledger, metrics);
    }
    exchange.hold(guard);
}

/// The answer to a head that cannot be read.
pub(crate) fn unread(unreadable: Unreadable, exchange: &mut Exchange) -> Answer {
    match unreadable.rest {
        Rest::Raw(raw) => exchange.unread(*raw),
        Rest::AllButPath(head) => exchange.head(&Arc::new(*head)),
    }
    Answer::bad_head(unreadable.error)
}

/// What never crosses a hop goes, what every request carries is there; before anything is judged.
pub(crate) fn clean(worker: &Worker, head: &mut Head, exchange: &mut Exchange) {
    clean_but(worker, head, exchange, false);
}

fn clean_but(worker: &Worker, head: &mut Head, exchange: &mut Exchange, certificates: bool) {
    headers::remove_hop_by_hop(&mut head.headers);
    match certificates {
        true => headers::remove_reserved_but_certificates(&mut head.headers),
        false => headers::remove_reserved(&mut head.headers),
    }
    let spans = &worker.proxy.spans;
    headers::ensure_request_id(&mut head.headers);
    let (mut context, root) = trace::take_up(&mut head.headers, || spans.sample());
    if let Some(span) = spans.begin(&mut context, root) {
        context.write(&mut head.headers);
        exchange.span(span);
    }
    head.trace_id = Some(format!("{:032x}", context.trace));
}

pub(crate) fn answer_refused(refused: Refused, exchange: &mut Exchange) -> Answer {
    match refused {
        Refused::Denied {
            decision,
            decision_id,
            record,
        } => {
            let reason = decision.reason;
            exchange.decided(record, Arc::new(*decision));
            if reason == Reason::PlaintextRefused {
                Answer::plaintext_refused(decision_id)
            } else if reason == Reason::NotInRegistry {
                Answer::not_in_registry(decision_id)
            } else {
                Answer::denied(decision_id)
            }
        }
        Refused::Counted => Answer::too_many_refusals(),
        Refused::NotRecorded => Answer::not_recorded(),
    }
}

/// Removes and sets what the tokens' rules say, before the request is judged: it is judged as it is sent.
pub(crate) fn apply_tokens(head: &mut Head, verified: &Verified) {
    headers::remove_with_disguises(&mut head.headers, &verified.strip_headers);
    headers::remove_disguises(&mut head.headers, &verified.strip_disguises_of);
    if !verified.strip_query.is_empty()
        && let Some(text) = head.query.take()
    {
        head.query = query::without(&text, &verified.strip_query);
    }
    if !verified.strip_cookies.is_empty() {
        headers::remove_cookies(&mut head.headers, &verified.strip_cookies);
    }
    for (name, value) in &verified.set_headers {
        let pair = (
            HeaderName::try_from(name.as_str()),
            HeaderValue::try_from(value.as_str()),
        );
        if let (Ok(name), Ok(value)) = pair {
            head.headers.append(name, value);
        }
    }
}

impl Proxy {
    /// The token rules by which requests came since the last call that only a key which is not here could have signed.
    pub fn take_lacking_keys(&self) -> Vec<String> {
        let snapshot = self.shared().snapshot();
        let lacking = snapshot.map(|snapshot| snapshot.jwt.take_lacking());
        lacking.unwrap_or_default()
    }
}

/// Where tokens stand in a head.
pub(crate) struct Tokens<'h>(pub(crate) &'h Head);

impl TokenLookup for Tokens<'_> {
    fn header_values(&self, name: &str) -> Vec<&[u8]> {
        self.0
            .headers
            .get_all(name)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect()
    }

    fn query_values(&self, name: &str) -> Vec<String> {
        query::values(self.0.query.as_deref().unwrap_or_default(), name)
    }
}
