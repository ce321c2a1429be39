//! `reeve guard` (hidden): ends a mesh's processes once its supervisor is gone, however it went.
//!
//! The supervisor holds the other end of standard input and names each process group it starts (`+PID`) and each that
//! has ended (`-PID`). When the pipe closes, every group still named is ended: sidecars and the mesh process have had
//! SIGTERM from the kernel by then and get a moment to drain, applications are dead already, and what they started is
//! not. Processes that left their group are found by the marker in their environment.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};

use crate::problem::{Answer, Verdict};

/// No more groups than a mesh can have: an application and a sidecar for each instance, and the mesh process.
const MAX_GROUPS: usize = 1024;
/// How long groups may take to end by themselves.
const GRACE: Duration = Duration::from_secs(5);
/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// An environment is not read beyond this.
const MAX_ENVIRON: u64 = 1024 * 1024;

/// The variable that carries the marker.
pub(crate) const MARKER: &str = "REEVE_MESH_ID";

/// `reeve guard`.
#[derive(Args, Debug)]
pub(crate) struct GuardArgs {
    /// Value of REEVE_MESH_ID in the environment of everything that applications started.
    #[arg(long)]
    marker: String,
    /// A directory to remove at the end.
    #[arg(long, value_name = "DIR")]
    remove: Option<PathBuf>,
}

/// Waits for the supervisor's end, then ends what it left.
pub(crate) fn run(args: &GuardArgs) -> Verdict {
    // A session of its own: a closed terminal or Ctrl-C must not end the guard before its work.
    drop(rustix::process::setsid());
    let groups = read_groups(std::io::stdin().lock());
    end_marked(&args.marker);
    let mut waited = Duration::ZERO;
    while waited < GRACE && groups.iter().any(|group| is_alive(*group)) {
        thread::sleep(LOOK);
        waited += LOOK;
    }
    for group in groups {
        drop(kill_process_group(group, Signal::KILL));
    }
    end_marked(&args.marker);
    if let Some(dir) = &args.remove {
        remove(dir);
    }
    Ok(Answer::Yes)
}

fn read_groups(source: impl BufRead) -> HashSet<Pid> {
    let mut groups = HashSet::new();
    for line in source.lines() {
        let Ok(line) = line else { break };
        // SECURITY: group 1 would be "every process there is" (kill(2)).
        let group = |text: &str| {
            let number = text.parse().ok().filter(|number| *number > 1);
            number.and_then(Pid::from_raw)
        };
        if let Some(added) = line.strip_prefix('+').and_then(group) {
            if groups.len() < MAX_GROUPS {
                groups.insert(added);
            }
        } else if let Some(ended) = line.strip_prefix('-').and_then(group) {
            groups.remove(&ended);
        }
    }
    groups
}

fn is_alive(group: Pid) -> bool {
    test_kill_process_group(group).is_ok()
}

/// Ends every process of ours that carries the marker.
fn end_marked(marker: &str) {
    let wanted = format!("{MARKER}={marker}");
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|n| n.parse().ok())
            .and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        if Some(pid) != Some(rustix::process::getpid()) && carries(&entry.path(), wanted.as_bytes())
        {
            drop(kill_process(pid, Signal::KILL));
        }
    }
}

fn carries(process: &Path, wanted: &[u8]) -> bool {
    let Ok(file) = fs::File::open(process.join("environ")) else {
        return false;
    };
    let mut environ = Vec::new();
    let read = BufReader::new(file)
        .take(MAX_ENVIRON)
        .read_to_end(&mut environ);
    read.is_ok() && environ.split(|byte| *byte == 0).any(|pair| pair == wanted)
}

/// Removes a directory that the supervisor made for this run alone.
fn remove(dir: &Path) {
    for _ in 0..20 {
        if fs::remove_dir_all(dir).is_ok() || !dir.exists() {
            return;
        }
        thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_that_have_not_ended_remain() {
        let text = "+12\n+13\n-12\nnonsense\n+x\n+0\n+1\n+-5\n";
        let groups: Vec<_> = read_groups(text.as_bytes()).into_iter().collect();
        assert_eq!(groups, [Pid::from_raw(13).unwrap()]);
    }

    #[test]
    fn the_number_of_groups_is_bounded() {
        let text: String = (1..3000).map(|n| format!("+{n}\n")).collect();
        assert_eq!(read_groups(text.as_bytes()).len(), MAX_GROUPS);
    }
}
