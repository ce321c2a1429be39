//! Files that fail: the caller is told, and the log heals when the fault ends.

use std::{
    fs::File,
    io::Write,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::*;
use crate::wal::files::{FileSystem, Files, SegmentFile, Syncer};

/// What goes wrong, switched on and off while the log is open.
#[derive(Debug, Default)]
pub(super) struct Fault {
    /// Bytes that a write still takes before it fails; none at all when `failing` is set and this is used up.
    pub(super) room: AtomicUsize,
    pub(super) failing: AtomicBool,
    pub(super) no_cut: AtomicBool,
    no_sync: AtomicBool,
    no_open: AtomicBool,
    pub(super) errno: AtomicUsize,
    /// Writes take this much at a time, as a signal or a full disk may make them.
    short: AtomicUsize,
    pub(super) writes: AtomicUsize,
    syncs: AtomicUsize,
    slow_sync: AtomicBool,
}

impl Fault {
    fn error(&self) -> io::Error {
        let errno = i32::try_from(self.errno.load(Ordering::SeqCst)).unwrap();
        io::Error::from_raw_os_error(errno)
    }
}

#[derive(Debug)]
struct Faulty {
    file: File,
    fault: Arc<Fault>,
}

impl Write for Faulty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fault = &self.fault;
        fault.writes.fetch_add(1, Ordering::SeqCst);
        let mut take = bytes.len();
        if fault.failing.load(Ordering::SeqCst) {
            let room = fault.room.load(Ordering::SeqCst);
            if room == 0 {
                return Err(fault.error());
            }
            take = take.min(room);
            fault.room.fetch_sub(take, Ordering::SeqCst);
        }
        match fault.short.load(Ordering::SeqCst) {
            0 => {}
            short => take = take.min(short),
        }
        self.file.write(&bytes[..take])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SegmentFile for Faulty {
    fn cut(&mut self, length: u64) -> io::Result<()> {
        match self.fault.no_cut.load(Ordering::SeqCst) {
            true => Err(self.fault.error()),
            false => self.file.set_len(length),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        (self.syncer()?)()
    }

    fn syncer(&self) -> io::Result<Syncer> {
        let fault = self.fault.clone();
        Ok(Box::new(move || {
            fault.syncs.fetch_add(1, Ordering::SeqCst);
            while fault.slow_sync.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            match fault.no_sync.load(Ordering::SeqCst) {
                true => Err(fault.error()),
                false => Ok(()),
            }
        }))
    }
}

/// The file system, whose segments fail.
struct FaultyFiles(Arc<Fault>);

impl Files for FaultyFiles {
    fn create(&self, path: &Path, reserve: u64) -> io::Result<Box<dyn SegmentFile>> {
        FileSystem.create(path, reserve)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        if self.0.no_open.load(Ordering::SeqCst) {
            return Err(self.0.error());
        }
        Ok(Box::new(Faulty {
            file: fs::OpenOptions::new().append(true).open(path)?,
            fault: self.0.clone(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        FileSystem.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        FileSystem.sync_dir(dir)
    }
}

pub(super) const ENOSPC: usize = 28;
const EIO: usize = 5;

pub(super) fn faulty(dir: &Path, options: WalOptions) -> (Wal, Arc<Fault>) {
    let fault = Arc::new(Fault::default());
    let files = Arc::new(FaultyFiles(fault.clone()));
    let wal = Wal::open_with(dir, name("a"), options, clock(), files).unwrap();
    (wal, fault)
}

pub(super) fn numbers(dir: &Path) -> Vec<String> {
    let wal = open(dir, small(Level::Os)).unwrap();
    let chunks = everything(&wal);
    let records = chunks.iter().flat_map(|c| &c.records);
    records
        .map(|r| Record::from_slice(r).unwrap())
        .map(|r| {
            let Entry::Event(event) = r.entry else {
                panic!("{r:?}");
            };
            format!("{} {}", r.id.sequence, event.detail["n"])
        })
        .collect()
}

#[test]
fn a_disk_that_fails_in_any_way_at_any_byte_refuses_and_heals_without_gap_or_torn_record() {
    for errno in [ENOSPC, EIO] {
        for no_cut in [false, true] {
            for room in [0, 1, 7, 8, 9, 60, 200, 3_000] {
                let dir = TempDir::new().unwrap();
                let (wal, fault) = faulty(dir.path(), WalOptions::default());
                let writer = wal.writer(0).unwrap();
                fault.errno.store(errno, Ordering::SeqCst);
                writer.append(&event(1)).unwrap();
                writer.defer(&event(2)).unwrap();
                fault.room.store(room, Ordering::SeqCst);
                fault.no_cut.store(no_cut, Ordering::SeqCst);
                fault.failing.store(true, Ordering::SeqCst);
                let mut denied = 0;
                for n in 100..140 {
                    match writer.append(&event(n)) {
                        Err(AppendError::Io(error)) => {
                            assert_eq!(error.raw_os_error(), i32::try_from(errno).ok());
                            denied += 1;
                        }
                        Err(other) => panic!("{other}"),
                        Ok(_) => assert!(room > 200),
                    }
                }
                assert!(denied > 0);
                let before = wal.status().next_sequence;
                fault.failing.store(false, Ordering::SeqCst);
                fault.no_cut.store(false, Ordering::SeqCst);
                assert_eq!(writer.append(&event(3)).unwrap().sequence, before);
                drop((writer, wal));
                let found = numbers(dir.path());
                assert_eq!(found[..2], ["1 1", "2 2"], "{errno} {no_cut} {room}");
                assert_eq!(*found.last().unwrap(), format!("{before} 3"));
                assert_eq!(found.len() as u64, before);
            }
        }
    }
}

#[test]
fn a_segment_that_cannot_be_begun_refuses_and_heals() {
    let dir = TempDir::new().unwrap();
    let (wal, fault) = faulty(dir.path(), small(Level::Os));
    fault.errno.store(ENOSPC, Ordering::SeqCst);
    fault.no_open.store(true, Ordering::SeqCst);
    let mut done = 0;
    while wal.append(event(done + 1)).is_ok() {
        done += 1;
    }
    for _ in 0..20 {
        assert!(matches!(wal.append(event(0)), Err(AppendError::Io(_))));
    }
    let bytes = wal.status().bytes;
    fault.no_open.store(false, Ordering::SeqCst);
    assert_eq!(wal.append(event(done + 1)).unwrap().sequence, done + 1);
    assert!(wal.status().bytes > bytes);
    drop(wal);
    let wanted: Vec<_> = (1..=done + 1).map(|n| format!("{n} {n}")).collect();
    assert_eq!(numbers(dir.path()), wanted);
}

#[test]
fn writes_that_take_a_few_bytes_at_a_time_are_whole_in_the_end() {
    let dir = TempDir::new().unwrap();
    let (wal, fault) = faulty(dir.path(), small(Level::Os));
    fault.short.store(7, Ordering::SeqCst);
    for n in 1..=20 {
        wal.append(event(n)).unwrap();
    }
    drop(wal);
    assert_eq!(numbers(dir.path()).len(), 20);
}

#[test]
fn a_record_that_the_disk_did_not_take_is_taken_back() {
    let dir = TempDir::new().unwrap();
    let (wal, fault) = faulty(dir.path(), small(Level::Disk));
    fault.errno.store(EIO, Ordering::SeqCst);
    wal.append(event(1)).unwrap();
    fault.no_sync.store(true, Ordering::SeqCst);
    assert!(matches!(wal.append(event(9)), Err(AppendError::Io(_))));
    fault.no_sync.store(false, Ordering::SeqCst);
    assert_eq!(wal.append(event(2)).unwrap().sequence, 2);
    drop(wal);
    assert_eq!(numbers(dir.path()), ["1 1", "2 2"]);
}

#[test]
fn buffered_records_wait_for_the_fault_to_end() {
    let dir = TempDir::new().unwrap();
    let (wal, fault) = faulty(
        dir.path(),
        WalOptions {
            level: Level::Buffered,
            ..WalOptions::default()
        },
    );
    fault.errno.store(EIO, Ordering::SeqCst);
    fault.failing.store(true, Ordering::SeqCst);
    let mut done = 0;
    while wal.append(event(done + 1)).is_ok() {
        done += 1;
        assert!(done < 10_000, "what waits is bounded");
    }
    fault.failing.store(false, Ordering::SeqCst);
    assert_eq!(wal.append(event(done + 1)).unwrap().sequence, done + 1);
    drop(wal);
    assert_eq!(numbers(dir.path()).len() as u64, done + 1);
}

#[tokio::test]
async fn a_slow_disk_stops_nobody_but_those_who_wait_for_it_and_serves_them_together() {
    let dir = TempDir::new().unwrap();
    let (wal, fault) = faulty(
        dir.path(),
        WalOptions {
            level: Level::Disk,
            ..WalOptions::default()
        },
    );
    let writer = wal.writer(0).unwrap();
    fault.slow_sync.store(true, Ordering::SeqCst);
    let waiting: Vec<_> = (1..=20)
        .map(|n| {
            let writer = writer.clone();
            tokio::spawn(async move { writer.append_durable(&event(n)).await })
        })
        .collect();
    // On this one thread: the worker goes on while the disk is busy.
    while fault.syncs.load(Ordering::SeqCst) == 0 || wal.status().next_sequence <= 20 {
        tokio::task::yield_now().await;
    }
    assert!(waiting.iter().all(|w| !w.is_finished()));
    fault.slow_sync.store(false, Ordering::SeqCst);
    for one in waiting {
        one.await.unwrap().unwrap();
    }
    assert_eq!(
        fault.syncs.load(Ordering::SeqCst),
        2,
        "one, and one for all who came meanwhile"
    );
}

#[tokio::test]
async fn a_disk_that_fails_later_refuses_all_who_wait_and_then_heals() {
    let dir = TempDir::new().unwrap();
    let (wal, fault) = faulty(
        dir.path(),
        WalOptions {
            level: Level::Disk,
            ..WalOptions::default()
        },
    );
    let writer = wal.writer(0).unwrap();
    fault.errno.store(EIO, Ordering::SeqCst);
    fault.slow_sync.store(true, Ordering::SeqCst);
    fault.no_sync.store(true, Ordering::SeqCst);
    let waiting: Vec<_> = (1..=5)
        .map(|n| {
            let writer = writer.clone();
            tokio::spawn(async move { writer.append_durable(&event(n)).await })
        })
        .collect();
    while wal.status().next_sequence <= 5 {
        tokio::task::yield_now().await;
    }
    fault.slow_sync.store(false, Ordering::SeqCst);
    for one in waiting {
        assert!(matches!(one.await.unwrap(), Err(AppendError::Io(_))));
    }
    fault.no_sync.store(false, Ordering::SeqCst);
    assert_eq!(writer.append_durable(&event(6)).await.unwrap().sequence, 6);
    drop((writer, wal));
    assert_eq!(numbers(dir.path()).len(), 6, "recorded, though denied");
}

#[tokio::test]
async fn who_gives_up_on_a_slow_disk_leaves_one_wait_for_it_and_it_serves_the_next() {
    let dir = TempDir::new().unwrap();
    let (wal, fault) = faulty(
        dir.path(),
        WalOptions {
            level: Level::Disk,
            ..WalOptions::default()
        },
    );
    let writer = wal.writer(0).unwrap();
    fault.slow_sync.store(true, Ordering::SeqCst);
    for n in 1..=50 {
        let record = event(n);
        let patience = std::time::Duration::from_millis(1);
        let waited = tokio::time::timeout(patience, writer.append_durable(&record)).await;
        assert!(waited.is_err(), "the disk is slow");
    }
    assert_eq!(fault.syncs.load(Ordering::SeqCst), 1, "not one for each");

    let last = tokio::spawn({
        let writer = writer.clone();
        async move { writer.append_durable(&event(51)).await }
    });
    while wal.status().next_sequence <= 51 {
        tokio::task::yield_now().await;
    }
    fault.slow_sync.store(false, Ordering::SeqCst);
    assert_eq!(last.await.unwrap().unwrap().sequence, 51);
    assert_eq!(fault.syncs.load(Ordering::SeqCst), 2);
    drop((writer, wal));
    assert_eq!(numbers(dir.path()).len(), 51, "recorded, though denied");
}
