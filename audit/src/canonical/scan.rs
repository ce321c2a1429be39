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

/// The members of those names, which are in order, of the object that `bytes` are the canonical JSON of: each as JSON, where it
/// is there. `None` when they are no such thing, or it takes a parser to say.
pub(super) fn members<'a, const N: usize>(
    bytes: &'a [u8],
    names: [&str; N],
) -> Option<[Option<&'a [u8]>; N]> {
    std::str::from_utf8(bytes).ok()?;
    let mut found = [None; N];
    let mut wanted = names.iter().zip(&mut found).peekable();
    let mut scan = Scan {
        rest: bytes.strip_prefix(b"{")?,
    };
    let scanned = scan.object(0, &mut |key, value| {
        while wanted.next_if(|(name, _)| name.as_bytes() < key).is_some() {}
        if let Some((_, found)) = wanted.next_if(|(name, _)| name.as_bytes() == key) {
            *found = Some(value);
        }
    });
    (scanned.is_ok() && scan.rest.is_empty()).then_some(found)
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
            b'{' => self.object(depth, &mut |_key, _value| {}),
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

    /// The rest of an object; `each` gets its members.
    fn object(
        &mut self,
        depth: usize,
        each: &mut impl FnMut(&'a [u8], &'a [u8]),
    ) -> Result<(), Stop> {
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
            let from = self.rest;
            self.value(depth + 1)?;
            let length = from.len() - self.rest.len();
            each(key, from.get(..length).unwrap_or_default());
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
            let plain = plain(self.rest).ok_or(Stop::No)?;
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

/// How many bytes there are before the first that ends or interrupts a string: a quote, a backslash, a control character.
fn plain(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 128;
    // Eight at a time. In each term the lowest high bit that is set is right: borrows only reach upwards.
    let (words, tail) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let (quote, slash) = (
            word ^ (ONES * u64::from(b'"')),
            word ^ (ONES * u64::from(b'\\')),
        );
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let special =
            (quote.wrapping_sub(ONES) & !quote) | (slash.wrapping_sub(ONES) & !slash) | control;
        let special = special & HIGH;
        if special != 0 {
            let within = usize::try_from(special.trailing_zeros() / 8).unwrap_or(0);
            return Some(at * 8 + within);
        }
    }
    let end = |b: &u8| matches!(b, b'"' | b'\\' | 0..=0x1f);
    let within = tail.iter().position(end)?;
    Some(words.len() * 8 + within)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_are_those_of_the_outermost_object() {
        let text = br#"{"a":{"b":1,"z":2},"b":[{"b":3}],"c":"x\"y"}"#;
        let found = members(text, ["", "b", "bb", "c", "d"]).unwrap();
        let wanted: [Option<&[u8]>; 5] =
            [None, Some(br#"[{"b":3}]"#), None, Some(br#""x\"y""#), None];
        assert_eq!(found, wanted);
        for bad in [
            "[1]",
            "{\"a\":1",
            "{\"a\":1} ",
            "{\"b\":1,\"a\":2}",
            "{\"a\\n\":1}",
            "1",
            "",
        ] {
            assert_eq!(members(bad.as_bytes(), ["a"]), None, "{bad}");
        }
        assert_eq!(members(b"{\"a\":\"\xff\"}", ["a"]), None);
    }

    proptest! {
        #[test]
        fn eight_bytes_at_a_time_end_where_one_at_a_time_do(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x1e..0x24u8, 0x5a..0x5eu8, Just(b'a')], 0..40),
        ) {
            let slow = bytes.iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f));
            prop_assert_eq!(plain(&bytes), slow);
        }
    }
}
