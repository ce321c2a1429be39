//! The who-is service: which workload is behind a process id.
//!
//! One line of JSON in, one out; an operator's orders come the same way ([`super::orders`]). The answer rests on what the supervisor started itself: a sidecar is exactly the
//! process it started as one; an application is that process or a descendant of it. A process that was orphaned is
//! nobody's descendant and gets no identity.

use std::{
    collections::BTreeMap, fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc,
    time::Duration,
};

use reeve_core::InstanceName;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::UCred},
    sync::Semaphore,
    time::timeout,
};

use super::{
    orders::{Desk, Done, Order},
    roster::Live,
};
use crate::{problem::Problem, state::check_socket_path};

/// Questions at one time.
const MAX_CALLERS: usize = 64;
/// A question is one short line.
const MAX_QUESTION: u64 = 256;
/// Bound on a connection without a question.
const PATIENCE: Duration = Duration::from_secs(5);
/// Descendants are followed this far.
const MAX_DEPTH: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Asked {
    Who(Question),
    Order(Order),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    pid: u32,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Answer {
    Done(Done),
    Found {
        instance: String,
        workload: String,
        namespace: String,
        service_account: String,
        role: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
    },
    Unknown {
        error: String,
    },
}

/// Takes the socket's place; one that a dead supervisor left is replaced.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, Problem> {
    check_socket_path(path)?;
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(
            Problem::new("the supervisor's socket is taken by another process")
                .at(path.display())
                .fix("stop that process, or name another state directory with --state DIR"),
        );
    }
    let taken = |error: io::Error| {
        Problem::because("the supervisor's socket cannot be made", &error)
            .at(path.display())
            .fix("remove what stands there, or name another state directory with --state DIR")
    };
    match fs::symlink_metadata(path) {
        Ok(meta) if !std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()) => {
            return Err(taken(io::Error::other(
                "something that is not a socket stands there",
            )));
        }
        Ok(_) => fs::remove_file(path).map_err(taken)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(taken)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(taken)?;
    Ok(listener)
}

/// Answers for as long as it is polled.
pub(crate) async fn serve(listener: UnixListener, desk: Desk) {
    let callers = Arc::new(Semaphore::new(MAX_CALLERS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: wait for some to come free.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(permit) = callers.clone().acquire_owned().await else {
            return;
        };
        let desk = desk.clone();
        tokio::spawn(async move {
            drop(converse(stream, &desk).await);
            drop(permit);
        });
    }
}

async fn converse(stream: UnixStream, desk: &Desk) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let question = (&mut read).take(MAX_QUESTION);
        let length = timeout(PATIENCE, { question }.read_until(b'\n', &mut line)).await??;
        if length == 0 {
            return Ok(());
        }
        let answer = match serde_json::from_slice(&line) {
            Ok(Asked::Who(question)) => find(&desk.roster.live(), question.pid, parent_of),
            Ok(Asked::Order(order)) => match refusal(desk, &peer) {
                None => Answer::Done(order.obey(desk).await),
                Some(error) => Answer::Unknown { error },
            },
            Err(error) => Answer::Unknown {
                error: format!("ask {{\"pid\": 123}} or {{\"restart\": \"name\"}}: {error}"),
            },
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        write.write_all(&text).await?;
    }
}

/// SECURITY: applications run as the same user as the operator, and are not the operator.
fn refusal(desk: &Desk, peer: &UCred) -> Option<String> {
    let own = rustix::process::getuid().as_raw();
    if peer.uid() != own {
        return Some(format!(
            "user {} is not user {own}, whose mesh this is",
            peer.uid()
        ));
    }
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    let Some(pid) = pid else {
        return Some("the caller's process is not known".to_owned());
    };
    match find(&desk.roster.live(), pid, parent_of) {
        Answer::Found { instance, .. } => Some(format!(
            "process {pid} belongs to {instance}; only the operator gives orders"
        )),
        Answer::Done(_) | Answer::Unknown { .. } => None,
    }
}

fn find(
    live: &BTreeMap<InstanceName, Live>,
    pid: u32,
    parent_of: impl Fn(u32) -> Option<u32>,
) -> Answer {
    if let Some((name, sidecar)) = live.iter().find(|(_, l)| l.sidecars.contains(&pid)) {
        return Answer::found(name, sidecar, "sidecar");
    }
    let mut ancestor = Some(pid);
    for _ in 0..MAX_DEPTH {
        let Some(current) = ancestor.filter(|pid| *pid > 1) else {
            break;
        };
        if let Some((name, app)) = live.iter().find(|(_, l)| l.app_pid == Some(current)) {
            return Answer::found(name, app, "app");
        }
        ancestor = parent_of(current);
    }
    Answer::Unknown {
        error: format!("process {pid} was not started by this mesh"),
    }
}

