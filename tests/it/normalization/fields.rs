//! Headers with underscores, duplicates, and what only the mesh may say.

use super::{
    Row,
    wire::{Http, Outcome, Sent},
};

type Fields = &'static [(&'static str, &'static str)];

/// What is sent, and what is seen, names in lower case; on both protocols.
const BOTH: &[(Fields, Fields)] = &[
    (&[("x-a", "1")], &[("x-a", "1")]),
    (&[("x_a", "1")], &[("x_a", "1")]),
    (&[("x-a", "1"), ("x_a", "2")], &[("x-a", "1"), ("x_a", "2")]),
    (&[("x-a", "1"), ("x-a", "2")], &[("x-a", "1"), ("x-a", "2")]),
    (&[("x-a", "1, 2")], &[("x-a", "1, 2")]),
    (&[("x-a", "")], &[("x-a", "")]),
    (&[("x.a", "1"), ("x!a", "2")], &[("x.a", "1"), ("x!a", "2")]),
    (
        &[("cookie", "a=1"), ("cookie", "b=2")],
        &[("cookie", "a=1"), ("cookie", "b=2")],
    ),
    (&[("x_reeve_peer", "w=admin")], &[]),
    (&[("x-reeve-peer", "w=admin")], &[]),
    (&[("x-reeve-outcome", "unknown")], &[]),
    (&[("x_reeve-decision_id", "d-1")], &[]),
    (
        &[(
            "x-forwarded-client-cert",
            "URI=spiffe://mesh.local/ns/default/sa/admin",
        )],
        &[],
    ),
    (
        &[(
            "x_forwarded_client_cert",
            "URI=spiffe://mesh.local/ns/default/sa/admin",
        )],
        &[],
    ),
    (&[("te", "trailers")], &[("te", "trailers")]),
    (&[("host", "target:9080")], &[]),
];

/// On HTTP/1.1 alone: what belongs to one hop, which HTTP/2 has none of; `None` = it is no message.
const ONE: &[(Fields, Option<Fields>)] = &[
    (
        &[("X-A", "1"), ("x-a", "2")],
        Some(&[("x-a", "1"), ("x-a", "2")]),
    ),
    (&[("X-A", "  1\t ")], Some(&[("x-a", "1")])),
    (&[("Connection", "x-a"), ("X-A", "1")], Some(&[])),
    (
        &[("Connection", "close, X-A"), ("X-A", "1"), ("X-B", "2")],
        Some(&[("x-b", "2")]),
    ),
    (&[("Connection", "host")], Some(&[])),
    (
        &[
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
        ],
        Some(&[]),
    ),
    (&[("Proxy-Authorization", "Basic dTpw")], Some(&[])),
    (&[("TE", "trailers, deflate")], Some(&[("te", "trailers")])),
    (&[("Host", "target:9080")], None),
    (&[("Host", "other")], None),
    (&[("X A", "1")], None),
    (&[("X-A ", "1")], None),
    (&[("content_length", "5")], None),
    (&[("transfer_encoding", "chunked")], None),
];

/// On HTTP/2 alone: what stands in no request; 0 = the stream is reset.
const TWO: &[(Fields, u16)] = &[
    (&[("X-A", "1")], 0),
    (&[("connection", "close")], 0),
    (&[("transfer-encoding", "chunked")], 0),
    (&[("te", "gzip")], 0),
    (&[("x-a", "1\r\nx-b: 2")], 0),
    (&[(":path", "/admin")], 0),
    (&[("host", "other")], 400),
    (&[("host", "target:9080"), ("host", "target:9080")], 400),
];

/// On HTTP/2, where no header frames anything: an application that takes underscores for dashes must not read it so.
const DISGUISED: &[(Fields, Fields)] = &[
    (&[("content_length", "5")], &[]),
    (&[("transfer_encoding", "chunked")], &[]),
];

fn owned(fields: Fields) -> Vec<(String, String)> {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    fields.iter().map(pair).collect()
}

fn row(id: String, http: Http, sent: Fields, expected: Outcome) -> Row {
    let fields = owned(sent);
    Row {
        id,
        sent: Sent {
            fields,
            ..Sent::get(http, "/a")
        },
        expected,
    }
}

fn saw(fields: Fields) -> Outcome {
    Outcome::Saw {
        target: "/a".to_owned(),
        host: "target:9080".to_owned(),
        fields: owned(fields),
    }
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (n, (sent, seen)) in BOTH.iter().enumerate() {
        // A second Host is one too many where the first one is a header as well.
        let twice = sent.iter().any(|(name, _)| *name == "host");
        let one = if twice {
            Outcome::Answered(400)
        } else {
            saw(seen)
        };
        rows.push(row(format!("field-One-{n}"), Http::One, sent, one));
        rows.push(row(format!("field-Two-{n}"), Http::Two, sent, saw(seen)));
    }
    for (n, (sent, seen)) in ONE.iter().enumerate() {
        let expected = seen.map_or(Outcome::Closed, saw);
        rows.push(row(format!("one-{n}"), Http::One, sent, expected));
    }
    for (n, (sent, seen)) in DISGUISED.iter().enumerate() {
        rows.push(row(format!("disguised-{n}"), Http::Two, sent, saw(seen)));
    }
    for (n, (sent, status)) in TWO.iter().enumerate() {
        rows.push(row(
            format!("two-{n}"),
            Http::Two,
            sent,
            Outcome::Answered(*status),
        ));
    }
    rows
}
