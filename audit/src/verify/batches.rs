//! Batches: each one whole and signed, and each proxy's one unbroken chain.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use reeve_core::{InstanceName, SpiffeId};
use tlog_tiles::{Hash, record_hash};

use super::{
    Check,
    leaves::Leaves,
    records::{Absent, Gap, Job, Seen, Signed},
    state::Worker,
};
use crate::{
    batch::{Batch, BatchHeader, EpochLink, Source},
    hexes,
    log::layout,
    wal::{CHAIN_START, Chain, advance},
};

/// What the log says of its proxies and their workers.
#[derive(Debug, Default)]
pub(super) struct Trail {
    pub(super) sources: BTreeMap<Source, Reached>,
    /// What was seen in the batches of all logs.
    pub(super) seen: Seen,
    /// Who signed each proxy's last batch.
    pub(super) signers: BTreeMap<InstanceName, SpiffeId>,
    /// Records that two logs have.
    pub(super) repeated: u64,
    /// Batches of all logs.
    pub(super) batches: u64,
}

/// How far the logs go for a worker of a proxy.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// The batch that goes furthest.
    last: Option<Before>,
    /// Epoch and sequence of each batch's last record.
    batches: BTreeMap<(u64, u64), Sealed>,
    /// Batches by their leaf hashes: each may be the one before another, in whatever log that is.
    known: HashMap<[u8; 32], Before>,
    /// The last batches in each log, by its number.
    tips: BTreeMap<usize, Vec<Worker>>,
    /// Whether an earlier verification saw the batches before these.
    continued: bool,
    /// Epoch and sequence of the last record that a batch says had been written.
    promised: (u64, u64),
}

/// A batch that others may follow.
#[derive(Clone, Copy, Debug)]
struct Before {
    epoch: u64,
    batch: u64,
    /// Its last record.
    end: u64,
    chain: Chain,
}

impl Before {
    fn of(header: &BatchHeader) -> Self {
        Self {
            epoch: header.epoch,
            batch: header.batch,
            end: header.span().map_or(0, |(_, last)| last),
            chain: header.chain,
        }
    }

    fn at(&self) -> (u64, u64) {
        (self.epoch, self.end)
    }
}

/// The chain around a batch.
#[derive(Clone, Copy, Debug)]
struct Sealed {
    before: Chain,
    after: Chain,
    batch: [u8; 32],
}

impl Reached {
    /// Takes in what an earlier verification saw last of this worker in a log.
    pub(super) fn resume(&mut self, log: usize, worker: &Worker) {
        self.continued = true;
        self.add(log, worker.clone());
    }

    /// Takes in a batch.
    fn add(&mut self, log: usize, worker: Worker) {
        let Worker {
            header,
            leaf,
            before,
            promised,
        } = &worker;
        let here = Before::of(header);
        let sealed = Sealed {
            before: *before,
            after: header.chain,
            batch: *leaf,
        };
        self.batches.entry(here.at()).or_insert(sealed);
        self.known.insert(*leaf, here);
        self.promised = self.promised.max((header.epoch, (*promised).max(here.end)));
        if self.end() < here.at() {
            self.last = Some(here);
        }
        let tips = self.tips.entry(log).or_default();
        tips.push(worker);
        // One more than the last: a batch that was never acknowledged may have another beside it elsewhere.
        if tips.len() > 2 {
            tips.remove(0);
        }
    }

