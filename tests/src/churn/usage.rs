//! What long-lived processes hold: memory and file descriptors, from proc(5).

use std::{
    collections::BTreeMap,
    fmt, fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use crate::Mesh;

/// How often processes are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Growth below this is noise of the allocator.
const MEMORY_NOISE_KB: u64 = 12 * 1024;
/// Connections that happen to be open at the moment.
const DESCRIPTOR_NOISE: u64 = 24;
/// A sample is cut into this many parts; the first after the warm-up is compared with the last.
const PARTS: usize = 4;

/// One process over time.
#[derive(Clone, Debug)]
pub struct Growth {
    /// Which.
    pub name: String,
    /// Median resident memory in KiB in the first part and in the last.
    pub memory_kb: (u64, u64),
    /// Median open descriptors in the first part and in the last.
    pub descriptors: (u64, u64),
}

impl Growth {
    /// Whether the end is as the beginning was.
    pub fn is_flat(&self) -> bool {
        let (first, last) = self.memory_kb;
        let (fewer, more) = self.descriptors;
        last <= first + first / 5 + MEMORY_NOISE_KB && more <= fewer + DESCRIPTOR_NOISE
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((memory, memory_end), (open, open_end)) = (self.memory_kb, self.descriptors);
        write!(
            f,
            "{:<20} memory {memory:>7} -> {memory_end:>7} KiB, descriptors {open:>3} -> {open_end:>3}",
            self.name
        )
    }
}

type Samples = BTreeMap<(String, i32), Vec<(u64, u64)>>;

/// Looks at the processes of a mesh again and again.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<Samples>,
}

impl Watch {
    /// Looks at those that run now, from after `warm_up` on.
    pub(super) fn start(mesh: &Mesh, warm_up: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, pids) = (Arc::clone(&stop), mesh.pids());
        let looking = tokio::spawn(async move {
            let began = Instant::now();
            let mut samples = Samples::new();
            while !asked.load(Ordering::Relaxed) {
                tokio::time::sleep(LOOK).await;
                if began.elapsed() < warm_up {
                    continue;
                }
                for (name, pid) in &pids {
                    if let Some(seen) = look(*pid) {
                        samples.entry((name.clone(), *pid)).or_default().push(seen);
                    }
                }
            }
            samples
        });
        Self { stop, looking }
    }

    /// The processes that were there from the first look to the last.
    pub(super) async fn stop(self) -> Vec<Growth> {
        self.stop.store(true, Ordering::Relaxed);
        let samples = self.looking.await.expect("the looks");
        let looks = samples.values().map(Vec::len).max().unwrap_or_default();
        samples
            .into_iter()
            .filter(|(_, seen)| seen.len() == looks && looks >= PARTS)
            .map(|((name, _), seen)| {
                let part = seen.len() / PARTS;
                let (first, last) = (&seen[..part], &seen[seen.len() - part..]);
                let memory = |part: &[(u64, u64)]| median(part.iter().map(|s| s.0));
                let open = |part: &[(u64, u64)]| median(part.iter().map(|s| s.1));
                Growth {
                    name,
                    memory_kb: (memory(first), memory(last)),
                    descriptors: (open(first), open(last)),
                }
            })
            .collect()
    }
}

fn look(pid: i32) -> Option<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let memory = line.split_whitespace().next()?.parse().ok()?;
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    Some((memory, u64::try_from(open).ok()?))
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut sorted: Vec<u64> = values.collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
