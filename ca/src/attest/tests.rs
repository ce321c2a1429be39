use tokio::{net::UnixListener, process::Command};

use super::*;

#[tokio::test]
async fn a_peer_is_named_by_the_kernel() {
    let (near, _far) = UnixStream::pair().unwrap();
    let peer = UnixPeer::of(&near).unwrap();
    assert_eq!(peer.pid, std::process::id());
    assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
    assert_eq!(peer.check_alive(), Ok(()));
}

/// The process ends while its connection is still open: its number may be anybody's from then on.
#[tokio::test]
async fn a_peer_that_has_ended_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let script =
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)";
    let mut child = Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let peer = UnixPeer::of(&stream).unwrap();
    assert_eq!(Some(peer.pid), child.id());
    assert_eq!(peer.check_alive(), Ok(()));
    drop(stream);
    child.wait().await.unwrap();
    assert_eq!(peer.check_alive(), Err(AttestError::Gone));
}

#[tokio::test]
async fn a_peer_that_cannot_be_held_is_refused() {
    let (near, _far) = UnixStream::pair().unwrap();
    let mut peer = UnixPeer::of(&near).unwrap();
    peer.process = None;
    assert_eq!(peer.check_alive(), Err(AttestError::Gone));
}
