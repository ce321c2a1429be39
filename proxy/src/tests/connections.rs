//! Both ends of connections: keep-alive races, interim responses, half-closes, resets, and old clients.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reeve_core::model::Protocol;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use super::mesh::{ALLOW_CLIENT, HOST, Mesh, PORT, Side, eventually, pair};

/// What an application does with a connection after it has answered on it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Closes it at once.
    Close,
    /// Reads the next request and closes instead of answering.
    ReadAndClose,
    /// Reads the next request and resets instead of answering.
    ReadAndReset,
}

async fn sidecars(mesh: &Mesh, protocol: Protocol) -> (Side, Side) {
    let server = mesh.server(protocol, &[ALLOW_CLIENT]);
    pair(mesh, &server, &mesh.client(protocol)).await
}

async fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Answers the first request of each connection; counts all that it reads.
async fn fickle_app(mesh: &Mesh, then: Then) -> Arc<AtomicU64> {
    let listener = TcpListener::bind(mesh.at(2, PORT)).await.unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let count = seen.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = count.clone();
            tokio::spawn(async move {
                head(&mut stream).await?;
                count.fetch_add(1, Ordering::SeqCst);
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await?;
                if then == Then::Close {
                    return Ok(());
                }
                head(&mut stream).await?;
                count.fetch_add(1, Ordering::SeqCst);
                if then == Then::ReadAndReset {
                    stream.set_zero_linger()?;
                }
                io::Result::Ok(())
            });
        }
    });
    seen
}

/// One request on a connection of its own to the client's sidecar; the status.
async fn ask(mesh: &Mesh, method: &str) -> String {
    let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
    let request = format!("{method} / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = head(&mut stream).await.unwrap();
    head.split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_meets_a_closing_connection_is_sent_again_when_that_is_safe() {
    for then in [Then::Close, Then::ReadAndClose, Then::ReadAndReset] {
        let mesh = Mesh::new();
        let seen = fickle_app(&mesh, then).await;
        let (server, _client) = sidecars(&mesh, Protocol::Http).await;
        for round in 0..10 {
            assert_eq!(ask(&mesh, "GET").await, "200", "{then:?} {round}");
        }
        let before = seen.load(Ordering::SeqCst);
        if then == Then::Close {
            // The proxy has time to see the end of the connection: nothing was sent on it.
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(ask(&mesh, "POST").await, "200");
        } else {
            // The application has read it, and may have acted: it is not asked to act twice.
            assert_eq!(ask(&mesh, "POST").await, "503", "{then:?}");
            server.log.wait(|line| line["flags"] == "UC").await;
        }
        assert_eq!(seen.load(Ordering::SeqCst), before + 1, "once: {then:?}");
    }
}

/// Reads a head, waits, says `100 Continue` or refuses, and then counts the body.
async fn cautious_app(mesh: &Mesh, interim: &'static str) {
    let listener = TcpListener::bind(mesh.at(2, PORT)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let asked = head(&mut stream).await?.to_lowercase();
                assert!(asked.contains("\r\nexpect: 100-continue\r\n"), "{asked}");
                let early = timeout(Duration::from_millis(200), stream.read_u8()).await;
                assert!(early.is_err(), "the body came before it was asked for");
                stream.write_all(interim.as_bytes()).await?;
                let mut body = [0; 5];
                stream.read_exact(&mut body).await?;
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
                    .await?;
                stream.write_all(&body).await
            });
        }
    });
}

