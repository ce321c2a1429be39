//! What is sent, and what must come of it. In the bytes `@` stands for a path of the case's own, `@s` thus for the
//! request that it tries to smuggle; ` stands for a real @.

/// What must come of a case.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expect {
    /// The application sees nothing; the answer is an error or the end of the connection.
    Refused,
    /// The application sees nothing; this is the answer.
    Status(u16),
    /// The message is not whole: the application sees nothing, and there is no good answer.
    Waits,
    /// The application sees exactly these targets in this order, each answered 200.
    Served(&'static [&'static str]),
}
use Expect::{Refused, Served, Status, Waits};

/// One connection's bytes.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    bytes: Vec<u8>,
    pub(super) expect: Expect,
}

impl Case {
    /// The bytes with the case's own path.
    pub(super) fn marked(&self, mark: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for byte in &self.bytes {
            match byte {
                b'@' => bytes.extend_from_slice(mark.as_bytes()),
                b'`' => bytes.push(b'@'),
                byte => bytes.push(*byte),
            }
        }
        bytes
    }
}

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    [
        lengths(),
        codings(),
        chunk_sizes(),
        line_ends(),
        fields(),
        request_lines(),
        sizes(),
        connections(),
    ]
    .concat()
}

fn case(name: &'static str, bytes: impl AsRef<[u8]>, expect: Expect) -> Case {
    Case {
        name,
        bytes: bytes.as_ref().to_vec(),
        expect,
    }
}

const HOST: &str = "Host: target:9080\r\n";
const SMUGGLED: &str = "GET @s HTTP/1.1\r\nHost: target:9080\r\n\r\n";

/// A POST with these lines among its headers, and this after its head.
fn post(name: &'static str, lines: &str, rest: &str, expect: Expect) -> Case {
    case(
        name,
        format!("POST @ HTTP/1.1\r\n{HOST}{lines}\r\n{rest}"),
        expect,
    )
}

