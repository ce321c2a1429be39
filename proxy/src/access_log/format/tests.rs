use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use reeve_core::access_log::{ISTIO_JSON, ISTIO_TEXT};

use super::*;

fn map(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &[u8])| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_bytes(value).unwrap(),
        )
    };
    pairs.iter().map(pair).collect()
}

fn line() -> Line<'static> {
    Line {
        log: "access",
        time: UnixTime::from_millis(1_700_000_000_123),
        direction: "inbound",
        peer: "spiffe://mesh.local/ns/default/sa/a",
        peer_address: Some(IpAddr::V4(Ipv4Addr::new(127, 9, 3, 1))),
        protocol: "http",
        method: "GET",
        authority: "reviews:9080",
        path: "/b",
        raw_path: "/a/../b",
        service: "reviews.default.svc.cluster.local",
        upstream: Some("127.9.4.2:9080"),
        attempts: 1,
        response_code: 200,
        bytes_received: 3,
        bytes_sent: 5,
        duration_ms: 7.9,
        decision_id: Some("d-1"),
        ..Line::default()
    }
}

fn told<'a>(line: Line<'a>, request: &'a HeaderMap, response: &'a HeaderMap) -> Told<'a> {
    Told {
        line,
        request: Some(request),
        query: Some("x=1"),
        version: Some("HTTP/2"),
        response: Some(response),
        trailers: None,
        details: "via_upstream",
        failure: None,
        destination: None,
        server: Some("spiffe://mesh.local/ns/default/sa/reviews"),
        server_name: None,
        local: Some((Ipv4Addr::new(127, 9, 4, 1), 9080).into()),
        peer_port: Some(4711),
        response_ms: Some(6.2),
        bodies: None,
    }
}

fn write(config: &AccessLogConfig, told: &Told<'_>) -> String {
    let mut out = Vec::new();
    assert!(LogFormat::compile(config).unwrap().write(told, &mut out));
    String::from_utf8(out).unwrap()
}

fn text(format: &str, told: &Told<'_>) -> String {
    write(&AccessLogConfig::Text(format.to_owned()), told)
}

#[test]
fn istios_text_line_is_written() {
    let request = map(&[("user-agent", b"curl/8"), ("x-request-id", b"r-1")]);
    let response = HeaderMap::new();
    let written = text(ISTIO_TEXT, &told(line(), &request, &response));
    assert_eq!(
        written,
        "[2023-11-14T22:13:20.123Z] \"GET /a/../b?x=1 HTTP/2\" 200 - via_upstream - \"-\" 3 5 7 6 \"-\" \
         \"curl/8\" \"r-1\" \"reviews:9080\" \"127.9.4.2:9080\" inbound|9080|| - 127.9.4.1:9080 127.9.3.1:4711 - -\n"
    );
}

#[test]
fn json_members_keep_their_types() {
    let (request, response) = (HeaderMap::new(), HeaderMap::new());
    let own = |(name, format): &(&str, &str)| ((*name).to_owned(), (*format).to_owned());
    let config = AccessLogConfig::Json(ISTIO_JSON.iter().map(own).collect());
    let written = write(&config, &told(line(), &request, &response));
    let value: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!(value["response_code"], 200);
    assert_eq!(value["duration"], 7);
    assert_eq!(value["method"], "GET");
    assert!(value["user_agent"].is_null());
    let mixed = AccessLogConfig::Json(vec![("a".into(), "%BYTES_SENT% bytes".into())]);
    let written = write(&mixed, &told(line(), &request, &response));
    assert_eq!(written, "{\"a\":\"5 bytes\"}\n");
}

#[test]
fn operators_with_arguments_lengths_and_alternatives() {
    let request = map(&[("x-a", b"abcdef")]);
    let response = map(&[("server", b"echo")]);
    let told = told(line(), &request, &response);
    for (format, expected) in [
        ("%REQ(X-A):3%", "abc"),
        ("%REQ(X-NOT?X-A)%", "abcdef"),
        ("%REQ(X-NOT)%", "-"),
        ("%RESP(Server)% %RESP(:STATUS)%", "echo 200"),
        ("%START_TIME(%Y/%m/%d %s)%", "2023/11/14 1700000000"),
        (
            "%DOWNSTREAM_PEER_URI_SAN%",
            "spiffe://mesh.local/ns/default/sa/a",
        ),
        ("%DYNAMIC_METADATA(reeve:decision_id)%", "d-1"),
        ("%DOWNSTREAM_LOCAL_PORT% %GRPC_STATUS%", "9080 -"),
    ] {
        assert_eq!(text(format, &told), format!("{expected}\n"), "{format}");
    }
}

#[test]
fn flags_have_long_names() {
    let (request, response) = (HeaderMap::new(), HeaderMap::new());
    let mut line = line();
    line.flags = "UH,UAEX";
    line.grpc_status = Some(7);
    let written = text(
        "%RESPONSE_FLAGS_LONG% %GRPC_STATUS%",
        &told(line, &request, &response),
    );
    assert_eq!(
        written,
        "NoHealthyUpstream,UnauthorizedExternalService PermissionDenied\n"
    );
}

#[test]
fn a_peer_forges_no_line() {
    let request = map(&[("user-agent", b"x\" 200 \\ \t\xff")]);
    let response = HeaderMap::new();
    let mut line = line();
    line.raw_path = "/a\n[2023] \"GET";
    let told = told(line, &request, &response);
    assert_eq!(
        text("\"%REQ(USER-AGENT)%\" %REQ(:PATH)%", &told),
        "\"x\\\" 200 \\\\ \\x09\\xff\" /a\\x0a[2023] \\\"GET?x=1\n"
    );
}

proptest! {
    #[test]
    fn a_line_is_one_line_whatever_a_peer_sends(
        value in proptest::collection::vec(any::<u8>(), 0..60), path in ".{0,40}",
    ) {
        let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
        let request = HeaderMap::from_iter([(HeaderName::from_static("user-agent"), value)]);
        let response = request.clone();
        let mut line = line();
        line.raw_path = &path;
        let told = told(line, &request, &response);
        let written = text("\"%REQ(USER-AGENT)%\" \"%REQ(:PATH)%\"", &told);
        prop_assert_eq!(written.matches('\n').count(), 1);
        prop_assert!(written.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)));
        let json = AccessLogConfig::Json(vec![("a".into(), "%REQ(USER-AGENT)%".into())]);
        let written = write(&json, &told);
        prop_assert_eq!(written.matches('\n').count(), 1);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok());
    }
}
