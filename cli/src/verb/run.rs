//! `reeve run` (hidden): becomes another program that dies with its parent.

use std::{ffi::OsString, io::ErrorKind, os::unix::process::CommandExt, process::Command};

use clap::{Args, ValueEnum};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};

mod confine;

pub(crate) use confine::enter_namespace;

use crate::problem::{Problem, Verdict};

/// `reeve run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The process that must still be the parent.
    #[arg(long, value_name = "PID")]
    parent: i32,
    /// What to be sent when the parent dies.
    #[arg(long, value_enum, default_value_t = DeathSignal::Kill)]
    signal: DeathSignal,
    /// The named network namespace to run in.
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// The soft limit of open files.
    #[arg(long, value_name = "NUMBER")]
    open_files: Option<u64>,
    #[command(flatten)]
    privilege: PrivilegeArgs,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What of root's power is given up.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrivilegeArgs {
    /// Become this user.
    #[arg(long, value_name = "UID", requires = "gid")]
    pub(crate) uid: Option<u32>,
    /// And this group, without any other.
    #[arg(long, value_name = "GID", requires = "uid")]
    pub(crate) gid: Option<u32>,
    /// Keep CAP_NET_ADMIN as that user.
    #[arg(long, requires = "uid")]
    pub(crate) keep_net_admin: bool,
    /// Stay root, without the capabilities to leave or change a network namespace or become another user.
    #[arg(long, conflicts_with = "uid")]
    pub(crate) confined: bool,
}

/// The signal a parent's death sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeathSignal {
    /// SIGTERM: drain, then end.
    Term,
    /// SIGKILL: end at once.
    Kill,
}

impl DeathSignal {
    /// As it stands on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Term => "term",
            Self::Kill => "kill",
        }
    }
}

/// Becomes the command.
pub(crate) fn run(args: RunArgs) -> Verdict {
    let signal = match args.signal {
        DeathSignal::Term => Signal::TERM,
        DeathSignal::Kill => Signal::KILL,
    };
    if let Some(name) = &args.netns {
        enter_namespace(name)?;
    }
    if let Some(limit) = args.open_files {
        limit_open_files(limit)?;
    }
    confine::give_up(&args.privilege)?;
    // After the change of user, which clears it (prctl(2)).
    set_parent_process_death_signal(Some(signal))
        .map_err(|error| Problem::because("the kernel refused a parent-death signal", &error))?;
    // The parent may have died before the call above: then no signal ever comes.
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(args.parent) {
        return Err(Problem::new("the process that started this one is gone"));
    }
    let mut command = args.command.into_iter();
    let program = command
        .next()
        .ok_or_else(|| Problem::new("there is no command to run"))?;
    let error = Command::new(confine::reachable(&program))
        .arg0(&program)
        .args(command)
        .exec();
    let fix = if error.kind() == ErrorKind::NotFound {
        "install it, or write its full path in the workload's command"
    } else if error.kind() == ErrorKind::PermissionDenied {
        "make it executable"
    } else {
        "try to run it by hand"
    };
    Err(Problem::because(
        format!("{} could not be started", program.display()),
        &error,
    )
    .fix(fix))
}

/// Sets the soft limit alone: the program can raise it again.
fn limit_open_files(soft: u64) -> Result<(), Problem> {
    let limit = Rlimit {
        current: Some(soft),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, limit)
        .map_err(|error| Problem::because("the number of open files could not be limited", &error))
}
