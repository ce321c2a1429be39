//! What a process that holds keys does first.

use anyhow::Context;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};

/// Keeps this process's memory out of core dumps and away from debuggers.
pub fn forbid_core_dumps() -> anyhow::Result<()> {
    let nothing = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, nothing).context("core dumps could not be switched off")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context("this process could not be made undumpable")
}

/// Has the kernel end this process when the supervisor that started it dies.
pub fn end_with_parent() -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .context("the parent's death could not be asked to end this process")
}
