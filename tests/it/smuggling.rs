//! HTTP/1.1 request smuggling, as raw bytes at every door of the real binary: the application never sees a request that
//! the access log has not, nor one that a strict parser would refuse, and what is ambiguous is answered, not passed on.

use std::time::Duration;

use futures_util::future::join_all;
use reeve_tests::{Door, Reply, exchange};

use crate::hostile::{ALPN_HTTP1, Hostile, start};

mod cases;

use cases::{Case, Expect, cases};

/// How long an answer may take; most connections are closed at once.
const PATIENCE: Duration = Duration::from_millis(2000);
/// Connections at once.
const AT_ONCE: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_ambiguous_request_reaches_the_application_nor_any_that_is_not_logged() {
    let hostile = start("smuggling").await;
    let cases = cases();
    let mut wrong = Vec::new();
    for (number, door) in hostile.doors().into_iter().enumerate() {
        for few in cases.chunks(AT_ONCE) {
            let sent = few.iter().map(|case| try_one(&hostile, door, number, case));
            wrong.extend(join_all(sent).await.into_iter().flatten());
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    hostile.assert_nothing_unlogged().await;
    hostile.mesh.verify_audit().await;
}

/// Sends a case through a door; what is wrong with what came of it.
async fn try_one(hostile: &Hostile, door: &Door, number: usize, case: &Case) -> Option<String> {
    let mark = format!("/{number}-{}.", case.name);
    let mut wire = door.open(ALPN_HTTP1).await.expect("a connection");
    let reply = exchange(&mut wire, &case.marked(&mark), PATIENCE).await;
    drop(wire);
    let seen = hostile.backend.targets(&mark);
    let wrong = judge(case, &mark, &seen, &reply)?;
    let text: String = reply
        .bytes
        .iter()
        .take(200)
        .map(|b| char::from(*b))
        .collect();
    Some(format!(
        "{} at {}: {wrong}; seen {seen:?}, closed {}, answer {text:?}",
        case.name, door.name, reply.closed
    ))
}

fn judge(case: &Case, mark: &str, seen: &[String], reply: &Reply) -> Option<String> {
    let statuses = reply.statuses();
    match case.expect {
        Expect::Refused => {
            let refused = statuses.iter().all(|status| (400..=505).contains(status));
            let ended = reply.closed || !statuses.is_empty();
            (!seen.is_empty() || !refused || !ended).then(|| "not refused".to_owned())
        }
        Expect::Status(status) => {
            (!seen.is_empty() || statuses != [status]).then(|| format!("not {status}"))
        }
        Expect::Waits => {
            (!seen.is_empty() || statuses.contains(&200)).then(|| "not waited for".to_owned())
        }
        Expect::Served(targets) => {
            let expected: Vec<_> = targets.iter().map(|t| t.replace('@', mark)).collect();
            let answered = statuses.iter().filter(|s| **s == 200).count() == expected.len();
            (seen != expected || !answered).then(|| format!("not {expected:?}"))
        }
    }
}
