use reeve_core::decision::Effect;
use tempfile::TempDir;

use super::*;
use crate::{
    AuditLog, EventRecord, OutcomeRecord,
    fixture::{decision, drain, fast, log_options, open_wal},
    parse_record_id,
};

fn outcome_of(decision: RecordId) -> OutcomeRecord {
    OutcomeRecord {
        decision,
        status: Some(200),
        grpc_status: None,
        bytes_in: 0,
        bytes_out: 1,
        duration_us: 1,
        upstream: None,
        flags: String::new(),
        transformations: vec![],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shipped_and_fresh_records_are_found_and_explained() {
    let dir = TempDir::new().unwrap();
    let audit = dir.path().join("audit");
    let log = AuditLog::open(&audit, log_options()).unwrap();
    let blob = log.put_blob(b"the policies").unwrap();
    let control = open_wal(&dir.path().join("wal/control"), "control");
    let applied = EventRecord::new(EventKind::ConfigApplied)
        .with("policy_hash", "ab12")
        .with("policy_set", blob);
    control.append(applied).unwrap();
    drain(&control, &log, fast()).await;
    let wal = open_wal(&dir.path().join("wal/a"), "a");
    let denied = wal.append(decision("/secret", Effect::Deny)).unwrap();
    let allowed = wal.append(decision("/open", Effect::Allow)).unwrap();
    drain(&wal, &log, fast()).await;
    wal.append(outcome_of(allowed.clone())).unwrap();

    let reader = Reader::open(&audit)
        .unwrap()
        .with_wals(&dir.path().join("wal"));
    let found = reader.show(&denied).unwrap().unwrap();
    assert!(found.logged);
    assert_eq!(parse_record_id(&found.decision_id).unwrap(), denied);
    assert_eq!(reader.show(&"a/9/0/1".parse().unwrap()).unwrap(), None);

    let explained = reader.explain(&allowed).unwrap().unwrap();
    assert_eq!(explained.policies.as_deref(), Some("the policies"));
    assert!(!explained.outcome.unwrap().logged, "not shipped yet");

    let all = reader.query(&Filter::default()).unwrap();
    assert_eq!(
        all.len(),
        4,
        "no record twice, though some are in both places"
    );
    let some = |filter: Filter| reader.query(&filter).unwrap().len();
    assert_eq!(
        some(Filter {
            effect: Some(Effect::Deny),
            ..Filter::default()
        }),
        1
    );
    assert_eq!(
        some(Filter {
            path: Some("/open".into()),
            ..Filter::default()
        }),
        1
    );
    assert_eq!(
        some(Filter {
            reason: Some(Reason::Forbidden),
            ..Filter::default()
        }),
        0
    );
    assert_eq!(
        some(Filter {
            kind: Some("event".into()),
            ..Filter::default()
        }),
        1
    );
    assert_eq!(
        some(Filter {
            limit: 2,
            ..Filter::default()
        }),
        2
    );
    let counts = reader.aggregate(&Filter::default()).unwrap();
    assert_eq!(counts["decision deny no_permit"], 1);
}

/// Holds the records of all leaves of a tree of one leaf, and finds none.
#[derive(Debug)]
struct Whole;

impl Archive for Whole {
    fn end(&self) -> u64 {
        1
    }

    fn search(&self, _filter: &Filter, _newest: &mut Newest) -> Result<(), ReadError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_an_archive_holds_every_leaf_no_tile_is_read() {
    let dir = TempDir::new().unwrap();
    let audit = dir.path().join("audit");
    let log = AuditLog::open(&audit, log_options()).unwrap();
    let wal = open_wal(&dir.path().join("wal/a"), "a");
    wal.append(decision("/open", Effect::Allow)).unwrap();
    drain(&wal, &log, fast()).await;
    fs::remove_dir_all(audit.join("tile")).unwrap();
    let reader = Reader::open(&audit).unwrap();
    assert_eq!(reader.tree_size().unwrap(), 1);
    assert!(
        reader.query(&Filter::default()).is_err(),
        "the tile is gone"
    );
    let archived = reader.with_archive(Arc::new(Whole));
    assert_eq!(archived.query(&Filter::default()).unwrap(), []);
}
