//! Counting the messages of a gRPC stream: each is a flag, a length of four bytes and that many bytes
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, "Length-Prefixed-Message").

/// Bytes before a message.
const PREFIX_BYTES: u8 = 5;

/// One direction of a stream, read piece by piece. Nothing of it is kept.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Messages {
    /// Bytes of the next prefix that were read.
    prefix: u8,
    /// The length, as far as it was read.
    length: u32,
    /// Bytes of the message that are still to come.
    left: u32,
}

impl Messages {
    /// How many messages begin in `data`; one counts when its prefix is whole.
    pub(crate) fn read(&mut self, mut data: &[u8]) -> u64 {
        let mut count = 0;
        loop {
            let skipped = data
                .len()
                .min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= u32::try_from(skipped).unwrap_or(self.left);
            let Some((byte, rest)) = data.get(skipped..).and_then(<[u8]>::split_first) else {
                return count;
            };
            data = rest;
            if self.prefix > 0 {
                self.length = self.length << 8 | u32::from(*byte);
            }
            self.prefix += 1;
            if self.prefix == PREFIX_BYTES {
                *self = Self {
                    left: self.length,
                    ..Self::default()
                };
                count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.resize(5 + length as usize, 7);
        bytes
    }

    #[test]
    fn messages_count_however_they_are_cut() {
        let stream: Vec<u8> = [0, 3, 0, 0, 70_000, 1]
            .into_iter()
            .flat_map(message)
            .collect();
        for piece in [1, 2, 3, 5, 7, 4096, stream.len()] {
            let mut messages = Messages::default();
            let count: u64 = stream.chunks(piece).map(|piece| messages.read(piece)).sum();
            assert_eq!(count, 6, "in pieces of {piece}");
        }
    }

    #[test]
    fn half_a_prefix_is_no_message_and_a_length_may_lie() {
        let mut messages = Messages::default();
        assert_eq!(messages.read(&[0, 0xff, 0xff, 0xff]), 0);
        assert_eq!(messages.read(&[0xff]), 1);
        assert_eq!(messages.read(&[0; 100]), 0);
        assert_eq!(messages.left, u32::MAX - 100);
    }
}
