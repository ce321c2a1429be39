//! The state directory: where it is, what lies in it, and who may use it.
//!
//! SECURITY: whoever can write here is the mesh's operator. A directory that another user owns, or that group or
//! others can reach, is refused.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use clap::Args;
use reeve_core::InstanceName;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// A Unix socket's path with its final zero byte must fit in `sockaddr_un.sun_path` (unix(7)).
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// Write-ahead logs, beside the mesh's log.
pub(crate) const WALS: &str = "wal";
/// Where audit replicas have their folders, beside the mesh's log.
const REPLICAS: &str = "replicas";

/// The logs of audit replicas beside the mesh log in `audit`: `replicas/NAME/audit`.
pub(crate) fn replica_logs(audit: &Path) -> Vec<PathBuf> {
    replica_parts(audit, "audit")
}

/// The mesh log in `audit`, and those of its replicas.
pub(crate) fn all_logs(audit: &Path) -> impl Iterator<Item = PathBuf> {
    std::iter::once(audit.to_owned()).chain(replica_logs(audit))
}

/// A folder of each audit replica beside the mesh log in `audit`.
pub(crate) fn replica_parts(audit: &Path, part: &str) -> Vec<PathBuf> {
    let folders = fs::read_dir(audit.with_file_name(REPLICAS));
    let mut found: Vec<_> = (folders.into_iter().flatten().flatten())
        .map(|entry| entry.path().join(part))
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// `--state`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct StateArgs {
    /// The mesh's state directory [default: $XDG_RUNTIME_DIR/reeve-UID, or /tmp/reeve-UID].
    #[arg(long, env = "REEVE_STATE", value_name = "DIR", hide_env_values = true)]
    pub(crate) state: Option<PathBuf>,
}

impl StateArgs {
    /// The directory meant.
    pub(crate) fn dir(&self) -> StateDir {
        StateDir::new(self.state.clone().unwrap_or_else(default_dir))
    }

    /// The directory meant, which must hold a mesh's state.
    pub(crate) fn existing(&self) -> Result<StateDir, Problem> {
        let dir = self.dir();
        if dir.path().is_dir() {
            return Ok(dir);
        }
        Err(Problem::new("there is no mesh")
            .at(dir.path().display())
            .fix("start one with `reeve demo` or `reeve up -f FOLDER`, or name its state directory with --state DIR"))
    }
}

fn default_dir() -> PathBuf {
    let base = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let base = base.map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    base.join(format!("reeve-{}", rustix::process::getuid().as_raw()))
}

/// A state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateDir(PathBuf);

/// What `supervisor.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SupervisorRecord {
    /// The supervisor's process.
    pub(crate) pid: u32,
    /// The mesh's addresses are `127.<base>.*`.
    pub(crate) base: u8,
    /// The configuration folder.
    pub(crate) folder: PathBuf,
    /// The mesh process.
    pub(crate) mesh_pid: Option<u32>,
}

impl StateDir {
    /// A directory that need not exist yet. Its path is made absolute: other processes run elsewhere.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(std::path::absolute(&path).unwrap_or(path))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The who-is service.
    pub(crate) fn supervisor_socket(&self) -> PathBuf {
        self.0.join("supervisor.sock")
    }

    /// What runs the mesh.
    pub(crate) fn supervisor_record(&self) -> PathBuf {
        self.0.join("supervisor.json")
    }

    /// What runs where.
    pub(crate) fn instances(&self) -> PathBuf {
        self.0.join(reeve_control::instances::FILE_NAME)
    }

    /// Where local sidecars ask for certificates.
    pub(crate) fn mesh_socket(&self) -> PathBuf {
        self.0.join("mesh.sock")
    }

