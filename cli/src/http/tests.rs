use axum::{Router, routing::get as on_get};

use super::*;

async fn served(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn an_answer_comes_whole_with_its_status() {
    let router = Router::new().route("/status", on_get(|| async { "here" }));
    let target = Target::Tcp(served(router).await);
    let limit = Duration::from_secs(5);
    let reply = get(&target, "/status", limit).await.unwrap();
    assert_eq!(
        (reply.status.as_u16(), &reply.body[..]),
        (200, &b"here"[..])
    );
    let reply = get(&target, "/nothing", limit).await.unwrap();
    assert_eq!(reply.status.as_u16(), 404);
}

#[tokio::test]
async fn unix_sockets_are_asked_alike() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let router = Router::new().route("/", on_get(|| async { "unix" }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let reply = get(&Target::Unix(path), "/", Duration::from_secs(5)).await;
    assert_eq!(&reply.unwrap().body[..], b"unix");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::Tcp(listener.local_addr().unwrap());
    let error = get(&target, "/", Duration::from_millis(50))
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Timeout(_)), "{error}");
}

#[tokio::test]
async fn a_closed_port_is_told_apart_from_silence() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Tcp(listener.local_addr().unwrap());
    drop(listener);
    let error = get(&target, "/", Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(error, FetchError::Connect(_)), "{error}");
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let router = Router::new().route("/", on_get(|| async { vec![0_u8; MAX_BODY + 1] }));
    let target = Target::Tcp(served(router).await);
    let error = get(&target, "/", Duration::from_secs(20))
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Body(_)), "{error}");
}
