//! A backend that is never the bottleneck: one thread, no allocation per request. `GET /b/<n>` answers n bytes, any
//! other path none. With `stream`, a connection that sends anything gets bytes for as long as it takes them.

use std::{
    collections::HashMap,
    io::{self, ErrorKind::WouldBlock},
    net::TcpListener,
    os::fd::OwnedFd,
};

use crate::sys::*;

/// The listener's number among the events.
const LISTENER: u64 = u64::MAX;
/// The longest answer.
const MAX_BODY: usize = 16 << 20;
/// What a stream is made of.
const CHUNK: usize = 256 << 10;

struct Conn {
    fd: OwnedFd,
    input: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    close_after: bool,
}

/// Serves for ever.
pub(crate) fn run(listen: &str, stream: bool) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new()?;
    epoll.add(&listener, IN, LISTENER)?;
    let mut conns: HashMap<u64, Conn> = HashMap::new();
    let mut next = 0;
    let mut answers = HashMap::new();
    let mut events = Vec::with_capacity(512);
    let mut buffer = vec![0; 64 << 10];
    eprintln!("backend on {listen}");
    loop {
        epoll.wait(&mut events, None)?;
        for event in &events {
            let (number, flags) = (event.data.u64(), event.flags);
            if number == LISTENER {
                while let Ok((accepted, _)) = listener.accept() {
                    accepted.set_nonblocking(true)?;
                    nodelay(&accepted)?;
                    epoll.add(&accepted, IN | RDHUP, next)?;
                    let fd = accepted.into();
                    let (input, out) = (Vec::with_capacity(2048), Vec::new());
                    let (sent, close_after) = (0, false);
                    conns.insert(
                        next,
                        Conn {
                            fd,
                            input,
                            out,
                            sent,
                            close_after,
                        },
                    );
                    next += 1;
                }
                continue;
            }
            let Some(conn) = conns.get_mut(&number) else {
                continue;
            };
            let served = if stream {
                conn.pour(&epoll, number, flags, &mut buffer)
            } else {
                conn.serve(&epoll, number, flags, &mut buffer, &mut answers)
            };
            if served.is_err() || !served.is_ok_and(|keep| keep) {
                conns.remove(&number);
            }
        }
    }
}

impl Conn {
    /// What there is to read; `None` at the end.
    fn read<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match recv(&self.fd, buffer) {
            Ok(0) => Ok(None),
            Ok(n) => Ok(Some(&buffer[..n])),
            Err(error) if error.kind() == WouldBlock => Ok(Some(&[])),
            Err(error) => Err(error),
        }
    }

    fn serve(
        &mut self,
        epoll: &Epoll,
        number: u64,
        flags: Flags,
        buffer: &mut [u8],
        answers: &mut HashMap<usize, Vec<u8>>,
    ) -> io::Result<bool> {
        if flags.intersects(BROKEN) {
            return Ok(false);
        }
        let was_blocked = self.sent < self.out.len();
        if flags.contains(IN) {
            let Some(bytes) = self.read(buffer)? else {
                return Ok(false);
            };
            self.input.extend_from_slice(bytes);
        }
        while let Some(end) = find(&self.input, b"\r\n\r\n") {
            let (size, close) = parse(&self.input[..end]);
            self.input.drain(..end + 4);
            if close {
                self.out
                    .extend_from_slice(&answer(size, "connection: close\r\n"));
                self.close_after = true;
            } else {
                let ready = answers.entry(size).or_insert_with(|| answer(size, ""));
                self.out.extend_from_slice(ready);
            }
        }
        while self.sent < self.out.len() {
            match send_some(&self.fd, &self.out[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == WouldBlock => {
                    epoll.modify(&self.fd, IN | OUT | RDHUP, number)?;
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        if was_blocked {
            epoll.modify(&self.fd, IN | RDHUP, number)?;
        }
        Ok(!self.close_after)
    }

    /// Sends until the peer takes no more.
    fn pour(
        &mut self,
        epoll: &Epoll,
        number: u64,
        flags: Flags,
        buffer: &mut [u8],
    ) -> io::Result<bool> {
        if flags.intersects(BROKEN) {
            return Ok(false);
        }
        if flags.contains(IN) {
            match self.read(buffer)? {
                None => return Ok(false),
                Some([]) => {}
                Some(_) if self.out.is_empty() => {
                    self.out = vec![b'x'; CHUNK];
                    epoll.modify(&self.fd, IN | OUT | RDHUP, number)?;
                }
                Some(_) => {}
            }
        }
        while !self.out.is_empty() {
            match send_some(&self.fd, &self.out) {
                Ok(_) => {}
                Err(error) if error.kind() == WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn answer(size: usize, more: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n{more}\r\n"
    );
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + size, b'x');
    answer
}

/// How many bytes are asked for, and whether the connection ends with them.
fn parse(head: &[u8]) -> (usize, bool) {
    let line_end = find(head, b"\r\n").unwrap_or(head.len());
    let (line, rest) = head.split_at(line_end);
    let digits = find(line, b" /b/").map_or(&[][..], |at| &line[at + 4..]);
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let size = digits.fold(0, |size: usize, byte| {
        (size * 10 + usize::from(byte - b'0')).min(MAX_BODY)
    });
    let rest = rest.to_ascii_lowercase();
    let close = find(&rest, b"\r\nconnection: close").is_some();
    (size, close || line.ends_with(b"HTTP/1.0"))
}

/// Where `needle` first stands.
pub(crate) fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len())
        .position(|window| window == needle)
}
