//! Loss of power: what the writer does to files is noted in order, and for every moment every state is tried that a disk may
//! then be in: what was synced is there, of the rest each sector is there, or not yet, or the file's end is not.

use std::{collections::BTreeMap, io::Write, sync::Mutex};

use super::*;
use crate::wal::files::{FileSystem, Files, SegmentFile, Syncer};

const SECTOR: usize = 512;

/// One thing that was done.
#[derive(Clone, Debug)]
enum Step {
    Create(PathBuf),
    Write(PathBuf, Vec<u8>),
    Cut(PathBuf, usize),
    Sync(PathBuf),
    /// Another thread began to wait for the disk, or has waited: for what was written when it began.
    SyncBegan(PathBuf),
    SyncEnded(PathBuf),
    Rename(PathBuf, PathBuf),
    SyncDir,
    /// The record with this number was reported as written.
    Told(u64),
}

type Steps = Arc<Mutex<Vec<Step>>>;

struct Noted(Steps);

#[derive(Debug)]
struct NotedFile {
    path: PathBuf,
    file: Box<dyn SegmentFile>,
    steps: Steps,
}

fn note(steps: &Steps, step: Step) {
    steps.lock().unwrap().push(step);
}

impl Files for Noted {
    fn create(&self, path: &Path, reserve: u64) -> io::Result<Box<dyn SegmentFile>> {
        note(&self.0, Step::Create(path.to_owned()));
        Ok(Box::new(NotedFile {
            path: path.to_owned(),
            file: FileSystem.create(path, reserve)?,
            steps: self.0.clone(),
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(NotedFile {
            path: path.to_owned(),
            file: FileSystem.open(path)?,
            steps: self.0.clone(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        note(&self.0, Step::Rename(from.to_owned(), to.to_owned()));
        FileSystem.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        note(&self.0, Step::SyncDir);
        FileSystem.sync_dir(dir)
    }
}

impl Write for NotedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.file.write(bytes)?;
        note(
            &self.steps,
            Step::Write(self.path.clone(), bytes[..taken].to_vec()),
        );
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SegmentFile for NotedFile {
    fn cut(&mut self, length: u64) -> io::Result<()> {
        note(
            &self.steps,
            Step::Cut(self.path.clone(), usize::try_from(length).unwrap()),
        );
        self.file.cut(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        note(&self.steps, Step::Sync(self.path.clone()));
        Ok(())
    }

    fn syncer(&self) -> io::Result<Syncer> {
        let (sync, steps, path) = (self.file.syncer()?, self.steps.clone(), self.path.clone());
        note(&steps, Step::SyncBegan(path.clone()));
        Ok(Box::new(move || {
            sync()?;
            note(&steps, Step::SyncEnded(path));
            Ok(())
        }))
    }
}

/// A file as programs see it, and as the disk is known to have it.
#[derive(Clone, Debug, Default)]
struct Content {
    seen: Vec<u8>,
    safe: Vec<u8>,
    on_its_way: Vec<u8>,
}

/// The folder after some steps.
#[derive(Clone, Debug, Default)]
struct Disk {
    /// By the name that the file has now; with it, the name that the disk is known to have.
    files: BTreeMap<PathBuf, (Content, Option<PathBuf>)>,
    told: u64,
}

impl Disk {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Create(path) => drop(self.files.insert(path.clone(), Default::default())),
            Step::Write(path, bytes) => self.content(path).seen.extend(bytes),
            Step::Cut(path, length) => self.content(path).seen.truncate(*length),
            Step::Sync(path) => {
                let content = self.content(path);
                content.safe = content.seen.clone();
            }
            Step::SyncBegan(path) => {
                let content = self.content(path);
                content.on_its_way = content.seen.clone();
            }
            Step::SyncEnded(path) => {
                let content = self.content(path);
                if content.on_its_way.len() > content.safe.len() {
                    content.safe = content.on_its_way.clone();
                }
            }
            Step::Rename(from, to) => {
                let file = self.files.remove(from).unwrap();
                self.files.insert(to.clone(), file);
            }
            Step::SyncDir => {
                for (name, (_, safe)) in &mut self.files {
                    *safe = Some(name.clone());
                }
            }
            Step::Told(sequence) => self.told = self.told.max(*sequence),
        }
    }

    fn content(&mut self, path: &Path) -> &mut Content {
        &mut self.files.get_mut(path).unwrap().0
    }

    /// Puts into `dir` what may be left when the power fails now.
    fn leave(&self, dir: &Path, chance: &mut impl FnMut(u32) -> u32) {
        for (name, (content, safe)) in &self.files {
            let name = match (safe, chance(2)) {
                (Some(safe), 0) => safe,
                (None, 0) => continue,
                _ => name,
            };
            let left = content.left(chance);
            fs::write(dir.join(name.file_name().unwrap()), left).unwrap();
        }
    }
}

impl Content {
    fn left(&self, chance: &mut impl FnMut(u32) -> u32) -> Vec<u8> {
        let (safe, seen) = (&self.safe, &self.seen);
        // The file's length may have reached the disk before what it is of, and the other way round.
        let longest = safe.len().max(seen.len());
        let shortest = safe.len().min(seen.len());
        let length = match chance(4) {
            0 => shortest,
            1 => longest,
            _ => shortest + chance(u32::try_from(longest - shortest + 1).unwrap()) as usize,
        };
        let mut left = vec![0; length];
        let favour = chance(4);
        for (at, sector) in left.chunks_mut(SECTOR).enumerate() {
            let is_new = match favour {
                0 => false,
                1 => true,
                _ => chance(2) == 0,
            };
            let from = if is_new { seen } else { safe };
            for (to, byte) in sector.iter_mut().zip(from.iter().skip(at * SECTOR)) {
                *to = *byte;
            }
        }
        left
    }
}

/// SplitMix64.
fn random(mut seed: u64) -> impl FnMut(u32) -> u32 {
    move |below| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((mixed ^ (mixed >> 31)) % u64::from(below.max(1))).unwrap()
    }
}

/// Every moment of `steps`, `tries` states each: the log opens, and has all that was reported, in order.
fn survives(steps: &[Step], tries: u64) {
    let mut disk = Disk::default();
    for (at, step) in steps.iter().enumerate() {
        disk.apply(step);
        for seed in 0..tries {
            let dir = TempDir::new().unwrap();
            disk.leave(dir.path(), &mut random(seed * 100_003 + at as u64));
            let wal = match open(dir.path(), small(Level::Buffered)) {
                Ok(wal) => wal,
                Err(error) => panic!("step {at} of {}, seed {seed}: {error}", steps.len()),
            };
            let ids: Vec<_> = everything(&wal)
                .iter()
                .flat_map(|chunk| &chunk.records)
                .map(|record| Record::from_slice(record).unwrap().id.sequence)
                .collect();
            let there = ids.len() as u64;
            assert_eq!(ids, (1..=there).collect::<Vec<_>>());
            assert!(
                there >= disk.told,
                "step {at}, seed {seed}: {there} of {}",
                disk.told
            );
        }
    }
}

fn noted(dir: &Path) -> (Wal, Steps) {
    let steps = Steps::default();
    let files = Arc::new(Noted(steps.clone()));
    let wal = Wal::open_with(dir, name("a"), small(Level::Disk), clock(), files).unwrap();
    (wal, steps)
}

#[test]
fn at_level_disk_every_record_that_was_reported_survives_the_loss_of_power() {
    let dir = TempDir::new().unwrap();
    let (wal, steps) = noted(dir.path());
    let writer = wal.writer(0).unwrap();
    for n in 1..=24u64 {
        if n % 3 == 0 {
            writer.defer(&event(n)).unwrap();
        } else {
            let id = writer.append(&event(n)).unwrap();
            note(&steps, Step::Told(id.sequence));
        }
    }
    let steps = steps.lock().unwrap().clone();
    assert!(
        steps.iter().filter(|s| matches!(s, Step::SyncDir)).count() >= 3,
        "several segments"
    );
    survives(&steps, 8);
}

#[tokio::test]
async fn and_so_do_those_that_wait_for_the_disk_together() {
    let dir = TempDir::new().unwrap();
    let (wal, steps) = noted(dir.path());
    let writer = wal.writer(0).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 1..=16u64 {
        let (writer, steps) = (writer.clone(), steps.clone());
        tasks.spawn(async move {
            let id = writer.append_durable(&event(n)).await.unwrap();
            note(&steps, Step::Told(id.sequence));
        });
    }
    tasks.join_all().await;
    let steps = steps.lock().unwrap().clone();
    survives(&steps, 8);
}

#[test]
fn the_test_finds_a_writer_that_reports_before_the_disk_has_it() {
    let dir = TempDir::new().unwrap();
    let (wal, steps) = noted(dir.path());
    let id = wal.writer(0).unwrap().append(&event(1)).unwrap();
    note(&steps, Step::Told(id.sequence));
    let mut early = steps.lock().unwrap().clone();
    let told = early.pop().unwrap();
    let synced = early.pop().unwrap();
    assert!(
        matches!((&synced, &told), (Step::Sync(_), Step::Told(1))),
        "{synced:?} {told:?}"
    );
    early.push(told);
    let found = std::panic::catch_unwind(|| survives(&early, 12));
    assert!(found.is_err());
}
