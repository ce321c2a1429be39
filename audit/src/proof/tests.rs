use std::{collections::BTreeMap, path::Path, sync::Arc};

use reeve_core::{InstanceName, decision::Effect};
use tempfile::TempDir;
use tlog_tiles::Hash;

use super::*;
use crate::{
    AuditLog, Wal,
    batch::BATCH_SCHEMA,
    fixture::{ID, START, TestVerifier, decision, drain, fast, log_options, open_wal},
    log::tree::{Frontier, TILE_WIDTH, root},
};

/// Writes a tree's tiles and bundles as a log does, without waiting for the disk.
fn write_tree(dir: &Path, entries: &[Vec<u8>]) -> Vec<Hash> {
    let write = |level, index, width, bytes: Vec<u8>| {
        let path = layout::tile_path(dir, level, index, width);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let mut frontier = Frontier::default();
    let mut tiles = Vec::new();
    let hashes: Vec<_> = entries.iter().map(|e| record_hash(e)).collect();
    for hash in &hashes {
        frontier.push(*hash, &mut |tile| tiles.push(tile));
    }
    tiles.extend(frontier.partial());
    for tile in tiles {
        write(
            Some(tile.level),
            tile.index,
            tile.hashes.len(),
            tile.bytes(),
        );
    }
    for (index, entries) in (0..).zip(entries.chunks(TILE_WIDTH)) {
        write(None, index, entries.len(), layout::bundle(entries));
    }
    hashes
}

#[test]
fn paths_lead_from_the_tiles_to_the_root() {
    let dir = TempDir::new().unwrap();
    for size in [1u64, 2, 255, 256, 257, 600, 66_000] {
        let entries: Vec<_> = (0..size).map(|n| n.to_be_bytes().to_vec()).collect();
        let place = |at: u64| usize::try_from(at).unwrap();
        let hashes = write_tree(dir.path(), &entries);
        let whole = root(&hashes);
        let tiles = Tiles::new(dir.path(), size);
        assert_eq!(tiles.root(0, size).unwrap(), whole, "{size}");
        for at in [0, 1, 255, 256, size / 3, size - 1] {
            let at = at.min(size - 1);
            let proof = tiles.path(at).unwrap();
            tlog_tiles::check_record(&proof, size, whole, at, hashes[place(at)]).unwrap();
            let old = at + 1;
            let proof = tiles.consistency(old).unwrap();
            let before = root(&hashes[..place(old)]);
            tlog_tiles::check_tree(&proof, size, whole, old, before).unwrap();
        }
    }
}

fn header(proxy: &str, worker: u16, epoch: u64, batch: u64, span: (u64, u64)) -> Vec<u8> {
    let header = BatchHeader {
        schema: BATCH_SCHEMA.to_owned(),
        proxy: proxy.parse::<InstanceName>().unwrap(),
        epoch,
        batch,
        sequences: BTreeMap::from([(worker, span)]),
        count: span.1 - span.0 + 1,
        root: [0; 32],
        chain: [0; 32],
        link: None,
        previous: [0; 32],
        signer: [0; 32],
        written: None,
        time: START,
        signature: String::new(),
    };
    canonical::to_vec(&header).unwrap()
}

#[test]
fn the_leaf_of_a_record_is_found_among_many_bundles() {
    let dir = TempDir::new().unwrap();
    let mut entries = Vec::new();
    let mut spans = Vec::new();
    let mut add = |entry: Vec<u8>, span: Option<(&'static str, u16, u64, u64)>| {
        if let Some(span) = span {
            spans.push((entries.len() as u64, span));
        }
        entries.push(entry);
    };
    for n in 0..1500u64 {
        add(
            header("busy", 0, 1, n + 1, (n * 2 + 1, n * 2 + 2)),
            Some(("busy", 0, 1, n * 2 + 1)),
        );
        if n % 400 == 0 {
            let epoch = n / 400 + 3;
            add(
                header("rare", 3, epoch, 1, (1, 5)),
                Some(("rare", 3, epoch, 4)),
            );
        }
        if n == 700 {
            add(b"something else \"proxy\":\"rare\"".to_vec(), None);
        }
    }
    write_tree(dir.path(), &entries);
    let size = entries.len() as u64;
    let find = |proxy: &str, worker, epoch, sequence| {
        let id = RecordId {
            proxy: proxy.parse().unwrap(),
            epoch,
            worker,
            sequence,
        };
        search::leaf_of(dir.path(), size, &id)
            .unwrap()
            .map(|(at, _)| at)
    };
    for (at, (proxy, worker, epoch, sequence)) in spans {
        assert_eq!(
            find(proxy, worker, epoch, sequence),
            Some(at),
            "{proxy} {epoch} {sequence}"
        );
    }
    for (proxy, worker, epoch, sequence) in [
        ("busy", 0, 1, 3001),
        ("busy", 1, 1, 5),
        ("busy", 0, 2, 1),
        ("rare", 3, 4, 6),
        ("rare", 3, 2, 1),
        ("none", 0, 1, 1),
    ] {
        assert_eq!(
            find(proxy, worker, epoch, sequence),
            None,
            "{proxy} {epoch} {sequence}"
        );
    }
}

/// A log of two proxies, one of which has a batch of several records.
async fn sample(dir: &Path) -> (Arc<AuditLog>, Arc<Wal>) {
    let log = AuditLog::open(&dir.join("audit"), log_options()).unwrap();
    let mut wals = Vec::new();
    for name in ["b", "a"] {
        let wal = open_wal(&dir.join("wal").join(name), name);
        for n in 0..7 {
            wal.append(decision(&format!("/{n}"), Effect::Deny))
                .unwrap();
        }
        drain(&wal, &log, fast()).await;
        wal.append(decision("/last", Effect::Allow)).unwrap();
        drain(&wal, &log, fast()).await;
        wals.push(wal);
    }
    (log, wals.pop().unwrap())
}

fn id(sequence: u64, wal: &Wal) -> RecordId {
    RecordId {
        proxy: "a".parse().unwrap(),
        epoch: wal.status().epoch,
        worker: 0,
        sequence,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_proved_with_the_public_key_alone() {
    let dir = TempDir::new().unwrap();
    let (log, wal) = sample(dir.path()).await;
    let key = log.status().verifier_key;
    for sequence in 1..=8 {
        let id = id(sequence, &wal);
        let proof = prove(&dir.path().join("audit"), &id).unwrap().unwrap();
        let again = Proof::from_slice(&serde_json::to_vec_pretty(&proof).unwrap()).unwrap();
        let proven = again.check(&key, Some(&TestVerifier)).unwrap();
        assert_eq!((proven.id, proven.tree_size), (id, 4));
        assert_eq!(proven.signer.unwrap().to_string(), ID);
        for path in proven.paths {
            path.verify().unwrap();
        }
        assert_eq!(again.check(&key, None).unwrap().signer, None);
    }
    for missing in [9, 0] {
        assert_eq!(
            prove(&dir.path().join("audit"), &id(missing, &wal)).unwrap(),
            None
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_of_which_anything_is_altered_is_refused_and_its_part_named() {
    let dir = TempDir::new().unwrap();
    let (log, wal) = sample(dir.path()).await;
    let key = log.status().verifier_key;
    let audit = dir.path().join("audit");
    let proof = prove(&audit, &id(3, &wal)).unwrap().unwrap();
    let other = prove(&audit, &id(4, &wal)).unwrap().unwrap();
    let refused = |change: &dyn Fn(&mut Proof), place: &str| {
        let mut bad = proof.clone();
        change(&mut bad);
        let fault = bad.check(&key, Some(&TestVerifier)).unwrap_err();
        assert_eq!(fault.place, place, "{fault}");
    };
    refused(
        &|p| p.record = p.record.replace("/2", "/x"),
        "record_in_batch",
    );
    refused(&|p| p.record.push(' '), "record_in_batch");
    refused(&|p| p.record = other.record.clone(), "record_in_batch");
    refused(
        &|p| p.record_in_batch = other.record_in_batch.clone(),
        "record_in_batch",
    );
    refused(
        &|p| p.record_in_batch = p.record_in_batch.replace("\n7\n", "\n8\n"),
        "record_in_batch",
    );
    refused(
        &|p| p.batch = p.batch.replace("\"count\":7", "\"count\":8"),
        "batch_in_log",
    );
    refused(
        &|p| p.batch_in_log = p.batch_in_log.replace("index 2", "index 1"),
        "batch_in_log",
    );
    refused(
        &|p| p.batch_in_log = p.batch_in_log.replace("\n4\n", "\n5\n"),
        "batch_in_log",
    );
    refused(&|p| p.certificates.clear(), "certificates");
    refused(&|p| p.schema = "reeve.proof/v2".to_owned(), "schema");
    let other_log = AuditLog::open(&dir.path().join("other"), log_options()).unwrap();
    let fault = proof
        .check(&other_log.status().verifier_key, None)
        .unwrap_err();
    assert_eq!(fault.place, "batch_in_log");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proof_is_made_of_a_damaged_log() {
    let dir = TempDir::new().unwrap();
    let (log, wal) = sample(dir.path()).await;
    drop(log);
    let audit = dir.path().join("audit");
    let tile = audit.join("tile/0/000.p/4");
    let whole = fs::read(&tile).unwrap();
    let mut bad = whole.clone();
    bad[3] ^= 1;
    fs::write(&tile, bad).unwrap();
    let refused = prove(&audit, &id(1, &wal)).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("its root is not that of the tiles"),
        "{refused}"
    );
    fs::write(&tile, whole).unwrap();
    assert!(prove(&audit, &id(1, &wal)).unwrap().is_some());
}
