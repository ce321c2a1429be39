//! CPU and memory of processes, from `/proc` (proc(5)).

use std::{collections::BTreeMap, fs, time::Instant};

use crate::demo::latency::as_float;

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Share of one core since it was last looked at, in percent.
    pub(crate) cpu_percent: f64,
    /// Resident memory in MiB.
    pub(crate) memory_mib: f64,
}

/// Looks at processes again and again.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    before: BTreeMap<u32, (u64, Instant)>,
}

impl Watcher {
    /// What a process uses now.
    pub(crate) fn look(&mut self, pid: u32) -> Option<Usage> {
        let ticks = cpu_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        let pages = resident_pages(&fs::read_to_string(format!("/proc/{pid}/statm")).ok()?)?;
        let now = Instant::now();
        let before = self.before.insert(pid, (ticks, now));
        let per_second = as_float(rustix::param::clock_ticks_per_second());
        let cpu = before.map_or(0.0, |(before, then)| {
            let seconds = now.duration_since(then).as_secs_f64().max(0.001);
            as_float(ticks.saturating_sub(before)) / per_second / seconds * 100.0
        });
        let page = as_float(u64::try_from(rustix::param::page_size()).unwrap_or(4096));
        Some(Usage {
            cpu_percent: cpu,
            memory_mib: as_float(pages) * page / (1024.0 * 1024.0),
        })
    }

    /// Forgets processes that are gone.
    pub(crate) fn keep(&mut self, pids: &[u32]) {
        self.before.retain(|pid, _| pids.contains(pid));
    }
}

/// User and system time: the 14th and 15th field, counted after the parenthesised name.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The second field.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("7 (a"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let mut watcher = Watcher::default();
        let usage = watcher.look(std::process::id()).unwrap();
        assert!(usage.memory_mib > 0.5, "{usage:?}");
        assert_eq!(
            usage.cpu_percent, 0.0,
            "nothing is known before the second look"
        );
        assert!(watcher.look(0).is_none());
        watcher.keep(&[]);
        assert!(watcher.before.is_empty());
    }
}
