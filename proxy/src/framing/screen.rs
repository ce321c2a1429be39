//! The reading itself: a state machine over lines and lengths that holds no more than an unfinished line.

/// The first line of an HTTP/2 connection (RFC 9113 section 3.4).
const HTTP2_LINE: &[u8] = b"PRI * HTTP/2.0\r";
/// What is left of the preface after that line.
pub(super) const HTTP2_REST: usize = 8;
/// Digits of a length: fits `u64`, and no more leading zeroes than that.
const MAX_LENGTH_DIGITS: usize = 19;
/// Hexadecimal digits of a chunk's size.
const MAX_CHUNK_DIGITS: usize = 15;

/// What a reading found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing amiss.
    Fine,
    /// Nothing amiss, and HTTP/2 is spoken: what follows its first line begins at this byte.
    Http2 { at: usize },
    /// From this byte on nothing may be passed on.
    Refused { at: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The connection's first line.
    Start,
    /// A request line, or an empty line before it.
    Request,
    Header,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailer,
    /// The request asks for another protocol; nothing may come before the answer.
    Asked,
    /// The first line of HTTP/2 has just been read.
    Http2,
    /// HTTP/2, another protocol, or a line that the library refuses for its length.
    Opaque,
    Refused,
}

/// What the head says of the body so far.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    connect: bool,
    upgrade: bool,
}

/// Reads one connection.
#[derive(Debug)]
pub(crate) struct Screen {
    at: At,
    head: Head,
    /// The beginning of a line whose end has not come yet.
    unfinished: Vec<u8>,
    max_line: usize,
}

/// The line is not legal, or may be read in two ways.
struct Doubtful;

impl Screen {
    /// Lines longer than `max_line` are left to the library, which must refuse them.
    pub(crate) fn new(max_line: usize) -> Self {
        Self {
            at: At::Start,
            head: Head::default(),
            unfinished: Vec::new(),
            max_line,
        }
    }

    /// Reads the next bytes from the peer.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Verdict {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match self.at {
                At::Opaque | At::Http2 => return Verdict::Fine,
                At::Refused | At::Asked => Err(Doubtful),
                At::Body(left) => Ok(self.skip(left, rest, At::Body)),
                At::ChunkData(left) => Ok(self.skip(left, rest, At::ChunkData)),
                At::Start
                | At::Request
                | At::Header
                | At::ChunkSize
                | At::ChunkEnd
                | At::Trailer => self.line_of(rest),
            };
            let remaining = taken.ok().and_then(|taken| rest.get(taken..));
            let Some(remaining) = remaining else {
                self.at = At::Refused;
                let at = bytes.len().saturating_sub(rest.len());
                return Verdict::Refused { at };
            };
            rest = remaining;
            if self.at == At::Http2 {
                self.at = At::Opaque;
                let at = bytes.len().saturating_sub(rest.len());
                return Verdict::Http2 { at };
            }
        }
        Verdict::Fine
    }

    /// Sees the beginning of what is written to the peer: the answer to a request for another protocol decides.
    pub(crate) fn answer(&mut self, bytes: &[u8]) {
        if self.at != At::Asked {
            return;
        }
        let Some(status) = bytes.strip_prefix(b"HTTP/1.").and_then(|b| b.get(2..5)) else {
            return;
        };
        self.at = match status {
            b"101" => At::Opaque,
            [b'2', ..] if self.head.connect => At::Opaque,
            [b'1', ..] => At::Asked,
            _ => At::Request,
        };
    }

    fn skip(&mut self, left: u64, bytes: &[u8], still: fn(u64) -> At) -> usize {
        let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let left = left.saturating_sub(taken as u64);
        self.at = match (left, self.at) {
            (0, At::ChunkData(_)) => At::ChunkEnd,
            (0, _) => self.after_message(),
            _ => still(left),
        };
        taken
    }

    /// Takes a line, or the beginning of one. Returns how many bytes that is.
    fn line_of(&mut self, bytes: &[u8]) -> Result<usize, Doubtful> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            if self.unfinished.len().saturating_add(bytes.len()) > self.max_line {
                self.at = At::Opaque;
                self.unfinished = Vec::new();
            } else {
                self.unfinished.extend_from_slice(bytes);
            }
            return Ok(bytes.len());
        };
        let fresh = bytes.get(..end).unwrap_or_default();
        if self.unfinished.is_empty() {
            self.line(fresh)?;
        } else {
            let mut line = std::mem::take(&mut self.unfinished);
            line.extend_from_slice(fresh);
            self.line(&line)?;
        }
        Ok(end.saturating_add(1))
    }

    /// Reads a whole line, without its LF.
    fn line(&mut self, line: &[u8]) -> Result<(), Doubtful> {
        if self.at == At::Start && line == HTTP2_LINE {
            // Where the rest of the preface is missing, HTTP/1.1 it is, and not a version that is served.
            self.at = At::Http2;
            return Ok(());
        }
        let line = line.strip_suffix(b"\r").ok_or(Doubtful)?;
        if memchr::memchr2(b'\r', b'\0', line).is_some() {
            return Err(Doubtful);
        }
        self.at = match self.at {
            At::Start | At::Request if line.is_empty() => At::Request,
            At::Start | At::Request => self.request_line(line)?,
            At::Header if line.is_empty() => self.after_head(),
            At::Header => self.header(line)?,
            At::ChunkSize => chunk_size(line)?,
            At::ChunkEnd if line.is_empty() => At::ChunkSize,
            At::Trailer if line.is_empty() => self.after_message(),
            At::Trailer => trailer(line)?,
            At::ChunkEnd
            | At::Body(_)
            | At::ChunkData(_)
            | At::Asked
            | At::Opaque
            | At::Http2
            | At::Refused => return Err(Doubtful),
        };
        Ok(())
    }

    fn request_line(&mut self, line: &[u8]) -> Result<At, Doubtful> {
        // A fragment never stands in a request (RFC 9112 section 3.2); the library drops it.
        if memchr::memchr(b'#', line).is_some() {
            return Err(Doubtful);
        }
        self.head = Head {
            connect: line.starts_with(b"CONNECT "),
            ..Head::default()
        };
        Ok(At::Header)
    }

    fn header(&mut self, line: &[u8]) -> Result<At, Doubtful> {
        let colon = memchr::memchr(b':', line).ok_or(Doubtful)?;
        let (name, value) = line.split_at_checked(colon).ok_or(Doubtful)?;
        // By length first: most headers are none of these.
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.head.upgrade = true,
            14 if is(name, b"content-length") => self.content_length(name, content(value))?,
            17 if is(name, b"transfer-encoding") => self.transfer_encoding(name, content(value))?,
            // Folded lines, and blanks before the colon.
            0 => return Err(Doubtful),
            _ if name.first().is_some_and(is_blank) || name.last().is_some_and(is_blank) => {
                return Err(Doubtful);
            }
            _ => {}
        }
        Ok(At::Header)
    }

    fn content_length(&mut self, name: &[u8], value: &[u8]) -> Result<(), Doubtful> {
        let once = self.head.length.is_none() && !self.head.chunked;
        let legal = value.len() <= MAX_LENGTH_DIGITS && value.iter().all(u8::is_ascii_digit);
        if !once || !legal || name.contains(&b'_') {
            return Err(Doubtful);
        }
        let length = std::str::from_utf8(value).map_err(|_| Doubtful)?;
        self.head.length = Some(length.parse().map_err(|_| Doubtful)?);
        Ok(())
    }

    fn transfer_encoding(&mut self, name: &[u8], value: &[u8]) -> Result<(), Doubtful> {
        let once = self.head.length.is_none() && !self.head.chunked;
        if !once || !value.eq_ignore_ascii_case(b"chunked") || name.contains(&b'_') {
            return Err(Doubtful);
        }
        self.head.chunked = true;
        Ok(())
    }

    fn after_head(&self) -> At {
        match self.head.length {
            _ if self.head.chunked => At::ChunkSize,
            Some(length) if length > 0 => At::Body(length),
            _ => self.after_message(),
        }
    }

    fn after_message(&self) -> At {
        if self.head.upgrade || self.head.connect {
            At::Asked
        } else {
            At::Request
        }
    }
}

