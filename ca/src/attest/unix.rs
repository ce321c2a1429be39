//! What the kernel knows of a process: user, groups, executable, control group (SPIRE's workload attestors `unix` and
//! `systemd`).

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};
use nix::unistd::{Gid, Group, Uid, User};
use reeve_core::Selectors;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, readlinkat, stat, statat};

use super::{AttestError, Attestation, Attestor, Evidence, UnixPeer};

/// Largest executable that is hashed.
const MAX_EXECUTABLE_BYTES: u64 = 1 << 30;
/// Most that is read of a file of `/proc`.
const MAX_PROC_BYTES: u64 = 64 * 1024;
/// Most supplementary groups that are looked at.
const MAX_GROUPS: usize = 256;

/// Knows processes by what `/proc` says of them while their pidfd lives.
#[derive(Clone, Debug)]
pub struct UnixAttestor {
    proc: PathBuf,
}

impl Default for UnixAttestor {
    fn default() -> Self {
        Self {
            proc: PathBuf::from("/proc"),
        }
    }
}

#[tonic::async_trait]
impl Attestor for UnixAttestor {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attestation>, AttestError> {
        let Evidence::Process { peer, hashed } = evidence else {
            return Ok(None);
        };
        let (proc, peer) = (self.proc.clone(), peer.clone());
        let looked = tokio::task::spawn_blocking(move || facts(&proc, &peer, hashed)).await;
        let unread = |error: String| AttestError::Unavailable(error);
        let selectors = looked.map_err(|error| unread(error.to_string()))??;
        Ok(Some(Attestation {
            selectors,
            identities: Vec::new(),
        }))
    }
}

/// Everything that is known of a process.
fn facts(proc: &Path, peer: &UnixPeer, hashed: bool) -> Result<Selectors, AttestError> {
    let opened = Process::open(proc, peer.pid);
    // SECURITY: the process lives, so that its id is still its own: what was opened is its folder, and stays so. What is
    // read there after its end is an error, not another process's.
    peer.check_alive()?;
    let process = opened.map_err(|error| unreadable(peer, &error))?;
    let mut known = Selectors::default();
    known.learn("unix:uid", peer.uid);
    known.learn("unix:gid", peer.gid);
    if let Ok(Some(user)) = User::from_uid(Uid::from_raw(peer.uid)) {
        known.learn("unix:user", user.name);
    }
    if let Some(name) = group_name(peer.gid) {
        known.learn("unix:group", name);
    }
    let read = process.read_into(&mut known, hashed);
    // SECURITY: the same process still lives, so all of it was about the caller.
    peer.check_alive()?;
    read.map_err(|error| unreadable(peer, &error))?;
    Ok(known)
}

fn unreadable(peer: &UnixPeer, error: &io::Error) -> AttestError {
    AttestError::Refused(format!("nothing is known of {peer}: {error}"))
}

fn group_name(gid: u32) -> Option<String> {
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    group.map(|group| group.name)
}

/// The folder of one process in `/proc`.
struct Process(OwnedFd);

impl Process {
    fn open(proc: &Path, pid: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, proc.join(pid.to_string()), flags, Mode::empty())?;
        Ok(Self(folder))
    }

    fn read_into(&self, known: &mut Selectors, hashed: bool) -> io::Result<()> {
        let status = self.text("status")?;
        for gid in groups(&status).take(MAX_GROUPS) {
            known.learn("unix:supplementary_gid", gid);
            if let Some(name) = group_name(gid) {
                known.learn("unix:supplementary_group", name);
            }
        }
        if let Some(path) = control_group(&self.text("cgroup")?) {
            known.learn("unix:cgroup", &path);
            if let Some(unit) = unit(&path) {
                known.learn("systemd:id", unit);
            }
        }
        // A process whose executable cannot be told has the other facts all the same.
        if let Some(path) = self.path() {
            known.learn("unix:path", path);
        }
        if hashed && let Some(hash) = self.hash()? {
            known.learn("unix:sha256", hash);
        }
        Ok(())
    }

    fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(openat(&self.0, name, flags, Mode::empty())?.into())
    }

    fn text(&self, name: &str) -> io::Result<String> {
        let mut text = String::new();
        self.file(name)?
            .take(MAX_PROC_BYTES)
            .read_to_string(&mut text)?;
        Ok(text)
    }

    /// The path of the executable, if that file stands there as we see it. In a mount namespace of its own, which any user
    /// can make, a process may call its executable what it likes.
    fn path(&self) -> Option<String> {
        let path = readlinkat(&self.0, "exe", Vec::new()).ok()?;
        let path = path.into_string().ok()?;
        let runs = statat(&self.0, "exe", AtFlags::empty()).ok()?;
        let stands = stat(path.as_str()).ok()?;
        let same = (runs.st_dev, runs.st_ino) == (stands.st_dev, stands.st_ino);
        same.then_some(path)
    }

    /// SHA-256 of the executable as it runs, whatever its path names by now; none if it cannot be read or is too large.
    fn hash(&self) -> io::Result<Option<String>> {
        let Ok(executable) = self.file("exe") else {
            return Ok(None);
        };
        let metadata = executable.metadata()?;
        if !metadata.is_file() || metadata.len() > MAX_EXECUTABLE_BYTES {
            return Ok(None);
        }
        let mut executable = executable.take(MAX_EXECUTABLE_BYTES);
        let mut digest = Context::new(&SHA256);
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let read = executable.read(&mut buffer)?;
            match buffer.get(..read) {
                Some([]) | None => break,
                Some(bytes) => digest.update(bytes),
            }
        }
        Ok(Some(hex::encode(digest.finish())))
    }
}

/// The supplementary groups in `/proc/<pid>/status` (proc_pid_status(5)).
fn groups(status: &str) -> impl Iterator<Item = u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    let ids = line.unwrap_or_default().split_ascii_whitespace();
    ids.filter_map(|id| id.parse().ok())
}

/// The control group in `/proc/<pid>/cgroup` (cgroups(7)): of version 2, or of systemd's hierarchy of version 1.
fn control_group(text: &str) -> Option<String> {
    let of = |wanted: &str| text.lines().find_map(|line| line.strip_prefix(wanted));
    let named = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.strip_prefix("name=systemd:")
    });
    of("0::").or(named).map(str::to_owned)
}

/// The system's unit that a control group is of: the first part that is no slice (systemd's `cg_path_get_unit`). What is
/// below a unit its own user may have named.
fn unit(path: &str) -> Option<&str> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let unit = parts.find(|part| !part.ends_with(".slice"))?;
    let known = [".service", ".scope"];
    known.iter().any(|end| unit.ends_with(end)).then_some(unit)
}

#[cfg(test)]
mod tests;
