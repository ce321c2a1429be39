//! Each way to tamper with a trail is found, and its place is named.

use std::collections::BTreeMap;

use reeve_core::decision::Effect;
use tempfile::TempDir;
use tlog_tiles::record_hash;

use super::tests::{copy, sample};
use super::*;
use crate::{
    AuditLog, LogOptions,
    batch::{Batch, BatchHeader},
    canonical,
    fixture::{decision, drain, fast, log_options, open_wal},
    log::tree::{Frontier, TILE_WIDTH},
};

/// The entries of a log, as its operator may arrange them anew: with the log's own key, and every hash computed again.
struct Forger {
    dir: PathBuf,
    batches: Vec<Batch>,
}

impl Forger {
    fn of(dir: &Path) -> Self {
        let mut entries = Vec::new();
        let checkpoint = fs::read_to_string(dir.join("checkpoint")).unwrap();
        let size = checkpoint.lines().nth(1).unwrap().parse().unwrap();
        store::read_entries(dir, size, &mut |_, _, entry| entries.push(entry.unwrap()));
        let object = |entry: &Vec<u8>| {
            let bytes = fs::read(layout::batch_path(dir, &record_hash(entry).0)).unwrap();
            Batch::from_object(&bytes).unwrap()
        };
        Self {
            dir: dir.to_owned(),
            batches: entries.iter().map(object).collect(),
        }
    }

    fn header(&self, at: usize) -> BatchHeader {
        serde_json::from_slice(&self.batches[at].header).unwrap()
    }

    fn set(&mut self, at: usize, change: impl FnOnce(&mut BatchHeader)) {
        let mut header = self.header(at);
        change(&mut header);
        self.batches[at].header = canonical::to_vec(&header).unwrap();
    }

    /// Writes it all, and signs a checkpoint of it with the log's own key.
    fn publish(self) {
        for part in ["tile", "batches"] {
            drop(fs::remove_dir_all(self.dir.join(part)));
        }
        let mut files = BTreeMap::new();
        let mut frontier = Frontier::default();
        for batch in &self.batches {
            files.insert(
                layout::batch_path(&self.dir, &batch.hash()),
                batch.to_object().unwrap(),
            );
            frontier.push(record_hash(&batch.header), &mut |_full| {});
        }
        for tile in frontier.partial() {
            let path =
                layout::tile_path(&self.dir, Some(tile.level), tile.index, tile.hashes.len());
            files.insert(path, tile.bytes());
        }
        let entries: Vec<_> = self.batches.iter().map(|b| b.header.clone()).collect();
        assert!(entries.len() < TILE_WIDTH);
        files.insert(
            layout::tile_path(&self.dir, None, 0, entries.len()),
            layout::bundle(&entries),
        );
        let LogOptions {
            origin, seal_key, ..
        } = log_options();
        let key = crate::log::key::LogKey::open(&self.dir, &origin, &seal_key).unwrap();
        let note = key
            .checkpoint(&origin, frontier.size(), frontier.root())
            .unwrap();
        files.insert(self.dir.join("checkpoint"), note);
        store::put_all(&self.dir, files).unwrap();
    }
}

