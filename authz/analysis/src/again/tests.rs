use reeve_core::decision::Reason;
use tempfile::TempDir;

use super::*;
use crate::fixture::{ENFORCED, asked, candidate, record, trail};

const READS: &str =
    "permit (principal, action in Action::\"http\", resource) when { context.path == \"/read\" };";

/// A decision as the policies of [`READS`] make it, resting on that set.
fn decided(path: &str) -> reeve_audit::DecisionRecord {
    let set = candidate(READS, ENFORCED);
    let recorded = |record: &reeve_audit::DecisionRecord| Recorded {
        request: record.request.clone(),
        decision: record.decision.clone(),
        direction: record.direction,
        looked_for: record.looked_for.clone(),
        transformations: vec![],
        redacted: record.redacted.clone(),
    };
    let mut record = record(asked("GET", path), Reason::NoPermit);
    let place = Place {
        state: ServiceState::Enforced,
        http: false,
        tokens: true,
    };
    record.decision = set.judge_at(&recorded(&record), place).after.unwrap();
    record
}

#[tokio::test]
async fn the_same_comes_out_and_what_was_forged_does_not() {
    let dir = TempDir::new().unwrap();
    let mut forged = decided("/other");
    forged.decision = decided("/read").decision;
    let mut unknown = decided("/read");
    unknown.policy_hash = "gone".to_owned();
    let token = record(asked("GET", "/read"), Reason::InvalidToken);
    let records = vec![decided("/read"), decided("/other"), forged, unknown, token];
    let scan = trail(dir.path(), records).await;
    let sets = Sets::from([("ab12".to_owned(), Arc::new(candidate(READS, ENFORCED)))]);
    let found = again(&scan, &Wanted::default(), &sets, &AtomicU64::new(0)).unwrap();
    assert_eq!(
        (found.decisions, found.same, found.different),
        (5, 2, 1),
        "{found:?}"
    );
    assert_eq!(
        (found.without_policies, found.not_by_policy),
        (1, 1),
        "{found:?}"
    );
    let difference = found.differences.first().unwrap();
    assert_eq!(difference.id.rsplit('/').next(), Some("3"));
    assert!(difference.was.starts_with("permitted "), "{difference:?}");
    assert_eq!(difference.is, "no_permit");
}

#[tokio::test]
async fn what_the_record_lacks_is_undetermined_and_named() {
    let dir = TempDir::new().unwrap();
    let policy = "permit (principal, action in Action::\"http\", resource) when { context.headers.hasTag(\"x-team\") };";
    let scan = trail(
        dir.path(),
        vec![record(asked("GET", "/read"), Reason::NoPermit)],
    )
    .await;
    let sets = Sets::from([("ab12".to_owned(), Arc::new(candidate(policy, ENFORCED)))]);
    let found = again(&scan, &Wanted::default(), &sets, &AtomicU64::new(0)).unwrap();
    assert_eq!((found.undetermined, found.different), (1, 0), "{found:?}");
    assert_eq!(
        found.missing.into_iter().collect::<Vec<_>>(),
        [("header x-team".to_owned(), 1)]
    );
}
