//! An application that trusts nobody: it reads HTTP/1.1 by the letter of RFC 9112, notes every request that it sees,
//! and notes as a fault whatever a strict parser would refuse.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A message that has not ended by then is a fault.
const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// Headers that no other may pretend to be.
const DISGUISED: &[&str] = &[
    "content-length",
    "transfer-encoding",
    "host",
    "x-reeve-peer",
];
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Type: text/plain\r\n\r\nok\n";

/// A request as the application saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRequest {
    /// Its method.
    pub method: String,
    /// Its target, as it stood in the request line.
    pub target: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Its body, without chunk framing.
    pub body: Vec<u8>,
}

#[derive(Debug, Default)]
struct Seen {
    requests: Vec<SeenRequest>,
    faults: Vec<String>,
}

/// The application, which answers every request with 200; ended when dropped.
#[derive(Debug)]
pub struct StrictBackend {
    seen: Arc<Mutex<Seen>>,
    accepting: JoinHandle<()>,
}

impl StrictBackend {
    /// Listens at `address`.
    pub async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address)
            .await
            .expect("the application's address");
        let seen = Arc::<Mutex<Seen>>::default();
        let noting = seen.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, noting.clone()));
            }
        });
        Self { seen, accepting }
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.seen.lock().expect("what was seen").requests.clone()
    }

    /// How many requests there were.
    pub fn count(&self) -> usize {
        self.seen.lock().expect("what was seen").requests.len()
    }

    /// The targets that begin with `prefix`, in the order in which they came.
    pub fn targets(&self, prefix: &str) -> Vec<String> {
        let seen = self.seen.lock().expect("what was seen");
        let targets = seen.requests.iter().map(|request| request.target.clone());
        targets
            .filter(|target| target.starts_with(prefix))
            .collect()
    }

    /// What a strict parser would have refused.
    pub fn faults(&self) -> Vec<String> {
        self.seen.lock().expect("what was seen").faults.clone()
    }
}

impl Drop for StrictBackend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let fault = |text: String| seen.lock().expect("what was seen").faults.push(text);
    let mut bytes = Vec::new();
    loop {
        loop {
            match parse(&bytes) {
                Ok(Some((request, length))) => {
                    bytes.drain(..length);
                    seen.lock().expect("what was seen").requests.push(request);
                    if stream.write_all(ANSWER).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    fault(format!("{error}: {}", shown(&bytes)));
                    return;
                }
            }
        }
        if bytes.len() > MAX_MESSAGE_BYTES {
            return fault("an endless message".to_owned());
        }
        // An unfinished message is no request: a proxy that loses its caller in the middle can do no better.
        if !matches!(stream.read_buf(&mut bytes).await, Ok(read) if read > 0) {
            return;
        }
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(300)
        .map(|b| char::from(*b).escape_default().to_string())
        .collect()
}

/// The first message of `bytes` and its length; `None` = it is not whole yet.
fn parse(bytes: &[u8]) -> Result<Option<(SeenRequest, usize)>, String> {
    let Some((head, body_at)) = lines(bytes)? else {
        return Ok(None);
    };
    let (first, fields) = head.split_first().ok_or("no request line")?;
    let (method, target) = request_line(first)?;
    let headers = fields
        .iter()
        .map(|line| field(line))
        .collect::<Result<Vec<_>, _>>()?;
    let values = |name: &str| -> Vec<&str> {
        let named = headers.iter().filter(|(n, _)| n == name);
        named.map(|(_, value)| value.as_str()).collect()
    };
    if values("host").len() != 1 {
        return Err("not exactly one Host".to_owned());
    }
    let body = bytes.get(body_at..).unwrap_or_default();
    let (body, length) = match (&*values("content-length"), &*values("transfer-encoding")) {
        ([], []) => (Vec::new(), 0),
        ([length], []) => {
            if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
                return Err(format!("Content-Length {length:?}"));
            }
            let length: usize = length.parse().map_err(|_| "Content-Length too large")?;
            match body.get(..length) {
                Some(body) => (body.to_vec(), length),
                None => return Ok(None),
            }
        }
        ([], ["chunked"]) => match chunks(body)? {
            Some(whole) => whole,
            None => return Ok(None),
        },
        (lengths, codings) => {
            return Err(format!(
                "Content-Length {lengths:?}, Transfer-Encoding {codings:?}"
            ));
        }
    };
    let request = SeenRequest {
        method,
        target,
        headers,
        body,
    };
    Ok(Some((request, body_at + length)))
}

