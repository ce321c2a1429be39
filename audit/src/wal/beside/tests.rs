use reeve_core::decision::Effect;
use tempfile::TempDir;

use crate::{
    AuditLog, EventKind, EventRecord, Wal, WalError, WalOptions,
    fixture::{TestVerifier, clock, decision, drain, fast, log_options, name},
    verify::{Report, VerifyOptions, verify},
};
use std::{path::Path, sync::Arc};

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 4096,
        max_bytes: 1 << 20,
        ..WalOptions::default()
    }
}

fn open(dir: &Path) -> Result<Wal, WalError> {
    Wal::open(dir, name("a"), options(), clock())
}

fn beside(dir: &Path) -> Result<Wal, WalError> {
    Wal::open_beside(dir, name("a"), options(), clock())
}

fn write(wal: &Wal, count: usize) {
    for n in 0..count {
        wal.append(decision(&format!("/{n}"), Effect::Allow))
            .unwrap();
    }
}

fn verified(dir: &Path) -> Report {
    let options = VerifyOptions {
        wals: vec![dir.join("wal")],
        batches: Some(Arc::new(TestVerifier)),
        ..VerifyOptions::default()
    };
    verify(&dir.join("audit"), &options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_write_at_once_and_the_log_has_every_record_in_order() {
    let dir = TempDir::new().unwrap();
    let wal = dir.path().join("wal");
    let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
    let mut old = Arc::new(open(&wal).unwrap());
    write(&old, 7);
    drain(&old, &log, fast()).await;
    write(&old, 3);
    let mut expected = 10;
    for _ in 0..3 {
        // Both write, over several segments, and the old one more than the new one has seen.
        let new = Arc::new(beside(&wal).unwrap());
        for _ in 0..10 {
            write(&old, 2);
            write(&new, 3);
        }
        expected += 50;
        assert!(!new.is_alone().unwrap(), "the old one still writes");
        assert!(
            verified(dir.path()).ok,
            "{:?}",
            verified(dir.path()).findings
        );
        drain(&old, &log, fast()).await;
        write(&old, 4);
        expected += 4;
        drop(old);
        assert!(new.is_alone().unwrap());
        assert!(
            new.status().backlog >= 34,
            "what the old one left is to be shipped"
        );
        old = new;
    }
    drain(&old, &log, fast()).await;
    let report = verified(dir.path());
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!(report.records, expected);
    drop(old);
    let again = Arc::new(open(&wal).unwrap());
    write(&again, 1);
    drain(&again, &log, fast()).await;
    assert!(verified(dir.path()).ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_nobody_shipped_is_missed() {
    let dir = TempDir::new().unwrap();
    let wal = dir.path().join("wal");
    let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
    let old = Arc::new(open(&wal).unwrap());
    write(&old, 5);
    let new = Arc::new(beside(&wal).unwrap());
    let after = new.predecessors().unwrap();
    assert_eq!(after, "a/1/0/5");
    new.append(EventRecord::new(EventKind::Started).with("after", &after))
        .unwrap();
    write(&new, 5);
    drain(&new, &log, fast()).await;
    assert!(verified(dir.path()).ok, "they wait in the old one's log");
    drop(old);
    // As if the old epoch's records had been taken away before the new process shipped them.
    for entry in std::fs::read_dir(&wal).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("0000000001-")
        {
            std::fs::remove_file(path).unwrap();
        }
    }
    assert!(new.is_alone().unwrap());
    drain(&new, &log, fast()).await;
    let report = verified(dir.path());
    let found: Vec<_> = report.findings.iter().map(|f| f.place.as_str()).collect();
    assert_eq!(found, ["a/1/0/5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_process_ships_while_the_old_one_still_writes() {
    let dir = TempDir::new().unwrap();
    let wal = dir.path().join("wal");
    let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
    let mut old = Arc::new(open(&wal).unwrap());
    let mut expected = 0;
    for _ in 0..4 {
        write(&old, 3);
        let new = Arc::new(beside(&wal).unwrap());
        let worker = new.writer(1).unwrap();
        write(&new, 5);
        worker.append(&decision("/w", Effect::Allow)).unwrap();
        drain(&new, &log, fast()).await;
        assert!(!new.is_alone().unwrap(), "the old one has not ended");
        write(&old, 2);
        drain(&old, &log, fast()).await;
        write(&old, 1);
        expected += 12;
        let report = verified(dir.path());
        assert!(report.ok, "{:?}", report.findings);
        assert_eq!(report.records + 1, expected, "all but the old one's last");
        drop(old);
        drop(worker);
        drain_after(&new, &log).await;
        assert_eq!(verified(dir.path()).records, expected);
        old = new;
    }
    let report = verified(dir.path());
    assert!(report.ok, "{:?}", report.findings);
}

/// Ships what the process before left as well.
async fn drain_after(wal: &Arc<Wal>, log: &Arc<AuditLog>) {
    assert!(wal.is_alone().unwrap());
    drain(wal, log, fast()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_whose_beginning_is_anothers_to_ship_waits() {
    let dir = TempDir::new().unwrap();
    let wal = dir.path().join("wal");
    let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
    // The second bank's first records are left behind by a process that died.
    let first = open(&wal).unwrap();
    let second = beside(&wal).unwrap();
    write(&second, 4);
    drop((first, second));
    let old = Arc::new(open(&wal).unwrap());
    let new = Arc::new(beside(&wal).unwrap());
    write(&new, 3);
    let shipping = drain(&new, &log, fast());
    let shipped = tokio::time::timeout(std::time::Duration::from_millis(200), shipping).await;
    assert!(shipped.is_err(), "what came before is not in the log");
    drain(&old, &log, fast()).await;
    drain(&new, &log, fast()).await;
    let report = verified(dir.path());
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!(report.records, 7);
}

#[test]
fn there_are_never_three() {
    let dir = TempDir::new().unwrap();
    let _old = open(dir.path()).unwrap();
    let new = beside(dir.path()).unwrap();
    assert!(matches!(beside(dir.path()), Err(WalError::InUse { .. })));
    assert!(matches!(open(dir.path()), Err(WalError::InUse { .. })));
    drop(new);
    assert!(beside(dir.path()).is_ok());
}

#[test]
fn beside_nobody_is_alone() {
    let dir = TempDir::new().unwrap();
    let wal = beside(dir.path()).unwrap();
    assert!(wal.is_alone().unwrap());
    assert!(matches!(open(dir.path()), Err(WalError::InUse { .. })));
}

#[test]
fn an_unfinished_write_of_the_old_process_is_left_to_it_and_cut_when_it_has_ended() {
    let dir = TempDir::new().unwrap();
    let old = open(dir.path()).unwrap();
    write(&old, 2);
    let path = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "wal"))
        .unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let whole = bytes.len();
    bytes.extend_from_slice(&[9, 0]);
    std::fs::write(&path, &bytes).unwrap();
    let new = beside(dir.path()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes.len() as u64);
    drop(old);
    assert!(new.is_alone().unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), whole as u64);
}
