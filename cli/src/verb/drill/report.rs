//! What a drill did: verdict first, then what a person reads, then the figures.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use reeve_core::UnixTime;
use serde::{Deserialize, Serialize};

use super::{load::Failure, page};
use crate::{output::plain_table, problem::Problem, supervisor::logfile::timestamp};

/// Entries of a timeline; what comes beyond them is counted.
const MAX_ENTRIES: usize = 2_000;
/// Samples of a plot; with more of them, every second one goes.
const MAX_SAMPLES: usize = 2_000;
/// Reports that are kept in the state directory.
const MAX_REPORTS: usize = 50;
/// Largest report that is read again.
const MAX_REPORT_BYTES: u64 = 16 * 1024 * 1024;
/// Lines of a timeline at a terminal.
const MAX_SHOWN: usize = 60;

/// How a drill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// Everything happened as it should, and nothing was lost that should not be.
    Passed,
    /// Something was lost, or did not happen in time.
    Failed,
    /// It was broken off, and everything put back.
    RolledBack,
}

impl Verdict {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
        }
    }

    /// For people.
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Passed => "PASSED",
            Self::Failed => "FAILED",
            Self::RolledBack => "ROLLED BACK",
        }
    }
}

/// A moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Since the drill began.
    pub(super) at_ms: u64,
    /// What it is of.
    pub(super) of: Of,
    /// What happened.
    pub(super) text: String,
}

/// What an entry of the timeline is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Of {
    /// What the drill did.
    Drill,
    /// What the authority did.
    Authority,
    /// What a member did.
    Member,
    /// What was lost.
    Loss,
}

/// What was seen at one moment; counts are those since the moment before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    /// Since the drill began.
    pub(super) at_ms: u64,
    /// Of the drill's own load.
    pub(super) ok: u64,
    /// Of the drill's own load, and of what must not fail.
    pub(super) failed: u64,
    /// Of the drill's own load, as they should.
    pub(super) failed_as_expected: u64,
    /// 99th percentile of the load's answers, in milliseconds.
    pub(super) p99_ms: Option<f64>,
    /// What the sidecars served altogether.
    pub(super) served: u64,
    /// What they answered themselves because nothing could be reached.
    pub(super) broken: u64,
    /// Handshakes that failed.
    pub(super) handshakes_failed: u64,
    /// Members that have renewed since the drill began.
    pub(super) renewed: usize,
    /// Members.
    pub(super) members: usize,
    /// The least that a member's certificate has left, in milliseconds.
    pub(super) least_left_ms: Option<u64>,
}

/// A certificate that was renewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Renewal {
    /// Whose.
    pub(super) instance: String,
    /// Since the drill began.
    pub(super) at_ms: u64,
    /// The new one.
    pub(super) serial: String,
    /// Its end.
    pub(super) ends_at: UnixTime,
}

/// Requests, as somebody counted them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Well answered.
    pub(super) ok: u64,
    /// Not, when they should have been.
    pub(super) failed: u64,
    /// Not, as it should be.
    pub(super) failed_as_expected: u64,
    /// Shed as overload, and asked again.
    #[serde(default)]
    pub(super) shed: u64,
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    /// The run.
    pub(super) id: String,
    /// The drill.
    pub(super) name: String,
    /// How it ended.
    pub(super) verdict: Verdict,
    /// Why.
    pub(super) reason: String,
    /// When it began.
    pub(super) began_at: UnixTime,
    /// How long it took.
    pub(super) took_ms: u64,
    /// Whose mesh.
    pub(super) trust_domain: String,
    /// Who ran it: user and host.
    pub(super) by: String,
    /// What was to happen.
    pub(super) plan: Vec<String>,
    /// What the load asked for.
    pub(super) calls: Vec<String>,
    /// What came of the load.
    pub(super) load: Counts,
    /// What the sidecars served altogether, and could not.
    pub(super) traffic: Counts,
    /// Median of the load's answers, in milliseconds.
    pub(super) p50_ms: Option<f64>,
    /// Their 99th percentile.
    pub(super) p99_ms: Option<f64>,
    /// Handshakes that failed.
    pub(super) handshakes_failed: u64,
    /// Who renewed when.
    pub(super) renewals: Vec<Renewal>,
    /// What happened.
    pub(super) timeline: Vec<Entry>,
    /// Entries that had no room.
    pub(super) left_out: u64,
    /// The first requests that failed.
    pub(super) failures: Vec<Failure>,
    /// For the plot.
    pub(super) samples: Vec<Sample>,
}

