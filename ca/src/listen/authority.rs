//! Mends the `:authority` that gRPC clients send over Unix sockets.
//!
//! gRPC's C core (Python, C++, Ruby) and others send the socket's path, percent-encoded, as `:authority`. That is no
//! authority by RFC 3986, so our HTTP/2 server resets the stream before any service sees the request
//! (<https://github.com/grpc/grpc/issues/38142>, <https://github.com/hyperium/h2/pull/487>). Nothing here reads the
//! authority, so its illegal characters are overwritten in the bytes as they come in. A value keeps its length, hence
//! frames, header block and the compression state of both ends stay as they were.
//!
//! The parser follows frames (RFC 9113 section 4.1) and header blocks (RFC 7541 section 6) far enough to find literal
//! values of `:authority`. Huffman-coded values are left alone. At the first byte it does not understand it gives up
//! for good and passes everything on: judging the bytes is the server's work.

/// The client's connection preface (RFC 9113 section 3.4).
const PREFACE_BYTES: u32 = 24;
const FRAME_HEADER_BYTES: usize = 9;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: u32 = 5;
const NAME: &[u8] = b":authority";
/// `:authority` in the static table (RFC 7541 appendix A).
const STATIC_INDEX: u32 = 1;
/// What stands in for a character that is not allowed.
const STAND_IN: u8 = b'-';

/// Where in the connection's bytes we are.
#[derive(Debug)]
pub(super) struct Mender {
    at: Frame,
    block: Block,
    gave_up: bool,
}

#[derive(Clone, Copy, Debug)]
enum Frame {
    /// In something without header fields: this many bytes more.
    Skip(u32),
    /// In a frame's header.
    Header {
        bytes: [u8; FRAME_HEADER_BYTES],
        filled: usize,
    },
    /// Before the padding's length; what follows is this long.
    PadLength { payload: u32, flags: u8 },
    /// In the priority; then come these.
    Priority {
        left: u32,
        fragment: u32,
        padding: u32,
        flags: u8,
    },
    /// In a piece of a header block.
    Fragment { left: u32, padding: u32, flags: u8 },
}

#[derive(Clone, Copy, Debug)]
enum Block {
    /// Before a field.
    Field,
    /// In an integer (RFC 7541 section 5.1).
    Integer {
        value: u32,
        shift: u32,
        then: Then,
    },
    /// Before the length of a name.
    NameLength,
    Name {
        left: u32,
        matched: usize,
        of_interest: bool,
    },
    /// Before the length of a value.
    ValueLength {
        authority: bool,
    },
    Value {
        left: u32,
        mend: bool,
    },
}

/// What an integer is for.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// An index or a size: the field ends.
    End,
    /// The index of a literal field's name.
    NameIndex,
    Name {
        huffman: bool,
    },
    Value {
        authority: bool,
        huffman: bool,
    },
}

impl Default for Mender {
    fn default() -> Self {
        Self {
            at: Frame::Skip(PREFACE_BYTES),
            block: Block::Field,
            gave_up: false,
        }
    }
}

impl Mender {
    /// Goes over the next bytes of the connection.
    pub(super) fn mend(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.gave_up {
                return;
            }
            if self.frame(byte).is_none() {
                self.gave_up = true;
            }
        }
    }

    fn frame(&mut self, byte: &mut u8) -> Option<()> {
        self.at = match self.at {
            Frame::Skip(left) => skip(left.checked_sub(1)?),
            Frame::Header { mut bytes, filled } => {
                *bytes.get_mut(filled)? = *byte;
                match filled.checked_add(1)? {
                    FRAME_HEADER_BYTES => begin(bytes)?,
                    filled => Frame::Header { bytes, filled },
                }
            }
            Frame::PadLength { payload, flags } => {
                let padding = u32::from(*byte);
                let payload = payload.checked_sub(1)?.checked_sub(padding)?;
                fields(payload, padding, flags)?
            }
            Frame::Priority {
                left,
                fragment,
                padding,
                flags,
            } => match left.checked_sub(1)? {
                0 => self.piece(fragment, padding, flags),
                left => Frame::Priority {
                    left,
                    fragment,
                    padding,
                    flags,
                },
            },
            Frame::Fragment {
                left,
                padding,
                flags,
            } => {
                self.block = self.block.next(byte)?;
                self.piece(left.checked_sub(1)?, padding, flags)
            }
        };
        Some(())
    }

    /// What comes when `left` bytes of a piece of a header block are still to come.
    fn piece(&mut self, left: u32, padding: u32, flags: u8) -> Frame {
        if left > 0 {
            return Frame::Fragment {
                left,
                padding,
                flags,
            };
        }
        if flags & END_HEADERS != 0 {
            self.block = Block::Field;
        }
        skip(padding)
    }
}

