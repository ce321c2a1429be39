//! What a process that holds keys or connections does first.

use anyhow::Context;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getrlimit, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};

/// Keeps this process's memory out of core dumps and away from debuggers.
pub fn forbid_core_dumps() -> anyhow::Result<()> {
    let nothing = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, nothing).context("core dumps could not be switched off")?;
    hide_from_others()
}

/// Keeps this process's memory, environment and open files from other processes of the same user, as from debuggers.
/// What it starts is not affected.
pub fn hide_from_others() -> anyhow::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context("this process could not be made undumpable")
}

/// Has the kernel end this process when the supervisor that started it dies.
pub fn end_with_parent() -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .context("the parent's death could not be asked to end this process")
}

/// Lets this process have as many open files as its hard limit allows: each connection is one. Returns the soft limit
/// before, which programs that use select(2) are to get back; none if there was no limit.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = limit.current, "the number of open files stays limited");
    }
    limit.current
}
