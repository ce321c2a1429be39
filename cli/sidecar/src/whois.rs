//! Asking the supervisor who is behind a process id: the attestation of local meshes.
//!
//! The supervisor is the parent of every process of a local mesh, so it knows which process it started as what.
//! One line of JSON goes out, one comes back.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use reeve_core::{InstanceName, Namespace, ServiceAccount, WorkloadName};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

/// An answer is one short line.
const MAX_ANSWER: u64 = 4096;
/// Bound on one exchange.
const PATIENCE: Duration = Duration::from_secs(2);

/// The supervisor, at its socket.
#[derive(Clone, Debug)]
pub struct WhoIs {
    socket: PathBuf,
    trusted: Trusted,
}

/// Whose answers are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trusted {
    /// The process that started this one.
    Parent,
    #[cfg(test)]
    Pid(i32),
}

/// A process of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Known {
    /// The instance it belongs to.
    pub instance: InstanceName,
    /// Its workload.
    pub workload: WorkloadName,
    /// The workload's namespace.
    pub namespace: Namespace,
    /// The workload's service account.
    pub service_account: ServiceAccount,
    /// Which of the instance's processes it is.
    pub role: Role,
    /// The user that the supervisor started it as, if that is not the supervisor's own.
    #[serde(default)]
    pub uid: Option<u32>,
}

/// Which process of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The sidecar itself.
    Sidecar,
    /// The application, or a process that it started.
    App,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WhoIsError {
    /// The supervisor cannot be asked.
    #[error("the supervisor cannot be asked at {path}: {source}")]
    Io {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else listens at the supervisor's socket.
    #[error(
        "{path} is served by process {found:?}, not by the supervisor that started this process"
    )]
    Impostor {
        /// The socket.
        path: PathBuf,
        /// Who listens there.
        found: Option<i32>,
    },
    /// The answer is not what was agreed.
    #[error("the supervisor's answer is not understood: {0}")]
    Answer(#[source] serde_json::Error),
    /// The supervisor did not start that process.
    #[error("{0}")]
    Unknown(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Known(Known),
    Unknown { error: String },
}

impl WhoIs {
    /// Asks at `socket`, and believes only the process that started this one.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            trusted: Trusted::Parent,
        }
    }

    /// Who `pid` is.
    pub async fn ask(&self, pid: u32) -> Result<Known, WhoIsError> {
        let answer = match timeout(PATIENCE, self.exchange(pid)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(self.io(io::ErrorKind::TimedOut.into())),
        };
        match serde_json::from_slice(&answer).map_err(WhoIsError::Answer)? {
            Answer::Known(known) => Ok(known),
            Answer::Unknown { error } => Err(WhoIsError::Unknown(error)),
        }
    }

    async fn exchange(&self, pid: u32) -> Result<Vec<u8>, WhoIsError> {
        let connected = UnixStream::connect(&self.socket).await;
        let mut stream = connected.map_err(|e| self.io(e))?;
        self.check_supervisor(&stream)?;
        let question = format!("{{\"pid\":{pid}}}\n");
        let written = stream.write_all(question.as_bytes()).await;
        written.map_err(|e| self.io(e))?;
        let mut answer = Vec::new();
        let read = BufReader::new(stream.take(MAX_ANSWER))
            .read_until(b'\n', &mut answer)
            .await;
        read.map_err(|e| self.io(e))?;
        Ok(answer)
    }

    /// SECURITY: whoever can take the socket's place could name any process a workload; only our parent is believed.
    fn check_supervisor(&self, stream: &UnixStream) -> Result<(), WhoIsError> {
        let peer = stream.peer_cred().map_err(|e| self.io(e))?;
        let trusted = match self.trusted {
            Trusted::Parent => rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()),
            #[cfg(test)]
            Trusted::Pid(pid) => Some(pid),
        };
        if peer.pid().is_some() && peer.pid() == trusted {
            return Ok(());
        }
        Err(WhoIsError::Impostor {
            path: self.socket.clone(),
            found: peer.pid(),
        })
    }

    fn io(&self, source: io::Error) -> WhoIsError {
        WhoIsError::Io {
            path: self.socket.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    fn own_pid() -> i32 {
        std::process::id().try_into().unwrap()
    }

    async fn ask(answer: &'static str, trusted: Trusted) -> Result<Known, WhoIsError> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("supervisor.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let serve = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut question = String::new();
            stream.read_line(&mut question).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            question
        });
        let known = WhoIs { socket, trusted }.ask(42).await;
        if known.is_ok() {
            assert_eq!(serve.await.unwrap(), "{\"pid\":42}\n");
        }
        known
    }

    #[tokio::test]
    async fn the_supervisor_names_its_processes() {
        let answer = "{\"instance\":\"reviews-v1-0\",\"workload\":\"reviews-v1\",\"namespace\":\"default\",\
            \"service_account\":\"reviews\",\"role\":\"sidecar\"}\n";
        let known = ask(answer, Trusted::Pid(own_pid())).await.unwrap();
        assert_eq!(known.instance.as_str(), "reviews-v1-0");
        assert_eq!(known.role, Role::Sidecar);
    }

    #[tokio::test]
    async fn a_stranger_is_unknown() {
        let unknown = ask("{\"error\":\"not ours\"}\n", Trusted::Pid(own_pid())).await;
        assert!(matches!(unknown, Err(WhoIsError::Unknown(why)) if why == "not ours"));
        let nonsense = ask("nonsense\n", Trusted::Pid(own_pid())).await;
        assert!(matches!(nonsense, Err(WhoIsError::Answer(_))));
    }

    #[tokio::test]
    async fn only_the_parent_is_believed() {
        let answer = ask("{}\n", Trusted::Parent).await;
        assert!(matches!(answer, Err(WhoIsError::Impostor { .. })));
    }

    #[tokio::test]
    async fn a_missing_supervisor_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let asked = WhoIs::new(&folder.path().join("none.sock")).ask(1).await;
        assert!(matches!(asked, Err(WhoIsError::Io { .. })));
    }
}
