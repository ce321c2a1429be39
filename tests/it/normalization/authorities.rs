//! Hosts, and forms of targets.

use super::{
    Row,
    wire::{Http, Outcome, Sent},
};

/// What is said of the host, and the host that is seen; else the status, which HTTP/2 has another one of: what no URL can
/// have resets the stream (0).
const HOSTS: &[(&str, Result<&str, u16>)] = &[
    ("target:9080", Ok("target:9080")),
    ("target", Ok("target")),
    ("TARGET:9080", Ok("target:9080")),
    ("TarGet.Default.svc", Ok("target.default.svc")),
    ("target.", Ok("target")),
    ("target.:9080", Ok("target:9080")),
    ("my_host-1:80", Ok("my_host-1:80")),
    ("10.0.0.1:9080", Ok("10.0.0.1:9080")),
    ("[::1]:9080", Ok("[::1]:9080")),
    ("[2001:DB8::A]", Ok("[2001:db8::a]")),
    ("target..", Err(400)),
    ("target..default", Err(400)),
    (".target", Err(400)),
    (".", Err(400)),
    ("target:", Err(400)),
    ("target:0", Err(400)),
    ("target:09080", Err(400)),
    ("target:65536", Err(400)),
    ("target:+80", Err(400)),
    ("target:http", Err(400)),
    ("target:9080:9080", Err(0)),
    (":9080", Err(400)),
    ("user@target:9080", Err(400)),
    ("user:word@target:9080", Err(400)),
    ("targ%65t:9080", Err(0)),
    ("target%00:9080", Err(0)),
    ("target,other", Err(400)),
    ("target/x", Err(0)),
    ("target?x", Err(0)),
    ("target\\x", Err(0)),
    ("*", Err(400)),
    ("[::1", Err(0)),
    ("[::1]80", Err(400)),
    ("[::1%25lo]", Err(400)),
    ("::1", Err(0)),
    ("tärget", Err(0)),
];

/// HTTP/1.1 targets with a host, and the status or target that is seen.
const TARGETS: &[(&str, &str, &str, Result<&str, u16>)] = &[
    ("GET", "http://target:9080/a", "target:9080", Ok("/a")),
    ("GET", "http://TARGET:9080/a", "target:9080", Ok("/a")),
    ("GET", "http://target.:9080/a", "target:9080", Ok("/a")),
    ("GET", "HTTP://target:9080/a", "target:9080", Ok("/a")),
    ("GET", "http://target:9080", "target:9080", Ok("/")),
    ("GET", "http://target:9080?x=1", "target:9080", Ok("/?x=1")),
    ("GET", "http://target:9080/x/../a", "target:9080", Ok("/a")),
    (
        "GET",
        "http://target:9080/x/../admin",
        "target:9080",
        Err(403),
    ),
    ("GET", "http://target:9080//admin", "target:9080", Err(400)),
    ("GET", "http://other:9080/a", "target:9080", Err(400)),
    ("GET", "http://target/a", "target:9080", Err(400)),
    ("GET", "http://target:09080/a", "target:9080", Err(400)),
    ("GET", "http://u@target:9080/a", "target:9080", Err(400)),
    ("GET", "ftp://target:9080/a", "target:9080", Err(400)),
    ("GET", "file:///etc/passwd", "target:9080", Err(400)),
    ("GET", "/a#x", "target:9080", Err(400)),
    ("GET", "/a?x#y", "target:9080", Err(400)),
    ("GET", "*", "target:9080", Err(400)),
    ("OPTIONS", "*", "target:9080", Ok("*")),
    ("GET", "a/b", "target:9080", Err(400)),
    ("GET", "?x=1", "target:9080", Err(400)),
    ("GET", "target:9080", "target:9080", Err(400)),
    ("CONNECT", "target:9080", "target:9080", Err(501)),
];

/// The same as `:path` of HTTP/2; 0 = the stream is reset. A fragment is cut off before anything looks at the path: what is
/// judged is what is sent on.
const PSEUDO: &[(&str, &str, &str, Result<&str, u16>)] = &[
    ("GET", "http", "/a#x", Ok("/a")),
    ("GET", "http", "/x/../admin#y", Err(403)),
    ("GET", "https", "/a", Ok("/a")),
    ("GET", "ftp", "/a", Err(400)),
    ("GET", "http", "*", Err(400)),
    ("OPTIONS", "http", "*", Ok("*")),
    ("GET", "http", "a/b", Err(0)),
    ("GET", "http", "http://target:9080/a", Err(0)),
    ("GET", "http", "", Err(0)),
];

fn outcome(expected: Result<&str, u16>) -> Outcome {
    match expected {
        Ok(target) => Outcome::saw(target),
        Err(status) => Outcome::Answered(status),
    }
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (n, (authority, host)) in HOSTS.iter().enumerate() {
        for http in [Http::One, Http::Two] {
            let expected = match (host, http) {
                (Ok(host), _) => Outcome::Saw {
                    target: "/a".to_owned(),
                    host: (*host).to_owned(),
                    fields: Vec::new(),
                },
                (Err(_), Http::One) => Outcome::Answered(400),
                (Err(status), Http::Two) => Outcome::Answered(*status),
            };
            rows.push(Row {
                id: format!("host-{http:?}-{n}"),
                sent: Sent {
                    authority: Some((*authority).to_owned()),
                    ..Sent::get(http, "/a")
                },
                expected,
            });
        }
    }
    for (n, (method, target, host, expected)) in TARGETS.iter().enumerate() {
        rows.push(Row {
            id: format!("target-{n}"),
            sent: Sent {
                method,
                authority: Some((*host).to_owned()),
                ..Sent::get(Http::One, target)
            },
            expected: outcome(*expected),
        });
    }
    for (n, (method, scheme, target, expected)) in PSEUDO.iter().enumerate() {
        rows.push(Row {
            id: format!("pseudo-{n}"),
            sent: Sent {
                method,
                scheme,
                ..Sent::get(Http::Two, target)
            },
            expected: outcome(*expected),
        });
    }
    rows
}
