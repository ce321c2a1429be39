//! `reeve guard` (hidden): ends a mesh's processes once its supervisor is gone, however it went.
//!
//! The supervisor holds the other end of standard input and names each process group it starts (`+PID`) and each that
//! has ended (`-PID`). When the pipe closes, every group still named is ended: sidecars and the mesh process have had
//! SIGTERM from the kernel by then and get a moment to drain, applications are dead already, and what they started is
//! not. Processes that left their group are found by the marker in their environment.

use std::{
    collections::HashSet,
    fs,
    io::BufRead,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use crate::{
    problem::{Answer, Verdict},
    supervisor::escaped::{self, Marks},
};

/// No more groups than a mesh can have: an application and a sidecar for each instance, and the mesh process.
const MAX_GROUPS: usize = 1024;
/// How long groups may take to end by themselves.
const GRACE: Duration = Duration::from_secs(5);
/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(50);

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
    rustix::process::setsid().ok();
    let groups = read_groups(std::io::stdin().lock());
    let marks = Marks::of_mesh(&args.marker);
    escaped::end(&marks);
    let mut waited = Duration::ZERO;
    while waited < GRACE && groups.iter().any(|group| is_alive(*group)) {
        thread::sleep(LOOK);
        waited += LOOK;
    }
    for group in groups {
        kill_process_group(group, Signal::KILL).unwrap_or_default();
    }
    escaped::end(&marks);
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
