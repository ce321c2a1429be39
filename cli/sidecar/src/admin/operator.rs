//! Who asks on the admin socket, and whether that is the mesh's operator.
//!
//! SECURITY: applications run as the operator's user, so whoever the supervisor knows as part of a workload is refused.

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use tokio::net::UnixListener;

use crate::whois::{WhoIs, WhoIsError};

/// Who is at the other end of the socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    uid: Option<u32>,
    pid: Option<i32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        Self {
            uid: credentials.map(|c| c.uid()),
            pid: credentials.and_then(|c| c.pid()),
        }
    }
}

impl Caller {
    /// The caller as records name it.
    pub(super) fn named(self) -> [(&'static str, String); 2] {
        let uid = self.uid.map(|uid| uid.to_string()).unwrap_or_default();
        [
            ("uid", uid),
            ("pid", self.pid.unwrap_or_default().to_string()),
        ]
    }
}

/// Whether the caller is the mesh's operator; else why not.
pub(super) async fn operator(
    caller: Caller,
    supervisor: Option<&WhoIs>,
    what: &str,
) -> Result<(), String> {
    let own = rustix::process::geteuid().as_raw();
    if !caller.uid.is_some_and(|uid| uid == own || uid == 0) {
        return Err(format!("only the mesh's operator may {what}"));
    }
    let Some(supervisor) = supervisor else {
        return Ok(());
    };
    let pid = caller.pid.and_then(|pid| u32::try_from(pid).ok());
    let pid = pid.ok_or("the caller's process is unknown")?;
    match supervisor.ask(pid).await {
        Ok(known) => Err(format!(
            "process {pid} belongs to {}; only the mesh's operator may {what}",
            known.instance
        )),
        Err(WhoIsError::Unknown(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