/// Lines, and where what follows begins.
type Lines<'a> = (Vec<&'a [u8]>, usize);

/// Lines up to the empty one, each ended by CRLF and nothing else, and where what follows begins.
fn lines(bytes: &[u8]) -> Result<Option<Lines<'_>>, String> {
    let mut lines = Vec::new();
    let mut at = 0;
    while let Some((line, next)) = line(bytes, at)? {
        if line.is_empty() {
            return Ok(Some((lines, next)));
        }
        lines.push(line);
        at = next;
    }
    Ok(None)
}

fn line(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, String> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(end) = rest.iter().position(|b| matches!(b, b'\r' | b'\n')) else {
        return Ok(None);
    };
    match (rest[end], rest.get(end + 1)) {
        (b'\r', Some(b'\n')) => Ok(Some((&rest[..end], at + end + 2))),
        (b'\r', None) => Ok(None),
        _ => Err("a bare CR or LF".to_owned()),
    }
}

fn request_line(line: &[u8]) -> Result<(String, String), String> {
    let text = std::str::from_utf8(line).map_err(|_| "a request line that is no text")?;
    let parts: Vec<_> = text.split(' ').collect();
    let [method, target, "HTTP/1.1"] = *parts else {
        return Err("not METHOD TARGET HTTP/1.1".to_owned());
    };
    let visible = target.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !token(method.as_bytes()) || !visible || !(target.starts_with('/') || target == "*") {
        return Err("a request line with illegal parts".to_owned());
    }
    Ok((method.to_owned(), target.to_owned()))
}

fn field(line: &[u8]) -> Result<(String, String), String> {
    let colon = line
        .iter()
        .position(|b| *b == b':')
        .ok_or("a header without a colon")?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    // obs-fold begins with a blank, which is no token.
    if !token(name) {
        return Err("an illegal header name".to_owned());
    }
    // To CGI and its heirs underscores and dashes are one.
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    if name.contains('_') && DISGUISED.contains(&name.replace('_', "-").as_str()) {
        return Err(format!("a disguised header {name}"));
    }
    if value
        .iter()
        .any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f)
    {
        return Err("a control byte in a header".to_owned());
    }
    let value = String::from_utf8_lossy(value)
        .trim_matches([' ', '\t'])
        .to_owned();
    Ok((name, value))
}

fn token(bytes: &[u8]) -> bool {
    let legal = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(legal)
}

/// A chunked body and its length on the wire; `None` = it is not whole yet.
fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let Some((size, data)) = line(bytes, at)? else {
            return Ok(None);
        };
        if size.is_empty() || size.len() > 8 || !size.iter().all(u8::is_ascii_hexdigit) {
            return Err("an illegal chunk size".to_owned());
        }
        let text = std::str::from_utf8(size).unwrap_or_default();
        let size = usize::from_str_radix(text, 16).map_err(|_| "an illegal chunk size")?;
        if size == 0 {
            let Some((trailers, end)) = lines(&bytes[data..])? else {
                return Ok(None);
            };
            for trailer in trailers {
                field(trailer)?;
            }
            return Ok(Some((body, data + end)));
        }
        let Some(rest) = bytes.get(data..data + size + 2) else {
            return Ok(None);
        };
        if !rest.ends_with(b"\r\n") {
            return Err("a chunk longer than it says".to_owned());
        }
        body.extend_from_slice(&rest[..size]);
        at = data + size + 2;
    }
}
