use std::sync::atomic::AtomicU64;

use reeve_audit::LookedFor;
use reeve_core::decision::Reason;
use tempfile::TempDir;

use super::*;
use crate::fixture::{ENFORCED, START, WEB, asked, candidate, record, trail};

const READS: &str = "permit (principal, action == Action::\"GET\", resource) when { context.path like \"/reviews/*\" };";

#[tokio::test(flavor = "multi_thread")]
async fn flips_are_counted_by_caller_service_and_route_with_the_newest_examples() {
    let dir = TempDir::new().unwrap();
    let mut records = Vec::new();
    for number in 0..50 {
        records.push(record(
            asked("GET", &format!("/reviews/{number}")),
            Reason::Permitted,
        ));
        records.push(record(
            asked("POST", &format!("/reviews/{number}")),
            Reason::Permitted,
        ));
    }
    records.push(record(asked("GET", "/reviews/all"), Reason::NoPermit));
    records.push(record(asked("GET", "/admin"), Reason::InvalidToken));
    let scan = trail(dir.path(), records).await;
    let read = AtomicU64::new(0);
    let found = replay(
        &scan,
        &Wanted::default(),
        &candidate(READS, ENFORCED),
        &read,
    );
    let found = found.unwrap();
    assert_eq!(read.into_inner(), 102);
    assert_eq!(
        (
            found.decisions,
            found.same,
            found.newly_denied,
            found.newly_permitted,
            found.undetermined,
            found.not_by_policy
        ),
        (102, 50, 50, 1, 0, 1)
    );
    let [denied, permitted] = found.groups.as_slice() else {
        panic!("{:?}", found.groups);
    };
    assert_eq!(denied.outcome, Flip::NewlyDenied);
    assert_eq!(
        (denied.caller.as_str(), denied.service.as_str()),
        (WEB, "reviews.default.svc.cluster.local")
    );
    assert_eq!(
        (denied.method.as_str(), denied.route.as_str(), denied.count),
        ("POST", "/reviews/*", 50)
    );
    assert_eq!(denied.before.reason, "permitted");
    assert_eq!(denied.after.as_ref().unwrap().reason, "no_permit");
    let examples: Vec<_> = denied.examples.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(examples.len(), 3);
    assert!(
        examples[0].starts_with("a/") && examples[0].ends_with("/0/100"),
        "{examples:?}"
    );
    assert_eq!(
        denied.first,
        START.plus(std::time::Duration::from_millis(2))
    );
    assert_eq!(
        denied.last,
        START.plus(std::time::Duration::from_millis(100))
    );
    assert_eq!(
        (permitted.outcome, permitted.route.as_str()),
        (Flip::NewlyPermitted, "/reviews/all")
    );
    assert_eq!(
        permitted.after.as_ref().unwrap().policies[0].as_str(),
        "default/p"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_questions_are_asked_once_unless_the_time_matters() {
    let dir = TempDir::new().unwrap();
    let records = vec![record(asked("GET", "/reviews/7"), Reason::Permitted); 40];
    let scan = trail(dir.path(), records).await;
    let ask = |cedar: &str| {
        let candidate = candidate(cedar, ENFORCED);
        replay(&scan, &Wanted::default(), &candidate, &AtomicU64::new(0)).unwrap()
    };
    let found = ask(READS);
    let threads = thread::available_parallelism()
        .unwrap()
        .get()
        .min(MAX_THREADS);
    assert!(found.asked <= threads as u64, "{}", found.asked);
    assert_eq!(found.same, 40);
    // The first 20 came before that instant.
    let timed = "permit (principal, action, resource) when { context.time <= datetime(\"2023-11-14T22:13:20.020Z\") };";
    let found = ask(timed);
    assert_eq!((found.same, found.newly_denied, found.asked), (20, 20, 40));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_wanted_decisions_count() {
    let dir = TempDir::new().unwrap();
    let mut records = vec![
        record(asked("GET", "/a"), Reason::Permitted),
        record(asked("GET", "/b/1"), Reason::Permitted),
    ];
    let mut other = record(asked("GET", "/b/2"), Reason::Permitted);
    other.request.principal = "spiffe://mesh.local/ns/default/sa/other"
        .parse()
        .map(reeve_core::decision::Principal::Workload)
        .unwrap();
    records.push(other);
    let scan = trail(dir.path(), records).await;
    let denied = |wanted: Wanted| {
        let candidate = candidate("", ENFORCED);
        let found = replay(&scan, &wanted, &candidate, &AtomicU64::new(0)).unwrap();
        assert_eq!(found.decisions, found.newly_denied);
        found.decisions
    };
    let after = |millis| START.plus(std::time::Duration::from_millis(millis));
    let all = Wanted::default;
    assert_eq!(denied(all()), 3);
    assert_eq!(
        denied(Wanted {
            since: Some(after(2)),
            ..all()
        }),
        2
    );
    assert_eq!(
        denied(Wanted {
            until: Some(after(2)),
            ..all()
        }),
        1
    );
    assert_eq!(
        denied(Wanted {
            path: Some("/b".into()),
            ..all()
        }),
        2
    );
    let web = reeve_core::decision::Principal::Workload(WEB.parse().unwrap());
    assert_eq!(
        denied(Wanted {
            principal: Some(web),
            ..all()
        }),
        2
    );
    let elsewhere = "ratings.default.svc.cluster.local".parse().unwrap();
    assert_eq!(
        denied(Wanted {
            service: Some(elsewhere),
            ..all()
        }),
        0
    );
    assert_eq!(
        denied(Wanted {
            namespace: Some("shop".parse().unwrap()),
            ..all()
        }),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_records_lack_is_named_and_grouped() {
    let dir = TempDir::new().unwrap();
    let mut looked = record(asked("GET", "/a"), Reason::Permitted);
    looked.looked_for = LookedFor::new(["team"], [], false);
    let records = vec![record(asked("GET", "/a"), Reason::Permitted), looked];
    let scan = trail(dir.path(), records).await;
    let by_team = "permit (principal, action in Action::\"http\", resource) when { context.headers.hasTag(\"team\") };";
    let candidate = candidate(by_team, ENFORCED);
    let found = replay(&scan, &Wanted::default(), &candidate, &AtomicU64::new(0)).unwrap();
    assert_eq!((found.undetermined, found.newly_denied), (1, 1));
    let open = found
        .groups
        .iter()
        .find(|g| g.outcome == Flip::Undetermined)
        .unwrap();
    assert_eq!(open.missing, ["header team"]);
    assert_eq!(open.after, None);
}
