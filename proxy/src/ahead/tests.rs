use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf, duplex};

use super::ReadAhead;
use crate::limits::READ_AHEAD_BYTES;

/// Counts how often it is read.
struct Counted<I> {
    inner: I,
    reads: usize,
}

impl<I: AsyncRead + Unpin> AsyncRead for Counted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.reads += 1;
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

#[tokio::test]
async fn many_small_reads_are_few_large_ones_and_bring_every_byte_once() {
    let all: Vec<u8> = (0..=250_u8)
        .cycle()
        .take(READ_AHEAD_BYTES * 3 + 17)
        .collect();
    let (mut near, far) = duplex(1 << 20);
    near.write_all(&all).await.unwrap();
    drop(near);
    let far = Counted {
        inner: far,
        reads: 0,
    };
    let mut ahead = ReadAhead::new(far);
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match ahead.read(&mut piece).await.unwrap() {
            0 => break,
            count => seen.extend_from_slice(&piece[..count]),
        }
    }
    assert!(seen == all);
    assert_eq!(ahead.inner.reads, 5, "four full of bytes, and the end");
    assert!(ahead.ahead.is_empty());
}
