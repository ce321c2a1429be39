use std::net::IpAddr;

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    fetch::{FetchError, is_internal},
    *,
};

mod keeping;

/// A key set with one usable key (RFC 7517 appendix A.1), named `kid`.
pub(super) fn jwks(kid: &str) -> String {
    format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"{kid}","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}}]}}"#
    )
}

#[test]
fn internal_addresses_are_told_from_public_ones() {
    for internal in [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "198.18.0.1",
        "192.0.0.8",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fd12::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "ff02::1",
        "2001:db8::1",
        "2001::7f00:1",
        "3fff::1",
        "64:ff9b:1::7f00:1",
    ] {
        assert!(
            is_internal(internal.parse::<IpAddr>().unwrap()),
            "{internal}"
        );
    }
    for public in [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.0.1",
        "172.32.0.1",
        "2606:4700::1111",
        "::ffff:1.1.1.1",
    ] {
        assert!(!is_internal(public.parse::<IpAddr>().unwrap()), "{public}");
    }
}

/// A server that does `serve` with every connection whose request it has read, and its address.
async fn server<F, A>(serve: F) -> String
where
    F: Fn(TcpStream, String) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap_or_default();
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            tokio::spawn(serve(stream, head));
        }
    });
    format!("http://127.0.0.1:{port}")
}

/// A server that gives this answer, whatever is asked.
async fn answering(answer: String) -> String {
    server(move |mut stream, _| {
        let answer = answer.clone();
        async move { drop(stream.write_all(answer.as_bytes()).await) }
    })
    .await
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\nlocation: http://127.0.0.1:1/\r\n\r\n{body}",
        body.len()
    )
}

fn from(uri: &str) -> KeySource {
    KeySource {
        place: KeyPlace::Uri(uri.to_owned()),
        timeout: Duration::from_secs(5),
    }
}

#[tokio::test]
async fn keys_are_fetched_within_bounds() {
    let fetcher = Fetcher::new(None);
    let get = async |uri: &str, reach| fetcher.fetch(&from(uri), reach).await;
    let good = answering(answer("200 OK", "{\"keys\":[{}]}")).await;
    assert_eq!(
        get(&good, Reach::Anywhere).await.unwrap(),
        "{\"keys\":[{}]}"
    );
    let huge = answering(answer("200 OK", &"x".repeat(MAX_JWKS_BYTES + 1))).await;
    let refused = get(&huge, Reach::Anywhere).await;
    assert!(matches!(refused, Err(FetchError::Body)), "{refused:?}");
    let moved = answering(answer("302 Found", "")).await;
    let refused = get(&moved, Reach::Anywhere).await;
    assert!(
        matches!(refused, Err(FetchError::Status(_))),
        "no redirects: {refused:?}"
    );
    let binary = server(|mut stream, _| async move {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xfe";
        drop(stream.write_all(bytes).await);
    })
    .await;
    let refused = get(&binary, Reach::Anywhere).await;
    assert!(matches!(refused, Err(FetchError::NotText)), "{refused:?}");
    let cut = answering("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned()).await;
    let refused = get(&cut, Reach::Anywhere).await;
    assert!(matches!(refused, Err(FetchError::Body)), "{refused:?}");
    let junk = answering("220 smtp ready\r\n".to_owned()).await;
    let refused = get(&junk, Reach::Anywhere).await;
    assert!(
        matches!(refused, Err(FetchError::Connection(_))),
        "{refused:?}"
    );
    let refused = get("nonsense", Reach::Anywhere).await;
    assert!(
        matches!(refused, Err(FetchError::Connection(_) | FetchError::BadUri)),
        "{refused:?}"
    );
    let down = get("http://127.0.0.1:1/", Reach::Anywhere).await;
    assert!(matches!(down, Err(FetchError::Connection(_))), "{down:?}");
}

/// However the address is written: as a number, by a name, in IPv6.
#[tokio::test]
async fn internal_addresses_are_not_asked() {
    let fetcher = Fetcher::new(None);
    let good = answering(answer("200 OK", "{}")).await;
    let port = good.rsplit(':').next().unwrap().to_owned();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "127.1",
    ] {
        let uri = format!("http://{host}:{port}/");
        let refused = fetcher.fetch(&from(&uri), Reach::PublicOnly).await;
        let said = refused.as_ref().map_err(ToString::to_string);
        assert!(
            said.as_ref().is_err_and(|why| why.contains("internal")),
            "{host}: {said:?}"
        );
    }
}

