//! The supervisor's end of `reeve guard`: a process that outlives it just long enough to end what it started.

use std::{
    io::Write,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::Mutex,
};

use super::network::Network;
use crate::{problem::Problem, verb::run::DeathSignal};

/// Names process groups to the guard.
#[derive(Debug)]
pub(crate) struct Guard {
    pipe: Mutex<Option<ChildStdin>>,
    child: Mutex<Option<Child>>,
}

impl Guard {
    /// Starts the guard; `remove` is a directory that must not be left behind.
    pub(crate) fn start(
        reeve: &Path,
        marker: &str,
        remove: Option<&Path>,
        network: Option<Network>,
    ) -> Result<Self, Problem> {
        let mut command = Command::new(reeve);
        command.arg("guard").arg("--marker").arg(marker);
        if let Some(dir) = remove {
            command.arg("--remove").arg(dir);
        }
        if let Some(network) = network {
            command.arg("--network").arg(network.base().to_string());
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                Problem::because("the guard process could not be started", &error)
                    .at(reeve.display())
            })?;
        Ok(Self {
            pipe: Mutex::new(child.stdin.take()),
            child: Mutex::new(Some(child)),
        })
    }

    /// A process group was started; with it, the supervisor's death sends its leader `death`.
    pub(crate) fn watch_group(&self, group: u32, death: DeathSignal) {
        let sign = match death {
            DeathSignal::Kill => '+',
            DeathSignal::Term => '~',
        };
        self.say(&format!("{sign}{group}\n"));
    }

    /// A process group has ended.
    pub(crate) fn forget_group(&self, group: u32) {
        self.say(&format!("-{group}\n"));
    }

    fn say(&self, line: &str) {
        let mut pipe = self
            .pipe
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(pipe) = pipe.as_mut() {
            // A guard that was killed can guard nothing; the parent-death signals remain.
            drop(pipe.write_all(line.as_bytes()));
        }
    }

    /// Everything has ended in order: the guard ends whatever escaped its group, and then itself.
    pub(crate) fn dismiss(&self) {
        drop(
            self.pipe
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .take(),
        );
        let child = self
            .child
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(mut child) = child {
            drop(child.wait());
        }
    }
}