/// Skips, and then expects a frame.
fn skip(left: u32) -> Frame {
    match left {
        0 => Frame::Header {
            bytes: [0; FRAME_HEADER_BYTES],
            filled: 0,
        },
        left => Frame::Skip(left),
    }
}

fn begin(header: [u8; FRAME_HEADER_BYTES]) -> Option<Frame> {
    let [high, middle, low, kind, flags, ..] = header;
    let payload = u32::from_be_bytes([0, high, middle, low]);
    match kind {
        HEADERS if flags & PADDED != 0 => Some(Frame::PadLength { payload, flags }),
        HEADERS => fields(payload, 0, flags),
        // An empty piece may end a block; so rare that following it is not worth it.
        CONTINUATION if payload == 0 => None,
        CONTINUATION => Some(Frame::Fragment {
            left: payload,
            padding: 0,
            flags,
        }),
        _ => Some(skip(payload)),
    }
}

/// The part of a HEADERS frame after the padding's length.
fn fields(payload: u32, padding: u32, flags: u8) -> Option<Frame> {
    if flags & PRIORITY != 0 {
        let fragment = payload.checked_sub(PRIORITY_BYTES)?;
        return Some(Frame::Priority {
            left: PRIORITY_BYTES,
            fragment,
            padding,
            flags,
        });
    }
    match payload {
        0 => None,
        left => Some(Frame::Fragment {
            left,
            padding,
            flags,
        }),
    }
}

impl Block {
    /// Takes one byte of a header block, changing it if it is an illegal one of an authority.
    fn next(self, byte: &mut u8) -> Option<Self> {
        let b = *byte;
        match self {
            Self::Field if b & 0x80 != 0 => integer(b, 0x7f, Then::End),
            Self::Field if b & 0x40 != 0 => integer(b, 0x3f, Then::NameIndex),
            Self::Field if b & 0x20 != 0 => integer(b, 0x1f, Then::End),
            Self::Field => integer(b, 0x0f, Then::NameIndex),
            Self::Integer { value, shift, then } => {
                let more = u32::from(b & 0x7f).checked_mul(1u32.checked_shl(shift)?)?;
                let value = value.checked_add(more)?;
                match b & 0x80 {
                    0 => then.with(value),
                    _ => Some(Self::Integer {
                        value,
                        shift: shift.checked_add(7)?,
                        then,
                    }),
                }
            }
            Self::NameLength => integer(
                b,
                0x7f,
                Then::Name {
                    huffman: b & 0x80 != 0,
                },
            ),
            Self::Name {
                left,
                matched,
                of_interest,
            } => {
                let of_interest = of_interest && NAME.get(matched) == Some(&b);
                let matched = matched.saturating_add(1);
                match left.checked_sub(1)? {
                    0 => Some(Self::ValueLength {
                        authority: of_interest,
                    }),
                    left => Some(Self::Name {
                        left,
                        matched,
                        of_interest,
                    }),
                }
            }
            Self::ValueLength { authority } => {
                let huffman = b & 0x80 != 0;
                integer(b, 0x7f, Then::Value { authority, huffman })
            }
            Self::Value { left, mend } => {
                if mend && !is_legal(b) {
                    *byte = STAND_IN;
                }
                match left.checked_sub(1)? {
                    0 => Some(Self::Field),
                    left => Some(Self::Value { left, mend }),
                }
            }
        }
    }
}

/// Begins an integer whose first bits are those of `byte` under `mask`.
fn integer(byte: u8, mask: u8, then: Then) -> Option<Block> {
    match byte & mask {
        all if all == mask => Some(Block::Integer {
            value: u32::from(all),
            shift: 0,
            then,
        }),
        value => then.with(u32::from(value)),
    }
}

impl Then {
    fn with(self, value: u32) -> Option<Block> {
        Some(match self {
            Self::End => Block::Field,
            Self::NameIndex if value == 0 => Block::NameLength,
            Self::NameIndex => Block::ValueLength {
                authority: value == STATIC_INDEX,
            },
            Self::Name { huffman } => {
                let of_interest = !huffman && usize::try_from(value) == Ok(NAME.len());
                match value {
                    0 => return None,
                    left => Block::Name {
                        left,
                        matched: 0,
                        of_interest,
                    },
                }
            }
            Self::Value { authority, huffman } => match value {
                0 => Block::Field,
                left => Block::Value {
                    left,
                    mend: authority && !huffman,
                },
            },
        })
    }
}

/// Letters, digits and marks that may stand in a host, and the colon before a port (RFC 3986 section 3.2).
fn is_legal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':')
}

#[cfg(test)]
mod tests;
