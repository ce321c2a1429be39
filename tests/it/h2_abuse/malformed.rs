//! HTTP/2 connections that are wrong in one way each. In paths `@` stands for a path of the case's own.

use reeve_tests::frames::{
    END_HEADERS, END_STREAM, PADDED, PREFACE, block, frame, get, integer, kind, settings,
};

/// What must come of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// The application sees nothing whole.
    Refused,
    /// The application sees the request once.
    Served,
}
use Expect::{Refused, Served};

/// One connection's bytes.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) expect: Expect,
}

const AUTHORITY: &str = "target:9080";
const WHOLE: u8 = END_STREAM | END_HEADERS;

/// All of them; `mark` gives a case its path.
pub(super) fn cases(mark: impl Fn(&str) -> String) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &'static str, expect, frames: &dyn Fn(&str) -> Vec<Vec<u8>>| {
        let path = mark(name);
        let bytes = [PREFACE.to_vec(), settings(&[]), frames(&path).concat()].concat();
        cases.push(Case {
            name,
            bytes,
            expect,
        });
    };
    heads(&mut add);
    bodies(&mut add);
    streams(&mut add);
    frames_(&mut add);
    connection(&mut add);
    cases
}

type Add<'a> = dyn FnMut(&'static str, Expect, &dyn Fn(&str) -> Vec<Vec<u8>>) + 'a;

fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, WHOLE, 1, &block(fields))
}

fn with<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [get(AUTHORITY, path), more.to_vec()].concat()
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn heads(add: &mut Add<'_>) {
    add("plain", Served, &|p| vec![headers(&get(AUTHORITY, p))]);
    for (name, field) in [
        ("connection", ("connection", "close")),
        ("keep-alive", ("keep-alive", "timeout=5")),
        ("proxy-connection", ("proxy-connection", "keep-alive")),
        ("transfer-encoding", ("transfer-encoding", "chunked")),
        ("upgrade", ("upgrade", "websocket")),
        ("te", ("te", "gzip")),
        ("upper", ("X-Upper", "1")),
        ("name-blank", ("x a", "1")),
        ("name-colon", ("x:a", "1")),
        ("name-empty", ("", "1")),
        ("name-nul", ("x\0a", "1")),
        ("name-lf", ("x\r\nsmuggled", "1")),
        ("value-lf", ("x-a", "1\r\nsmuggled: 1")),
        ("value-bare-lf", ("x-a", "1\nsmuggled: 1")),
        ("value-nul", ("x-a", "1\0")),
        ("pseudo-unknown", (":x", "1")),
        ("pseudo-after", (":path", "/again")),
        ("pseudo-status", (":status", "200")),
        ("host-other", ("host", "other:9080")),
        ("cl-unlike-end", ("content-length", "5")),
        ("cl-not-number", ("content-length", "+0")),
        ("cl-list", ("content-length", "0, 0")),
    ] {
        add(name, Refused, &|p| vec![headers(&with(p, &[field]))]);
    }
    for missing in [":method", ":path", ":scheme", ":authority"] {
        let name = match missing {
            ":method" => "no-method",
            ":path" => "no-path",
            ":scheme" => "no-scheme",
            _ => "no-authority",
        };
        add(name, Refused, &|p| {
            let mut fields = get(AUTHORITY, p);
            fields.retain(|(name, _)| *name != missing);
            vec![headers(&fields)]
        });
    }
    for (name, field) in [
        ("method-twice", (":method", "GET")),
        ("path-twice", (":path", "/again")),
        ("scheme-twice", (":scheme", "http")),
        ("authority-twice", (":authority", "target:9080")),
        ("protocol", (":protocol", "websocket")),
    ] {
        add(name, Refused, &|p| {
            vec![headers(&[vec![field], get(AUTHORITY, p)].concat())]
        });
    }
    let one =
        |name: &'static str, which: &'static str, make: fn(&str) -> String, add: &mut Add<'_>| {
            add(name, Refused, &|p| {
                let value = make(p);
                let mut fields = get(AUTHORITY, p);
                for field in &mut fields {
                    if field.0 == which {
                        field.1 = &value;
                    }
                }
                vec![headers(&fields)]
            });
        };
    one(
        "path-relative",
        ":path",
        |p| p.trim_start_matches('/').to_owned(),
        add,
    );
    one("path-empty", ":path", |_| String::new(), add);
    one("path-blank", ":path", |p| format!("{p} HTTP/1.1"), add);
    one(
        "path-lf",
        ":path",
        |p| format!("{p} HTTP/1.1\r\nHost: x\r\n\r\nGET {p}s"),
        add,
    );
    one("path-nul", ":path", |p| format!("{p}\0"), add);
    one(
        "method-blank",
        ":method",
        |p| format!("GET {p}s HTTP/1.1\r\n\r\nGET"),
        add,
    );
    one("method-empty", ":method", |_| String::new(), add);
    one("method-connect", ":method", |_| "CONNECT".to_owned(), add);
    one(
        "authority-user",
        ":authority",
        |_| format!("u:p@{AUTHORITY}"),
        add,
    );
    one(
        "authority-path",
        ":authority",
        |_| format!("{AUTHORITY}/x"),
        add,
    );
    one(
        "authority-lf",
        ":authority",
        |_| format!("{AUTHORITY}\r\nx: y"),
        add,
    );
    one("authority-empty", ":authority", |_| String::new(), add);
}

