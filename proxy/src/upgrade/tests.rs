use http::Request;

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
