//! A session is never resumed: whoever comes back with a ticket is verified like anybody else, and no ticket is given or
//! shown by a proxy.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reeve_core::model::{Generation, Protocol};
use reeve_svid::{Credentials, MeshTls, alpn};
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, ServerConfig,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    server::ServerSessionMemoryCache,
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::mesh::{ALLOW_CLIENT, HOST, Mesh, PORT, caller, echo_app, fetch, pair, set_policies};

/// Tickets that a client has, and how many it got and showed.
#[derive(Debug)]
struct Tickets {
    kept: ClientSessionMemoryCache,
    got: AtomicUsize,
    shown: AtomicUsize,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(name)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.got.fetch_add(1, Ordering::SeqCst);
        self.kept.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let ticket = self.kept.take_tls13_ticket(name);
        self.shown
            .fetch_add(usize::from(ticket.is_some()), Ordering::SeqCst);
        ticket
    }
}

/// A mesh client that would resume, and a server of its own that gives it tickets for the proxy's name.
struct Comeback {
    tickets: Arc<Tickets>,
    config: Arc<ClientConfig>,
    giver: Arc<ServerConfig>,
}

fn name() -> ServerName<'static> {
    "127.0.0.1".try_into().unwrap()
}

fn mesh_tls(credentials: Arc<Credentials>) -> MeshTls {
    MeshTls::new(credentials, Arc::new(reeve_core::SystemClock))
}

/// The mesh's own server configuration, with the tickets that it leaves out.
fn with_tickets(credentials: Arc<Credentials>) -> ServerConfig {
    let config = mesh_tls(credentials).server_config(&[alpn::HTTP1]).unwrap();
    let mut config = (*config).clone();
    config.session_storage = ServerSessionMemoryCache::new(64);
    config.send_tls13_tickets = 2;
    config
}

impl Comeback {
    fn new(mesh: &Mesh) -> Self {
        let tickets = Arc::new(Tickets {
            kept: ClientSessionMemoryCache::new(64),
            got: AtomicUsize::default(),
            shown: AtomicUsize::default(),
        });
        let client = mesh_tls(mesh.issue("client"));
        let expected = [Mesh::id("server")];
        let config = client.client_config(&expected, &[alpn::HTTP1]).unwrap();
        let mut config = (*config).clone();
        config.resumption = Resumption::store(tickets.clone());
        Self {
            tickets,
            config: Arc::new(config),
            giver: Arc::new(with_tickets(mesh.issue("server"))),
        }
    }

    /// One connection to its own server, which gives two tickets.
    async fn collect(&self) -> Option<HandshakeKind> {
        let (near, far): (DuplexStream, DuplexStream) = tokio::io::duplex(1 << 16);
        let giver = TlsAcceptor::from(self.giver.clone());
        let serving = tokio::spawn(async move {
            let mut stream = giver.accept(far).await?;
            stream.write_all(b"x").await?;
            stream.shutdown().await
        });
        let connector = TlsConnector::from(self.config.clone());
        let mut stream = connector.connect(name(), near).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        serving.await.unwrap().unwrap();
        stream.get_ref().1.handshake_kind()
    }

    /// Shows a ticket to the server's proxy and asks for something: the status, if it was let in at all.
    async fn comes_back(&self, mesh: &Mesh) -> Option<u16> {
        self.collect().await;
        let (shown, got) = (&self.tickets.shown, &self.tickets.got);
        let before = (shown.load(Ordering::SeqCst), got.load(Ordering::SeqCst));
        let stream = TcpStream::connect(mesh.at(1, PORT)).await.unwrap();
        let connector = TlsConnector::from(self.config.clone());
        let asking = async {
            let mut stream = connector.connect(name(), stream).await.ok()?;
            assert_eq!(
                stream.get_ref().1.handshake_kind(),
                Some(HandshakeKind::Full)
            );
            let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok()?;
            let text = String::from_utf8_lossy(&answer).into_owned();
            text.split(' ').nth(1)?.parse().ok()
        };
        let status = timeout(Duration::from_secs(5), asking)
            .await
            .expect("in time");
        let after = (shown.load(Ordering::SeqCst), got.load(Ordering::SeqCst));
        assert_eq!(
            after,
            (before.0 + 1, before.1),
            "a ticket was shown, and none was given"
        );
        status
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_with_a_ticket_is_verified_again() {
    let (mesh, stranger) = (Mesh::with_svid_life(Duration::from_secs(6)), Mesh::new());
    echo_app(mesh.at(2, PORT)).await;
    let mut config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let comeback = Comeback::new(&mesh);
    assert_eq!(comeback.collect().await, Some(HandshakeKind::Full));
    assert_eq!(
        comeback.collect().await,
        Some(HandshakeKind::Resumed),
        "where tickets are taken, it resumes"
    );
    assert_eq!(
        comeback.comes_back(&mesh).await,
        Some(200),
        "verified, and let in"
    );

    config.generation = Generation(2);
    set_policies(&mut config, &[]);
    server.apply(&config);
    assert_eq!(
        comeback.comes_back(&mesh).await,
        Some(403),
        "its permit is revoked"
    );

    server
        .credentials
        .send_replace(Some(stranger.issue("server")));
    super::mesh::eventually(|| (server.proxy.status().credentials_epoch == 2).then_some(())).await;
    assert_eq!(
        comeback.comes_back(&mesh).await,
        None,
        "its root is retired"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_does_not_outlive_the_certificate_behind_it() {
    let mesh = Mesh::with_svid_life(Duration::from_secs(3));
    echo_app(mesh.at(2, PORT)).await;
    let config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let comeback = Comeback::new(&mesh);
    assert_eq!(comeback.comes_back(&mesh).await, Some(200));
    comeback.collect().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    // The server's own is fresh.
    server.credentials.send_replace(Some(mesh.issue("server")));
    super::mesh::eventually(|| (server.proxy.status().credentials_epoch == 2).then_some(())).await;
    let stream = TcpStream::connect(mesh.at(1, PORT)).await.unwrap();
    let connector = TlsConnector::from(comeback.config.clone());
    let shown = comeback.tickets.shown.load(Ordering::SeqCst);
    let refused = async {
        let mut stream = connector.connect(name(), stream).await?;
        // In TLS 1.3 a client learns only afterwards that its certificate was refused.
        stream.read_u8().await
    };
    let refused = timeout(Duration::from_secs(5), refused)
        .await
        .expect("in time");
    assert!(refused.is_err());
    assert_eq!(comeback.tickets.shown.load(Ordering::SeqCst), shown + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_shows_no_ticket_to_a_server_that_gives_some() {
    let mesh = Mesh::new();
    let listener = TcpListener::bind(mesh.at(1, PORT)).await.unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(with_tickets(mesh.issue("server"))));
    let kinds = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = kinds.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            seen.lock()
                .unwrap()
                .push(stream.get_ref().1.handshake_kind());
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    let client = mesh.side("client");
    client.apply(&mesh.client(Protocol::Http));
    super::mesh::eventually(|| client.proxy.status().ready.then_some(())).await;
    for _ in 0..3 {
        assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 200);
    }
    assert_eq!(*kinds.lock().unwrap(), [Some(HandshakeKind::Full); 3]);
}
