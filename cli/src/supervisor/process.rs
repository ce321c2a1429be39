//! Starting one process so that it cannot outlive the mesh, and ending it with all its descendants.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::escaped::{self, Marks};
use crate::verb::run::{DeathSignal, PrivilegeArgs};

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// For people, such as `reviews-v1-0 (application)`.
    pub(crate) title: String,
    /// Program and arguments.
    pub(crate) command: Vec<OsString>,
    /// The whole environment.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Where it runs.
    pub(crate) dir: PathBuf,
    /// What the supervisor's death sends it.
    pub(crate) death: DeathSignal,
    /// How its output is kept.
    pub(crate) output: Output,
    /// How long it may take to end after SIGTERM.
    pub(crate) grace: Duration,
    /// The network namespace it runs in, if not ours.
    pub(crate) netns: Option<String>,
    /// What of our power it does not get.
    pub(crate) privilege: PrivilegeArgs,
    /// Its soft limit of open files, if not ours.
    pub(crate) open_files: Option<u64>,
    /// What the processes that it starts carry in their environment, if they are to end with it.
    pub(crate) marks: Option<Marks>,
}

/// How a process's output is kept.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    /// It writes to the file itself: its lines carry their own time.
    File(PathBuf),
    /// Each line passes through the supervisor, which notes time and stream.
    Lines(PathBuf),
}

/// A started process, the leader of its own group.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pid: Pid,
    grace: Duration,
    marks: Option<Marks>,
}

/// Starts a process through `reeve run`.
///
/// Must be called on the supervisor's main thread: the kernel sends the parent-death signal when the *thread* that
/// started the process ends (`PR_SET_PDEATHSIG`, prctl(2)).
pub(crate) fn start(reeve: &Path, spec: &Spec) -> io::Result<Running> {
    let mut command = Command::new(reeve);
    command
        .arg("run")
        .arg("--parent")
        .arg(std::process::id().to_string())
        .arg("--signal")
        .arg(spec.death.as_str())
        .args(confinement(spec))
        .arg("--")
        .args(&spec.command)
        .env_clear()
        .envs(spec.env.iter().map(|(key, value)| (key, value)))
        .current_dir(&spec.dir)
        .stdin(Stdio::null())
        .process_group(0);
    match &spec.output {
        Output::File(path) => {
            let file = super::logfile::open(path)?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        Output::Lines(_) => {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
    }
    let mut child = command.spawn()?;
    if let Output::Lines(path) = &spec.output {
        let (out, err) = (child.stdout.take(), child.stderr.take());
        tokio::spawn(super::logfile::capture(path.clone(), out, err));
    }
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let pid = pid.ok_or_else(|| io::Error::other("the process ended at once"))?;
    Ok(Running {
        child,
        pid,
        grace: spec.grace,
        marks: spec.marks.clone(),
    })
}

fn confinement(spec: &Spec) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    if let Some(name) = &spec.netns {
        args.extend(["--netns".into(), name.into()]);
    }
    if let Some(limit) = spec.open_files {
        args.extend(["--open-files".into(), limit.to_string().into()]);
    }
    let privilege = &spec.privilege;
    for (flag, id) in [("--uid", privilege.uid), ("--gid", privilege.gid)] {
        if let Some(id) = id {
            args.extend([flag.into(), id.to_string().into()]);
        }
    }
    if privilege.keep_net_admin {
        args.push("--keep-net-admin".into());
    }
    if privilege.confined {
        args.push("--confined".into());
    }
    args
}

impl Running {
    /// Its process id, which is its group's too.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Waits for its end. Cancel-safe.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end, and ends it and whatever it left in its group when its grace is over or `abort` says so.
    pub(crate) async fn stop(&mut self, abort: &CancellationToken) {
        if !abort.is_cancelled() {
            // ESRCH: it has ended by itself.
            kill_process(self.pid, Signal::TERM).unwrap_or_default();
            // Cancel-safe: both may be polled again or dropped.
            tokio::select! {
                _ = self.child.wait() => {}
                () = tokio::time::sleep(self.grace) => {}
                () = abort.cancelled() => {}
            }
        }
        self.sweep();
        drop(self.child.wait().await);
    }

    /// Ends everything that is still in its group or carries its marks.
    pub(crate) fn sweep(&self) {
        kill_process_group(self.pid, Signal::KILL).unwrap_or_default();
        if let Some(marks) = &self.marks {
            escaped::end(marks);
        }
    }
}

/// An exit as a shell gives it: 128 and the signal's number if a signal ended it.
pub(crate) fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let signal = || status.signal().map(|signal| signal.saturating_add(128));
    status.code().or_else(signal).unwrap_or(-1)
}

/// An exit in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown end".to_owned(),
    }
}
