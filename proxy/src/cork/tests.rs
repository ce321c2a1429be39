use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::{
    AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, DuplexStream, ReadBuf, duplex,
};

use super::Corked;
use crate::limits::CORK_BYTES;

fn write(corked: &mut Corked<DuplexStream>, bytes: &[u8]) -> Poll<usize> {
    let mut cx = Context::from_waker(Waker::noop());
    let written = Pin::new(corked).poll_write(&mut cx, bytes);
    written.map(Result::unwrap)
}

/// What a connection's task does when it is polled.
fn poll(corked: &mut Corked<DuplexStream>) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut room = [0; 8];
    let read = Pin::new(corked).poll_read(&mut cx, &mut ReadBuf::new(&mut room));
    assert!(read.is_pending());
}

#[tokio::test]
async fn what_is_written_in_one_go_leaves_with_the_next_poll() {
    let (near, mut far) = duplex(1 << 20);
    let mut corked = Corked::new(near);
    for frame in [b"one ".as_slice(), b"two ", b"three"] {
        assert_eq!(write(&mut corked, frame), Poll::Ready(frame.len()));
        poll_fn(|cx| Pin::new(&mut corked).poll_flush(cx))
            .await
            .unwrap();
    }
    let mut seen = [0; 32];
    let nothing = tokio::time::timeout(std::time::Duration::ZERO, far.read(&mut seen)).await;
    assert!(nothing.is_err(), "it waits");
    poll(&mut corked);
    let count = far.read(&mut seen).await.unwrap();
    assert_eq!(&seen[..count], b"one two three");
}

#[tokio::test]
async fn a_flush_has_the_owner_polled_again() {
    let (near, mut far) = duplex(1 << 20);
    let mut corked = Corked::new(near);
    let owner = tokio::spawn(async move {
        let mut written = false;
        poll_fn(|cx| {
            let mut room = [0; 8];
            let mut room = ReadBuf::new(&mut room);
            if Pin::new(&mut corked).poll_read(cx, &mut room).is_ready() {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut written, true) {
                assert!(Pin::new(&mut corked).poll_write(cx, b"ping").is_ready());
                assert!(Pin::new(&mut corked).poll_flush(cx).is_ready());
            }
            Poll::Pending
        })
        .await;
    });
    let mut seen = [0; 4];
    far.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"ping");
    drop(far);
    owner.await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back_and_loses_nothing() {
    let (near, mut far) = duplex(1024);
    let mut corked = Corked::new(near);
    let all: Vec<u8> = (0..=250_u8).cycle().take(CORK_BYTES * 3).collect();
    let mut accepted = 0;
    while let Poll::Ready(count) = write(&mut corked, &all[accepted..]) {
        accepted += count;
        assert!(accepted <= CORK_BYTES + 1024, "no more than its bound");
    }
    assert!(accepted >= CORK_BYTES);
    let expected = all.clone();
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        far.read_to_end(&mut seen).await.unwrap();
        assert!(seen == expected);
    });
    while accepted < all.len() {
        let rest = &all[accepted..];
        accepted += poll_fn(|cx| Pin::new(&mut corked).poll_write(cx, rest))
            .await
            .unwrap();
    }
    poll_fn(|cx| Pin::new(&mut corked).poll_shutdown(cx))
        .await
        .unwrap();
    drop(corked);
    reader.await.unwrap();
}
