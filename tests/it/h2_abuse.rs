//! HTTP/2 abuse, as raw bytes at every door of the real binary: no malformed request reaches the application, no flood
//! costs a second client its answers, the proxy its memory or its life, and nothing is served that is not logged.

use std::time::Duration;

use futures_util::future::join_all;
use reeve_tests::{Door, exchange, frames};

use crate::hostile::{ALPN_H2, Hostile, start};

mod floods;
mod malformed;
mod second_client;

use malformed::{Case, Expect};
use second_client::{proxy_memory, serve_second_client};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(2000);
/// Connections at once.
const AT_ONCE: usize = 64;
/// How long each flood lasts, unless the proxy ends its connections sooner.
const FLOOD: Duration = Duration::from_millis(1500);
/// What a flood may make the proxy keep: at most one caller's share of open requests, at some 40 KiB each in a debug build.
const MAX_GROWTH_BYTES: u64 = 128 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_malformed_http2_request_reaches_the_application() {
    let hostile = start("h2-malformed").await;
    let mut wrong = Vec::new();
    for (number, door) in hostile.doors().into_iter().enumerate() {
        let mark = |name: &str| format!("/{number}-{name}.");
        for few in malformed::cases(mark).chunks(AT_ONCE) {
            let sent = few
                .iter()
                .map(|case| try_one(&hostile, door, mark(case.name), case));
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

async fn try_one(hostile: &Hostile, door: &Door, mark: String, case: &Case) -> Option<String> {
    let mut wire = door.open(ALPN_H2).await.expect("a connection");
    let reply = exchange(&mut wire, &case.bytes, PATIENCE).await;
    drop(wire);
    let seen = hostile.backend.targets(&mark);
    let expected = match case.expect {
        Expect::Refused => vec![],
        Expect::Served => vec![mark],
    };
    let kinds: Vec<_> = frames::frames(&reply.bytes)
        .iter()
        .map(|f| (f.0, f.2))
        .collect();
    let silent = case.expect == Expect::Refused && !reply.closed && reply.bytes.is_empty();
    (seen != expected || silent).then(|| {
        format!(
            "{} at {}: seen {seen:?}, closed {}, frames {kinds:?}",
            case.name, door.name, reply.closed
        )
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_http2_flood_costs_a_second_client_its_answers_or_the_proxy_its_memory() {
    let hostile = start("h2-floods").await;
    for door in hostile.doors() {
        let proxy = hostile
            .mesh
            .instance(hostile.behind(door))
            .sidecar_pid
            .expect("a sidecar");
        for flood in floods::floods() {
            let before = proxy_memory(proxy);
            // Cancel-safe: the flood goes on in its own task until it is dropped.
            let (sent, second) = tokio::join!(
                floods::run(door, &flood, FLOOD),
                serve_second_client(&hostile, door, FLOOD)
            );
            let after = proxy_memory(proxy);
            println!(
                "{} at {}: {} frames, {} connections; the second client: {} answers, {} shed, p99 {:?}; memory {} -> {} KiB",
                flood.name,
                door.name,
                sent.frames,
                sent.connections,
                second.answers,
                second.shed,
                second.p99,
                before >> 10,
                after >> 10,
            );
            assert!(
                sent.frames >= flood.least,
                "{}: only {} frames",
                flood.name,
                sent.frames
            );
            second.assert_sane(flood.name);
            assert!(
                after < before + MAX_GROWTH_BYTES,
                "{}: {before} -> {after} bytes",
                flood.name
            );
        }
        let now = hostile.mesh.instance(hostile.behind(door)).sidecar_pid;
        assert_eq!(now, Some(proxy), "the proxy at {} died", door.name);
    }
    hostile.assert_nothing_unlogged().await;
}
