//! `reeve guard` (hidden): ends a mesh's processes once its supervisor is gone, however it went.
//!
//! The supervisor holds the other end of standard input and names each process group it starts (`+PID` an application,
//! `~PID` one of ours) and each that has ended (`-PID`). When the pipe closes, every group still named is ended. Those
//! of applications at once: their leader is dead already, by the parent-death signal, and what it started is not.
//! Sidecars and the mesh process have had SIGTERM from the kernel by then and get a moment to drain. Processes that left
//! their group are found by the marker in their environment.

use std::{
    collections::HashMap,
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
    supervisor::{
        escaped::{self, Marks},
        network,
    },
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
    /// Base of the network namespaces and the bridge to remove at the end.
    #[arg(long, value_name = "BASE")]
    network: Option<u8>,
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
    let (ours, apps): (Vec<_>, Vec<_>) = groups
        .into_iter()
        .partition(|(_, end)| *end == End::Drained);
    for (group, _) in apps {
        kill_process_group(group, Signal::KILL).unwrap_or_default();
    }
    escaped::end(&marks);
    let mut waited = Duration::ZERO;
    while waited < GRACE && ours.iter().any(|(group, _)| is_alive(*group)) {
        thread::sleep(LOOK);
        waited += LOOK;
    }
    for (group, _) in ours {
        kill_process_group(group, Signal::KILL).unwrap_or_default();
    }
    escaped::end(&marks);
    if let Some(base) = args.network {
        network::remove_all(base);
    }
    if let Some(dir) = &args.remove {
        remove(dir);
    }
    Ok(Answer::Yes)
}

/// How a group is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// At once.
    Killed,
    /// By itself, for as long as [`GRACE`] lasts.
    Drained,
}

fn read_groups(source: impl BufRead) -> HashMap<Pid, End> {
    let mut groups = HashMap::new();
    for line in source.lines() {
        let Ok(line) = line else { break };
        let mut chars = line.chars();
        let sign = chars.next();
        // SECURITY: group 1 would be "every process there is" (kill(2)).
        let number = chars.as_str().parse().ok().filter(|number| *number > 1);
        let Some(group) = number.and_then(Pid::from_raw) else {
            continue;
        };
        match sign {
            Some('+') if groups.len() < MAX_GROUPS => {
                groups.insert(group, End::Killed);
            }
            Some('~') if groups.len() < MAX_GROUPS => {
                groups.insert(group, End::Drained);
            }
            Some('-') => {
                groups.remove(&group);
            }
            Some(_) | None => {}
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
        let text = "+12\n+13\n~14\n-12\nnonsense\n+x\n+0\n+1\n+-5\n\n";
        let groups = read_groups(text.as_bytes());
        let pid = |raw| Pid::from_raw(raw).unwrap();
        assert_eq!(
            groups,
            HashMap::from([(pid(13), End::Killed), (pid(14), End::Drained)])
        );
    }

    #[test]
    fn the_number_of_groups_is_bounded() {
        let text: String = (1..3000).map(|n| format!("+{n}\n")).collect();
        assert_eq!(read_groups(text.as_bytes()).len(), MAX_GROUPS);
    }
}