    /// What a later verification needs to go on.
    pub(super) fn workers(&self, log: usize) -> impl Iterator<Item = Worker> + '_ {
        self.tips.get(&log).into_iter().flatten().cloned()
    }

    /// The last record that a log has.
    fn end_in(&self, log: usize) -> (u64, u64) {
        let last = self.tips.get(&log).and_then(|tips| tips.last());
        last.map_or((0, 0), |worker| Before::of(&worker.header).at())
    }

    /// The chain after a record, where a batch ends with it.
    pub(super) fn chain_at(&self, at: (u64, u64)) -> Option<&Chain> {
        self.batches.get(&at).map(|sealed| &sealed.after)
    }

    /// Whether the logs have that record, or, having been verified up to a later one before, had it then.
    pub(super) fn has(&self, (epoch, sequence): (u64, u64)) -> bool {
        let mut later = self.batches.range((epoch, sequence)..=(epoch, u64::MAX));
        let first = self.batches.keys().next();
        later.next().is_some()
            || (self.continued && first.is_some_and(|first| *first > (epoch, sequence)))
    }

    /// Epoch and sequence of the last record.
    pub(super) fn end(&self) -> (u64, u64) {
        self.last.map_or((0, 0), |last| last.at())
    }

    /// The batch that `header`, in that log, names as the one before it. A log knows how far it got: what it takes next
    /// follows that, or what another log took since.
    fn named(&self, log: usize, header: &BatchHeader) -> Option<Before> {
        let named = self.known.get(&header.previous).copied();
        named.filter(|before| before.at() >= self.end_in(log))
    }

    /// The same; if there is none, the last one in that log, or in any.
    fn before(&self, log: usize, header: &BatchHeader) -> Option<Before> {
        let tip = self.tips.get(&log).and_then(|tips| tips.last());
        let tip = tip.map(|worker| Before::of(&worker.header));
        let named = self.named(log, header);
        named
            .or(tip)
            .or_else(|| self.last.filter(|_| !self.may_begin(header)))
    }

    /// Whether it is the first batch of all, which may have been sent to two logs.
    fn may_begin(&self, header: &BatchHeader) -> bool {
        let first = header.span().map_or(0, |(first, _)| first);
        let is_first =
            (header.batch, first, &header.link) == (1, 1, &None) && header.previous == [0; 32];
        let earliest = self.batches.keys().next();
        is_first && earliest.is_none_or(|(epoch, _)| *epoch == header.epoch)
    }

    /// The chain before the first record of `header`'s batch.
    fn chain_before(&self, log: usize, header: &BatchHeader) -> Chain {
        match (self.before(log, header), &header.link) {
            (Some(before), _) if before.epoch == header.epoch => before.chain,
            (_, Some(link)) => link.chain,
            (_, None) => CHAIN_START,
        }
    }

    /// Whether `link` names a record that the log has. In logs of before processes in a hand-over had lines of their own, an
    /// epoch may go on after the next one has begun; that its end is all there, `previous` tells.
    fn holds(&self, link: &EpochLink, object: impl Fn(&[u8; 32]) -> Option<Batch>) -> bool {
        let at = (link.epoch, link.sequence);
        let Some((end, sealed)) = self.batches.range(at..).next() else {
            return false;
        };
        if *end == at {
            return sealed.after == link.chain;
        }
        let batch = object(&sealed.batch).filter(|_| end.0 == link.epoch);
        batch.is_some_and(|batch| {
            let chain = batch.records.iter().scan(sealed.before, |chain, record| {
                *chain = advance(chain, record);
                Some(*chain)
            });
            let first = end
                .1
                .saturating_sub(u64::try_from(batch.records.len()).unwrap_or(0));
            let mut numbered = (first + 1..).zip(chain);
            numbered.any(|(number, chain)| number == link.sequence && chain == link.chain)
        })
    }

    /// Whether `header`, in that log, continues what is here; `object` reads a batch.
    fn continues(
        &self,
        log: usize,
        header: &BatchHeader,
        object: impl Fn(&[u8; 32]) -> Option<Batch>,
    ) -> Result<(), String> {
        let first = header.span().map_or(0, |(first, _)| first);
        let Some(before) = self.before(log, header) else {
            return match self.may_begin(header) {
                true => Ok(()),
                false => Err(format!(
                    "begins with record {}/{first}; what came before is not in this log",
                    header.epoch
                )),
            };
        };
        if header.epoch == before.epoch {
            if header.batch != before.batch + 1 || first != before.end + 1 {
                return Err(format!(
                    "batch {} from record {first} follows batch {} up to record {}: not gapless",
                    header.batch, before.batch, before.end
                ));
            }
        } else {
            self.begins_epoch(header, before, object)?;
        }
        match self.named(log, header) {
            Some(_) => Ok(()),
            None => Err("does not name the batch before it".to_owned()),
        }
    }

    /// Whether `header` begins its epoch as it should.
    fn begins_epoch(
        &self,
        header: &BatchHeader,
        before: Before,
        object: impl Fn(&[u8; 32]) -> Option<Batch>,
    ) -> Result<(), String> {
        let first = header.span().map_or(0, |(first, _)| first);
        let (end_epoch, end) = self.end();
        let (epoch, written) = self.promised;
        if header.epoch > end_epoch && epoch == end_epoch && written > end {
            return Err(format!(
                "epoch {} begins, and records {epoch}/{} to {written} are missing: a batch before says that they had been written",
                header.epoch,
                end + 1,
            ));
        }
        if (header.epoch < before.epoch) || (header.batch, first) != (1, 1) {
            return Err(format!(
                "epoch {} does not begin with its first record",
                header.epoch
            ));
        }
        // Without a link, the write-ahead log had been emptied, or taken away.
        let link = header.link.as_ref();
        if !link.is_some_and(|link| self.holds(link, object)) {
            return Err(format!(
                "epoch {} does not link to a record before it, the last of which is {end_epoch}/{end}",
                header.epoch
            ));
        }
        Ok(())
    }
}

