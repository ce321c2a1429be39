//! The gate: from a head as it came to a permit, or to the answer that says why not. The inbound side and a gateway's
//! outside go through it.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use reeve_authz::{TokenLookup, Verified};
use reeve_core::decision::{Reason, User};

use crate::{
    answer::Answer,
    exchange::Exchange,
    head::{Head, HeadError, Unreadable},
    headers,
    judge::{Peer, Place, Question},
    open::Origin,
    path::PathError,
    permit::{self, Permit, Recorded, Refused},
    proxy::Shared,
    query,
    snapshot::Snapshot,
};

/// Decode, normalise, verify tokens, decide, record: the way to a permit, inbound and at a gateway.
pub(crate) fn judge(
    proxy: &Shared,
    snapshot: &Snapshot,
    peer: &Peer,
    place: Place,
    parts: http::request::Parts,
    exchange: &mut Exchange,
) -> Result<(Permit<Recorded>, Question), Answer> {
    let now = proxy.ledger.now();
    let question = |head: Head, user| Question {
        peer: peer.clone(),
        place: place.clone(),
        user,
        head: Some(Arc::new(head)),
    };
    let refuse = |question: &Question, reason, exchange: &mut Exchange| {
        let verdict = question.refuse(snapshot, now, reason);
        let refused = permit::record_refusal(question, verdict, snapshot, &proxy.ledger);
        answer_refused(refused, exchange)
    };

    let mut head = match Head::read(parts, snapshot.workload().path_normalization) {
        Ok(head) => head,
        Err(Unreadable {
            error,
            raw: Some(raw),
        }) if error == HeadError::Path(PathError::Ambiguous) => {
            let question = question(*raw, None);
            let answer = refuse(&question, Reason::AmbiguousPath, exchange);
            return Err(if answer.status == StatusCode::FORBIDDEN {
                Answer::bad_head(error)
            } else {
                answer
            });
        }
        Err(Unreadable { error, .. }) => return Err(Answer::bad_head(error)),
    };
    clean(proxy, &mut head, exchange);

    let user = match snapshot.jwt.verify(&Tokens(&head), now) {
        Ok(verified) => apply_tokens(&mut head, verified),
        Err(error) => {
            tracing::debug!(%error, "a token does not verify");
            let question = question(head, None);
            exchange.head_of(&question);
            return Err(match refuse(&question, Reason::InvalidToken, exchange) {
                Answer {
                    status: StatusCode::FORBIDDEN,
                    ..
                } => Answer::invalid_token(exchange.decision_id()),
                answer => answer,
            });
        }
    };
    exchange.user = user.as_ref().map(|user| user.subject.clone());

    let question = question(head, user);
    exchange.head_of(&question);
    let Some(head) = &question.head else {
        return Err(Answer::unbuildable());
    };
    let permit = permit::permit_request(&question, head, snapshot, &proxy.ledger, now);
    let permit = permit.map_err(|refused| answer_refused(refused, exchange))?;
    exchange.decided(&permit.proof().record, &permit.proof().decision);
    Ok((permit, question))
}

/// Lists the stream as open; if the configuration changed meanwhile, asks again at once.
pub(crate) fn enter(
    proxy: &Shared,
    snapshot: &Arc<Snapshot>,
    question: Question,
    origin: Origin,
    permit: &Permit<Recorded>,
    exchange: &mut Exchange,
) {
    let record = permit.proof().record.clone();
    let guard = proxy
        .open
        .enter(question, origin, record, exchange.end().clone());
    if let Some(newer) = proxy
        .snapshot()
        .filter(|newer| !Arc::ptr_eq(newer, snapshot))
    {
        proxy
            .open
            .judge_one_again(&guard, &newer, &proxy.ledger, &proxy.metrics);
    }
    exchange.hold(guard);
}

/// What never crosses a hop goes, what every request carries is there; before anything is judged.
pub(crate) fn clean(proxy: &Shared, head: &mut Head, exchange: &mut Exchange) {
    headers::remove_hop_by_hop(&mut head.headers);
    headers::remove_reserved(&mut head.headers);
    let spans = &proxy.telemetry.spans;
    let (mut context, root) = headers::ensure_ids(&mut head.headers, || spans.sample());
    if let Some(span) = spans.begin(&mut context, root) {
        context.write(&mut head.headers);
        exchange.span(span);
    }
}

pub(crate) fn answer_refused(refused: Refused, exchange: &mut Exchange) -> Answer {
    match refused {
        Refused::Denied {
            decision,
            decision_id,
            record,
        } => {
            exchange.decided(&record, &decision);
            if decision.reason == Reason::PlaintextRefused {
                Answer::plaintext_refused(decision_id)
            } else {
                Answer::denied(decision_id)
            }
        }
        Refused::NotRecorded => Answer::not_recorded(),
    }
}

/// Removes and sets what the tokens' rules say, before the request is judged: it is judged as it is sent.
fn apply_tokens(head: &mut Head, verified: Verified) -> Option<User> {
    for name in &verified.strip_headers {
        head.headers.remove(name.as_str());
    }
    if !verified.strip_query.is_empty()
        && let Some(text) = head.query.take()
    {
        head.query = query::without(&text, &verified.strip_query);
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
    verified.user
}

struct Tokens<'h>(&'h Head);

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
