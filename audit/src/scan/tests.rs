use std::{collections::BTreeSet, fs, path::Path};

use reeve_core::decision::Effect;
use tempfile::TempDir;

use super::*;
use crate::{
    AuditLog, Record,
    fixture::{START, decision, drain, fast, log_options, open_wal},
};

/// The paths of all decisions, and how many records there were.
fn paths(scan: &Scan) -> (BTreeSet<String>, usize) {
    let (mut paths, mut count) = (BTreeSet::new(), 0);
    let mut buffer = Vec::new();
    for part in 0..scan.parts() {
        let mut keep = |raw: &[u8]| {
            let record = Record::from_slice(raw).map_err(|e| ScanError::record(raw, e))?;
            let decision = record.entry.as_decision();
            let http = decision.and_then(|d| d.request.context.http.as_ref());
            paths.extend(http.map(|http| http.path.clone()));
            count += 1;
            Ok(())
        };
        scan.read(part, &mut buffer, &mut keep).unwrap();
    }
    (paths, count)
}

async fn filled(dir: &Path) -> Reader {
    let log = AuditLog::open(&dir.join("audit"), log_options()).unwrap();
    for proxy in ["a", "b"] {
        let wal = open_wal(&dir.join("wal").join(proxy), proxy);
        for n in 0..3 {
            let path = format!("/{proxy}/{n}");
            wal.append(decision(&path, Effect::Allow)).unwrap();
        }
        drain(&wal, &log, fast()).await;
        wal.append(decision(&format!("/{proxy}/fresh"), Effect::Deny))
            .unwrap();
    }
    let reader = Reader::open(&dir.join("audit")).unwrap();
    reader.with_wals(&dir.join("wal"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_comes_once_shipped_or_not() {
    let dir = TempDir::new().unwrap();
    let reader = filled(dir.path()).await;
    let scan = reader.scan(None).unwrap();
    let (paths, count) = paths(&scan);
    assert_eq!((paths.len(), count, scan.records()), (8, 8, 8), "{paths:?}");
    assert!(paths.contains("/b/fresh"));
    let later = reader.scan(Some(START.plus(std::time::Duration::from_secs(1))));
    assert_eq!(
        later.unwrap().records(),
        2,
        "unshipped ones may be of any time"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_missing_or_short_is_an_error() {
    let dir = TempDir::new().unwrap();
    let reader = filled(dir.path()).await;
    let scan = reader.scan(None).unwrap();
    let object = &scan.objects.first().unwrap().path;
    let whole = fs::read(object).unwrap();
    let read = || scan.read(0, &mut Vec::new(), &mut |_| Ok(())).unwrap_err();
    let lines = whole.split_inclusive(|b| *b == b'\n');
    let short: Vec<u8> = lines.take(4).flatten().copied().collect();
    fs::write(object, short).unwrap();
    let error = reeve_core::error_chain(&read());
    assert!(
        error.contains("records, not the 3 that a signed"),
        "{error}"
    );
    fs::remove_file(object).unwrap();
    assert!(matches!(read(), ScanError::Read(_)));
}
