use std::fs;

use proptest::prelude::*;
use reeve_core::decision::Effect;
use tempfile::TempDir;

use super::{
    segment::{Ending, scan},
    *,
};
use crate::{
    EventKind, EventRecord, Record,
    fixture::{clock, decision, name, open_wal},
};

mod faults;
mod power;
mod turns;
mod workers;

fn event(n: u64) -> EventRecord {
    EventRecord::new(EventKind::Started).with("n", n.to_string())
}

fn small(level: Level) -> WalOptions {
    WalOptions {
        level,
        max_bytes: 1 << 20,
        segment_bytes: 1500,
        first_epoch: 1,
    }
}

fn open(dir: &Path, options: WalOptions) -> Result<Wal, WalError> {
    Wal::open(dir, name("a"), options, clock())
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    segment::list(dir).unwrap().0
}

fn acknowledge(wal: &Wal, epoch: u64, sequence: u64) {
    writer::remove(wal.main.writer().acknowledge(epoch, sequence));
}

fn everything(wal: &Wal) -> Vec<Chunk> {
    everything_of(&wal.main)
}

fn everything_of(line: &Line) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let Some(mut cursor) = line.cursor_after(0, 0).unwrap() else {
        return chunks;
    };
    while let Some(chunk) = line.read(&mut cursor, 3, 1 << 20).unwrap() {
        chunks.push(chunk);
    }
    chunks
}

#[test]
fn records_are_numbered_without_gaps_and_read_back_across_segments_and_epochs() {
    let dir = TempDir::new().unwrap();
    for epoch in 1..=3u64 {
        let wal = open(dir.path(), small(Level::Os)).unwrap();
        for n in 1..=10 {
            let id = wal.append(event(n)).unwrap();
            assert_eq!((id.epoch, id.sequence), (epoch, n));
        }
    }
    assert!(segments(dir.path()).len() > 4);
    let wal = open(dir.path(), small(Level::Os)).unwrap();
    let mut chain = CHAIN_START;
    let mut ids = Vec::new();
    for chunk in everything(&wal) {
        for record in &chunk.records {
            chain = advance(&chain, record);
            ids.push(Record::from_slice(record).unwrap().id.to_string());
        }
        assert_eq!(chain, chunk.chain, "the chain goes on over epochs: {ids:?}");
    }
    let expected: Vec<_> = (1..=3)
        .flat_map(|e| (1..=10).map(move |n| format!("a/{e}/0/{n}")))
        .collect();
    assert_eq!(ids, expected);
    assert_eq!(wal.status().backlog, 30);
}

#[test]
fn a_record_is_in_the_file_when_append_returns() {
    for level in [Level::Os, Level::Disk] {
        let dir = TempDir::new().unwrap();
        let wal = open(dir.path(), small(level)).unwrap();
        wal.append(event(1)).unwrap();
        let bytes = fs::read(&segments(dir.path())[0]).unwrap();
        let name = segments(dir.path())[0]
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        assert_eq!(scan(&bytes, &name).records.len(), 1, "{level:?}");
    }
}

#[test]
fn buffered_records_survive_an_orderly_end() {
    let dir = TempDir::new().unwrap();
    let wal = open(dir.path(), small(Level::Buffered)).unwrap();
    wal.append(event(1)).unwrap();
    drop(wal);
    let wal = open(dir.path(), small(Level::Buffered)).unwrap();
    assert_eq!(wal.status().backlog, 1);
}

#[test]
fn buffered_records_are_seen_by_shipping() {
    let dir = TempDir::new().unwrap();
    let wal = open(dir.path(), small(Level::Buffered)).unwrap();
    wal.append(event(1)).unwrap();
    assert_eq!(everything(&wal).len(), 1);
}

#[test]
fn a_second_process_cannot_open_the_log() {
    let dir = TempDir::new().unwrap();
    let _first = open(dir.path(), small(Level::Os)).unwrap();
    assert!(matches!(
        open(dir.path(), small(Level::Os)),
        Err(WalError::InUse { .. })
    ));
}

#[test]
fn another_proxys_log_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(open_wal(dir.path(), "b"));
    assert!(matches!(
        open(dir.path(), small(Level::Os)),
        Err(WalError::Damaged { .. })
    ));
}

#[test]
fn a_full_log_refuses_and_takes_records_again_once_shipped() {
    let dir = TempDir::new().unwrap();
    let options = WalOptions {
        max_bytes: 6000,
        ..small(Level::Os)
    };
    let wal = open(dir.path(), options).unwrap();
    let refused = loop {
        if let Err(error) = wal.append(event(1)) {
            break error;
        }
    };
    assert!(matches!(refused, AppendError::Full { max_bytes: 6000 }));
    assert!(wal.status().bytes <= 6000);
    let last = wal.status().next_sequence - 1;
    acknowledge(&wal, 1, last);
    assert_eq!(wal.status().backlog, 0);
    let id = wal.append(event(2)).unwrap();
    assert_eq!(id.sequence, last + 1, "the refused record left no gap");
}

