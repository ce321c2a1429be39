use std::fs;

use reeve_core::decision::Effect;
use tempfile::TempDir;

use super::*;
use crate::{
    ShipOptions, Wal,
    fixture::{TestSigner, decision, drain, fast, log_options, name, open_wal},
    verify::{VerifyOptions, verify},
};

pub(crate) fn fill(wal: &Wal, count: usize) {
    for n in 0..count {
        wal.append(decision(&format!("/{n}"), Effect::Allow))
            .unwrap();
    }
}

/// A log with a few records, its folder, and whose records they are.
async fn begun(dir: &TempDir) -> (Arc<AuditLog>, PathBuf, Arc<Wal>) {
    let audit = dir.path().join("audit");
    let wal = open_wal(&dir.path().join("wal"), "a");
    let log = AuditLog::open(&audit, log_options()).unwrap();
    fill(&wal, 3);
    drain(&wal, &log, fast()).await;
    (log, audit, wal)
}

pub(crate) fn batch(wal: &Wal, number: u64, previous: [u8; 32], after: u64) -> Batch {
    let line = wal.all_lines().remove(0);
    let mut cursor = line.cursor_after(1, after).unwrap().unwrap();
    let chunk = line.read(&mut cursor, 5, 1 << 20).unwrap().unwrap();
    let identity = crate::BatchSigner::identity(TestSigner::new().as_ref()).unwrap();
    Batch::sign(chunk, wal.proxy(), number, previous, &identity, wal.now()).unwrap()
}

#[tokio::test]
async fn a_log_reopens_with_its_key_positions_and_tree() {
    let dir = TempDir::new().unwrap();
    let wal = open_wal(&dir.path().join("wal"), "a");
    let audit = dir.path().join("audit");
    let log = AuditLog::open(&audit, log_options()).unwrap();
    fill(&wal, 10);
    drain(&wal, &log, fast()).await;
    let (status, position) = (log.status(), log.position(&name("a")));
    assert_eq!(
        (status.records, position.epoch, position.sequence),
        (10, 1, 10)
    );
    assert!(matches!(
        AuditLog::open(&audit, log_options()),
        Err(LogError::InUse { .. })
    ));
    drop(log);
    let log = AuditLog::open(&audit, log_options()).unwrap();
    assert_eq!((log.status(), log.position(&name("a"))), (status, position));
    assert!(status_is_signed(&log));
}

fn status_is_signed(log: &AuditLog) -> bool {
    let status = log.status();
    key::open_checkpoint(status.checkpoint.as_bytes(), &status.verifier_key).is_ok()
}

#[test]
fn another_seal_key_or_a_lost_key_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(AuditLog::open(dir.path(), log_options()).unwrap());
    let mut other = log_options();
    other.seal_key = SealKey::from_hex(&"00".repeat(32)).unwrap();
    assert!(matches!(
        AuditLog::open(dir.path(), other),
        Err(LogError::Seal(_))
    ));
    let mut renamed = log_options();
    renamed.origin = "other".into();
    assert!(matches!(
        AuditLog::open(dir.path(), renamed),
        Err(LogError::Seal(_))
    ));
    fs::remove_file(dir.path().join("log.key")).unwrap();
    assert!(matches!(
        AuditLog::open(dir.path(), log_options()),
        Err(LogError::KeyLost { .. })
    ));
}

#[tokio::test]
async fn a_batch_sent_twice_is_there_once_and_another_of_its_number_is_refused() {
    let dir = TempDir::new().unwrap();
    let wal = open_wal(&dir.path().join("wal"), "a");
    let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
    fill(&wal, 10);
    let first = batch(&wal, 1, [0; 32], 0);
    let reached = log.submit(first.clone()).await.unwrap();
    assert_eq!(log.submit(first.clone()).await.unwrap(), reached);
    assert_eq!(log.status().tree_size, 1);
    // Signed anew, so the same number with another content.
    let again = log.submit(batch(&wal, 1, [0; 32], 0)).await.unwrap_err();
    assert!(matches!(again, LogError::Batch(_)), "{again}");
    let overlapping = log
        .submit(batch(&wal, 2, reached.header_hash, 3))
        .await
        .unwrap_err();
    assert!(matches!(overlapping, LogError::Batch(_)), "{overlapping}");
    let second = log
        .submit(batch(&wal, 2, reached.header_hash, 5))
        .await
        .unwrap();
    assert_eq!((second.batch, second.sequence), (2, 10));
    assert_eq!(
        log.submit(first).await.unwrap(),
        second,
        "an old one is acknowledged too"
    );
}

#[tokio::test]
async fn an_unsound_batch_is_refused() {
    let dir = TempDir::new().unwrap();
    let wal = open_wal(&dir.path().join("wal"), "a");
    let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
    fill(&wal, 3);
    let good = batch(&wal, 1, [0; 32], 0);
    let mut dropped = good.clone();
    dropped.records.pop();
    let mut altered = good.clone();
    altered.records[1].push(b' ');
    let mut stranger = good.clone();
    stranger.chain_der.pop();
    for bad in [dropped, altered, stranger] {
        assert!(matches!(log.submit(bad).await, Err(LogError::Batch(_))));
    }
    assert_eq!(log.status().tree_size, 0);
}

