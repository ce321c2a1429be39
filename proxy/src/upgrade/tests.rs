use http::Request;
use proptest::prelude::*;

use super::*;

/// What is asked of the upstream; `None` = the request is served without an upgrade.
fn asked(version: Version, headers: &[(&str, &str)]) -> Option<String> {
    let mut request = Request::builder().version(version);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    protocols(&parts).map(|value| value.to_str().unwrap().to_owned())
}

#[test]
fn only_upgrades_that_can_be_passed_on_are_asked_for() {
    let websocket = ("upgrade", "websocket");
    for (connection, upgrade, expected) in [
        ("Upgrade", "websocket", Some("websocket")),
        ("keep-alive, upgrade", "WebSocket", Some("WebSocket")),
        ("upgrade", "foo/2, websocket", Some("foo/2, websocket")),
        ("upgrade", "h2c, websocket", Some("websocket")),
        ("upgrade", "h2c", None),
        ("upgrade", "HTTP/2.0", None),
        ("upgrade", "TLS/1.3, http/1.1", None),
        ("upgrade", " , ", None),
        ("close", "websocket", None),
    ] {
        let headers = [("connection", connection), ("upgrade", upgrade)];
        let got = asked(Version::HTTP_11, &headers);
        assert_eq!(got.as_deref(), expected, "{connection} {upgrade}");
    }
    assert_eq!(asked(Version::HTTP_11, &[websocket]), None);
    for version in [Version::HTTP_10, Version::HTTP_2] {
        assert_eq!(
            asked(version, &[("connection", "upgrade"), websocket]),
            None
        );
    }
}

proptest! {
    #[test]
    fn no_protocol_that_carries_requests_is_ever_asked_for(
        connection in "(upgrade|Upgrade|close|[, ]){0,3}",
        upgrade in "([hH]2[cC]|HTTP|http|TLS|websocket|foo|[/.,; 12]|\t){0,7}",
        bytes: Vec<u8>,
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::CONNECTION, connection.as_bytes()),
            (header::UPGRADE, upgrade.as_bytes()),
            (header::UPGRADE, bytes.as_slice()),
        ] {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(name, value);
            }
        }
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.headers = headers;
        let Some(asked) = protocols(&parts) else { return Ok(()) };
        let asked = asked.to_str().unwrap();
        prop_assert!(!asked.is_empty() && connection.to_ascii_lowercase().contains("upgrade"));
        for protocol in asked.split(',') {
            let name = protocol.trim().split('/').next().unwrap_or_default().to_ascii_lowercase();
            prop_assert!(!["h2c", "http", "tls"].contains(&name.as_str()), "{}", asked);
        }
    }
}
