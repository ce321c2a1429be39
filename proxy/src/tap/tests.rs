use http::HeaderValue;

use super::*;

fn told<'a>(line: Line<'a>, headers: &'a HeaderMap) -> Told<'a> {
    Told {
        line,
        request: Some(headers),
        query: Some("token=1"),
        version: None,
        response: None,
        trailers: None,
        details: "denied",
        failure: None,
        destination: None,
        server: None,
        server_name: None,
        local: None,
        peer_port: None,
        response_ms: None,
        bodies: None,
    }
}

fn taps(mode: TapMode) -> Arc<Taps> {
    let taps = Arc::new(Taps::default());
    taps.allow(mode);
    taps
}

fn line() -> Line<'static> {
    Line {
        method: "GET",
        path: "/a/b",
        peer: "spiffe://mesh.local/ns/default/sa/client",
        response_code: 403,
        effect: Some("deny"),
        ..Line::default()
    }
}

#[tokio::test]
async fn secrets_are_redacted_and_the_rest_is_shown() {
    let taps = taps(TapMode::Heads);
    assert!(!taps.is_on());
    let redact = vec!["x-mine".to_owned()];
    let mut tap = taps
        .open(TapFilter {
            redact,
            ..TapFilter::default()
        })
        .unwrap();
    assert!(taps.is_on());
    let mut headers = HeaderMap::new();
    for name in [
        "authorization",
        "cookie",
        "x-auth-token",
        "x-mine",
        "x-api-key",
    ] {
        headers.insert(name, HeaderValue::from_static("hunter2"));
    }
    headers.insert("accept", HeaderValue::from_static("text/plain"));
    taps.offer(&told(line(), &headers));
    let shown = String::from_utf8(tap.next().await.unwrap().to_vec()).unwrap();
    assert!(
        !shown.contains("hunter2") && !shown.contains("token=1"),
        "{shown}"
    );
    assert!(
        shown.contains("text/plain") && shown.contains(REDACTED),
        "{shown}"
    );
    drop(tap);
    assert!(!taps.is_on());
}

#[test]
fn a_filter_holds_when_all_of_it_does() {
    let headers = HeaderMap::from_iter([(http::header::ACCEPT, HeaderValue::from_static("a"))]);
    let text = |text: &str| Some(text.to_owned());
    let all = TapFilter {
        method: text("get"),
        path: text("/a"),
        status: text("4xx"),
        peer: text("sa/client"),
        headers: vec![("accept".into(), text("a"))],
        denied: true,
        redact: Vec::new(),
        body: false,
    };
    assert!(all.holds(&told(line(), &headers)));
    for other in [
        TapFilter {
            method: text("POST"),
            ..all.clone()
        },
        TapFilter {
            path: text("/b"),
            ..all.clone()
        },
        TapFilter {
            status: text("404"),
            ..all.clone()
        },
        TapFilter {
            peer: text("sa/other"),
            ..all.clone()
        },
        TapFilter {
            headers: vec![("accept".into(), text("b"))],
            ..all.clone()
        },
        TapFilter {
            headers: vec![("host".into(), None)],
            ..all.clone()
        },
    ] {
        assert!(!other.holds(&told(line(), &headers)), "{other:?}");
    }
    let allowed = Line {
        effect: Some("allow"),
        ..line()
    };
    assert!(!all.holds(&told(allowed, &headers)));
}

#[test]
fn a_slow_reader_loses_events_and_they_are_counted() {
    let taps = taps(TapMode::Heads);
    let tap = taps.open(TapFilter::default()).unwrap();
    let headers = HeaderMap::new();
    for _ in 0..TAP_QUEUE + 3 {
        taps.offer(&told(line(), &headers));
    }
    assert_eq!(tap.counts(), (TAP_QUEUE as u64, 3));
}

#[test]
fn taps_are_bounded() {
    let taps = taps(TapMode::Heads);
    let open: Vec<_> = (0..MAX_TAPS)
        .map(|_| taps.open(TapFilter::default()).unwrap())
        .collect();
    assert_eq!(
        taps.open(TapFilter::default()).err(),
        Some(TapRefused::TooMany)
    );
    drop(open);
    assert!(taps.open(TapFilter::default()).is_ok());
}

fn with_body() -> TapFilter {
    TapFilter {
        body: true,
        ..TapFilter::default()
    }
}

#[tokio::test]
async fn configuration_says_what_may_be_tapped() {
    let nothing_yet = Arc::new(Taps::default());
    let refused = |bodies| Some(TapRefused::NotAllowed { bodies });
    assert_eq!(nothing_yet.open(TapFilter::default()).err(), refused(false));
    let taps = taps(TapMode::Heads);
    assert_eq!(taps.open(with_body()).err(), refused(true));
    assert!(taps.bodies().is_none(), "nobody wants them");
    taps.allow(TapMode::Bodies);
    let mut bodies = taps.open(with_body()).unwrap();
    let mut heads = taps.open(TapFilter::default()).unwrap();
    assert!(taps.bodies().is_some());
    taps.allow(TapMode::Heads);
    assert_eq!(bodies.next().await, None, "it shows more than it may now");
    let headers = HeaderMap::new();
    taps.offer(&told(line(), &headers));
    assert!(heads.next().await.is_some());
    drop(bodies);
    assert!(taps.bodies().is_none());
    taps.allow(TapMode::Off);
    assert_eq!(heads.next().await, None);
}

#[tokio::test]
async fn bodies_are_shown_to_the_tap_that_asked() {
    let taps = taps(TapMode::Bodies);
    let (mut with, mut without) = (
        taps.open(with_body()).unwrap(),
        taps.open(TapFilter::default()).unwrap(),
    );
    let kept = taps.bodies().unwrap();
    kept.add_request(br#"{"password":"hunter2","#);
    kept.add_request(br#""plain":1}"#);
    let json = HeaderValue::from_static("application/json");
    let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, json)]);
    taps.offer(&Told {
        bodies: Some(&kept),
        ..told(line(), &headers)
    });
    let read = |bytes: Bytes| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
    let shown = read(with.next().await.unwrap());
    let body = &shown["request_body"];
    assert_eq!(body["text"], r#"{"password":"[redacted]","plain":1}"#);
    assert_eq!(body["bytes"], 32);
    assert_eq!(shown["response_body"]["bytes"], 0);
    let other = read(without.next().await.unwrap());
    assert!(other.get("request_body").is_none(), "{other}");
}