fn bodies(add: &mut Add<'_>) {
    let open = |p: &str, more: &[(&str, &str)]| {
        let mut fields = with(p, more);
        fields[0].1 = "POST";
        frame(kind::HEADERS, END_HEADERS, 1, &block(&fields))
    };
    let data = |flags, bytes: &[u8]| frame(kind::DATA, flags, 1, bytes);
    add("body", Served, &|p| {
        vec![
            open(p, &[("content-length", "5")]),
            data(END_STREAM, b"hello"),
        ]
    });
    add("cl-more", Refused, &|p| {
        vec![
            open(p, &[("content-length", "5")]),
            data(END_STREAM, b"hello, you"),
        ]
    });
    add("cl-less", Refused, &|p| {
        vec![
            open(p, &[("content-length", "9")]),
            data(END_STREAM, b"hello"),
        ]
    });
    add("cl-twice", Refused, &|p| {
        vec![
            open(p, &[("content-length", "5"), ("content-length", "6")]),
            data(END_STREAM, b"hello"),
        ]
    });
    add("cl-smuggle", Refused, &|p| {
        let smuggled = format!("GET {p}s HTTP/1.1\r\nHost: target:9080\r\n\r\n");
        vec![
            open(p, &[("content-length", "0")]),
            data(END_STREAM, smuggled.as_bytes()),
        ]
    });
    add("trailers", Served, &|p| {
        let trailers = frame(kind::HEADERS, WHOLE, 1, &block(&[("x-t", "1")]));
        vec![open(p, &[]), data(0, b"hello"), trailers]
    });
    // The library drops such trailers; nothing of them reaches the application.
    add("trailers-pseudo", Served, &|p| {
        let trailers = frame(kind::HEADERS, WHOLE, 1, &block(&[(":path", "/x")]));
        vec![open(p, &[]), data(0, b"hello"), trailers]
    });
    add("trailers-open", Refused, &|p| {
        let trailers = frame(kind::HEADERS, END_HEADERS, 1, &block(&[("x-t", "1")]));
        vec![
            open(p, &[]),
            data(0, b"hello"),
            trailers,
            data(END_STREAM, b"more"),
        ]
    });
    add("data-padding", Refused, &|p| {
        vec![open(p, &[]), data(END_STREAM | PADDED, b"\x20hello")]
    });
    add("data-after-end", Refused, &|p| {
        vec![headers(&get(AUTHORITY, p)), data(END_STREAM, b"hello")]
    });
}

fn streams(add: &mut Add<'_>) {
    let on = |stream, p: &str| frame(kind::HEADERS, WHOLE, stream, &block(&get(AUTHORITY, p)));
    add("stream-zero", Refused, &|p| vec![on(0, p)]);
    add("stream-even", Refused, &|p| vec![on(2, p)]);
    add("stream-again", Refused, &|p| {
        vec![on(1, p), on(1, &format!("{p}s"))]
    });
    add("stream-back", Refused, &|p| {
        vec![on(5, p), on(3, &format!("{p}s"))]
    });
    add("data-idle", Refused, &|p| {
        vec![frame(kind::DATA, END_STREAM, 1, b"x"), on(3, p)]
    });
    add("data-zero", Refused, &|p| {
        vec![frame(kind::DATA, 0, 0, b"x"), on(1, p)]
    });
    add("reset-idle", Refused, &|p| {
        vec![frame(kind::RST_STREAM, 0, 1, &[0; 4]), on(3, p)]
    });
    add("reset-zero", Refused, &|p| {
        vec![frame(kind::RST_STREAM, 0, 0, &[0; 4]), on(1, p)]
    });
    add("window-idle", Refused, &|p| {
        vec![frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), on(3, p)]
    });
    add("priority-self", Refused, &|p| {
        let block = [&[0, 0, 0, 1, 16][..], &block(&get(AUTHORITY, p))].concat();
        vec![frame(kind::HEADERS, WHOLE | 0x20, 1, &block)]
    });
}

