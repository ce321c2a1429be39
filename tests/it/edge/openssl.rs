//! OpenSSL's own TLS server.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use reeve_tests::eventually;
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(10);

/// `openssl s_server`; ended when dropped.
pub(crate) struct OpenSsl(Child);

impl OpenSsl {
    /// At `at`, with the files `server.crt`, `server.key` and `ca.crt` of `folder`; `more` says what it serves.
    pub(crate) async fn start(folder: &str, at: SocketAddr, more: &[&str]) -> Self {
        let process = Command::new("openssl")
            .args(["s_server", "-accept", &at.to_string()])
            .args(["-cert", "server.crt", "-key", "server.key"])
            .args(["-CAfile", "ca.crt"])
            .args(more)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed (tests/tools/install.sh)");
        let server = Self(process);
        eventually("openssl listens", LIMIT, async || {
            let connected = TcpStream::connect(at).await;
            connected.map(drop).map_err(|error| error.to_string())
        })
        .await;
        server
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        drop(self.0.wait());
    }
}

/// An address of this machine that nobody listens at.
pub(crate) async fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("its address")
}
