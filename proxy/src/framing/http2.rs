//! HTTP/2 frames that do nothing: a peer may send some, in proportion to what it asks for and is given.
//!
//! PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM, CONTINUATION, empty DATA and unknown frames cost a peer nothing
//! and a server a little each; sent without end they keep a worker from everybody else. Each connection has an allowance
//! of them (Envoy's flood mitigation, `max_inbound_*_frames*`, in one number): requests, data and what is sent to the
//! peer add to it, and so does time.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{IDLE_FRAMES_PER_SECOND, MAX_IDLE_FRAMES};

use super::screen::Verdict;

const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// What a frame with a request adds: its WINDOW_UPDATEs, its reset, and more.
const PER_REQUEST: u32 = 8;
/// What a frame with data adds.
const PER_DATA: u32 = 2;
/// Bytes sent to the peer that allow it one frame more.
const BYTES_PER_FRAME: usize = 256;

/// The end that the library makes of this header (a PING of no bytes, RFC 9113 section 6.7): GOAWAY.
pub(super) const POISON: &[u8; HEADER_BYTES] = &[0, 0, 0, 6, 0, 0, 0, 0, 0];

/// Reads the frame headers of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes until the next header: the rest of the preface or of a payload.
    skip: usize,
    header: Vec<u8>,
    allowance: u32,
    refilled: Instant,
}

impl Frames {
    /// The first `preface` bytes belong to no frame.
    pub(super) fn new(preface: usize) -> Self {
        Self {
            skip: preface,
            header: Vec::with_capacity(HEADER_BYTES),
            allowance: MAX_IDLE_FRAMES,
            refilled: Instant::now(),
        }
    }

    /// Reads the next bytes from the peer. A refusal begins with a whole header.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Verdict {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.skip > 0 {
                let taken = self.skip.min(rest.len());
                self.skip = self.skip.saturating_sub(taken);
                rest = rest.get(taken..).unwrap_or_default();
                continue;
            }
            let whole = self.header.is_empty() && rest.len() >= HEADER_BYTES;
            let wanted = HEADER_BYTES.saturating_sub(self.header.len());
            let (more, after) = rest.split_at_checked(wanted).unwrap_or((rest, &[]));
            self.header.extend_from_slice(more);
            if let [a, b, c, kind, ..] = *self.header.as_slice()
                && self.header.len() == HEADER_BYTES
            {
                self.header.clear();
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                // A header in two pieces was partly passed on; the next one in one piece will do as well.
                if !self.allows(kind) && whole {
                    let at = bytes.len().saturating_sub(rest.len());
                    return Verdict::Refused { at };
                }
            }
            rest = after;
        }
        Verdict::Fine
    }

    /// Something was sent to the peer, which may answer it with frames of its own.
    pub(super) fn sent(&mut self, bytes: usize) {
        let more = bytes.checked_div(BYTES_PER_FRAME).unwrap_or_default();
        self.add(u32::try_from(more).unwrap_or(u32::MAX));
    }

    fn allows(&mut self, kind: u8) -> bool {
        match kind {
            HEADERS => self.add(PER_REQUEST),
            DATA if self.skip > 0 => self.add(PER_DATA),
            _ => return self.spend(),
        }
        true
    }

    fn add(&mut self, frames: u32) {
        self.allowance = self.allowance.saturating_add(frames).min(MAX_IDLE_FRAMES);
    }

    fn spend(&mut self) -> bool {
        if self.allowance == 0 {
            let passed = self.refilled.elapsed().min(Duration::from_secs(3600));
            let ticks = passed
                .as_millis()
                .saturating_mul(IDLE_FRAMES_PER_SECOND.into());
            self.add(u32::try_from(ticks.saturating_div(1000)).unwrap_or(u32::MAX));
            self.refilled = Instant::now();
        }
        let left = self.allowance.checked_sub(1);
        self.allowance = left.unwrap_or_default();
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        bytes.extend(std::iter::repeat_n(0, length.into()));
        bytes
    }

    fn endless(frame: &[u8]) -> Option<usize> {
        let mut frames = Frames::new(0);
        (0..100_000).find(|_| frames.read(frame) != Verdict::Fine)
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_do_nothing_end_and_those_that_do_go_on() {
        for (kind, length) in [(6, 8), (4, 0), (8, 4), (2, 5), (3, 4), (0x42, 0), (DATA, 0)] {
            assert_eq!(
                endless(&frame(kind, length)),
                Some(MAX_IDLE_FRAMES as usize),
                "{kind}"
            );
        }
        assert_eq!(endless(&frame(DATA, 9)), None);
        assert_eq!(endless(&frame(HEADERS, 9)), None);
        let request = [frame(HEADERS, 9), frame(8, 4), frame(8, 4), frame(3, 4)].concat();
        assert_eq!(endless(&request), None);
    }

    #[tokio::test(start_paused = true)]
    async fn keep_alive_and_downloads_last() {
        let ping = frame(6, 8);
        let mut frames = Frames::new(0);
        for _ in 0..10_000 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(frames.read(&ping), Verdict::Fine);
        }
        let mut frames = Frames::new(0);
        for _ in 0..100_000 {
            frames.sent(16_384);
            assert_eq!(frames.read(&frame(8, 4).repeat(2)), Verdict::Fine);
        }
    }

    proptest! {
        #[test]
        fn a_refusal_begins_at_a_header_whatever_the_pieces(
            lengths in proptest::collection::vec(0u8..40, 1..60), pieces in 1usize..100, left in 0u32..20,
        ) {
            let mut frames = Frames::new(3);
            frames.allowance = left;
            let all: Vec<Vec<u8>> = lengths.iter().map(|length| frame(6, *length)).collect();
            let mut starts = vec![3];
            for one in &all {
                starts.push(starts[starts.len() - 1] + one.len());
            }
            let bytes = [vec![1; 3], all.concat()].concat();
            let mut offset = 0;
            for piece in bytes.chunks(pieces) {
                if let Verdict::Refused { at } = frames.read(piece) {
                    prop_assert!(starts.contains(&(offset + at)));
                    prop_assert!(at + HEADER_BYTES <= piece.len());
                    break;
                }
                offset += piece.len();
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_have_an_answer(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..400),
            pieces in 1usize..50, left in 0u32..4, preface in 0usize..20,
        ) {
            let mut frames = Frames::new(preface);
            frames.allowance = left;
            for piece in bytes.chunks(pieces) {
                if let Verdict::Refused { at } = frames.read(piece) {
                    prop_assert!(at + HEADER_BYTES <= piece.len());
                    break;
                }
                prop_assert!(frames.header.len() < HEADER_BYTES);
            }
        }
    }
}