/// The same name, also when it is disguised with an underscore.
fn is(name: &[u8], known: &[u8]) -> bool {
    let same = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-');
    name.iter().zip(known).all(same)
}

/// What follows the colon, without the blanks around it.
fn content(value: &[u8]) -> &[u8] {
    let value = value.strip_prefix(b":").unwrap_or(value);
    let begin = value
        .iter()
        .position(|b| !is_blank(b))
        .unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|b| !is_blank(b))
        .map_or(begin, |at| at.saturating_add(1));
    value.get(begin..end).unwrap_or_default()
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// `1*HEXDIG [chunk-ext]` (RFC 9112 section 7.1); extensions are dropped by the library, as they must be.
fn chunk_size(line: &[u8]) -> Result<At, Doubtful> {
    let end = line
        .iter()
        .position(|b| !b.is_ascii_hexdigit())
        .unwrap_or(line.len());
    let (digits, extension) = line.split_at_checked(end).ok_or(Doubtful)?;
    if digits.is_empty() || digits.len() > MAX_CHUNK_DIGITS {
        return Err(Doubtful);
    }
    let legal = extension
        .iter()
        .all(|b| *b == b'\t' || (*b >= b' ' && *b != 0x7f));
    let legal = extension.is_empty() || (legal && extension.starts_with(b";"));
    if !legal {
        return Err(Doubtful);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Doubtful)?;
    Ok(
        match u64::from_str_radix(digits, 16).map_err(|_| Doubtful)? {
            0 => At::Trailer,
            size => At::ChunkData(size),
        },
    )
}

fn trailer(line: &[u8]) -> Result<At, Doubtful> {
    let colon = memchr::memchr(b':', line).ok_or(Doubtful)?;
    let name = line.get(..colon).unwrap_or_default();
    if name.is_empty() || name.iter().any(is_blank) {
        return Err(Doubtful);
    }
    Ok(At::Trailer)
}

#[cfg(test)]
mod tests;