#[test]
fn shipped_segments_are_deleted_and_numbering_goes_on() {
    let dir = TempDir::new().unwrap();
    let wal = open(dir.path(), small(Level::Os)).unwrap();
    for n in 0..50 {
        wal.append(event(n)).unwrap();
    }
    acknowledge(&wal, 1, 50);
    assert_eq!(segments(dir.path()).len(), 1);
    drop(wal);
    let wal = open(dir.path(), small(Level::Os)).unwrap();
    assert_eq!(wal.status().epoch, 2);
    assert!(wal.main.cursor_after(1, 50).unwrap().is_none());
    wal.append(event(0)).unwrap();
    let mut cursor = wal.main.cursor_after(1, 50).unwrap().unwrap();
    let chunk = wal.main.read(&mut cursor, 10, 1 << 20).unwrap().unwrap();
    let link = chunk.previous.unwrap();
    assert_eq!((link.epoch, link.sequence), (1, 50));
}

#[test]
fn a_record_beyond_the_bound_is_refused() {
    let dir = TempDir::new().unwrap();
    let wal = open_wal(dir.path(), "a");
    let huge = decision(&"x".repeat(MAX_RECORD_BYTES), Effect::Allow);
    assert!(matches!(wal.append(huge), Err(AppendError::TooLong { .. })));
}

#[test]
fn concurrent_appends_get_distinct_gapless_numbers() {
    let dir = TempDir::new().unwrap();
    let wal = open_wal(dir.path(), "a");
    let ids: std::collections::BTreeSet<u64> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..100)
                        .map(|n| wal.append(event(n)).unwrap().sequence)
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        handles
            .into_iter()
            .flat_map(|h| h.join().unwrap())
            .collect()
    });
    assert_eq!(ids, (1..=400).collect());
}

/// A closed log of one segment with five records.
fn sample() -> (TempDir, PathBuf, Vec<u8>) {
    let dir = TempDir::new().unwrap();
    let wal = open(dir.path(), WalOptions::default()).unwrap();
    for n in 0..5 {
        wal.append(event(n)).unwrap();
    }
    drop(wal);
    let path = segments(dir.path()).remove(0);
    let bytes = fs::read(&path).unwrap();
    (dir, path, bytes)
}

#[test]
fn cut_anywhere_the_log_reopens_with_whole_records_and_a_linked_epoch() {
    let (dir, path, bytes) = sample();
    let file_name = path.file_name().unwrap().to_string_lossy().into_owned();
    for length in 0..=bytes.len() {
        let wanted = scan(&bytes[..length], &file_name);
        fs::write(&path, &bytes[..length]).unwrap();
        let wal = open(dir.path(), small(Level::Buffered)).unwrap();
        wal.append(event(9)).unwrap();
        let chunks = everything(&wal);
        let whole: usize = chunks
            .iter()
            .filter(|c| c.previous.is_none())
            .map(|c| c.records.len())
            .sum();
        let link = chunks
            .last()
            .unwrap()
            .previous
            .as_ref()
            .map(|l| (l.epoch, l.sequence));
        if wanted.records.is_empty() {
            assert_eq!(link, None, "{length}");
        } else {
            assert_eq!(
                (whole, link),
                (wanted.records.len(), Some((1, wanted.records.len() as u64))),
                "{length}"
            );
        }
        drop(wal);
        for path in segments(dir.path()) {
            fs::remove_file(path).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_flipped_bit_is_damage_and_never_cut(place: prop::sample::Index, bit in 0..8u8) {
        let (dir, path, mut bytes) = sample();
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(&path, &bytes).unwrap();
        let refused = open(dir.path(), WalOptions::default());
        prop_assert!(matches!(refused, Err(WalError::Damaged { .. })), "byte {}: {:?}", at, refused);
        prop_assert_eq!(fs::read(&path).unwrap(), bytes, "nothing was altered");
    }
}

#[test]
fn a_missing_or_swapped_segment_is_damage() {
    let dir = TempDir::new().unwrap();
    let wal = open(dir.path(), small(Level::Os)).unwrap();
    for n in 0..30 {
        wal.append(event(n)).unwrap();
    }
    drop(wal);
    fs::remove_file(&segments(dir.path())[1]).unwrap();
    let refused = open(dir.path(), small(Level::Os)).unwrap_err();
    assert!(refused.to_string().contains("hash chain"), "{refused}");
}

#[test]
fn zeros_that_a_crash_of_the_machine_leaves_are_cut() {
    let (dir, path, mut bytes) = sample();
    bytes.extend([0; 500]);
    fs::write(&path, &bytes).unwrap();
    let file_name = path.file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(scan(&bytes, &file_name).ending, Ending::Torn);
    let wal = open(dir.path(), WalOptions::default()).unwrap();
    assert_eq!(wal.status().backlog, 5);
}