impl Report {
    pub(super) fn note(&mut self, at_ms: u64, of: Of, text: impl Into<String>) {
        if self.timeline.len() >= MAX_ENTRIES {
            self.left_out += 1;
            return;
        }
        let text = text.into();
        self.timeline.push(Entry { at_ms, of, text });
    }

    pub(super) fn sample(&mut self, sample: Sample) {
        if self.samples.len() >= MAX_SAMPLES {
            let thinned = std::mem::take(&mut self.samples);
            self.samples = merge(thinned);
        }
        self.samples.push(sample);
    }

    /// Verdict first, then the timeline.
    pub(super) fn describe(&self) -> String {
        let mut out = format!(
            "{}  {} ({}): {}\n",
            self.verdict.in_words(),
            self.name,
            self.id,
            self.reason
        );
        out.push_str(&format!(
            "began {}, took {}; run by {}\n\n",
            timestamp(self.began_at),
            seconds(self.took_ms),
            self.by
        ));
        for (title, text) in self.figures() {
            out.push_str(&format!("{title:<22} {text}\n"));
        }
        let mut table = plain_table(["AT", "", "WHAT HAPPENED"]);
        // Members are many; what the drill and the authority did, and what was lost, is shown before them.
        let crowded = self.timeline.len() > MAX_SHOWN;
        let shown = self.timeline.iter();
        let shown = shown.filter(|entry| !crowded || entry.of != Of::Member);
        let mut lines = 0;
        for entry in shown.take(MAX_SHOWN) {
            lines += 1;
            let of = match entry.of {
                Of::Drill => "drill",
                Of::Authority => "authority",
                Of::Member => "member",
                Of::Loss => "LOST",
            };
            table.add_row([seconds(entry.at_ms), of.to_owned(), entry.text.clone()]);
        }
        out.push_str(&format!("\n{}", table.trim_fmt()));
        let more = self.timeline.len().saturating_sub(lines);
        let more = more + usize::try_from(self.left_out).unwrap_or(usize::MAX);
        if more > 0 {
            out.push_str(&format!("\n… and {more} more; the JSON has them"));
        }
        out
    }

    /// The figures, by name.
    pub(super) fn figures(&self) -> Vec<(&'static str, String)> {
        let counts = |counts: &Counts| {
            let expected = match counts.failed_as_expected {
                0 => String::new(),
                some => format!(", {some} failed as they should"),
            };
            let shed = match counts.shed {
                0 => String::new(),
                some => format!(", {some} shed as overload and asked again"),
            };
            format!("{} ok, {} failed{expected}{shed}", counts.ok, counts.failed)
        };
        let millis = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
        vec![
            ("load of the drill", counts(&self.load)),
            (
                "its latency",
                format!("p50 {}, p99 {}", millis(self.p50_ms), millis(self.p99_ms)),
            ),
            ("all of the traffic", counts(&self.traffic)),
            ("handshakes failed", self.handshakes_failed.to_string()),
            ("certificates renewed", self.renewals.len().to_string()),
        ]
    }

    /// Writes it as JSON and as a page into `dir`; the page's path.
    pub(super) fn write(&self, dir: &Path) -> Result<PathBuf, Problem> {
        let failed = |path: &Path, error: &io::Error| {
            Problem::because("the report could not be written", error).at(path.display())
        };
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir);
        made.map_err(|error| failed(dir, &error))?;
        let json = serde_json::to_vec_pretty(self).map_err(Problem::new)?;
        let page = page::page(self);
        let path = dir.join(format!("{}.html", self.id));
        for (path, bytes) in [
            (dir.join(format!("{}.json", self.id)), json.as_slice()),
            (path.clone(), page.as_bytes()),
        ] {
            put(&path, bytes).map_err(|error| failed(&path, &error))?;
        }
        Ok(path)
    }

    /// The report of a run, or the newest one.
    pub(super) fn read(dir: &Path, id: Option<&str>) -> Result<Self, Problem> {
        let ids = ids(dir);
        let id = match id {
            Some(id) => ids.iter().find(|known| *known == id),
            None => ids.last(),
        };
        let id = id.ok_or_else(|| {
            let known = match ids.is_empty() {
                true => "run one with `reeve drill run NAME`".to_owned(),
                false => format!("there are {}", ids.join(", ")),
            };
            Problem::new("there is no such report")
                .at(dir.display())
                .fix(known)
        })?;
        let path = dir.join(format!("{id}.json"));
        let unreadable =
            |error: &dyn std::error::Error| Problem::because("the report cannot be read", error);
        let size = fs::metadata(&path).map_err(|e| unreadable(&e))?.len();
        if size > MAX_REPORT_BYTES {
            return Err(Problem::new("the report is too large to be one").at(path.display()));
        }
        let text = fs::read(&path).map_err(|e| unreadable(&e))?;
        serde_json::from_slice(&text).map_err(|e| unreadable(&e).at(path.display()))
    }
}

