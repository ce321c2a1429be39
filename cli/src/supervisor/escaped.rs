//! Finds and ends processes that left their group, by the marks in their environment.

use std::{
    fs,
    io::{BufReader, Read},
    path::Path,
};

use rustix::process::{Pid, Signal, kill_process};

/// An environment is not read beyond this.
const MAX_ENVIRON: u64 = 1024 * 1024;

/// The variable whose value is unique to one run of a mesh.
pub(crate) const MESH_MARK: &str = "REEVE_MESH_ID";
/// The variable that names the instance.
pub(crate) const INSTANCE_MARK: &str = "REEVE_INSTANCE";

/// What all processes of an application carry in their environment: `NAME=VALUE` pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marks(Vec<String>);

impl Marks {
    /// Of every application of a mesh.
    pub(crate) fn of_mesh(mesh: &str) -> Self {
        Self(vec![format!("{MESH_MARK}={mesh}")])
    }

    /// Of one instance's application.
    pub(crate) fn of_instance(mesh: &str, instance: &str) -> Self {
        let mut marks = Self::of_mesh(mesh);
        marks.0.push(format!("{INSTANCE_MARK}={instance}"));
        marks
    }

    fn are_in(&self, environ: &[u8]) -> bool {
        self.0.iter().all(|mark| {
            environ
                .split(|byte| *byte == 0)
                .any(|pair| pair == mark.as_bytes())
        })
    }
}

/// Ends every process that carries all the marks.
pub(crate) fn end(marks: &Marks) {
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|pid| *pid != rustix::process::getpid()) else {
            continue;
        };
        if environ(&entry.path()).is_some_and(|environ| marks.are_in(&environ)) {
            kill_process(pid, Signal::KILL).unwrap_or_default();
        }
    }
}

fn environ(process: &Path) -> Option<Vec<u8>> {
    let file = fs::File::open(process.join("environ")).ok()?;
    let mut environ = Vec::new();
    BufReader::new(file)
        .take(MAX_ENVIRON)
        .read_to_end(&mut environ)
        .ok()?;
    Some(environ)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_processes_with_all_marks_are_ended() {
        let marked = |mesh: &str, instance: &str| {
            Command::new("sleep")
                .arg("60")
                .env(MESH_MARK, mesh)
                .env(INSTANCE_MARK, instance)
                .spawn()
                .unwrap()
        };
        let mesh = format!("test-{}", std::process::id());
        let mut ours = marked(&mesh, "a-0");
        let mut neighbour = marked(&mesh, "a-1");
        let mut stranger = marked("other", "a-0");
        // Until exec, a child has its parent's environment.
        std::thread::sleep(std::time::Duration::from_millis(200));
        end(&Marks::of_instance(&mesh, "a-0"));
        assert!(!ours.wait().unwrap().success());
        assert_eq!(neighbour.try_wait().unwrap(), None);
        end(&Marks::of_mesh(&mesh));
        assert!(!neighbour.wait().unwrap().success());
        assert_eq!(stranger.try_wait().unwrap(), None);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