impl Check<'_> {
    /// What is absent must be of leaves that the log says have expired; only the log can say so, quiet deletion shows.
    pub(super) fn expirations(&mut self, seen: &mut Seen, before: u64, leaves: &Leaves) -> u64 {
        let mut expired = before;
        for said in std::mem::take(&mut seen.expirations) {
            let end = said.leaves.parse().ok();
            let root = hexes::parse(&said.root).map(Hash);
            match end.zip(root) {
                Some((end, root)) if self.began_with(end, &root, leaves) => {
                    expired = expired.max(end);
                }
                _ => self.find(format!("record {}", said.by), "lets other leaves expire"),
            }
        }
        let marked = fs::read_to_string(self.dir.join(layout::EXPIRED)).unwrap_or_default();
        let marked = marked.split_whitespace().next().map(str::parse::<u64>);
        if marked.is_some_and(|leaves| leaves.is_ok_and(|leaves| leaves > expired)) {
            self.find(
                layout::EXPIRED,
                "no record in the log lets so many leaves expire",
            );
        }
        for Absent { leaf, place, what } in std::mem::take(&mut seen.absent) {
            if leaf < expired {
                self.report.expired += 1;
            } else {
                self.find(place, what);
            }
        }
        if self.report.expired > 0 {
            self.report.notes.push(format!(
                "the records of {} batches were deleted by retention, as the log says",
                self.report.expired
            ));
        }
        expired
    }

    /// Who signs for a proxy changes when its workload gets another identity, and not otherwise: whoever reads the report
    /// knows which it was.
    pub(super) fn signers(
        &mut self,
        mut last: BTreeMap<InstanceName, SpiffeId>,
        seen: BTreeMap<InstanceName, Vec<Signed>>,
    ) -> BTreeMap<InstanceName, SpiffeId> {
        for (proxy, mut signed) in seen {
            // One log has them in order; a proxy that goes to another and back has some of them in each.
            signed.sort_by_key(|signed| signed.time);
            for Signed {
                identity, batch, ..
            } in signed
            {
                let before = last.insert(proxy.clone(), identity.clone());
                if let Some(before) = before.filter(|before| *before != identity) {
                    self.report.notes.push(format!(
                        "{proxy} signed as {before} and, from {batch} on, as {identity}: another identity was configured, or another workload took its name"
                    ));
                }
            }
        }
        last
    }

    pub(super) fn gaps(&mut self, mut gaps: Vec<Gap>) {
        // One may begin in one log and end in another.
        gaps.sort_by_key(|gap| match gap {
            Gap::Began(by) | Gap::Told(by, ..) => by.clone(),
        });
        let mut open = BTreeMap::new();
        for gap in gaps {
            match gap {
                Gap::Began(by) => drop(open.insert((by.proxy.clone(), by.worker), by)),
                Gap::Told(by, count, text) => {
                    open.remove(&(by.proxy, by.worker));
                    self.report.lost += count;
                    self.report.notes.push(text);
                }
            }
        }
        for began in open.values() {
            let text = format!(
                "after record {began} decisions are missing, and nothing says how many: its proxy could not record them, and died"
            );
            self.report.notes.push(text);
        }
    }

    /// The batches of this log, the `log`th, with the order of its workers' records checked within it.
    pub(super) fn jobs<'l>(&mut self, log: usize, leaves: &'l Leaves) -> Vec<Job<'l>> {
        let mut jobs = Vec::new();
        for (at, path, entry) in &leaves.entries {
            let leaf = record_hash(entry);
            let is_leaf = leaves.hash(*at) == Some(&leaf);
            let header = match serde_json::from_slice::<BatchHeader>(entry) {
                Ok(header) if is_leaf => header,
                // Not the leaf of the tree: that is a finding already, and what it says counts for nothing.
                Ok(_) => continue,
                Err(_) if !is_leaf => continue,
                Err(error) => {
                    let place = format!("{} entry {at}", self.name(path));
                    self.find(place, format!("is no batch header: {error}"));
                    continue;
                }
            };
            jobs.push(Job {
                log,
                entry,
                header,
                leaf: leaf.0,
                before: CHAIN_START,
                at: *at,
                passes: Vec::new(),
            });
        }
        jobs
    }

    /// Goes on from where a worker was; sets the chain that comes before the batch.
    pub(super) fn follow(&mut self, job: &mut Job<'_>, reached: &mut Reached) {
        let (dir, header) = (self.dir, &job.header);
        let read = |hash: &[u8; 32]| {
            let bytes = fs::read(layout::batch_path(dir, hash)).ok()?;
            Batch::from_object(&bytes).ok()
        };
        let name = self.name(&layout::batch_path(dir, &job.leaf));
        let place = format!("{name} ({})", header.proxy);
        if let Err(what) = reached.continues(job.log, header, read) {
            self.find(&place, what);
        }
        job.before = reached.chain_before(job.log, header);
        let other = reached.chain_at(Before::of(header).at());
        if other.is_some_and(|other| *other != header.chain) {
            self.find(
                &place,
                "does not end with the record that another log has there",
            );
        }
        let worker = Worker {
            header: header.clone(),
            leaf: job.leaf,
            before: job.before,
            promised: header.written.unwrap_or(0),
        };
        reached.add(job.log, worker);
    }
}