/// A log with many batches, so that full tiles and partial ones are there.
async fn many(dir: &TempDir, batches: usize) -> Arc<AuditLog> {
    let wal = open_wal(&dir.path().join("wal"), "a");
    let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
    fill(&wal, batches);
    let options = ShipOptions {
        max_records: 1,
        ..fast()
    };
    drain(&wal, &log, options).await;
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_beyond_the_checkpoint_is_swept_and_sent_again() {
    let dir = TempDir::new().unwrap();
    let log = many(&dir, 7).await;
    let audit = dir.path().join("audit");
    let old = fs::read(audit.join("checkpoint")).unwrap();
    let wal = open_wal(&dir.path().join("wal2"), "b");
    fill(&wal, 3);
    drain(&wal, &log, fast()).await;
    drop(log);
    // As if the process had died before the last rename: everything is there but the checkpoint. The partial tiles of
    // the old one are deleted only after it, so put back those of the wider tree under their narrower names.
    fs::write(audit.join("checkpoint"), &old).unwrap();
    for unfinished in [
        "checkpoint.tmp",
        "tile/0/000.p/9.tmp",
        "batches/ab/x.tmp",
        "blobs/ab/y.tmp",
    ] {
        let path = audit.join(unfinished);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "half").unwrap();
    }
    let entries = fs::read(audit.join("tile/entries/000.p/8")).unwrap();
    let seven = layout::parse_bundle(&entries).unwrap();
    fs::write(
        audit.join("tile/entries/000.p/7"),
        layout::bundle(&seven[..7]),
    )
    .unwrap();
    let hashes = fs::read(audit.join("tile/0/000.p/8")).unwrap();
    fs::write(audit.join("tile/0/000.p/7"), &hashes[..7 * 32]).unwrap();

    let log = AuditLog::open(&audit, log_options()).unwrap();
    assert_eq!(log.status().tree_size, 7);
    assert_eq!(log.position(&name("b")), Position::default());
    assert!(!audit.join("tile/0/000.p/8").exists());
    drop(wal);
    let wal = open_wal(&dir.path().join("wal2"), "b");
    fill(&wal, 2);
    drain(&wal, &log, fast()).await;
    let options = VerifyOptions {
        earlier: vec![("kept".to_owned(), old)],
        ..VerifyOptions::default()
    };
    let report = verify(&audit, &options).unwrap();
    // Three of the records were acknowledged by the tree that is gone, and their segment was deleted.
    let gone = |f: &crate::verify::Finding| f.what.contains("what came before is not in this log");
    assert!(report.findings.iter().all(gone), "{:?}", report.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_over_several_tiles_reopens_and_verifies() {
    let dir = TempDir::new().unwrap();
    let log = many(&dir, 260).await;
    let audit = dir.path().join("audit");
    assert!(audit.join("tile/0/000").exists() && audit.join("tile/1/000.p/1").exists());
    let early = log.status().checkpoint.into_bytes();
    drop(log);
    let log = AuditLog::open(&audit, log_options()).unwrap();
    assert_eq!(log.status().tree_size, 260);
    let options = VerifyOptions {
        earlier: vec![("kept".to_owned(), early)],
        ..VerifyOptions::default()
    };
    let report = verify(&audit, &options).unwrap();
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!((report.records, report.batches), (260, 260));
}

#[tokio::test]
async fn a_tampered_log_is_not_opened_for_writing() {
    let dir = TempDir::new().unwrap();
    drop(many(&dir, 3).await);
    let path = dir.path().join("audit/tile/entries/000.p/3");
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let refused = AuditLog::open(&dir.path().join("audit"), log_options());
    assert!(matches!(refused, Err(LogError::Damaged { .. })));
}

#[tokio::test]
async fn when_the_disk_fails_nothing_is_acknowledged_and_nothing_changes() {
    let dir = TempDir::new().unwrap();
    let wal = open_wal(&dir.path().join("wal"), "a");
    let audit = dir.path().join("audit");
    let log = AuditLog::open(&audit, log_options()).unwrap();
    fill(&wal, 3);
    let first = batch(&wal, 1, [0; 32], 0);
    // A file where a folder is needed, at each step: objects, tiles, checkpoint.
    for step in ["batches", "tile", "checkpoint.tmp"] {
        let path = audit.join(step);
        let tile = step == "checkpoint.tmp";
        drop(fs::remove_dir_all(&path));
        if tile {
            fs::create_dir(&path).unwrap()
        } else {
            fs::write(&path, "").unwrap()
        }
        let refused = log.submit(first.clone()).await;
        assert!(
            matches!(refused, Err(LogError::NotSequenced { .. })),
            "{step}: {refused:?}"
        );
        assert_eq!(log.status().tree_size, 0);
        if tile {
            fs::remove_dir(&path).unwrap()
        } else {
            fs::remove_file(&path).unwrap()
        }
    }
    assert_eq!(log.submit(first).await.unwrap().sequence, 3);
}

#[tokio::test]
async fn a_key_is_replaced_and_the_old_one_leads_to_the_new() {
    let dir = TempDir::new().unwrap();
    let audit = dir.path().join("audit");
    let wal = open_wal(&dir.path().join("wal"), "a");
    let log = AuditLog::open(&audit, log_options()).unwrap();
    let mut keys = vec![log.status().verifier_key];
    let mut kept = Vec::new();
    for _ in 0..3 {
        fill(&wal, 3);
        drain(&wal, &log, fast()).await;
        kept.push((
            "kept".to_owned(),
            fs::read(audit.join("checkpoint")).unwrap(),
        ));
        log.rotate_key().await.unwrap();
        keys.push(log.status().verifier_key);
    }
    // By a file, as from another process, though nothing is shipped.
    fs::write(audit.join(layout::WANTED_KEY), "").unwrap();
    let event = log.replace_wanted_key().await.unwrap();
    assert_eq!(event.event, EventKind::LogKeyRotated);
    assert!(log.replace_wanted_key().await.is_none());
    assert!(!audit.join(layout::WANTED_KEY).exists());
    keys.push(log.status().verifier_key);
    drop(log);
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 5);
    let options = |key: Option<&String>| VerifyOptions {
        verifier_key: key.cloned(),
        ..VerifyOptions::default()
    };
    for key in keys.iter().map(Some).chain([None]) {
        let report = verify(&audit, &options(key)).unwrap();
        assert!(report.ok, "{key:?}: {:?}", report.findings);
    }
    let all = VerifyOptions {
        earlier: kept,
        ..options(None)
    };
    assert!(verify(&audit, &all).unwrap().ok);
    assert!(AuditLog::open(&audit, log_options()).is_ok());
}

#[tokio::test]
async fn a_change_of_key_that_a_crash_interrupts_is_finished_or_forgotten() {
    let dir = TempDir::new().unwrap();
    let (log, audit, wal) = begun(&dir).await;
    let (old_key, old_note) = (
        fs::read(audit.join("log.key")).unwrap(),
        fs::read(audit.join("checkpoint")).unwrap(),
    );
    let first = log.status().verifier_key;
    log.rotate_key().await.unwrap();
    let second = log.status().verifier_key;
    drop(log);
    let new_key = fs::read(audit.join("log.key")).unwrap();
    // Published, and nothing else done.
    fs::write(audit.join("log.key.next"), &new_key).unwrap();
    fs::write(audit.join("log.key"), &old_key).unwrap();
    fs::write(audit.join("checkpoint"), &old_note).unwrap();
    fs::write(audit.join("log.vkey"), format!("{first}\n")).unwrap();
    let log = AuditLog::open(&audit, log_options()).unwrap();
    assert_eq!(log.status().verifier_key, second);
    fill(&wal, 3);
    drain(&wal, &log, fast()).await;
    drop(log);
    assert!(verify(&audit, &VerifyOptions::default()).unwrap().ok);
    // Not published.
    fs::write(audit.join("log.key.next"), &old_key).unwrap();
    let log = AuditLog::open(&audit, log_options()).unwrap();
    assert_eq!(log.status().verifier_key, second);
    assert!(!audit.join("log.key.next").exists());
}

#[tokio::test]
async fn a_forged_key_and_a_key_that_was_replaced_are_found() {
    let dir = TempDir::new().unwrap();
    let (log, audit, wal) = begun(&dir).await;
    let first = log.status().verifier_key;
    let old = log.key();
    log.rotate_key().await.unwrap();
    fill(&wal, 3);
    drain(&wal, &log, fast()).await;
    let frontier = log.state().frontier.clone();
    drop(log);
    let trusted = VerifyOptions {
        verifier_key: Some(first),
        ..VerifyOptions::default()
    };
    assert!(verify(&audit, &trusted).unwrap().ok);

    // The old key has leaked: it signs what came after it.
    let good = fs::read(audit.join("checkpoint")).unwrap();
    fs::write(
        audit.join("checkpoint"),
        old.checkpoint("mesh.local/audit", frontier.size(), frontier.root())
            .unwrap(),
    )
    .unwrap();
    let report = verify(&audit, &trusted).unwrap();
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.place.starts_with("checkpoint") && f.what.contains("was replaced")),
        "{report:?}"
    );
    fs::write(audit.join("checkpoint"), good).unwrap();

    // Another's key, with a change of key that only the new one signs.
    let change = fs::read_to_string(audit.join("keys/000001")).unwrap();
    let (text, signatures) = change.split_once("\n\n").unwrap();
    let by_new = signatures.lines().next_back().unwrap();
    fs::write(audit.join("keys/000001"), format!("{text}\n\n{by_new}\n")).unwrap();
    let report = verify(&audit, &trusted).unwrap();
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.place == "keys/000001" && f.what.contains("old key")),
        "{report:?}"
    );
    fs::remove_file(audit.join("keys/000001")).unwrap();
    let report = verify(&audit, &trusted).unwrap();
    assert!(
        report.findings.iter().any(|f| f.place == "log.vkey"),
        "{report:?}"
    );
}
