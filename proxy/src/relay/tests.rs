use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use std::time::Duration;

use super::*;

/// A relay between two pipes that hold `room` bytes each, and their outer ends.
fn relayed(
    room: usize,
) -> (
    DuplexStream,
    DuplexStream,
    tokio::task::JoinHandle<Result<(), RelayError>>,
    End,
) {
    let (left, near) = duplex(room);
    let (right, far) = duplex(room);
    let end = End::default();
    let given = end.clone();
    let relay = tokio::spawn(async move {
        let line = |io| {
            Line::new(
                io,
                bytes::Bytes::new(),
                tokio_util::sync::CancellationToken::new(),
            )
        };
        let (mut near, mut far) = (line(near), line(far));
        pass(RelayBounds::default(), &mut near, &mut far, &given).await
    });
    (left, right, relay, end)
}

#[tokio::test(start_paused = true)]
async fn one_direction_goes_on_after_the_other_has_ended() {
    let (mut left, mut right, relay, _end) = relayed(1024);
    left.write_all(b"question").await.unwrap();
    left.shutdown().await.unwrap();
    let mut question = Vec::new();
    right.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question", "the half-close is passed on");
    right.write_all(b"answer").await.unwrap();
    right.shutdown().await.unwrap();
    let mut answer = Vec::new();
    left.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    relay.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_holds_its_writer_back() {
    let (mut left, mut right, _relay, _end) = relayed(16);
    let sent = tokio::time::timeout(
        Duration::from_secs(1),
        left.write_all(&[7; 4 * RELAY_BUFFER_BYTES]),
    );
    assert!(sent.await.is_err(), "more was taken than may wait");
    let mut got = Vec::new();
    while let Ok(Ok(1..)) =
        tokio::time::timeout(Duration::from_secs(1), right.read_buf(&mut got)).await
    {}
    assert!(
        got.len() <= 32 + RELAY_BUFFER_BYTES && got.iter().all(|b| *b == 7),
        "{}",
        got.len()
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_relay_ends_and_a_busy_one_does_not() {
    let (mut left, mut right, relay, _end) = relayed(64);
    for _ in 0..5 {
        sleep(RELAY_IDLE_TIMEOUT / 2).await;
        left.write_all(b"x").await.unwrap();
        right.read_exact(&mut [0]).await.unwrap();
    }
    assert!(!relay.is_finished());
    sleep(RELAY_IDLE_TIMEOUT * 2).await;
    assert!(matches!(relay.await.unwrap(), Err(RelayError::Idle)));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_permit_ends_it_at_once() {
    let (_left, _right, relay, end) = relayed(64);
    tokio::task::yield_now().await;
    end.give();
    assert!(matches!(relay.await.unwrap(), Err(RelayError::Ended)));
}
