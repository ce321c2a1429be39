use std::{
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
};

use super::*;

fn place(dir: &tempfile::TempDir, instance: &str) -> Place {
    Place {
        path: dir.path().join("h.sock"),
        instance: instance.parse().unwrap(),
        supervisor: None,
    }
}

fn tcp() -> (OwnedFd, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

#[tokio::test]
async fn sockets_change_hands_and_lose_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir, "a-0");
    let listener = place.listen().unwrap();
    // More than fit in one message.
    let (mut proxy, addresses): (Vec<_>, Vec<_>) = (0..150).map(|_| tcp()).unzip();
    let waiting: Vec<_> = addresses
        .iter()
        .map(|a| TcpStream::connect(a).unwrap())
        .collect();
    let old = async {
        let successor = place.successor(&listener).await.unwrap();
        let sockets = Sockets {
            proxy: std::mem::take(&mut proxy),
            handover: Some(listener.as_fd().try_clone_to_owned().unwrap()),
            ..Sockets::default()
        };
        successor.hand_over(&sockets).await.unwrap();
        drop(sockets);
        successor.draining().await;
    };
    let new = async {
        let (predecessor, taken) = place.take().await.unwrap();
        predecessor.ready().await.unwrap();
        taken
    };
    let ((), taken) = tokio::join!(old, new);
    assert!(taken.agent.is_none() && taken.admin.is_none());
    let accepted: Vec<_> = taken
        .proxy
        .into_iter()
        .map(|fd| TcpListener::from(fd).accept().unwrap().1)
        .collect();
    let expected: Vec<_> = waiting.iter().map(|w| w.local_addr().unwrap()).collect();
    assert_eq!(accepted, expected);
    let again = Listener::of(taken.handover.unwrap()).unwrap();
    drop(listener);
    let (heard, asked) = tokio::join!(again.accept(), async { Channel::connect(&place.path) });
    assert!(
        heard.is_ok() && asked.is_ok(),
        "the next hand-over takes place at the same socket"
    );
}

#[tokio::test]
async fn a_successor_that_dies_before_it_serves_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir, "a-0");
    let listener = place.listen().unwrap();
    let (socket, address) = tcp();
    let sockets = Sockets {
        proxy: vec![socket],
        ..Sockets::default()
    };
    let old = async {
        let successor = place.successor(&listener).await.unwrap();
        successor.hand_over(&sockets).await
    };
    let new = async { drop(place.take().await.unwrap()) };
    let (handed_over, ()) = tokio::join!(old, new);
    assert!(
        matches!(handed_over, Err(HandOverError::Io(_))),
        "{handed_over:?}"
    );
    assert!(
        TcpStream::connect(address).is_ok(),
        "the old process still listens"
    );
}

#[tokio::test]
async fn the_sidecar_of_another_instance_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (place(&dir, "a-0"), place(&dir, "b-0"));
    let listener = ours.listen().unwrap();
    let (refused, told) = tokio::join!(ours.successor(&listener), theirs.take());
    assert!(
        matches!(refused, Err(HandOverError::Protocol(_))),
        "{refused:?}"
    );
    let Err(HandOverError::Refused(why)) = told else {
        panic!("{told:?}");
    };
    assert!(why.contains("a-0") && why.contains("b-0"), "{why}");
}

#[tokio::test]
async fn whom_the_supervisor_does_not_know_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut place = place(&dir, "a-0");
    let listener = place.listen().unwrap();
    place.supervisor = Some(WhoIs::new(&dir.path().join("no-supervisor.sock")));
    let asking = Channel::connect(&place.path).unwrap();
    let refused = place.successor(&listener).await;
    assert!(
        matches!(refused, Err(HandOverError::Stranger { .. })),
        "{refused:?}"
    );
    drop(asking);
}

#[tokio::test]
async fn what_is_not_of_the_protocol_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir, "a-0");
    let listener = place.listen().unwrap();
    let long = vec![b'x'; channel::MAX_MESSAGE_BYTES];
    for message in [
        &b"{}"[..],
        b"nonsense",
        br#"{"ready":{}}"#,
        br#"{"take":{"version":2,"instance":"a-0"}}"#,
        &long,
    ] {
        let asking = Channel::connect(&place.path).unwrap();
        asking.send(message, &[]).await.unwrap();
        assert!(place.successor(&listener).await.is_err());
    }
}

#[tokio::test]
async fn nobody_to_take_over_from_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir, "a-0");
    assert!(matches!(
        place.take().await,
        Err(HandOverError::Nobody { .. })
    ));
    drop(place.listen().unwrap());
    let stale = place.take().await;
    assert!(
        matches!(stale, Err(HandOverError::Nobody { .. })),
        "{stale:?}"
    );
    assert!(place.listen().is_ok(), "a stale socket is replaced");
}
