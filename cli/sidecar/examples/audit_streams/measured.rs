//! The process under measure, an audit replica; and what it uses.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use reeve_core::InstanceName;
use rustix::process::{Pid, Signal, kill_process};

use crate::{Failure, mesh::Mesh};

/// What it has used.
pub(crate) struct Used {
    pub(crate) cpu_s: f64,
    pub(crate) written: u64,
    pub(crate) batches: u64,
}

/// It runs.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: String,
    checkpoint: PathBuf,
}

impl Running {
    /// Starts the audit replica of that name, whose own files are in `own`.
    pub(crate) fn start(
        reeve: &str,
        (name, own): (&InstanceName, &Path),
        mesh: &Mesh,
        url: Option<&str>,
    ) -> Result<Self, Failure> {
        fs::create_dir_all(own)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let store = url.map(|url| ["--audit-store", url]);
        let child = Command::new(reeve)
            .args([
                "audit",
                "serve",
                "--name",
                name.as_str(),
                "--listen",
                &address,
            ])
            .args(["--mesh-address", &mesh.address.to_string(), "--state"])
            .arg(own)
            .arg("--join-token-file")
            .arg(&mesh.token)
            .arg("--bundle")
            .arg(&mesh.bundle)
            .args(store.into_iter().flatten())
            .stdout(Stdio::null())
            .stderr(fs::File::create(own.join("log"))?)
            .spawn()?;
        let mut running = Self {
            child,
            address,
            checkpoint: own.join("audit/checkpoint"),
        };
        while !running.checkpoint.exists()
            || std::net::TcpStream::connect(&running.address).is_err()
        {
            if running.still().is_err() {
                return Err(fs::read_to_string(own.join("log"))?.into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    pub(crate) fn resident_kib(&self) -> Result<u64, Failure> {
        self.number("status", "VmRSS:")
    }

    /// A number of `/proc/PID/FILE` (proc(5)).
    pub(crate) fn number(&self, file: &str, name: &str) -> Result<u64, Failure> {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let line = line.ok_or_else(|| format!("no {name}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    pub(crate) fn used(&self) -> Result<Used, Failure> {
        let mut nanos = 0u64;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
                nanos += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
            }
        }
        let checkpoint = fs::read_to_string(&self.checkpoint)?;
        Ok(Used {
            cpu_s: Duration::from_nanos(nanos).as_secs_f64(),
            written: self.number("io", "write_bytes:")?,
            batches: checkpoint.lines().nth(1).unwrap_or_default().parse()?,
        })
    }

    /// Sockets that it has open.
    pub(crate) fn connections(&self) -> Result<usize, Failure> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id()))?;
        let targets = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        Ok(targets
            .filter(|to| to.to_string_lossy().starts_with("socket:"))
            .count())
    }
}

/// Counts what a process asks of the disk.
pub(crate) struct Calls {
    perf: Child,
    told: tempfile::NamedTempFile,
}

impl Calls {
    const COUNTED: [&str; 7] = [
        "fsync",
        "fdatasync",
        "syncfs",
        "rename",
        "renameat",
        "unlink",
        "unlinkat",
    ];

    pub(crate) fn count(of: &Running) -> Result<Self, Failure> {
        let told = tempfile::NamedTempFile::new()?;
        let events = Self::COUNTED.map(|name| format!("syscalls:sys_enter_{name}"));
        let perf = Command::new("perf")
            .args(["stat", "-x", ",", "-e", &events.join(","), "-p"])
            .arg(of.child.id().to_string())
            .arg("-o")
            .arg(told.path())
            .spawn()
            .map_err(|error| format!("perf cannot be run: {error}"))?;
        Ok(Self { perf, told })
    }

    pub(crate) fn end(mut self) -> Result<BTreeMap<String, u64>, Failure> {
        let pid = i32::try_from(self.perf.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.ok_or("no process")?, Signal::INT)?;
        self.perf.wait()?;
        let told = fs::read_to_string(self.told.path())?;
        let line = |line: &str| {
            let (count, rest) = line.split_once(',')?;
            let name = rest.split("sys_enter_").nth(1)?.split(',').next()?;
            Some((name.to_owned(), count.parse().ok()?))
        };
        Ok(told.lines().filter_map(line).collect())
    }
}

impl Running {
    /// An error if it has ended.
    pub(crate) fn still(&mut self) -> Result<(), Failure> {
        match self.child.try_wait()? {
            Some(ended) => Err(format!("the process under measure ended: {ended}").into()),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
