use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use reeve_core::model::{EcdhCurve, Protocol, ProxyConfig};

use super::mesh::{ALLOW_CLIENT, Mesh, PORT, caller, echo_app, fetch, pair};

#[tokio::test(flavor = "multi_thread")]
async fn rotating_under_load_fails_no_request() {
    let mesh = Mesh::with_svid_life(Duration::from_secs(10));
    echo_app(mesh.at(2, PORT)).await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (server, client) = pair(&mesh, &server, &mesh.client(Protocol::Http)).await;
    let (done, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = Vec::new();
    for _ in 0..8 {
        let (done, failed, stop) = (done.clone(), failed.clone(), stop.clone());
        let url = mesh.url("/");
        load.push(tokio::spawn(async move {
            let caller = caller();
            while !stop.load(Ordering::SeqCst) {
                let (status, _) = fetch(&caller, url.clone()).await;
                done.fetch_add(1, Ordering::SeqCst);
                failed.fetch_add(u64::from(status != 200), Ordering::SeqCst);
            }
        }));
    }
    for round in 0..20 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let (side, account) = if round % 2 == 0 {
            (&server, "server")
        } else {
            (&client, "client")
        };
        side.credentials.send_replace(Some(mesh.issue(account)));
    }
    stop.store(true, Ordering::SeqCst);
    for task in load {
        task.await.unwrap();
    }
    assert_eq!(server.proxy.status().credentials_epoch, 11);
    assert!(done.load(Ordering::SeqCst) > 100);
    let lines = server.log.lines().into_iter().chain(client.log.lines());
    let bad: Vec<_> = lines
        .filter(|line| line["response_code"] != 200)
        .take(3)
        .collect();
    assert_eq!(failed.load(Ordering::SeqCst), 0, "{bad:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_outlives_its_certificate() {
    let mesh = Mesh::with_svid_life(Duration::from_secs(3));
    let listener = tokio::net::TcpListener::bind(mesh.at(2, PORT))
        .await
        .unwrap();
    let (server, client) = (
        mesh.server(Protocol::Tcp, &[ALLOW_CLIENT]),
        mesh.client(Protocol::Tcp),
    );
    let _sides = pair(&mesh, &server, &client).await;
    let mut stream = tokio::net::TcpStream::connect(mesh.at(110, PORT))
        .await
        .unwrap();
    let (_held, _) = listener.accept().await.unwrap();
    let mut byte = [0];
    let reading = tokio::io::AsyncReadExt::read(&mut stream, &mut byte);
    let ended = tokio::time::timeout(Duration::from_secs(6), reading).await;
    assert!(matches!(
        ended.expect("the certificates have ended"),
        Ok(0) | Err(_)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_when_its_peers_root_is_retired() {
    let (mesh, stranger) = (Mesh::new(), Mesh::new());
    let listener = tokio::net::TcpListener::bind(mesh.at(2, PORT))
        .await
        .unwrap();
    let (server, client) = (
        mesh.server(Protocol::Tcp, &[ALLOW_CLIENT]),
        mesh.client(Protocol::Tcp),
    );
    let (server, _client) = pair(&mesh, &server, &client).await;
    let mut stream = tokio::net::TcpStream::connect(mesh.at(110, PORT))
        .await
        .unwrap();
    let (_held, _) = listener.accept().await.unwrap();
    // A certificate renewed under the same bundle ends nothing that is open.
    server.credentials.send_replace(Some(mesh.issue("server")));
    let mut byte = [0];
    let reading = tokio::io::AsyncReadExt::read(&mut stream, &mut byte);
    tokio::pin!(reading);
    let still = tokio::time::timeout(Duration::from_millis(300), &mut reading).await;
    assert!(still.is_err(), "it goes on");
    // The server's bundle has another root now, under which the client is a stranger.
    server
        .credentials
        .send_replace(Some(stranger.issue("server")));
    let ended = tokio::time::timeout(Duration::from_secs(2), reading).await;
    assert!(matches!(ended.expect("it ends at once"), Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_key_exchanges_hold_at_once_on_both_sides() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let by = |mut config: ProxyConfig, curves: &[EcdhCurve]| {
        Arc::make_mut(&mut config.workload).ecdh_curves = curves.to_vec();
        config
    };
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let client = mesh.client(Protocol::Http);
    let (server_side, client_side) = pair(
        &mesh,
        &by(server.clone(), &[EcdhCurve::X25519]),
        &by(client.clone(), &[EcdhCurve::P256]),
    )
    .await;
    let status = async || fetch(&caller(), mesh.url("/")).await.0;
    assert_eq!(status().await, 503, "nothing in common");
    client_side.apply(&by(client.clone(), &[EcdhCurve::X25519]));
    assert_eq!(status().await, 200);
    let epoch = client_side.proxy.status().credentials_epoch;
    client_side.apply(&by(client.clone(), &[EcdhCurve::X25519]));
    let after = client_side.proxy.status().credentials_epoch;
    assert_eq!(after, epoch, "the same ones change nothing");
    server_side.apply(&by(server, &[EcdhCurve::P384]));
    client_side.apply(&by(client, &[EcdhCurve::X25519MLKEM768]));
    assert_eq!(status().await, 503, "a kept connection is not used again");
}
