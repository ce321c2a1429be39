//! Whether text is canonical JSON, in one pass and without a copy of it.

/// Deeper values are left to the parser, which refuses them at 128.
const MAX_DEPTH: usize = 100;

/// Whether `bytes` are canonical JSON; `None` when that takes a parser to say (escapes in keys, large numbers, depth).
pub(super) fn is_canonical(bytes: &[u8]) -> Option<bool> {
    if std::str::from_utf8(bytes).is_err() {
        return Some(false);
    }
    let mut scan = Scan { rest: bytes };
    match scan.value(0) {
        Ok(()) => Some(scan.rest.is_empty()),
        Err(Stop::No) => Some(false),
        Err(Stop::Unsure) => None,
    }
}

/// Why a scan ended early.
enum Stop {
    No,
    Unsure,
}

struct Scan<'a> {
    rest: &'a [u8],
}

impl<'a> Scan<'a> {
    fn next(&mut self) -> Result<u8, Stop> {
        let (first, rest) = self.rest.split_first().ok_or(Stop::No)?;
        self.rest = rest;
        Ok(*first)
    }

    fn peek(&self) -> u8 {
        self.rest.first().copied().unwrap_or(0)
    }

    fn literal(&mut self, rest: &[u8]) -> Result<(), Stop> {
        self.rest = self.rest.strip_prefix(rest).ok_or(Stop::No)?;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<(), Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Unsure);
        }
        match self.next()? {
            b'"' => self.string().map(|_content| ()),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b't' => self.literal(b"rue"),
            b'f' => self.literal(b"alse"),
            b'n' => self.literal(b"ull"),
            b'-' => match self.next()? {
                digit @ b'1'..=b'9' => self.number(digit, 18),
                _ => Err(Stop::No),
            },
            digit @ b'0'..=b'9' => self.number(digit, 19),
            _ => Err(Stop::No),
        }
    }

    /// The rest of a whole number of which so many digits fit in any case.
    fn number(&mut self, first: u8, fit: usize) -> Result<(), Stop> {
        let more = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.rest = self.rest.get(more..).unwrap_or_default();
        match (first, more) {
            (b'0', 1..) => Err(Stop::No),
            _ if matches!(self.peek(), b'.' | b'e' | b'E') => Err(Stop::No),
            (_, more) if more >= fit => Err(Stop::Unsure),
            _ => Ok(()),
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Stop> {
        if self.peek() == b']' {
            return self.next().map(|_end| ());
        }
        loop {
            self.value(depth + 1)?;
            match self.next()? {
                b',' => {}
                b']' => return Ok(()),
                _ => return Err(Stop::No),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), Stop> {
        if self.peek() == b'}' {
            return self.next().map(|_end| ());
        }
        let mut before: Option<&[u8]> = None;
        loop {
            self.literal(b"\"")?;
            let key = self.string()?;
            // Keys are in the order of what they say, which escapes hide.
            if key.contains(&b'\\') {
                return Err(Stop::Unsure);
            }
            if before.is_some_and(|before| before >= key) {
                return Err(Stop::No);
            }
            before = Some(key);
            self.literal(b":")?;
            self.value(depth + 1)?;
            match self.next()? {
                b',' => {}
                b'}' => return Ok(()),
                _ => return Err(Stop::No),
            }
        }
    }

    /// The rest of a string; its content as it is written.
    fn string(&mut self) -> Result<&'a [u8], Stop> {
        let whole = self.rest;
        loop {
            let plain = (self.rest.iter())
                .position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f))
                .ok_or(Stop::No)?;
            self.rest = self.rest.get(plain..).unwrap_or_default();
            match self.next()? {
                b'"' => {
                    let length = whole.len() - self.rest.len() - 1;
                    return Ok(whole.get(..length).unwrap_or_default());
                }
                b'\\' => self.escape()?,
                _ => return Err(Stop::No),
            }
        }
    }

    /// What must be escaped, in the one way that is ours.
    fn escape(&mut self) -> Result<(), Stop> {
        match self.next()? {
            b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => {
                self.literal(b"00")?;
                let (high, low) = (self.next()?, self.next()?);
                let short = high == b'0' && matches!(low, b'8' | b'9' | b'a' | b'c' | b'd');
                let hexadecimal = matches!(low, b'0'..=b'9' | b'a'..=b'f');
                match matches!(high, b'0' | b'1') && hexadecimal && !short {
                    true => Ok(()),
                    false => Err(Stop::No),
                }
            }
            _ => Err(Stop::No),
        }
    }
}
