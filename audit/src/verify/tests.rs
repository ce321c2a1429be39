use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use reeve_core::decision::Effect;
use tempfile::TempDir;

use super::*;
use crate::{
    AggregateRecord, AuditLog, EventKind, EventRecord,
    fixture::{START, TestVerifier, decision, drain, fast, log_options, open_wal},
};

/// A folder with a log of two proxies, a blob, and a write-ahead log with unshipped records.
pub(super) async fn sample(dir: &Path) -> VerifyOptions {
    let log = AuditLog::open(&dir.join("audit"), log_options()).unwrap();
    let blob = log
        .put_blob(b"permit(principal, action, resource);")
        .unwrap();
    let control = open_wal(&dir.join("wal/control"), "control");
    let applied = EventRecord::new(EventKind::ConfigApplied)
        .with("policy_hash", "ab12")
        .with("policy_set", blob);
    control.append(applied).unwrap();
    drain(&control, &log, fast()).await;
    let wal = open_wal(&dir.join("wal/a"), "a");
    for n in 0..6 {
        wal.append(decision(&format!("/{n}"), Effect::Allow))
            .unwrap();
        drain(&wal, &log, fast()).await;
    }
    wal.append(decision("/unshipped", Effect::Deny)).unwrap();
    VerifyOptions {
        wals: vec![dir.join("wal/a"), dir.join("wal/control")],
        batches: Some(Arc::new(TestVerifier)),
        ..VerifyOptions::default()
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = (
            entry.as_ref().unwrap().path(),
            to.join(entry.unwrap().file_name()),
        );
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_log_verifies() {
    let dir = TempDir::new().unwrap();
    let options = sample(dir.path()).await;
    let report = verify(&dir.path().join("audit"), &options).unwrap();
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!((report.records, report.proxies, report.blobs), (7, 2, 1));
    assert_eq!(report.signatures_verified, report.batches);
    assert_eq!(report.wal_records, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_flipped_bit_anywhere_is_found_and_its_file_named() {
    let dir = TempDir::new().unwrap();
    let options = sample(dir.path()).await;
    let audit = dir.path().join("audit");
    let mut files = Vec::new();
    for part in ["tile", "batches", "blobs"] {
        files.extend(
            store::walk(&audit, part)
                .unwrap()
                .into_iter()
                .map(|(_, p)| p),
        );
    }
    files.extend([audit.join("checkpoint"), audit.join("log.vkey")]);
    for wal in &options.wals {
        let found = store::walk(wal, "").unwrap().into_iter().map(|(_, p)| p);
        files.extend(found.filter(|p| p.extension().is_some_and(|e| e == "wal")));
    }
    assert!(files.len() > 12, "{files:?}");
    let mut runner = TestRunner::deterministic();
    for path in files {
        let whole = fs::read(&path).unwrap();
        for _ in 0..24 {
            let flips = (any::<prop::sample::Index>(), 0..8u8);
            let (at, bit) = flips.new_tree(&mut runner).unwrap().current();
            let at = at.index(whole.len());
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            fs::write(&path, &bytes).unwrap();
            let report = verify(&audit, &options).unwrap();
            let name = path
                .strip_prefix(&audit)
                .unwrap_or(&path)
                .display()
                .to_string();
            let named = report.findings.iter().any(|f| f.place.contains(&name));
            assert!(
                !report.ok && named,
                "{name} byte {at} bit {bit}: {:?}",
                report.findings
            );
        }
        fs::write(&path, whole).unwrap();
    }
    assert!(verify(&audit, &options).unwrap().ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_is_found_and_named() {
    let dir = TempDir::new().unwrap();
    let options = sample(dir.path()).await;
    let audit = dir.path().join("audit");
    for part in ["tile", "batches", "blobs"] {
        for (name, path) in store::walk(&audit, part).unwrap() {
            let bytes = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            let report = verify(&audit, &options).unwrap();
            assert!(
                report.findings.iter().any(|f| f.place.contains(&name)),
                "{name}: {:?}",
                report.findings
            );
            fs::write(&path, bytes).unwrap();
        }
    }
    fs::remove_file(audit.join("checkpoint")).unwrap();
    assert!(!verify(&audit, &options).unwrap().ok);
    assert!(verify(&dir.path().join("nothing"), &options).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_rolled_back_or_rewritten_is_not_an_extension() {
    let dir = TempDir::new().unwrap();
    let options = sample(dir.path()).await;
    let audit = dir.path().join("audit");
    let old = dir.path().join("old");
    copy(&audit, &old);
    let before = fs::read(audit.join("checkpoint")).unwrap();
    let log = AuditLog::open(&audit, log_options()).unwrap();
    let wal = open_wal(&dir.path().join("wal/a"), "a");
    drain(&wal, &log, fast()).await;
    let after = fs::read(audit.join("checkpoint")).unwrap();
    let with = |earlier: &[u8]| VerifyOptions {
        earlier: vec![("kept".to_owned(), earlier.to_vec())],
        batches: options.batches.clone(),
        ..VerifyOptions::default()
    };
    assert!(verify(&audit, &with(&before)).unwrap().ok);
    assert!(verify(&audit, &with(&after)).unwrap().ok);
    let rolled_back = verify(&old, &with(&after)).unwrap();
    assert!(
        rolled_back.findings[0]
            .what
            .contains("the earlier checkpoint had")
    );
    let forged = [before.as_slice(), b"x"].concat();
    assert!(!verify(&audit, &with(&forged)).unwrap().ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_last_write_is_a_note_and_lost_records_are_a_finding() {
    let dir = TempDir::new().unwrap();
    let options = sample(dir.path()).await;
    let audit = dir.path().join("audit");
    let segment = store::walk(&dir.path().join("wal/a"), "").unwrap();
    let (_, path) = segment
        .into_iter()
        .find(|(n, _)| n.ends_with(".wal"))
        .unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    let report = verify(&audit, &options).unwrap();
    assert!(
        report.ok && report.notes.iter().any(|n| n.contains("unfinished")),
        "{report:?}"
    );

    // A proxy whose log begins after what was ever shipped.
    let elsewhere = dir.path().join("empty");
    drop(AuditLog::open(&elsewhere, log_options()).unwrap());
    fs::write(&path, &bytes).unwrap();
    drop(open_wal(&dir.path().join("wal/a"), "a"));
    for (name, path) in store::walk(&dir.path().join("wal/a"), "").unwrap() {
        if name.starts_with("0000000001") {
            fs::remove_file(path).unwrap();
        }
    }
    let report = verify(&elsewhere, &options).unwrap();
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.what.contains("begins after record 1/7")),
        "{report:?}"
    );
}

#[tokio::test]
async fn what_was_passed_unrecorded_is_named_and_an_end_that_nobody_told_too() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
    let wal = open_wal(&dir.path().join("wal"), "a");
    let writer = wal.writer(0).unwrap();
    let began = EventRecord::new(EventKind::RecordsLost).with("cause", "full");
    writer.append_gap(&began).unwrap();
    drain(&wal, &log, fast()).await;
    let verified = || verify(&dir.path().join("audit"), &VerifyOptions::default()).unwrap();
    let report = verified();
    assert!(
        report.ok
            && report
                .notes
                .iter()
                .any(|n| n.contains("a/1/0/1") && n.contains("how many"))
    );
    let told = AggregateRecord {
        event: EventKind::RecordsLost,
        count: 7,
        since: START,
        until: START,
        detail: [("allowed".to_owned(), "5".to_owned())].into(),
    };
    writer.append(&told).unwrap();
    drain(&wal, &log, fast()).await;
    let report = verified();
    assert_eq!(report.lost, 7);
    assert!(
        !report.notes.iter().any(|n| n.contains("how many")),
        "{:?}",
        report.notes
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_verification_reads_only_what_is_new() {
    let dir = TempDir::new().unwrap();
    let options = sample(dir.path()).await;
    let audit = dir.path().join("audit");
    let first = verify(&audit, &options).unwrap().verified.unwrap();
    let old = store::walk(&audit, "batches").unwrap();
    let text = serde_json::to_vec(&first).unwrap();
    let later = VerifyOptions {
        since: Some(Verified::from_slice(&text).unwrap()),
        ..options.clone()
    };
    let log = AuditLog::open(&audit, log_options()).unwrap();
    let wal = open_wal(&dir.path().join("wal/a"), "a");
    for n in 0..3 {
        wal.append(decision(&format!("/later/{n}"), Effect::Allow))
            .unwrap();
        drain(&wal, &log, fast()).await;
    }
    drop(log);
    let whole = verify(&audit, &options).unwrap();
    assert!(whole.ok, "{:?}", whole.findings);
    // Without the batches from before, nobody can have read them.
    let kept: Vec<_> = old
        .iter()
        .map(|(_, path)| fs::read(path).unwrap())
        .collect();
    for (_, path) in &old {
        fs::remove_file(path).unwrap();
    }
    let report = verify(&audit, &later).unwrap();
    assert_eq!(report.findings, []);
    let counted = |r: &Report| (r.records, r.batches, r.tree_size);
    assert_eq!(counted(&report), counted(&whole));
    assert_eq!(report.verified, whole.verified);
    for ((_, path), bytes) in old.iter().zip(&kept) {
        fs::write(path, bytes).unwrap();
    }

    // What is new is looked at as before.
    let new = store::walk(&audit, "batches").unwrap();
    let read = |path: &PathBuf| fs::read_to_string(path).unwrap();
    let changed = new.iter().find(|(_, path)| read(path).contains("/later/1"));
    let (name, path) = changed.unwrap();
    fs::write(path, read(path).replace("/later/1", "/later/x")).unwrap();
    let report = verify(&audit, &later).unwrap();
    assert!(
        report.findings.iter().any(|f| f.place.contains(name)),
        "{report:?}"
    );
    assert!(report.verified.is_none());
}

/// Says of batches that have come after the first few that another identity signed them.
#[derive(Debug)]
struct Turncoat(std::sync::Mutex<std::collections::BTreeSet<Vec<u8>>>);

impl BatchVerifier for Turncoat {
    fn verify(
        &self,
        chain_der: &[Vec<u8>],
        message: &[u8],
        signature: &[u8],
        at: reeve_core::UnixTime,
    ) -> Result<reeve_core::SpiffeId, crate::batch::BoxError> {
        let id = TestVerifier.verify(chain_der, message, signature, at)?;
        match self.0.lock().unwrap().contains(message) {
            true => Ok("spiffe://mesh.local/ns/default/sa/other".parse()?),
            false => Ok(id),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_signs_as_another_is_told_of_once_and_by_later_verifications_too() {
    let dir = TempDir::new().unwrap();
    let options = sample(dir.path()).await;
    let audit = dir.path().join("audit");
    let with = |later: &[&str]| {
        let batches = store::walk(&audit, "batches").unwrap();
        let batches = batches.iter().map(|(_, path)| fs::read(path).unwrap());
        let others = batches.filter(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            later.iter().any(|word| text.contains(word))
        });
        let signed = others.map(|bytes| {
            let header = crate::Batch::from_object(&bytes).unwrap().header;
            let header: crate::batch::BatchHeader = serde_json::from_slice(&header).unwrap();
            header.signed_bytes().unwrap()
        });
        VerifyOptions {
            batches: Some(Arc::new(Turncoat(
                signed.collect::<std::collections::BTreeSet<_>>().into(),
            ))),
            ..options.clone()
        }
    };
    let told = |report: &Report| {
        let notes = report
            .notes
            .iter()
            .filter(|note| note.contains("signed as"));
        notes.cloned().collect::<Vec<_>>()
    };
    let first = verify(&audit, &with(&[])).unwrap();
    assert_eq!(told(&first), [""; 0]);
    let turned = verify(&audit, &with(&["\"/4\"", "\"/5\""])).unwrap();
    let notes = told(&turned);
    assert!(turned.ok && notes.len() == 1, "{notes:?}");
    assert!(
        notes[0].starts_with("a signed as ") && notes[0].contains("sa/other"),
        "{notes:?}"
    );

    let log = AuditLog::open(&audit, log_options()).unwrap();
    let wal = open_wal(&dir.path().join("wal/a"), "a");
    wal.append(decision("/later", Effect::Allow)).unwrap();
    drain(&wal, &log, fast()).await;
    drop(log);
    let later = VerifyOptions {
        since: first.verified,
        ..with(&["\"/later\""])
    };
    assert_eq!(told(&verify(&audit, &later).unwrap()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_verified_of_another_log_or_a_longer_one_is_told_apart() {
    let dir = TempDir::new().unwrap();
    let options = sample(&dir.path().join("one")).await;
    let one = dir.path().join("one/audit");
    sample(&dir.path().join("two")).await;
    let two = dir.path().join("two/audit");
    let of_two = verify(
        &two,
        &VerifyOptions {
            wals: vec![],
            ..options.clone()
        },
    )
    .unwrap();
    let later = VerifyOptions {
        since: of_two.verified.clone(),
        wals: vec![],
        ..options.clone()
    };
    let report = verify(&one, &later).unwrap();
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.place == "the earlier verification"),
        "{report:?}"
    );
    let mut longer = verify(&one, &options).unwrap().verified.unwrap();
    assert!(Verified::from_slice(b"{}").is_err());
    longer.size += 1;
    assert!(Verified::from_slice(&serde_json::to_vec(&longer).unwrap()).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_under_a_policy_set_that_nobody_recorded_is_found() {
    let dir = TempDir::new().unwrap();
    let options = sample(dir.path()).await;
    let audit = dir.path().join("audit");
    let log = AuditLog::open(&audit, log_options()).unwrap();
    let wal = open_wal(&dir.path().join("wal/b"), "b");
    let mut forged = decision("/forged", Effect::Allow);
    forged.policy_hash = "ffff".to_owned();
    wal.append(forged).unwrap();
    drain(&wal, &log, fast()).await;
    let report = verify(&audit, &options).unwrap();
    let found = report
        .findings
        .iter()
        .find(|f| f.what.contains("policy set ffff"));
    assert!(
        found.is_some_and(|f| f.place.starts_with("b/")),
        "{report:?}"
    );
}