/// The reports in `dir`, oldest first: an id ends in the time it began.
pub(super) fn ids(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut ids: Vec<String> = names
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .collect();
    let key = |id: &String| id.rsplit('-').next().map(str::to_owned);
    ids.sort_by_key(key);
    ids
}

/// Removes the oldest reports beyond the bound.
pub(super) fn tidy(dir: &Path) {
    let ids = ids(dir);
    for id in ids.iter().take(ids.len().saturating_sub(MAX_REPORTS)) {
        for end in ["json", "html"] {
            drop(fs::remove_file(dir.join(format!("{id}.{end}"))));
        }
    }
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    io::Write::write_all(&mut file, bytes)
}

/// Every two samples as one.
fn merge(samples: Vec<Sample>) -> Vec<Sample> {
    let pairs = samples.chunks(2).filter_map(|pair| {
        let (first, last) = (pair.first()?, pair.last()?);
        if pair.len() == 1 {
            return Some(last.clone());
        }
        Some(Sample {
            ok: first.ok + last.ok,
            failed: first.failed + last.failed,
            served: first.served + last.served,
            broken: first.broken + last.broken,
            handshakes_failed: first.handshakes_failed + last.handshakes_failed,
            p99_ms: larger(first.p99_ms, last.p99_ms),
            failed_as_expected: first.failed_as_expected + last.failed_as_expected,
            ..last.clone()
        })
    });
    pairs.collect()
}

fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

/// `12.3 s`.
pub(super) fn seconds(millis: u64) -> String {
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn report() -> Report {
        let mut report = Report {
            id: "rotate-root-20261122t010203".to_owned(),
            name: "rotate-root".to_owned(),
            verdict: Verdict::Passed,
            reason: "nothing was lost".to_owned(),
            began_at: UnixTime::from_secs(1_000),
            took_ms: 12_345,
            trust_domain: "mesh.local".to_owned(),
            by: "user 1000".to_owned(),
            plan: vec!["spread".to_owned()],
            calls: vec!["client-0 -> echo:9080/ (HTTP/2)".to_owned()],
            load: Counts {
                ok: 10,
                failed: 1,
                failed_as_expected: 2,
                shed: 0,
            },
            traffic: Counts::default(),
            p50_ms: Some(1.0),
            p99_ms: None,
            handshakes_failed: 0,
            renewals: Vec::new(),
            timeline: Vec::new(),
            left_out: 0,
            failures: vec![Failure {
                at_ms: 1,
                call: "<script>alert(1)</script>".to_owned(),
                what: "a & b".to_owned(),
            }],
            samples: Vec::new(),
        };
        report.note(1_200, Of::Authority, "spread: \"the new root\"");
        for at in 0..5 {
            report.sample(Sample {
                at_ms: at * 500,
                ok: 10,
                failed: at % 2,
                members: 3,
                ..Sample::default()
            });
        }
        report
    }

    #[test]
    fn the_verdict_comes_first() {
        let text = report().describe();
        assert!(text.starts_with("PASSED  rotate-root"), "{text}");
        assert!(text.contains("10 ok, 1 failed, 2 failed as they should"));
        assert!(text.contains("1.2 s"), "{text}");
    }

    #[test]
    fn what_was_written_is_read_again_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut last = report();
        for number in 0..=MAX_REPORTS {
            last.id = format!("rotate-root-{number:04}");
            last.write(dir.path()).unwrap();
        }
        tidy(dir.path());
        assert_eq!(ids(dir.path()).len(), MAX_REPORTS);
        assert_eq!(Report::read(dir.path(), None).unwrap(), last);
        assert!(Report::read(dir.path(), Some("rotate-root-0000")).is_err());
        assert!(Report::read(dir.path(), Some("../x")).is_err());
    }

    #[test]
    fn timelines_and_samples_are_bounded_and_no_count_is_lost() {
        let mut report = report();
        let before: u64 = report.samples.iter().map(|s| s.ok).sum();
        for at in 0..(3 * MAX_SAMPLES as u64) {
            report.sample(Sample {
                at_ms: at,
                ok: 1,
                ..Sample::default()
            });
            report.note(at, Of::Member, "renewed");
        }
        assert!(report.samples.len() <= MAX_SAMPLES);
        let ok: u64 = report.samples.iter().map(|s| s.ok).sum();
        assert_eq!(ok, before + 3 * MAX_SAMPLES as u64);
        assert_eq!(report.timeline.len(), MAX_ENTRIES);
        assert!(report.left_out > 0);
    }
}