/// Follows each worker through all logs, `checks` in the order of their numbers. Where there are several, a batch comes after
/// the one that it follows in whatever log that is: in the order of records.
pub(super) fn follow(checks: &mut [Check<'_>], jobs: &mut [Vec<Job<'_>>], trail: &mut Trail) {
    let several = jobs.len() > 1;
    let mut order: Vec<&mut Job<'_>> = jobs.iter_mut().flatten().collect();
    if several {
        in_tree_order(checks, &order);
        order.sort_by_cached_key(|job| {
            (
                job.header.source(),
                Before::of(&job.header).epoch,
                job.header.span(),
            )
        });
    }
    for job in &mut order {
        let reached = trail.sources.entry(job.header.source()).or_default();
        if let Some(check) = checks.get_mut(job.log) {
            check.follow(job, reached);
        }
    }
    if several {
        trail.repeated = beside_each_other(&mut order, &trail.sources);
    }
}

/// Within one log, each worker's records are in order: sorting would hide that they are not.
fn in_tree_order(checks: &mut [Check<'_>], jobs: &[&mut Job<'_>]) {
    let mut ends: BTreeMap<(usize, Source), (u64, u64)> = BTreeMap::new();
    for job in jobs {
        let header = &job.header;
        let (first, last) = header.span().unwrap_or_default();
        let end = ends.entry((job.log, header.source())).or_default();
        if (header.epoch, first) <= *end
            && let Some(check) = checks.get_mut(job.log)
        {
            let name = check.name(&layout::batch_path(check.dir, &job.leaf));
            let what = format!(
                "batch {} from record {first} follows record {}/{}: not gapless",
                header.batch, end.0, end.1
            );
            check.find(format!("{name} ({})", header.proxy), what);
        }
        *end = (*end).max((header.epoch, last));
    }
}

/// Batches of two logs may hold the same records: a proxy sends again what nobody acknowledged. Each is to be passed by the
/// chain of the other; how many records are in two logs.
fn beside_each_other(jobs: &mut [&mut Job<'_>], sources: &BTreeMap<Source, Reached>) -> u64 {
    let mut repeated = 0;
    let mut covered: Option<(Source, (u64, u64))> = None;
    for job in jobs {
        let (source, epoch) = (job.header.source(), job.header.epoch);
        let (first, last) = job.header.span().unwrap_or_default();
        let reached = sources.get(&source);
        let within = reached.map(|reached| reached.batches.range((epoch, first)..(epoch, last)));
        job.passes = (within.into_iter().flatten())
            .map(|((_, end), sealed)| (*end, sealed.after))
            .collect();
        let end = match &covered {
            Some((before, (at, end))) if (before, *at) == (&source, epoch) => *end,
            _ => 0,
        };
        if end >= first {
            repeated += end.min(last) - first + 1;
        }
        covered = Some((source, (epoch, end.max(last))));
    }
    repeated
}