impl Answer {
    fn found(name: &InstanceName, live: &Live, role: &'static str) -> Self {
        Self::Found {
            instance: name.to_string(),
            workload: live.workload.to_string(),
            namespace: live.namespace.to_string(),
            service_account: live.service_account.to_string(),
            role,
            uid: live.sidecar_uid.filter(|_| role == "sidecar"),
        }
    }
}

/// The parent of a process, from `/proc/<pid>/stat` (proc(5)): the second field after the parenthesised name.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::Roster;

    fn live(app: u32, sidecar: u32) -> Live {
        Live {
            workload: "reviews-v1".parse().unwrap(),
            namespace: "default".parse().unwrap(),
            service_account: "reviews".parse().unwrap(),
            app_pid: Some(app),
            sidecar_pid: Some(sidecar),
            sidecars: vec![sidecar, 300],
            sidecar_uid: None,
            app_ok: true,
            sidecar_ok: true,
            leaving: false,
            exit_code: None,
        }
    }

    fn role_of(pid: u32) -> Option<&'static str> {
        let live = BTreeMap::from([("reviews-v1-0".parse().unwrap(), live(100, 200))]);
        // 101 is a child of the application, 102 a grandchild, 201 a child of the sidecar.
        let parents = |pid| match pid {
            102 => Some(101),
            101 => Some(100),
            100 | 200 => Some(50),
            201 => Some(200),
            _ => Some(1),
        };
        match find(&live, pid, parents) {
            Answer::Found { role, .. } => Some(role),
            Answer::Done(_) | Answer::Unknown { .. } => None,
        }
    }

    #[test]
    fn descendants_of_an_application_are_the_application() {
        assert_eq!(role_of(100), Some("app"));
        assert_eq!(role_of(102), Some("app"));
    }

    #[test]
    fn only_the_very_process_is_the_sidecar() {
        assert_eq!(role_of(200), Some("sidecar"));
        assert_eq!(role_of(201), None);
        assert_eq!(
            role_of(300),
            Some("sidecar"),
            "one that takes over, or drains"
        );
    }

    #[test]
    fn strangers_and_the_supervisor_are_nobody() {
        assert_eq!(role_of(50), None);
        assert_eq!(role_of(1), None);
        assert_eq!(role_of(0), None);
        assert_eq!(role_of(7777), None);
    }

    #[test]
    fn a_circle_of_parents_ends() {
        let answer = find(&BTreeMap::new(), 5, |pid| {
            Some(if pid == 5 { 6 } else { 5 })
        });
        assert!(matches!(answer, Answer::Unknown { .. }));
    }

    #[tokio::test]
    async fn a_question_is_one_line_and_so_is_the_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("supervisor.sock");
        let roster = Arc::new(Roster::new(reeve_control::instances::Instances::new(77)));
        let own = std::process::id();
        roster.enter("reviews-v1-0".parse().unwrap(), live(own, 0));
        let restarts = Arc::default();
        tokio::spawn(serve(bind(&path).unwrap(), Desk { roster, restarts }));
        let (read, mut write) = UnixStream::connect(&path).await.unwrap().into_split();
        let mut read = BufReader::new(read).lines();
        for (question, expected) in [
            (
                format!("{{\"pid\":{own}}}\n"),
                r#""service_account":"reviews","role":"app""#,
            ),
            ("nonsense\n".to_owned(), "error"),
            ("{\"pid\":1}\n".to_owned(), "was not started by this mesh"),
            (
                "{\"restart\":\"reviews-v1\"}\n".to_owned(),
                "only the operator gives orders",
            ),
        ] {
            write.write_all(question.as_bytes()).await.unwrap();
            let answer = read.next_line().await.unwrap().unwrap();
            assert!(answer.contains(expected), "{answer}");
        }
        let problem = bind(&path).unwrap_err().to_string();
        assert!(problem.contains("taken"), "{problem}");
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("supervisor.sock");
        fs::write(&path, "mine").unwrap();
        assert!(bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