const EXPECTING: &str = "content-length: 5\r\nexpect: 100-continue\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_application_itself_says_whether_to_continue() {
    let mesh = Mesh::new();
    cautious_app(&mesh, "HTTP/1.1 100 Continue\r\n\r\n").await;
    let _sides = sidecars(&mesh, Protocol::Http).await;
    let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
    let request = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\n{EXPECTING}");
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(
        head(&mut stream)
            .await
            .unwrap()
            .starts_with("HTTP/1.1 100 ")
    );
    stream.write_all(b"hello").await.unwrap();
    assert!(
        head(&mut stream)
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200 ")
    );
    let mut body = [0; 5];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_or_denied_expectation_asks_for_no_body() {
    let mesh = Mesh::new();
    let too_large = "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n";
    cautious_app(&mesh, too_large).await;
    let mut config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    for status in ["417", "403"] {
        let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
        let request = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\n{EXPECTING}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = head(&mut stream).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        super::mesh::set_policies(&mut config, &[]);
        server.apply(&config);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_never_says_continue_gets_the_body_after_a_while() {
    let mesh = Mesh::new();
    super::mesh::echo_app_that_ignores_expect(mesh.at(2, PORT)).await;
    let _sides = sidecars(&mesh, Protocol::Http).await;
    let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
    let request = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\n{EXPECTING}hello");
    let began = Instant::now();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = head(&mut stream).await.unwrap();
    if answer.starts_with("HTTP/1.1 100 ") {
        answer = head(&mut stream).await.unwrap();
    }
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
}

/// An application that sends `bytes` on each connection after a head, and then ends it.
async fn app_that_sends(mesh: &Mesh, bytes: &'static [u8], reset: End) {
    let listener = TcpListener::bind(mesh.at(2, PORT)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                head(&mut stream).await?;
                stream.write_all(bytes).await?;
                // What was sent is read before the end comes.
                tokio::time::sleep(Duration::from_millis(100)).await;
                if reset == End::Reset {
                    stream.set_zero_linger()?;
                }
                io::Result::Ok(())
            });
        }
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    Reset,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_not_passed_on_as_whole() {
    for (sent, end) in [
        (
            &b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal"[..],
            End::Close,
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal",
            End::Reset,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhal\r\n",
            End::Close,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhal\r\n",
            End::Reset,
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nhal", End::Reset),
    ] {
        let mesh = Mesh::new();
        app_that_sends(&mesh, sent, end).await;
        let (server, _client) = sidecars(&mesh, Protocol::Http).await;
        let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut all)).await;
        let read = read.expect("the connection ends");
        let text = String::from_utf8_lossy(&all).to_lowercase();
        let declared = text.contains("content-length: 9\r\n");
        let chunked =
            text.contains("transfer-encoding: chunked\r\n") && !text.ends_with("0\r\n\r\n");
        assert!(
            read.is_err() || declared || chunked,
            "a good end: {end:?} {text}"
        );
        server.log.wait(|line| line["flags"] == "UC").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_ends_pass_as_what_they_are() {
    for end in [End::Close, End::Reset] {
        let mesh = Mesh::new();
        app_that_sends(&mesh, b"hal", end).await;
        let _sides = sidecars(&mesh, Protocol::Tcp).await;
        let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
        stream.write_all(b"x\r\n\r\n").await.unwrap();
        let mut all = [0; 3];
        stream.read_exact(&mut all).await.unwrap();
        let rest = timeout(Duration::from_secs(5), stream.read_u8()).await;
        let kind = rest.expect("it ends").unwrap_err().kind();
        let expected = match end {
            End::Close => io::ErrorKind::UnexpectedEof,
            End::Reset => io::ErrorKind::ConnectionReset,
        };
        assert_eq!(kind, expected, "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_and_trailers_are_served() {
    let mesh = Mesh::new();
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n";
    app_that_sends(&mesh, chunked, End::Close).await;
    let (server, _client) = sidecars(&mesh, Protocol::Http).await;
    let mut old = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
    old.write_all(format!("GET / HTTP/1.0\r\nhost: {HOST}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut all = String::new();
    timeout(Duration::from_secs(5), old.read_to_string(&mut all))
        .await
        .expect("it closes")
        .unwrap();
    assert!(
        all.ends_with("\r\n\r\nabc") && !all.contains("chunked"),
        "no chunks for HTTP/1.0: {all}"
    );
    let mut new = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
    let request =
        format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nte: trailers\r\nconnection: te, close\r\n\r\n");
    new.write_all(request.as_bytes()).await.unwrap();
    let mut all = String::new();
    timeout(Duration::from_secs(5), new.read_to_string(&mut all))
        .await
        .expect("it closes")
        .unwrap();
    assert!(
        all.to_lowercase()
            .ends_with("3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"),
        "{all}"
    );
    eventually(|| (server.log.lines().len() >= 2).then_some(())).await;
}

/// More than the sockets between the caller and the called proxy hold.
const LARGE: usize = 16 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_end_of_a_large_body_gets_through() {
    let mesh = Mesh::new();
    let (_app, protocol) = (fickle_app(&mesh, Then::Close).await, Protocol::Http);
    let server = mesh.server(protocol, &[]);
    let _sides = pair(&mesh, &server, &mesh.client(protocol)).await;
    for round in 0..20 {
        let stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let sending = tokio::spawn(async move {
            let head =
                format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {LARGE}\r\n\r\n");
            write.write_all(head.as_bytes()).await?;
            write.write_all(&vec![b'x'; LARGE]).await?;
            io::Result::Ok(write)
        });
        let mut answer = [0; 12];
        read.read_exact(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(answer, "HTTP/1.1 403", "round {round}");
        sending.abort();
    }
}