/// A byte now and then keeps a connection alive, and the whole fetch is bounded all the same.
#[tokio::test]
async fn an_endless_drip_ends_with_the_rules_timeout() {
    let drip = server(|mut stream, _| async move {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
        drop(stream.write_all(head).await);
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let source = KeySource {
        timeout: Duration::from_millis(500),
        ..from(&drip)
    };
    let refused = Fetcher::new(None).fetch(&source, Reach::Anywhere).await;
    assert!(
        matches!(refused, Err(FetchError::Timeout(_))),
        "{refused:?}"
    );
}

/// An issuer's configuration at `/`, naming `issuer` (`SELF` = the server itself) and keys at `jwks_uri`.
async fn issuer(issuer: &'static str, jwks_uri: &'static str) -> String {
    server(move |mut stream, head| async move {
        let host = head.lines().find_map(|line| line.strip_prefix("host: "));
        let own = format!("http://{}", host.unwrap_or_default());
        let body = match head.starts_with("GET /.well-known/openid-configuration ") {
            true => format!(
                r#"{{"issuer":"{}","jwks_uri":"{}"}}"#,
                issuer.replace("SELF", &own),
                jwks_uri.replace("SELF", &own)
            ),
            false => jwks("k"),
        };
        drop(stream.write_all(answer("200 OK", &body).as_bytes()).await);
    })
    .await
}

#[tokio::test]
async fn an_issuers_configuration_says_where_its_keys_are() {
    let discover = async |server: String| {
        let source = KeySource {
            place: KeyPlace::Discovery(format!("{server}{WELL_KNOWN}")),
            timeout: Duration::from_secs(5),
        };
        Fetcher::new(None).fetch(&source, Reach::Anywhere).await
    };
    let found = discover(issuer("SELF", "SELF/keys").await).await;
    assert_eq!(found.unwrap(), jwks("k"));
    assert_eq!(
        discover(issuer("SELF/", "SELF/keys").await).await.unwrap(),
        jwks("k")
    );
    let other = discover(issuer("https://evil.example", "SELF/keys").await).await;
    assert!(
        matches!(other, Err(FetchError::OtherIssuer(_))),
        "{other:?}"
    );
    let file = discover(issuer("SELF", "file:///etc/passwd").await).await;
    assert!(matches!(file, Err(FetchError::BadUri)), "{file:?}");
    let nothing = discover(answering(answer("200 OK", "[]")).await).await;
    assert!(
        matches!(nothing, Err(FetchError::NoConfiguration)),
        "{nothing:?}"
    );
}

#[test]
fn what_begins_with_https_goes_on_with_it() {
    let asked = format!("https://a.example{WELL_KNOWN}");
    let named = |uri: &str| format!(r#"{{"issuer":"https://a.example","jwks_uri":"{uri}"}}"#);
    let keys = fetch::keys_of(&asked, &named("https://b.example/k"));
    assert_eq!(keys.unwrap(), "https://b.example/k");
    let downgraded = fetch::keys_of(&asked, &named("http://a.example/k"));
    assert!(
        matches!(downgraded, Err(FetchError::Downgrade)),
        "{downgraded:?}"
    );
}

proptest! {
    #[test]
    fn any_configuration_of_an_issuer_has_an_answer(text in "\\PC{0,60}") {
        prop_assert!(fetch::keys_of("https://a.example/x", &text).is_err());
    }
}

#[test]
fn a_documents_generation_follows_its_content() {
    assert_eq!(document("a"), document("a"));
    assert_ne!(document("a").generation, document("b").generation);
}

/// An authority, made for this test, and a server of `localhost` that it certified.
const AUTHORITY: &str = include_str!("tests/tls/ca.pem");
const SERVER: &str = include_str!("tests/tls/server.pem");
const SERVER_KEY: &str = include_str!("tests/tls/server.key");

#[test]
fn authorities_of_the_meshs_own_are_certificates_in_pem() {
    assert!(check_authorities(AUTHORITY).is_ok());
    assert!(check_authorities(&AUTHORITY.repeat(3)).is_ok());
    for (wrong, said) in [
        ("", "no certificate"),
        ("hello", "no certificate"),
        (AUTHORITY.split_at(80).0, "not PEM"),
        (&AUTHORITY.replace("MII", "AAA"), "not a certificate"),
        (&AUTHORITY.repeat(200), "more than"),
    ] {
        let refused = check_authorities(wrong).unwrap_err();
        assert!(refused.contains(said), "{wrong:.40}: {refused}");
    }
}

/// A server of key sets over TLS; the URL of its set.
async fn over_tls() -> String {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let chain = CertificateDer::pem_slice_iter(SERVER.as_bytes()).map(Result::unwrap);
    let key = PrivateKeyDer::from_pem_slice(SERVER_KEY.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.collect(), key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut head = [0; 4096];
            let _read = stream.read(&mut head).await.unwrap_or_default();
            drop(
                stream
                    .write_all(answer("200 OK", &jwks("tls")).as_bytes())
                    .await,
            );
            drop(stream.shutdown().await);
        }
    });
    format!("https://localhost:{port}/keys")
}

#[tokio::test]
async fn a_private_authority_is_trusted_only_where_the_mesh_says_so() {
    let source = from(&over_tls().await);
    let stranger = Fetcher::new(None).fetch(&source, Reach::Anywhere).await;
    assert!(
        matches!(&stranger, Err(FetchError::Connection(why)) if why.contains("certificate")),
        "{stranger:?}"
    );
    let trusted = Fetcher::new(Some(AUTHORITY));
    assert_eq!(
        trusted.fetch(&source, Reach::Anywhere).await.unwrap(),
        jwks("tls")
    );
    // Where it may go is another question.
    let inside = trusted.fetch(&source, Reach::PublicOnly).await;
    assert!(inside.is_err_and(|why| why.to_string().contains("internal")));
}
