use std::sync::Arc;

use reeve_core::Clock;

use super::*;
use crate::{
    KeepOptions, Keeper,
    fixture::{START, Trail, decision},
};

fn at(millis: u64) -> UnixTime {
    START.plus(std::time::Duration::from_millis(millis))
}

/// Twelve decisions a millisecond apart, the first six of them in columns.
async fn trail() -> Trail {
    let mut trail = Trail::new();
    let (control, wal) = (trail.proxy("reeve.mesh"), trail.proxy("a-0"));
    for n in 0..12 {
        trail.clock.advance(std::time::Duration::from_millis(1));
        wal.append(decision(n)).unwrap();
        trail.shipped().await;
        if n == 5 {
            let options = KeepOptions {
                due_records: 1,
                ..KeepOptions::default()
            };
            let (log, clock): (_, Arc<dyn Clock>) = (trail.log.clone(), trail.clock.clone());
            let mut keeper =
                Keeper::open(&trail.audit(), log, control.clone(), clock, options).unwrap();
            let made = tokio::task::spawn_blocking(move || keeper.step().unwrap());
            made.await.unwrap().expect("a segment");
        }
    }
    trail.shipped().await;
    trail
}

fn of(trail: &Trail, asked: &Asked) -> Report {
    let reader = Reader::open(&trail.audit()).unwrap();
    report(&reader, &[Columns::open(&trail.audit()).unwrap()], asked).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_is_counted_once_wherever_it_is_kept() {
    let trail = trail().await;
    let services = ["reviews", "ratings", "details", "idle"];
    let full = |s: &str| format!("{s}.default.svc.cluster.local");
    let asked = Asked {
        permits: ["default/reviews", "default/never"]
            .map(str::to_owned)
            .into(),
        services: Some(services.iter().map(|s| full(s).parse().unwrap()).collect()),
        new_since: Some(at(10)),
        ..Asked::default()
    };
    let found = of(&trail, &asked);
    // n % 5 in {0, 1} is denied.
    assert_eq!((found.decisions, found.allowed, found.denied), (12, 6, 6));
    assert_eq!(found.unused_permits, ["default/never"]);
    assert_eq!(found.uncalled_services, [full("idle").parse().unwrap()]);
    // n % 4 services each: all of 12 by 0, 1, 2, 3, and those without a service under the workload's name.
    let decided: u64 = found.edges.iter().map(|e| e.allowed + e.denied).sum();
    assert_eq!(decided, (0..12).map(|n: u64| (n % 4).max(1)).sum::<u64>());
    let denied: u64 = found.denials.iter().map(|d| d.count).sum();
    assert_eq!(denied, found.edges.iter().map(|e| e.denied).sum::<u64>());
    assert!(found.denials.windows(2).all(|w| w[0].count >= w[1].count));
    assert!(found.denials.iter().all(|d| d.example.starts_with("d-")));
    // The same from the batches alone.
    std::fs::remove_dir_all(trail.audit().join("parquet")).unwrap();
    assert_eq!(of(&trail, &asked), found);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_is_new_only_if_it_was_never_used_before() {
    let trail = trail().await;
    let since = |millis| Asked {
        since: Some(at(millis)),
        new_since: Some(at(millis)),
        ..Asked::default()
    };
    let all = of(&trail, &since(0));
    let used = all.edges.iter().filter(|e| e.allowed > 0).count();
    assert_eq!(all.new_edges.len(), used, "nothing was there before");
    let last = of(&trail, &since(12));
    assert_eq!(last.decisions, 1);
    // The twelfth is denied (11 % 5 = 1): tried, not used.
    assert_eq!(last.new_edges, []);
    let later = of(&trail, &since(9));
    let known = |e: &Edge| {
        all.edges.iter().any(|a| {
            (&a.caller, &a.service) == (&e.caller, &e.service) && a.first < at(9) && a.allowed > 0
        })
    };
    assert!(later.new_edges.iter().all(|e| e.allowed > 0));
    assert!(later.new_edges.len() < later.edges.len(), "{later:?}");
    assert!(
        !later
            .edges
            .iter()
            .any(|e| later.new_edges.contains(e) && known(e) && e.first < at(9))
    );
}
