use std::net::IpAddr;

use super::{
    fetch::{FetchError, is_internal},
    *,
};

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

/// A server that answers every request with `answer`, and its URL.
async fn server(answer: String) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await;
            if read.is_ok() && stream.write_all(answer.as_bytes()).await.is_err() {
                continue;
            }
        }
    });
    format!("http://127.0.0.1:{port}/jwks")
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\nlocation: http://127.0.0.1:1/\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn keys_are_fetched_within_bounds() {
    let fetcher = Fetcher::new();
    let good = server(answer("200 OK", "{\"keys\":[{}]}")).await;
    assert_eq!(
        fetcher.fetch(&good, Reach::Anywhere).await.unwrap(),
        "{\"keys\":[{}]}"
    );
    let refused = fetcher.fetch(&good, Reach::PublicOnly).await;
    assert!(
        matches!(refused, Err(FetchError::Internal(_))),
        "{refused:?}"
    );
    let by_name = fetcher
        .fetch(&good.replace("127.0.0.1", "localhost"), Reach::PublicOnly)
        .await;
    assert!(
        matches!(&by_name, Err(FetchError::Connection(e)) if e.contains("internal")),
        "{by_name:?}"
    );
    let huge = server(answer("200 OK", &"x".repeat(MAX_JWKS_BYTES + 1))).await;
    assert!(matches!(
        fetcher.fetch(&huge, Reach::Anywhere).await,
        Err(FetchError::Body)
    ));
    let moved = server(answer("302 Found", "")).await;
    assert!(
        matches!(
            fetcher.fetch(&moved, Reach::Anywhere).await,
            Err(FetchError::Status(_))
        ),
        "no redirects"
    );
    assert!(matches!(
        fetcher.fetch("nonsense", Reach::Anywhere).await,
        Err(FetchError::Connection(_) | FetchError::BadUri)
    ));
}

#[test]
fn failures_wait_longer_each_time_and_stale_keys_end() {
    let mut source = Source::default();
    let good = || Ok("{\"keys\":[{}]}".to_owned());
    let bad = || Err("down".to_owned());
    let start = UnixTime::from_secs(1_000);
    source.settle("u", good(), start);
    assert_eq!(source.due, start.plus(REFRESH));
    for wait in [1, 2, 4, 8] {
        source.settle("u", bad(), start);
        assert_eq!(source.due.since(start), Duration::from_secs(wait));
    }
    assert!(source.keys.is_some(), "still good for a while");
    source.settle("u", bad(), start.plus(MAX_STALE));
    assert!(source.keys.is_some());
    source.settle("u", bad(), start.plus(MAX_STALE + Duration::from_secs(1)));
    assert!(source.keys.is_none());
    source.settle("u", Ok("{}".to_owned()), start);
    assert!(source.keys.is_none(), "what is no key set is a failure");
}

#[test]
fn a_documents_generation_follows_its_content() {
    assert_eq!(document("a"), document("a"));
    assert_ne!(document("a").generation, document("b").generation);
}