fn frames_(add: &mut Add<'_>) {
    let whole = |p: &str| headers(&get(AUTHORITY, p));
    add("continuation-alone", Refused, &|p| {
        vec![frame(kind::CONTINUATION, END_HEADERS, 1, &[]), whole(p)]
    });
    add("continuation", Served, &|p| {
        let block = block(&get(AUTHORITY, p));
        let (one, two) = block.split_at(9);
        vec![
            frame(kind::HEADERS, END_STREAM, 1, one),
            frame(kind::CONTINUATION, END_HEADERS, 1, two),
        ]
    });
    add("continuation-between", Refused, &|p| {
        let block = block(&get(AUTHORITY, p));
        let (one, two) = block.split_at(9);
        let ping = frame(kind::PING, 0, 0, &[0; 8]);
        vec![
            frame(kind::HEADERS, END_STREAM, 1, one),
            ping,
            frame(kind::CONTINUATION, END_HEADERS, 1, two),
        ]
    });
    add("continuation-other", Refused, &|p| {
        let block = block(&get(AUTHORITY, p));
        let (one, two) = block.split_at(9);
        vec![
            frame(kind::HEADERS, END_STREAM, 1, one),
            frame(kind::CONTINUATION, END_HEADERS, 3, two),
        ]
    });
    add("frame-large", Refused, &|p| {
        vec![frame(0x42, 0, 0, &[0; 16_385]), whole(p)]
    });
    add("frame-unknown", Served, &|p| {
        vec![frame(0x42, 0xff, 7, b"whatever"), whole(p)]
    });
    add("push-promise", Refused, &|p| {
        vec![
            frame(kind::PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
            whole(p),
        ]
    });
    add("hpack-index", Refused, &|p| {
        vec![
            frame(kind::HEADERS, WHOLE, 1, &[0xff, 0xff, 0x7f]),
            whole(p),
        ]
    });
    add("hpack-integer", Refused, &|p| {
        vec![frame(kind::HEADERS, WHOLE, 1, &[0xff; 12]), whole(p)]
    });
    add("hpack-table", Refused, &|p| {
        let mut update = integer(1 << 20, 5);
        update[0] |= 0x20;
        let block = [update, block(&get(AUTHORITY, p))].concat();
        vec![frame(kind::HEADERS, WHOLE, 1, &block)]
    });
    add("hpack-huffman", Refused, &|p| {
        let mut block = block(&get(AUTHORITY, p));
        block.extend([0, 0x84, 0xff, 0xff, 0xff, 0xff, 0]);
        vec![frame(kind::HEADERS, WHOLE, 1, &block)]
    });
    add("hpack-cut", Refused, &|p| {
        let mut block = block(&get(AUTHORITY, p));
        block.pop();
        vec![frame(kind::HEADERS, WHOLE, 1, &block)]
    });
}

fn connection(add: &mut Add<'_>) {
    let whole = |p: &str| headers(&get(AUTHORITY, p));
    for (name, bad) in [
        ("settings-length", frame(kind::SETTINGS, 0, 0, &[0; 5])),
        ("settings-stream", frame(kind::SETTINGS, 0, 1, &[])),
        ("settings-ack", frame(kind::SETTINGS, 1, 0, &[0; 6])),
        ("settings-push", settings(&[(2, 2)])),
        ("settings-window", settings(&[(4, 1 << 31)])),
        ("settings-frame", settings(&[(5, 100)])),
        ("ping-length", frame(kind::PING, 0, 0, &[0; 7])),
        ("ping-stream", frame(kind::PING, 0, 1, &[0; 8])),
        ("window-zero", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("window-length", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3])),
        (
            "window-overflow",
            frame(kind::WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
        ),
        ("goaway-stream", frame(kind::GOAWAY, 0, 1, &[0; 8])),
        ("priority-length", frame(kind::PRIORITY, 0, 1, &[0; 4])),
        ("reset-length", frame(kind::RST_STREAM, 0, 1, &[0; 3])),
    ] {
        add(name, Refused, &|p| vec![bad.clone(), whole(p)]);
    }
    add("settings-unknown", Served, &|p| {
        vec![settings(&[(0x99, 7)]), whole(p)]
    });
}
