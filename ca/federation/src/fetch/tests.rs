use reeve_core::SystemClock;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tests::{Publisher, Served, domain, serve, web};

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn question(served: &Served, judge: Judge) -> Question {
    Question {
        trust_domain: domain("other.org"),
        url: format!("https://{}/", served.address),
        judge,
        internal: true,
    }
}

fn by_svid(publisher: &Publisher) -> Judge {
    Judge::Svid(Arc::new(publisher.bundle(1)), publisher.endpoint_id())
}

async fn reason(question: &Question) -> String {
    let refused = fetch(question, &clock()).await.unwrap_err();
    reeve_core::error_chain(&refused)
}

#[tokio::test]
async fn a_bundle_is_fetched_by_either_profile() {
    let other = Publisher::new("other.org");
    let served = serve(&other, None).await;
    let fetched = fetch(&question(&served, by_svid(&other)), &clock())
        .await
        .unwrap();
    assert_eq!(fetched.bundle.authorities(), other.bundle(1).authorities());
    assert_eq!(fetched.bundle.sequence(), 1);
    assert_eq!(fetched.refresh_hint, Some(Duration::from_secs(1)));
    let (secret, authority) = web();
    let served = serve(&other, Some(secret)).await;
    let judge = Judge::Web(Some(authority));
    let fetched = fetch(&question(&served, judge), &clock()).await.unwrap();
    assert_eq!(fetched.bundle.authorities(), other.bundle(1).authorities());
}

#[tokio::test]
async fn an_endpoint_that_is_not_who_it_should_be_is_refused() {
    let other = Publisher::new("other.org");
    let served = serve(&other, None).await;
    let Judge::Svid(bundle, _) = by_svid(&other) else {
        panic!("by its SVID");
    };
    let another = "spiffe://other.org/another".parse().unwrap();
    let said = reason(&question(&served, Judge::Svid(bundle, another))).await;
    assert!(
        said.contains("the peer is spiffe://other.org/control"),
        "{said}"
    );
    let stranger = Publisher::new("other.org");
    let said = reason(&question(&served, by_svid(&stranger))).await;
    assert!(said.contains("not who it should be"), "{said}");
    // The public authorities know neither an SVID nor a private web.
    let said = reason(&question(&served, Judge::Web(None))).await;
    assert!(said.contains("not who it should be"), "{said}");
    let (secret, _) = web();
    let served = serve(&other, Some(secret)).await;
    let said = reason(&question(&served, Judge::Web(None))).await;
    assert!(said.contains("not who it should be"), "{said}");
}

#[tokio::test]
async fn an_answer_for_another_trust_domain_is_refused() {
    let other = Publisher::new("other.org");
    let served = serve(&other, None).await;
    let mut question = question(&served, by_svid(&other));
    question.trust_domain = domain("third.net");
    let said = reason(&question).await;
    assert!(said.contains("belongs to other.org"), "{said}");
}

#[tokio::test]
async fn this_machine_and_its_link_are_not_asked_unless_it_is_allowed() {
    let other = Publisher::new("other.org");
    let served = serve(&other, None).await;
    for host in [
        "127.0.0.1",
        "localhost",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "[::1]",
        "0.0.0.0",
    ] {
        let question = Question {
            url: format!("https://{host}:{}/", served.address.port()),
            internal: false,
            ..question(&served, by_svid(&other))
        };
        let said = reason(&question).await;
        assert!(
            said.contains("dangerAllowInternalEndpoints"),
            "{host}: {said}"
        );
    }
    for (address, internal) in [
        ("10.1.2.3", false),
        ("192.168.1.1", false),
        ("203.0.113.9", false),
        ("fd00::1", false),
        ("fe80::1", true),
        ("224.0.0.1", true),
        ("::", true),
    ] {
        assert_eq!(is_internal(address.parse().unwrap()), internal, "{address}");
    }
}

/// A server with the SVID of the endpoint, which answers every request with `answer`.
async fn answering(publisher: &Publisher, answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let svid = publisher.svid(publisher.endpoint_id().as_str());
    let tls = reeve_svid::open_server_config(&svid, &[ALPN], &clock()).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(tls).accept(stream).await.unwrap();
        let mut request = [0; 4096];
        let read = stream.read(&mut request).await.unwrap();
        assert!(request[..read].starts_with(b"GET / HTTP/1.1\r\n"));
        // Who refuses an answer does not wait for its end.
        drop(stream.write_all(&answer).await);
        drop(stream.shutdown().await);
    });
    address
}

#[tokio::test]
async fn redirects_other_answers_and_too_much_are_refused() {
    let other = Publisher::new("other.org");
    let head =
        |status: &str, length: usize| format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n");
    let whole = |status: &str, body: &[u8]| {
        let mut answer = (head(status, body.len()) + "\r\n").into_bytes();
        answer.extend_from_slice(body);
        answer
    };
    let long = vec![b' '; MAX_FETCHED_BYTES + 1];
    let rows = [
        (
            (head("302 Found", 0) + "location: https://elsewhere/\r\n\r\n").into_bytes(),
            "redirects are not followed",
        ),
        (whole("503 Service Unavailable", b""), "the answer was 503"),
        (whole("204 No Content", b""), "the answer was 204"),
        (whole("200 OK", &long), "more than 262144 bytes"),
        (
            (head("200 OK", 100) + "\r\n{").into_bytes(),
            "cannot be read",
        ),
        (whole("200 OK", b"\xff\xfe"), "not UTF-8"),
        (whole("200 OK", b"<html>"), "a bundle is a JSON object"),
        (
            whole("200 OK", br#"{"keys": []}"#),
            "at least one authority",
        ),
        (b"SSH-2.0-x\r\n".to_vec(), "does not answer in HTTP"),
    ];
    for (answer, expected) in rows {
        let address = answering(&other, answer).await;
        let question = Question {
            trust_domain: domain("other.org"),
            url: format!("https://{address}/"),
            judge: by_svid(&other),
            internal: true,
        };
        let said = reason(&question).await;
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let question = Question {
        trust_domain: domain("other.org"),
        url: format!("https://{}/", listener.local_addr().unwrap()),
        judge: by_svid(&Publisher::new("other.org")),
        internal: true,
    };
    assert_eq!(reason(&question).await, "no whole answer within 10 s");
}

#[tokio::test]
async fn urls_that_are_none_are_refused() {
    let other = Publisher::new("other.org");
    let served = serve(&other, None).await;
    for url in ["", "x", "http://127.0.0.1/", "https:///x", "ftp://a/"] {
        let question = Question {
            url: url.to_owned(),
            ..question(&served, by_svid(&other))
        };
        assert_eq!(
            reason(&question).await,
            "not an https URL that can be fetched",
            "{url}"
        );
    }
}
