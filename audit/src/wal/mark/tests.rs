use std::fs;

use tempfile::TempDir;

use super::{
    super::{Level, WalOptions, segment},
    *,
};
use crate::{
    AuditLog, Record,
    batch::Batch,
    fixture::{TestSigner, TestVerifier, clock, drain, fast, log_options, name, open_wal},
    verify::{Report, VerifyOptions, verify},
};

fn event(n: u64) -> EventRecord {
    EventRecord::new(EventKind::Started).with("n", n.to_string())
}

/// A log in `dir` of a proxy that shipped two records, wrote three more, marked them, and was killed.
async fn killed(dir: &Path, signer: &Arc<TestSigner>) {
    let log = AuditLog::open(&dir.join("audit"), log_options()).unwrap();
    let wal = open_wal(&dir.join("wal"), "a");
    for n in 0..2 {
        wal.append(event(n)).unwrap();
    }
    drain(&wal, &log, fast()).await;
    for n in 2..5 {
        wal.append(event(n)).unwrap();
    }
    mark_all(&wal, signer.as_ref(), &mut Told::new(), false);
}

fn only_segment(dir: &Path) -> PathBuf {
    segment::list(dir).unwrap().0.pop().unwrap()
}

/// Deletes the last `count` records of a segment.
fn cut_tail(segment: &Path, count: usize) {
    let bytes = fs::read(segment).unwrap();
    let name = segment.file_name().unwrap().to_string_lossy();
    let scan = segment::scan(&bytes, &name);
    let first = &scan.records[scan.records.len() - count];
    fs::write(segment, &bytes[..first.start - 8]).unwrap();
}

fn checked(dir: &Path) -> Report {
    let options = VerifyOptions {
        wals: vec![dir.join("wal")],
        batches: Some(Arc::new(TestVerifier)),
        ..VerifyOptions::default()
    };
    verify(&dir.join("audit"), &options).unwrap()
}

fn found(report: &Report, place: &str, what: &str) {
    let named = |f: &crate::verify::Finding| f.place.contains(place) && f.what.contains(what);
    assert!(
        report.findings.iter().any(named),
        "{place}: {what}: {report:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_tail_is_named_by_its_mark_and_by_the_proxy_that_comes_back() {
    let dir = TempDir::new().unwrap();
    let (audit, wal) = (dir.path().join("audit"), dir.path().join("wal"));
    let signer = TestSigner::new();
    killed(dir.path(), &signer).await;
    assert!(checked(dir.path()).ok, "{:#?}", checked(dir.path()));

    cut_tail(&only_segment(&wal), 2);
    let said = "ends with record 1/3, but its proxy says that 1/5 was written";
    found(&checked(dir.path()), "wal", said);

    // The proxy comes back: its mark is of the new epoch soon, and the log has it in writing what is missing.
    let log = AuditLog::open(&audit, log_options()).unwrap();
    let again = open_wal(&wal, "a");
    again.append(event(9)).unwrap();
    mark_all(&again, signer.as_ref(), &mut Told::new(), false);
    drain(&again, &log, fast()).await;
    drop(again);
    let said = "record a/1/0/5 was written, and the last one there was 1/3";
    found(&checked(dir.path()), "record a/2/0/1", said);
    // Whoever takes the write-ahead log away as well does not undo it.
    fs::remove_dir_all(&wal).unwrap();
    fs::create_dir(&wal).unwrap();
    found(&checked(dir.path()), "record a/2/0/1", said);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_was_told_of_a_tail_does_not_go_with_the_mark() {
    let dir = TempDir::new().unwrap();
    let (audit, wal) = (dir.path().join("audit"), dir.path().join("wal"));
    let signer = TestSigner::new();
    {
        let log = AuditLog::open(&audit, log_options()).unwrap();
        let line = open_wal(&wal, "a");
        for n in 0..5 {
            line.append(event(n)).unwrap();
        }
        let identity = signer.identity().unwrap();
        let main = &line.all_lines()[0];
        let mut cursor = main.cursor_after(0, 0).unwrap().unwrap();
        let chunk = main.read(&mut cursor, 2, 1 << 20).unwrap().unwrap();
        let batch = Batch::sign(chunk, &name("a"), 1, [0; 32], &identity, line.now()).unwrap();
        assert_eq!(batch.check().unwrap().written, Some(5));
        log.submit(batch).await.unwrap();
    }
    cut_tail(&only_segment(&wal), 2);
    fs::remove_file(path(&wal)).ok();
    let log = AuditLog::open(&audit, log_options()).unwrap();
    let again = open_wal(&wal, "a");
    again.append(event(9)).unwrap();
    drain(&again, &log, fast()).await;
    // The second batch has what was left, and says nothing of more; the first one's word is what counts.
    let said = "records 1/4 to 5 are missing: a batch before says that they had been written";
    found(&checked(dir.path()), "batches/", said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_was_altered_and_records_that_were_replaced_are_named() {
    let dir = TempDir::new().unwrap();
    let wal = dir.path().join("wal");
    killed(dir.path(), &TestSigner::new()).await;
    let good = fs::read_to_string(path(&wal)).unwrap();

    let lower = good.replace("\"sequence\":5", "\"sequence\":4");
    assert_ne!(good, lower);
    fs::write(path(&wal), lower).unwrap();
    found(&checked(dir.path()), "wal/mark", "the signature");
    fs::write(path(&wal), "{}").unwrap();
    found(&checked(dir.path()), "wal/mark", "no mark");
    fs::write(path(&wal), &good).unwrap();
    assert!(checked(dir.path()).ok);

    // The last three records, replaced by as many others that are chained as they should be.
    let segment = only_segment(&wal);
    cut_tail(&segment, 3);
    let bytes = fs::read(&segment).unwrap();
    let scan = segment::scan(&bytes, &segment.file_name().unwrap().to_string_lossy());
    let (mut bytes, mut chain) = (bytes[..scan.good].to_vec(), scan.chain);
    for sequence in 3..6 {
        let id = RecordId {
            proxy: name("a"),
            epoch: 1,
            worker: 0,
            sequence,
        };
        let record = Record::new(id, event(77).into(), clock().as_ref());
        let payload = record.to_canonical().unwrap();
        chain = super::super::advance(&chain, &payload);
        super::super::frame::encode(&payload, &chain, &mut bytes);
    }
    fs::write(&segment, bytes).unwrap();
    let what = "is not what its proxy says was written";
    found(&checked(dir.path()), "record 1/5", what);
}

#[test]
fn a_mark_says_no_more_than_is_there_at_each_level() {
    for (level, marked) in [
        (Level::Buffered, None),
        (Level::Os, Some(3)),
        (Level::Disk, None),
    ] {
        let dir = TempDir::new().unwrap();
        let options = WalOptions {
            level,
            ..WalOptions::default()
        };
        let wal = Wal::open(dir.path(), name("a"), options, clock()).unwrap();
        for n in 0..3 {
            wal.append(event(n)).unwrap();
        }
        let settled = wal.all_lines()[0]
            .settled()
            .map(|(_, sequence, _)| sequence);
        assert_eq!(settled, marked, "{level:?}");
        wal.all_lines()[0].flush().unwrap();
        wal.mark_end(TestSigner::new().as_ref());
        let mark = HighWater::read(dir.path()).unwrap();
        let expected = (level != Level::Disk).then_some((1, 3, true));
        let read = mark.map(|mark| (mark.epoch, mark.sequence, mark.ended));
        assert_eq!(read, expected, "{level:?}");
    }
}
