//! Several workers with one log.

use super::*;
use crate::{
    AuditLog, Reader,
    fixture::{TestVerifier, drain, fast, log_options},
    query::Filter,
    verify::{Report, VerifyOptions, verify},
};

fn verified(dir: &Path) -> Report {
    let options = VerifyOptions {
        wals: vec![dir.join("wal/a")],
        batches: Some(Arc::new(TestVerifier)),
        ..VerifyOptions::default()
    };
    verify(&dir.join("audit"), &options).unwrap()
}

#[test]
fn each_worker_numbers_without_gaps_at_the_same_time() {
    let dir = TempDir::new().unwrap();
    let wal = open(dir.path(), small(Level::Os)).unwrap();
    let writers: Vec<_> = (0..4).map(|w| wal.writer(w).unwrap()).collect();
    std::thread::scope(|scope| {
        for (worker, writer) in (0..).zip(&writers) {
            scope.spawn(move || {
                for n in 1..=200 {
                    let id = writer.append(&event(n)).unwrap();
                    assert_eq!((id.worker, id.sequence), (worker, n));
                }
            });
        }
    });
    for line in wal.all_lines() {
        let held: usize = everything_of(&line).iter().map(|c| c.records.len()).sum();
        assert_eq!(held, 200);
    }
    assert_eq!(wal.status().backlog, 800);
    assert_eq!(
        wal.writer(2).unwrap().append(&event(0)).unwrap().sequence,
        201
    );
    assert!(wal.writer(MAX_WORKERS).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_workers_records_are_shipped_verified_and_found_over_epochs_and_fewer_workers() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
    let mut expected = 0;
    let mut last = None;
    for (epoch, workers) in [(1, 3u16), (2, 3), (3, 1)] {
        let wal = Arc::new(open(&dir.path().join("wal/a"), small(Level::Os)).unwrap());
        for worker in 0..workers {
            let writer = wal.writer(worker).unwrap();
            for n in 0..20 {
                let entry = decision(&format!("/{worker}/{n}"), Effect::Allow);
                last = Some(writer.append(&entry).unwrap());
                expected += 1;
            }
        }
        assert_eq!(last.as_ref().map(|id| id.epoch), Some(epoch));
        // The first epoch is left to the second to ship, and the second's other workers to the third.
        if epoch > 1 {
            drain(&wal, &log, fast()).await;
        }
        let report = verified(dir.path());
        assert!(report.ok, "epoch {epoch}: {:?}", report.findings);
        let reader = Reader::open(&dir.path().join("audit"))
            .unwrap()
            .with_wals(&dir.path().join("wal"));
        assert!(reader.show(last.as_ref().unwrap()).unwrap().is_some());
        assert_eq!(reader.query(&Filter::default()).unwrap().len(), expected);
    }
    assert_eq!(verified(dir.path()).records, expected as u64);
    assert_eq!(log.status().proxies, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_records_vanish_is_found() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
    let wal = Arc::new(open(&dir.path().join("wal/a"), small(Level::Os)).unwrap());
    let writers = [wal.writer(0).unwrap(), wal.writer(1).unwrap()];
    for writer in &writers {
        for n in 0..50 {
            writer.append(&event(n)).unwrap();
        }
    }
    drain(&wal, &log, fast()).await;
    for n in 0..50 {
        writers[1].append(&event(n)).unwrap();
    }
    assert!(verified(dir.path()).ok);
    let folder = dir.path().join("wal/a/worker-1");
    let middle = segments(&folder).remove(2);
    fs::remove_file(middle).unwrap();
    let report = verified(dir.path());
    let named = |f: &crate::verify::Finding| f.place.contains("worker-1");
    assert!(report.findings.iter().any(named), "{:?}", report.findings);
    drop((writers, wal));
    assert!(matches!(
        open(&dir.path().join("wal/a"), small(Level::Os)),
        Err(WalError::Damaged { .. })
    ));
}

#[test]
fn the_bound_holds_for_all_workers_together_and_one_may_use_what_another_gave_back() {
    let dir = TempDir::new().unwrap();
    let options = WalOptions {
        max_bytes: 20_000,
        ..small(Level::Os)
    };
    let wal = open(dir.path(), options).unwrap();
    let writers = [wal.writer(0).unwrap(), wal.writer(1).unwrap()];
    let mut refused = [false; 2];
    while refused != [true; 2] {
        for (writer, refused) in writers.iter().zip(&mut refused) {
            *refused |= matches!(
                writer.append(&event(1)),
                Err(AppendError::Full { max_bytes: 20_000 })
            );
        }
    }
    let bytes = wal.status().bytes;
    assert!((19_000..=20_000).contains(&bytes), "{bytes}");
    acknowledge(&wal, 1, u64::MAX);
    assert!(writers[1].append(&event(2)).is_ok());
}

#[test]
fn what_is_deferred_is_written_before_the_next_record_or_when_flushed() {
    let dir = TempDir::new().unwrap();
    let wal = open(dir.path(), WalOptions::default()).unwrap();
    let writer = wal.writer(0).unwrap();
    let in_file = || {
        let path = segments(dir.path()).remove(0);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        scan(&fs::read(&path).unwrap(), &name).records.len()
    };
    assert!(writer.defer(&event(1)).unwrap(), "the first that waits");
    assert!(!writer.defer(&event(2)).unwrap());
    assert_eq!(in_file(), 0);
    assert_eq!(writer.append(&event(3)).unwrap().sequence, 3);
    assert_eq!(in_file(), 3);
    assert!(writer.defer(&event(4)).unwrap());
    writer.flush().unwrap();
    assert_eq!(in_file(), 4);
    // What waits is bounded: it is written without being asked for.
    for n in 0..2000 {
        writer.defer(&event(n)).unwrap();
    }
    assert!(in_file() > 1500);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_appended_durably_are_written_in_order_and_only_once() {
    for level in [Level::Os, Level::Disk] {
        let dir = TempDir::new().unwrap();
        let wal = open(dir.path(), small(level)).unwrap();
        let writer = wal.writer(1).unwrap();
        let appended: Vec<_> = (0..50)
            .map(|n| {
                let writer = writer.clone();
                tokio::spawn(
                    async move { writer.append_durable(&event(n)).await.unwrap().sequence },
                )
            })
            .collect();
        let mut sequences = std::collections::BTreeSet::new();
        for one in appended {
            sequences.insert(one.await.unwrap());
        }
        assert_eq!(sequences, (1..=50).collect(), "{level:?}");
    }
}