/// Whether something is found there, in these words.
fn found(report: &Report, place: &str, what: &str) {
    let named = |f: &Finding| f.place.contains(place) && f.what.contains(what);
    assert!(
        !report.ok && report.findings.iter().any(named),
        "{place}: {what}: {report:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_with_the_logs_own_key_cannot_change_what_proxies_signed() {
    let dir = TempDir::new().unwrap();
    let options = sample(dir.path()).await;
    let (good, audit) = (dir.path().join("audit"), dir.path().join("bad"));
    let forged = |change: &dyn Fn(&mut Forger)| {
        drop(fs::remove_dir_all(&audit));
        copy(&good, &audit);
        let mut forger = Forger::of(&audit);
        change(&mut forger);
        forger.publish();
        verify(&audit, &options).unwrap()
    };
    assert!(forged(&|_same| {}).ok, "a log published anew as it was");
    let object = |at: usize| hex::encode(Forger::of(&good).batches[at].hash());

    // Alter a record, with its batch's root and count as they should be.
    let report = forged(&|f| {
        let text = String::from_utf8(f.batches[3].records[0].clone()).unwrap();
        f.batches[3].records[0] = text.replace("\"GET\"", "\"PUT\"").into_bytes();
        let leaf = record_hash(&f.batches[3].records[0]).0;
        f.set(3, |h| h.root = leaf);
    });
    found(&report, "batches/", "the signature");
    // Drop a batch.
    let report = forged(&|f| drop(f.batches.remove(3)));
    found(&report, &object(4), "not gapless");
    // Reorder two.
    let report = forged(&|f| f.batches.swap(3, 4));
    found(&report, &object(3), "not gapless");
    // Insert one twice.
    let report = forged(&|f| f.batches.insert(4, f.batches[3].clone()));
    found(&report, &object(3), "not gapless");
    // Forge a record at ingestion: another's key signs what is not its own.
    let report = forged(&|f| {
        let stranger = crate::fixture::TestSigner::new();
        let identity = crate::BatchSigner::identity(stranger.as_ref()).unwrap();
        f.set(3, |h| h.signature.clear());
        let message = f.header(3).signed_bytes().unwrap();
        let signature = identity.key.sign(&message).unwrap();
        f.set(3, |h| {
            h.signature = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, signature)
        });
    });
    found(&report, "batches/", "the signature");
    // Truncate, or roll back: whoever kept a checkpoint, or verified before, knows better.
    drop(forged(&|f| f.batches.truncate(3)));
    let checkpoint = fs::read(good.join("checkpoint")).unwrap();
    let kept = VerifyOptions {
        earlier: vec![("monday".to_owned(), checkpoint)],
        ..options.clone()
    };
    found(
        &verify(&audit, &kept).unwrap(),
        "checkpoint",
        "had 7 (monday)",
    );
    let before = VerifyOptions {
        since: verify(&good, &options).unwrap().verified,
        ..options.clone()
    };
    found(
        &verify(&audit, &before).unwrap(),
        "checkpoint",
        "7 were verified before",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_are_swapped_dropped_or_shown_two_ways_are_found() {
    let dir = TempDir::new().unwrap();
    let options = sample(dir.path()).await;
    let audit = dir.path().join("audit");
    let kept = |dir: &Path| vec![("kept".to_owned(), fs::read(dir.join("checkpoint")).unwrap())];
    let key = fs::read_to_string(audit.join("log.vkey"))
        .unwrap()
        .trim()
        .to_owned();

    // Two logs are swapped: the other is whole, and its key is not the one that is known.
    let other = dir.path().join("other");
    sample(&other).await;
    let knowing = VerifyOptions {
        verifier_key: Some(key),
        wals: vec![],
        ..options.clone()
    };
    found(
        &verify(&other.join("audit"), &knowing).unwrap(),
        "log.vkey",
        "not the key that was given",
    );

    // Two auditors are shown different trees: each grew from the same beginning, under the log's key.
    let shown = dir.path().join("shown");
    copy(&audit, &shown);
    copy(&dir.path().join("wal"), &dir.path().join("wal2"));
    for (audit, wal, path) in [(&audit, "wal", "/one"), (&shown, "wal2", "/other")] {
        let log = AuditLog::open(audit, log_options()).unwrap();
        let wal = open_wal(&dir.path().join(wal).join("a"), "a");
        wal.append(decision(path, Effect::Allow)).unwrap();
        drain(&wal, &log, fast()).await;
    }
    let alone = VerifyOptions {
        wals: vec![],
        ..options.clone()
    };
    assert!(
        verify(&shown, &alone).unwrap().ok,
        "neither sees anything by itself"
    );
    let compared = VerifyOptions {
        earlier: kept(&audit),
        ..alone.clone()
    };
    found(
        &verify(&shown, &compared).unwrap(),
        "checkpoint",
        "not those of the earlier checkpoint (kept)",
    );

    // A whole log is dropped, and another begun in its place.
    let new = dir.path().join("new");
    drop(AuditLog::open(&new, log_options()).unwrap());
    found(&verify(&new, &options).unwrap(), "wal/a", "begins after");
    let compared = VerifyOptions {
        earlier: kept(&audit),
        ..alone
    };
    assert!(!verify(&new, &compared).unwrap().ok);
    // Or nothing is left at all.
    fs::remove_file(new.join("checkpoint")).unwrap();
    found(&verify(&new, &options).unwrap(), "checkpoint", "is missing");
}
