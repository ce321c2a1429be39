//! Write-ahead logs: whole, chained, and in agreement with the log.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{Check, batches::Trail, records::Missing};
use crate::{
    BatchVerifier, Entry, Record,
    batch::{BoxError, Source},
    wal::{
        Chain, advance, line,
        mark::{self, FILE_NAME, HighWater},
        segment::{self, Ending, Scan},
    },
};

/// What a write-ahead log holds.
#[derive(Debug)]
pub(super) struct Held {
    dir: PathBuf,
    source: Source,
    /// The record before the oldest one here.
    before: (u64, u64),
    /// Each record's epoch and sequence, and the chain after it.
    records: Vec<((u64, u64), Chain)>,
    /// Policy sets that events here record.
    pub(super) policies: BTreeSet<String>,
}

/// A worker's mark, and where it is.
#[derive(Debug)]
pub(super) struct Marked {
    dir: PathBuf,
    worker: u16,
    mark: HighWater,
}

impl Held {
    /// The chain after a record that is here.
    fn chain_at(&self, at: (u64, u64)) -> Option<&Chain> {
        let found = self.records.binary_search_by(|(record, _)| record.cmp(&at));
        let (_, chain) = self.records.get(found.ok()?)?;
        Some(chain)
    }

    /// Whether a later record of that epoch is here.
    fn has_after(&self, at: (u64, u64)) -> bool {
        let later = |(record, _): &((u64, u64), Chain)| record.0 == at.0 && *record > at;
        self.records.iter().any(later)
    }

    fn end(&self) -> (u64, u64) {
        self.records
            .last()
            .map_or(self.before, |(record, _)| *record)
    }
}

/// Whether a proxy signed its mark.
fn signer(mark: &HighWater, verifier: &dyn BatchVerifier) -> Result<(), BoxError> {
    let (chain, signature) = mark.signature();
    verifier.verify(&chain, &mark.signed_bytes()?, &signature, mark.time)?;
    Ok(())
}