/// A GET with these lines among its headers.
fn get(name: &'static str, lines: &str, expect: Expect) -> Case {
    case(name, format!("GET @ HTTP/1.1\r\n{HOST}{lines}\r\n"), expect)
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn lengths() -> Vec<Case> {
    let smuggled = |prefix: &str| format!("{prefix}{SMUGGLED}");
    vec![
        post("cl", "Content-Length: 5\r\n", "hello", Served(&["@"])),
        post(
            "cl-conflict",
            "Content-Length: 5\r\nContent-Length: 0\r\n",
            &smuggled("hello"),
            Refused,
        ),
        post(
            "cl-conflict-0",
            "Content-Length: 0\r\nContent-Length: 5\r\n",
            &smuggled(""),
            Refused,
        ),
        post(
            "cl-twice",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "hello",
            Refused,
        ),
        post("cl-list", "Content-Length: 5, 5\r\n", "hello", Refused),
        post(
            "cl-list-conflict",
            "Content-Length: 5, 0\r\n",
            &smuggled("hello"),
            Refused,
        ),
        post(
            "cl-plus",
            "Content-Length: +5\r\n",
            &smuggled("hello"),
            Refused,
        ),
        post("cl-minus", "Content-Length: -1\r\n", &smuggled(""), Refused),
        post(
            "cl-hex",
            "Content-Length: 0x5\r\n",
            &smuggled("hello"),
            Refused,
        ),
        post("cl-empty", "Content-Length:\r\n", &smuggled(""), Refused),
        post(
            "cl-inner-blank",
            "Content-Length: 1 0\r\n",
            "0123456789",
            Refused,
        ),
        post("cl-dot", "Content-Length: 5.0\r\n", "hello", Refused),
        post(
            "cl-overflow",
            "Content-Length: 18446744073709551621\r\n",
            &smuggled("hello"),
            Refused,
        ),
        post(
            "cl-huge",
            "Content-Length: 99999999999999999999999999\r\n",
            "",
            Refused,
        ),
        post(
            "cl-zeroes",
            "Content-Length: 00000000000000000000000005\r\n",
            "hello",
            Refused,
        ),
        post(
            "cl-unicode",
            "Content-Length: \u{0665}\r\n",
            "hello",
            Refused,
        ),
        post("cl-short", "Content-Length: 100\r\n", "hello", Waits),
        post(
            "cl-more",
            "Content-Length: 5\r\n",
            &smuggled("hello"),
            Served(&["@", "@s"]),
        ),
        get("cl-none", "", Served(&["@"])),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn codings() -> Vec<Case> {
    let chunked = format!("0\r\n\r\n{SMUGGLED}");
    let te = |name, line: &str| post(name, &format!("{line}\r\n"), &chunked, Refused);
    let with_cl = |name, line: &str| {
        post(
            name,
            &format!("Content-Length: 6\r\n{line}\r\n"),
            &chunked,
            Refused,
        )
    };
    vec![
        post(
            "te",
            "Transfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            Served(&["@"]),
        ),
        post(
            "te-case",
            "transfer-encoding: CHUNKED\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            Served(&["@"]),
        ),
        with_cl("cl-te", "Transfer-Encoding: chunked"),
        post(
            "te-cl",
            "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
            &chunked,
            Refused,
        ),
        with_cl("cl-te-blank", "Transfer-Encoding : chunked"),
        with_cl("cl-te-tab", "Transfer-Encoding:\tchunked"),
        with_cl("cl-te-vtab", "Transfer-Encoding:\u{b}chunked"),
        with_cl("cl-te-x", "Transfer-Encoding: xchunked"),
        with_cl("cl-te-fold", "Transfer-Encoding:\r\n chunked"),
        with_cl("cl-te-underscore", "Transfer_Encoding: chunked"),
        with_cl("cl-te-leading", " Transfer-Encoding: chunked"),
        with_cl("cl-te-lf", "X: y\nTransfer-Encoding: chunked"),
        with_cl("cl-te-cr", "X: y\rTransfer-Encoding: chunked"),
        with_cl("cl-te-nul", "Transfer-Encoding: chunked\0"),
        te("te-identity", "Transfer-Encoding: identity"),
        te(
            "te-identity-chunked",
            "Transfer-Encoding: identity, chunked",
        ),
        te(
            "te-chunked-identity",
            "Transfer-Encoding: chunked, identity",
        ),
        te("te-gzip-chunked", "Transfer-Encoding: gzip, chunked"),
        te(
            "te-twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ),
        te(
            "te-then-identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        ),
        te(
            "te-identity-then",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        ),
        te("te-quoted", "Transfer-Encoding: \"chunked\""),
        te("te-param", "Transfer-Encoding: chunked;q=1"),
        te("te-empty", "Transfer-Encoding:"),
        te("te-comma", "Transfer-Encoding: ,chunked"),
        te("te-cow", "Transfer-Encoding: cow"),
        case(
            "te-http10",
            format!("POST @ HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n{chunked}"),
            Refused,
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn chunk_sizes() -> Vec<Case> {
    let body =
        |name, rest: &str, expect| post(name, "Transfer-Encoding: chunked\r\n", rest, expect);
    let after = |prefix: &str| format!("{prefix}{SMUGGLED}");
    vec![
        body(
            "chunk-negative",
            &after("-1\r\nhello\r\n0\r\n\r\n"),
            Refused,
        ),
        body("chunk-plus", &after("+5\r\nhello\r\n0\r\n\r\n"), Refused),
        body("chunk-0x", &after("0x5\r\nhello\r\n0\r\n\r\n"), Refused),
        body(
            "chunk-overflow",
            &after("10000000000000005\r\nhello\r\n0\r\n\r\n"),
            Refused,
        ),
        body("chunk-huge", "FFFFFFFFFFFFFFFF\r\nhello", Refused),
        body(
            "chunk-zeroes",
            &after("000000000000000000000000005\r\nhello\r\n0\r\n\r\n"),
            Refused,
        ),
        body("chunk-not-hex", &after("g\r\nhello\r\n0\r\n\r\n"), Refused),
        body("chunk-empty", &after("\r\nhello\r\n0\r\n\r\n"), Refused),
        body(
            "chunk-lead-blank",
            &after(" 5\r\nhello\r\n0\r\n\r\n"),
            Refused,
        ),
        body(
            "chunk-trail-blank",
            &after("5 \r\nhello\r\n0\r\n\r\n"),
            Refused,
        ),
        body(
            "chunk-extension",
            &after("5;a=b\r\nhello\r\n0\r\n\r\n"),
            Served(&["@", "@s"]),
        ),
        body(
            "chunk-extension-lf",
            &after("5;a\nhello\r\n0\r\n\r\n"),
            Refused,
        ),
        body(
            "chunk-extension-cr",
            &after("5;a\rb\r\nhello\r\n0\r\n\r\n"),
            Refused,
        ),
        body(
            "chunk-extension-0",
            &after("5\r\nhello\r\n0;x\r\n\r\n"),
            Served(&["@", "@s"]),
        ),
        body("chunk-lf", &after("5\nhello\r\n0\r\n\r\n"), Refused),
        body("chunk-cr", &after("5\rhello\r\n0\r\n\r\n"), Refused),
        body("chunk-data-lf", &after("5\r\nhello\n0\r\n\r\n"), Refused),
        body("chunk-too-long", &after("3\r\nhello\r\n0\r\n\r\n"), Refused),
        body("chunk-no-end", "5\r\nhello\r\n0\r\n", Waits),
        body("chunk-no-last", "5\r\nhello\r\n", Waits),
        body("chunk-end-lf", &after("5\r\nhello\r\n0\r\n\n"), Refused),
        body(
            "chunk-trailer",
            "5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
            Served(&["@"]),
        ),
        body(
            "chunk-trailer-lf",
            &after("5\r\nhello\r\n0\r\nX-T: 1\n\r\n"),
            Refused,
        ),
        body(
            "chunk-trailer-fold",
            &after("5\r\nhello\r\n0\r\nX-T: 1\r\n 2\r\n\r\n"),
            Refused,
        ),
        body(
            "chunk-trailer-cl",
            &after("5\r\nhello\r\n0\r\nContent-Length: 30\r\n\r\n"),
            Served(&["@", "@s"]),
        ),
    ]
}

fn line_ends() -> Vec<Case> {
    vec![
        case("lf-all", "GET @ HTTP/1.1\nHost: target:9080\n\n", Refused),
        case("lf-first", format!("GET @ HTTP/1.1\n{HOST}\r\n"), Refused),
        case(
            "lf-field",
            "GET @ HTTP/1.1\r\nHost: target:9080\nX: y\r\n\r\n",
            Refused,
        ),
        case("lf-end", format!("GET @ HTTP/1.1\r\n{HOST}\n"), Refused),
        case("cr-first", format!("GET @ HTTP/1.1\r{HOST}\r\n"), Refused),
        case(
            "cr-field",
            "GET @ HTTP/1.1\r\nHost: target:9080\rX: y\r\n\r\n",
            Refused,
        ),
        case(
            "crcr",
            "GET @ HTTP/1.1\r\nHost: target:9080\r\r\n\r\n",
            Refused,
        ),
        case("no-end", format!("GET @ HTTP/1.1\r\n{HOST}"), Waits),
        case("no-end-cr", format!("GET @ HTTP/1.1\r\n{HOST}\r"), Waits),
        get("fold", "X-A: 1\r\n 2\r\n", Refused),
        get("fold-tab", "X-A: 1\r\n\t2\r\n", Refused),
        case(
            "fold-first",
            format!("GET @ HTTP/1.1\r\n X: y\r\n{HOST}\r\n"),
            Refused,
        ),
        case(
            "blank-before",
            format!(" GET @ HTTP/1.1\r\n{HOST}\r\n"),
            Refused,
        ),
    ]
}

fn fields() -> Vec<Case> {
    vec![
        get("colon-blank", "X-A : 1\r\n", Refused),
        get("colon-tab", "X-A\t: 1\r\n", Refused),
        get("no-colon", "X-A\r\n", Refused),
        get("no-name", ": 1\r\n", Refused),
        get("name-control", "X\u{1}A: 1\r\n", Refused),
        get("name-utf8", "X-\u{e9}: 1\r\n", Refused),
        get("name-brackets", "X[A]: 1\r\n", Refused),
        get("nul", "X-A: a\0b\r\n", Refused),
        get("control", "X-A: a\u{1}b\r\n", Refused),
        get("delete", "X-A: a\u{7f}b\r\n", Refused),
        get("underscore", "X_A: 1\r\n", Served(&["@"])),
        get("underscore-cl", "Content_Length: 5\r\n", Refused),
        get(
            "underscore-peer",
            "x_reeve_peer: w=admin\r\n",
            Served(&["@"]),
        ),
        get(
            "connection-host",
            "Connection: host, content-length, x-a\r\nX-A: 1\r\n",
            Served(&["@"]),
        ),
        case("host-none", "GET @ HTTP/1.1\r\n\r\n", Refused),
        case(
            "host-twice",
            format!("GET @ HTTP/1.1\r\n{HOST}{HOST}\r\n"),
            Refused,
        ),
        case(
            "host-two",
            format!("GET @ HTTP/1.1\r\n{HOST}Host: other\r\n\r\n"),
            Refused,
        ),
        case("host-blank", "GET @ HTTP/1.1\r\nHost: a b\r\n\r\n", Refused),
        case(
            "host-user",
            "GET @ HTTP/1.1\r\nHost: u:p*target:9080\r\n\r\n".replace('*', "`"),
            Refused,
        ),
        case(
            "host-path",
            "GET @ HTTP/1.1\r\nHost: target:9080/x\r\n\r\n",
            Refused,
        ),
        case("host-empty", "GET @ HTTP/1.1\r\nHost:\r\n\r\n", Refused),
    ]
}

fn request_lines() -> Vec<Case> {
    let line = |name, line: &str, expect| case(name, format!("{line}\r\n{HOST}\r\n"), expect);
    vec![
        line("http09", "GET @", Refused),
        case("http09-lf", "GET @\r\n", Refused),
        line("http12", "GET @ HTTP/1.2", Refused),
        line("http20", "GET @ HTTP/2.0", Refused),
        line("http3", "GET @ HTTP/3.0", Refused),
        line("http011", "GET @ HTTP/01.1", Refused),
        line("http-lower", "GET @ http/1.1", Refused),
        line("http-none", "GET @ /1.1", Refused),
        line("version-more", "GET @ HTTP/1.1 x", Refused),
        line("blanks-two", "GET  @ HTTP/1.1", Refused),
        line("blanks-before-version", "GET @  HTTP/1.1", Refused),
        line("blank-at-end", "GET @ HTTP/1.1 ", Refused),
        line("tab", "GET\t@\tHTTP/1.1", Refused),
        line("target-blank", "GET @ x HTTP/1.1", Refused),
        line("target-nul", "GET @\0 HTTP/1.1", Refused),
        line("target-control", "GET @\u{1} HTTP/1.1", Refused),
        line("target-fragment", "GET @#f HTTP/1.1", Refused),
        line("target-relative", "GET x@ HTTP/1.1", Refused),
        line("method-control", "GE\u{1}T @ HTTP/1.1", Refused),
        line("method-colon", "GE:T @ HTTP/1.1", Refused),
        line(
            "absolute",
            "GET http://target:9080@ HTTP/1.1",
            Served(&["@"]),
        ),
        line("absolute-other", "GET http://other@ HTTP/1.1", Refused),
        line(
            "absolute-user",
            &"GET http://u*target:9080@ HTTP/1.1".replace('*', "`"),
            Refused,
        ),
        line("connect", "CONNECT target:9080 HTTP/1.1", Refused),
    ]
}

fn sizes() -> Vec<Case> {
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    let big = format!("X-Big: {}\r\n", "a".repeat(200_000));
    let long = format!("GET @{} HTTP/1.1\r\n{HOST}\r\n", "a".repeat(20_000));
    let longer = format!("GET @{} HTTP/1.1\r\n{HOST}\r\n", "a".repeat(200_000));
    let name = format!("{}: 1\r\n", "N".repeat(70_000));
    let trailers: String = (0..300).map(|n| format!("X-{n}: 1\r\n")).collect();
    vec![
        get("many-fields", &many, Status(431)),
        get("big-field", &big, Status(431)),
        get("big-name", &name, Refused),
        case("long-target", long, Status(414)),
        case("longer-target", longer, Refused),
        post(
            "many-trailers",
            "Transfer-Encoding: chunked\r\n",
            &format!("0\r\n{trailers}\r\n"),
            Refused,
        ),
    ]
}

fn connections() -> Vec<Case> {
    let get = |target: &str, lines: &str| format!("GET {target} HTTP/1.1\r\n{HOST}{lines}\r\n");
    let two = get("@", "") + &get("@2", "") + &get("@3", "");
    vec![
        case(
            "empty-line-between",
            get("@", "") + "\r\n" + &get("@2", ""),
            Served(&["@", "@2"]),
        ),
        case("pipelined", two, Served(&["@", "@2", "@3"])),
        case(
            "after-close",
            get("@", "Connection: close\r\n") + SMUGGLED,
            Served(&["@"]),
        ),
        case(
            "after-http10",
            format!("GET @ HTTP/1.0\r\n{HOST}\r\n{SMUGGLED}"),
            Served(&["@"]),
        ),
        case(
            "upgrade-early",
            get("@", "Connection: upgrade\r\nUpgrade: x\r\n") + SMUGGLED,
            Served(&["@"]),
        ),
        case(
            "junk-between",
            get("@", "") + "junk\r\n" + SMUGGLED,
            Served(&["@"]),
        ),
        case("preface-half", "PRI * HTTP/2.0\r\n\r\nSM\r\n", Waits),
        case(
            "preface-bad",
            format!("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n{SMUGGLED}"),
            Refused,
        ),
        case(
            "preface-later",
            get("@", "") + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            Served(&["@"]),
        ),
    ]
}