    /// Where sidecars without a network to the mesh process reach all of it.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// The mesh's authorities, as the mesh process wrote them down.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.0.join("bundle.pem")
    }

    /// The audit log.
    pub(crate) fn audit(&self) -> PathBuf {
        self.0.join("audit")
    }

    /// What belongs to audit replicas, a folder for each.
    pub(crate) fn replicas(&self) -> PathBuf {
        self.0.join(REPLICAS)
    }

    /// An audit replica's folder.
    pub(crate) fn replica(&self, name: &InstanceName) -> PathBuf {
        self.replicas().join(name.as_str())
    }

    /// Where an audit replica serves sidecars without a network to it.
    pub(crate) fn replica_socket(&self, name: &InstanceName) -> PathBuf {
        self.0.join(format!("{name}.sock"))
    }

    /// All write-ahead logs.
    pub(crate) fn wals(&self) -> PathBuf {
        self.0.join(WALS)
    }

    /// A sidecar's write-ahead log.
    pub(crate) fn wal(&self, instance: &InstanceName) -> PathBuf {
        self.wals().join(instance.as_str())
    }

    /// A sidecar's agent socket.
    pub(crate) fn agent_socket(&self, instance: &InstanceName) -> PathBuf {
        self.0.join("run").join(format!("{instance}.sock"))
    }

    /// A sidecar's admin socket.
    pub(crate) fn admin_socket(&self, instance: &InstanceName) -> PathBuf {
        self.0.join("run").join(format!("{instance}.admin.sock"))
    }

    /// Where a sidecar hands its listening sockets to the next.
    pub(crate) fn handover_socket(&self, instance: &InstanceName) -> PathBuf {
        self.0.join("run").join(format!("{instance}.next.sock"))
    }

    /// All captured output.
    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// Who supervises the mesh, as it last said.
    pub(crate) fn supervisor(&self) -> Result<SupervisorRecord, Problem> {
        let path = self.supervisor_record();
        let text = fs::read(&path).map_err(|error| {
            Problem::because("there is no running mesh", &error)
                .at(path.display())
                .fix("start one with `reeve demo` or `reeve up -f FOLDER`, or name its state directory with --state DIR")
        })?;
        serde_json::from_slice(&text).map_err(|error| {
            Problem::because("the supervisor's record is damaged", &error)
                .at(path.display())
                .fix("stop the mesh and start it again")
        })
    }

    /// Makes the directory if need be, checks who can reach it, and takes it for this process.
    pub(crate) fn claim(self) -> Result<ClaimedState, Problem> {
        self.make().map_err(|error| {
            Problem::because("the state directory cannot be made", &error)
                .at(self.0.display())
                .fix("name another with --state DIR")
        })?;
        self.check_owner()?;
        let lock = self.lock()?;
        for name in ["run", "logs", "wal"] {
            make_private(&self.0.join(name)).map_err(|error| {
                Problem::because("the state directory cannot be written", &error)
                    .at(self.0.display())
            })?;
        }
        Ok(ClaimedState {
            dir: self,
            _lock: lock,
        })
    }

    fn make(&self) -> io::Result<()> {
        if let Some(parent) = self.0.parent() {
            fs::create_dir_all(parent)?;
        }
        make_private(&self.0)
    }

    fn check_owner(&self) -> Result<(), Problem> {
        let place = self.0.display().to_string();
        // Not following a link: in /tmp, a stranger could have planted one.
        let meta = fs::symlink_metadata(&self.0).map_err(|error| {
            Problem::because("the state directory cannot be read", &error).at(&place)
        })?;
        if !meta.is_dir() {
            return Err(
                Problem::new("the state directory is something else than a directory")
                    .at(&place)
                    .fix("name another with --state DIR"),
            );
        }
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(Problem::new("the state directory belongs to another user")
                .at(&place)
                .fix("name another with --state DIR"));
        }
        // Sidecars with users of their own pass through it (`reeve up --intercept`).
        let through = if meta.gid() == crate::supervisor::SIDECAR_GROUP {
            0o010
        } else {
            0
        };
        if meta.mode() & 0o077 & !through != 0 {
            return Err(Problem::new(format!(
                "the state directory can be reached by other users (mode {:03o})",
                meta.mode() & 0o777
            ))
            .at(&place)
            .fix(format!("chmod 700 {place}")));
        }
        Ok(())
    }

    fn lock(&self) -> Result<File, Problem> {
        let path = self.0.join("supervisor.lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| {
                Problem::because("the state directory cannot be locked", &error).at(path.display())
            })?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let owner = self.supervisor().ok();
            let who = owner.map_or(String::new(), |o| format!(" (process {})", o.pid));
            return Err(Problem::new(format!(
                "the state directory is in use by another mesh{who}"
            ))
            .at(self.0.display())
            .fix("stop that mesh, or give this one a directory of its own with --state DIR"));
        }
        Ok(file)
    }
}

/// A state directory that this process alone supervises, until it ends.
#[derive(Debug)]
pub(crate) struct ClaimedState {
    dir: StateDir,
    _lock: File,
}

impl std::ops::Deref for ClaimedState {
    type Target = StateDir;

    fn deref(&self) -> &StateDir {
        &self.dir
    }
}

/// Makes a directory that only its owner reaches; one that is there stays.
fn make_private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Refuses a socket path that the kernel would refuse (unix(7)).
pub(crate) fn check_socket_path(path: &Path) -> Result<(), Problem> {
    let length = path.as_os_str().len();
    if length <= MAX_SOCKET_PATH {
        return Ok(());
    }
    Err(Problem::new(format!(
        "a socket's path may have {MAX_SOCKET_PATH} bytes, and this one has {length}"
    ))
    .at(path.display())
    .fix("name a state directory with a shorter path with --state DIR"))
}

#[cfg(test)]
mod tests;