impl Check<'_> {
    /// The marks beside write-ahead logs. Read before those are: what is marked is then there.
    pub(super) fn marks(&mut self, dirs: &[PathBuf]) -> Vec<Marked> {
        let mut marks = Vec::new();
        let lines = dirs.iter().filter_map(|dir| line::folders(dir).ok());
        for (worker, dir) in lines.flatten() {
            match HighWater::read(&dir) {
                Ok(None) => {}
                Ok(Some(mark)) => marks.push(Marked { dir, worker, mark }),
                Err(error) => self.find(mark::path(&dir).display(), error.to_string()),
            }
        }
        marks
    }

    /// What proxies marked as written is there, or was when the log took it.
    pub(super) fn marked(
        &mut self,
        marks: &[Marked],
        wals: &[Held],
        trail: &Trail,
        verifier: Option<&dyn BatchVerifier>,
    ) {
        for Marked { dir, worker, mark } in marks {
            let place = mark::path(dir);
            if mark.worker != *worker {
                self.find(place.display(), format!("is of worker {}", mark.worker));
                continue;
            }
            if let Some(Err(error)) = verifier.map(|verifier| signer(mark, verifier)) {
                self.find(place.display(), format!("the signature: {error}"));
            }
            let source = (mark.proxy.clone(), *worker);
            let (reached, at) = (trail.sources.get(&source), mark.at());
            let held = wals.iter().find(|held| held.source == source);
            let here = held.and_then(|held| held.chain_at(at));
            let logged = reached.and_then(|reached| reached.chain_at(at));
            if here.or(logged).is_some_and(|chain| *chain != mark.chain) {
                let what = format!("is not what its proxy says was written ({FILE_NAME})");
                self.find(format!("{} record {}/{}", dir.display(), at.0, at.1), what);
            }
            let later = held.is_some_and(|held| held.has_after(at));
            if here.is_some() || later || reached.is_some_and(|reached| reached.has(at)) {
                continue;
            }
            let logged = reached.map_or((0, 0), super::batches::Reached::end);
            let end = held.map_or(logged, |held| held.end().max(logged));
            let when = if mark.ended { " when it ended" } else { "" };
            self.find(
                dir.display(),
                format!(
                    "ends with record {}/{}, but its proxy says that {}/{} was written{when}: the tail is missing",
                    end.0, end.1, at.0, at.1
                ),
            );
        }
    }

    /// What proxies found missing when they came back has not come to the log on another way.
    pub(super) fn missing(&mut self, trail: &Trail) {
        for Missing {
            by,
            marked,
            found,
            what,
        } in &trail.seen.missing
        {
            let Some(marked) = marked else {
                self.find(format!("record {by}"), format!("says: {what}"));
                continue;
            };
            let source = (marked.proxy.clone(), marked.worker);
            let at = (marked.epoch, marked.sequence);
            let there = trail
                .sources
                .get(&source)
                .is_some_and(|reached| reached.has(at));
            if !there || found == &format!("{}/{}", at.0, at.1) {
                let what = format!(
                    "says: {what}; record {marked} was written, and the last one there was {found}"
                );
                self.find(format!("record {by}"), what);
            }
        }
    }

    pub(super) fn wals(&mut self, dirs: &[PathBuf]) -> Vec<Held> {
        let mut held = Vec::new();
        for dir in dirs {
            match line::folders(dir) {
                Ok(lines) => {
                    held.extend(
                        lines
                            .iter()
                            .filter_map(|(worker, dir)| self.wal(*worker, dir)),
                    );
                }
                Err(error) => self.find(dir.display(), error.to_string()),
            }
        }
        held
    }

    fn wal(&mut self, worker: u16, dir: &Path) -> Option<Held> {
        let (paths, strange) = match segment::list(dir) {
            Ok(found) => found,
            Err(error) => {
                self.find(dir.display(), error.to_string());
                return None;
            }
        };
        for path in strange {
            self.find(path.display(), "is not the name of a segment");
        }
        let mut held: Option<Held> = None;
        let mut before: Option<Scan> = None;
        for (at, path) in paths.iter().enumerate() {
            let next = paths.get(at + 1);
            let last = next.is_none_or(|next| segment::epoch_of(next) != segment::epoch_of(path));
            let bytes = match fs::read(path) {
                Ok(bytes) => bytes,
                // Shipped and deleted while we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.find(path.display(), error.to_string());
                    return held;
                }
            };
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let scan = segment::scan(&bytes, &name);
            self.ending(path, &scan, last, bytes.len());
            let Some(header) = &scan.header else { continue };
            if let Some(before) = &before
                && let Err(what) = segment::follows(header, before)
            {
                self.find(path.display(), what);
            }
            let held = held.get_or_insert_with(|| Held {
                dir: dir.to_owned(),
                source: (header.proxy.clone(), worker),
                before: match (header.first_sequence, &header.previous) {
                    (1, Some(link)) => (link.epoch, link.sequence),
                    (1, None) => (0, 0),
                    (first, _) => (header.epoch, first - 1),
                },
                records: Vec::new(),
                policies: BTreeSet::new(),
            });
            self.segment(path, &bytes, &scan, held);
            before = Some(scan);
        }
        held
    }

    fn ending(&mut self, path: &Path, scan: &Scan, last: bool, length: usize) {
        let place = format!("{} byte {}", path.display(), scan.good);
        match &scan.ending {
            Ending::Whole => {}
            Ending::Torn if last => self.report.notes.push(format!(
                "{place}: the last write is unfinished ({} bytes); opening the log cuts it",
                length.saturating_sub(scan.good)
            )),
            Ending::Torn => self.find(place, "ends within a record"),
            Ending::Damaged(what) => self.find(place, what.clone()),
        }
    }

    fn segment(&mut self, path: &Path, bytes: &[u8], scan: &Scan, held: &mut Held) {
        let Some(header) = &scan.header else { return };
        let mut chain = header.chain;
        for (sequence, range) in (header.first_sequence..).zip(&scan.records) {
            let payload = bytes.get(range.clone()).unwrap_or_default();
            chain = advance(&chain, payload);
            self.report.wal_records += 1;
            let record = Record::from_slice(payload);
            if let Ok(Entry::Event(event)) = record.as_ref().map(|record| &record.entry) {
                held.policies
                    .extend(event.detail.get("policy_hash").cloned());
            }
            let right = record.is_ok_and(|r| {
                r.id.proxy == header.proxy
                    && r.id.epoch == header.epoch
                    && r.id.worker == held.source.1
                    && r.id.sequence == sequence
            });
            if !right {
                let place = format!("{} byte {}", path.display(), range.start);
                self.find(place, format!("is not record {}/{sequence}", header.epoch));
            }
            held.records.push(((header.epoch, sequence), chain));
        }
    }

    /// What was there when a process took over must be in the log, or be on its way there.
    pub(super) fn predecessors(&mut self, wals: &[Held], trail: &Trail) {
        for (earlier, by) in &trail.seen.predecessors {
            let source = (earlier.proxy.clone(), earlier.worker);
            let at = (earlier.epoch, earlier.sequence);
            let reached = trail.sources.get(&source);
            if reached.is_some_and(|reached| reached.end() >= at) {
                continue;
            }
            let waits = |held: &Held| {
                held.source == source && held.records.iter().any(|(record, _)| *record == at)
            };
            if wals.is_empty() {
                let text = format!("record {earlier}, which {by} names, is not in the log yet");
                self.report.notes.push(text);
            } else if !wals.iter().any(waits) {
                self.find(
                    earlier,
                    format!("is missing; record {by} says that it was there"),
                );
            }
        }
    }

    /// What a proxy still holds must continue, and agree with, what the log has of it.
    pub(super) fn compare(&mut self, wals: &[Held], trail: &Trail) {
        for held in wals {
            let reached = trail.sources.get(&held.source);
            let end = reached.map_or((0, 0), super::batches::Reached::end);
            if held.before > end {
                self.find(
                    held.dir.display(),
                    format!(
                        "begins after record {}/{}, but the log of {} worker {} ends with {}/{}",
                        held.before.0, held.before.1, held.source.0, held.source.1, end.0, end.1
                    ),
                );
            }
            let Some(reached) = reached else { continue };
            for (at, chain) in &held.records {
                if reached.chain_at(*at).is_some_and(|logged| logged != chain) {
                    let place = format!("{} record {}/{}", held.dir.display(), at.0, at.1);
                    self.find(place, "is not what the log has");
                    break;
                }
            }
        }
    }
}
