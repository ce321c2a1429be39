//! Turns: one write for many, and nobody goes on before it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::{task::JoinSet, task::yield_now};

use super::{
    faults::{ENOSPC, Fault, faulty, numbers},
    *,
};
use crate::wal::turn::MAX_TURN_RECORDS;

/// Records `count` events, each in a task of its own, and hands out what became of them in order.
async fn at_once(
    writer: &WalWriter,
    range: std::ops::RangeInclusive<u64>,
) -> Vec<(u64, Result<u64, AppendError>)> {
    let mut tasks = JoinSet::new();
    for n in range {
        let writer = writer.clone();
        tasks.spawn(async move {
            (
                n,
                writer.append_in_turn(&event(n)).await.map(|id| id.sequence),
            )
        });
    }
    let mut done = tasks.join_all().await;
    done.sort_by_key(|(n, _)| *n);
    done
}

fn writes(fault: &Fault) -> usize {
    fault.writes.swap(0, Ordering::SeqCst)
}

#[tokio::test]
async fn what_tasks_record_in_one_turn_is_written_at_once_and_in_order() {
    let dir = TempDir::new().unwrap();
    let (wal, fault) = faulty(dir.path(), WalOptions::default());
    let writer = wal.writer(0).unwrap();
    writes(&fault);
    let done = at_once(&writer, 1..=20).await;
    assert_eq!(writes(&fault), 1);
    assert!(
        done.iter()
            .all(|(n, result)| matches!(result, Ok(s) if s == n))
    );
    let many = u64::try_from(MAX_TURN_RECORDS).unwrap();
    at_once(&writer, 21..=20 + 3 * many).await;
    assert_eq!(writes(&fault), 3, "a turn is bounded");
    drop((writer, wal));
    assert_eq!(numbers(dir.path()).len() as u64, 20 + 3 * many);
}

#[tokio::test]
async fn nobody_goes_on_before_the_write() {
    let dir = TempDir::new().unwrap();
    let (wal, fault) = faulty(dir.path(), WalOptions::default());
    let writer = wal.writer(0).unwrap();
    writes(&fault);
    let early = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for n in 0..10 {
        let (writer, fault, early) = (writer.clone(), fault.clone(), early.clone());
        tasks.spawn(async move {
            writer.append_in_turn(&event(n)).await.unwrap();
            if fault.writes.load(Ordering::SeqCst) == 0 {
                early.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    tasks.join_all().await;
    assert_eq!((early.load(Ordering::SeqCst), writes(&fault)), (0, 1));
}

#[tokio::test]
async fn alone_a_record_is_written_at_once() {
    let dir = TempDir::new().unwrap();
    let (wal, fault) = faulty(dir.path(), WalOptions::default());
    let writer = wal.writer(0).unwrap();
    writer.append_in_turn(&event(1)).await.unwrap();
    writes(&fault);
    for n in 2..10 {
        let event = event(n);
        let mut recording = std::pin::pin!(writer.append_in_turn(&event));
        let first = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(recording.as_mut().poll(cx).is_ready())
        });
        assert!(first.await, "{n}");
        assert_eq!(writes(&fault), 1);
    }
}

#[tokio::test]
async fn a_failed_write_denies_the_whole_turn_and_loses_nothing_else() {
    for no_cut in [false, true] {
        for room in [0, 10, 500] {
            let dir = TempDir::new().unwrap();
            let (wal, fault) = faulty(dir.path(), WalOptions::default());
            let writer = wal.writer(0).unwrap();
            writer.append(&event(1)).unwrap();
            writer.defer(&event(2)).unwrap();
            fault.errno.store(ENOSPC, Ordering::SeqCst);
            fault.room.store(room, Ordering::SeqCst);
            fault.no_cut.store(no_cut, Ordering::SeqCst);
            fault.failing.store(true, Ordering::SeqCst);
            let beside = writer.clone();
            let deferring = tokio::spawn(async move {
                // Between the turn's first record and its end.
                beside.defer(&event(3)).unwrap();
            });
            let done = at_once(&writer, 100..=120).await;
            deferring.await.unwrap();
            for (n, result) in done {
                let denied =
                    matches!(&result, Err(AppendError::Io(e)) if e.raw_os_error() == Some(28));
                assert!(denied, "{n}: {result:?}");
            }
            fault.failing.store(false, Ordering::SeqCst);
            fault.no_cut.store(false, Ordering::SeqCst);
            let done = at_once(&writer, 4..=5).await;
            assert!(
                done.iter()
                    .all(|(n, result)| matches!(result, Ok(s) if s == n)),
                "{done:?}"
            );
            drop((writer, wal));
            assert_eq!(numbers(dir.path()), ["1 1", "2 2", "3 3", "4 4", "5 5"]);
        }
    }
}

#[tokio::test]
async fn who_leads_and_goes_leaves_nobody_waiting() {
    let dir = TempDir::new().unwrap();
    let (wal, _fault) = faulty(dir.path(), WalOptions::default());
    let writer = wal.writer(0).unwrap();
    let (first, second) = (event(1), event(2));
    let mut leader = Box::pin(writer.append_in_turn(&first));
    let mut other = Box::pin(writer.append_in_turn(&second));
    let pending = std::future::poll_fn(|cx| {
        let both = [leader.as_mut().poll(cx), other.as_mut().poll(cx)];
        std::task::Poll::Ready(both.iter().all(std::task::Poll::is_pending))
    });
    assert!(pending.await);
    drop(leader);
    assert_eq!(other.await.unwrap().sequence, 2);
    drop((writer, wal));
    assert_eq!(numbers(dir.path()), ["1 1", "2 2"]);
}

#[tokio::test]
async fn a_full_log_denies_without_waiting_for_the_turn() {
    let dir = TempDir::new().unwrap();
    let options = WalOptions {
        max_bytes: 6000,
        ..small(Level::Os)
    };
    let (wal, _fault) = faulty(dir.path(), options);
    let writer = wal.writer(0).unwrap();
    let done = at_once(&writer, 1..=60).await;
    let kept = done.iter().filter(|(_, result)| result.is_ok()).count();
    let full = |result: &Result<u64, AppendError>| matches!(result, Err(AppendError::Full { .. }));
    assert!(
        kept > 5 && done.iter().all(|(_, r)| r.is_ok() || full(r)),
        "{done:?}"
    );
    drop((writer, wal));
    assert_eq!(numbers(dir.path()).len(), kept);
}

/// Whatever happens beside it: who was told "recorded" is in the log under that number, who was told "failed" is not.
#[tokio::test(flavor = "multi_thread")]
async fn turns_among_everything_else_keep_their_word() {
    let dir = TempDir::new().unwrap();
    let (wal, fault) = faulty(dir.path(), small_segments());
    fault.errno.store(ENOSPC, Ordering::SeqCst);
    let writer = wal.writer(0).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let failing = {
        let (fault, over) = (fault.clone(), over.clone());
        std::thread::spawn(move || {
            for n in 0.. {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                fault.room.store(n % 700, Ordering::SeqCst);
                fault.failing.store(n % 3 == 0, Ordering::SeqCst);
                std::thread::yield_now();
            }
            fault.failing.store(false, Ordering::SeqCst);
        })
    };
    let mut tasks = JoinSet::new();
    for n in 0..400u64 {
        let writer = writer.clone();
        tasks.spawn(async move {
            match n % 8 {
                0 => drop(writer.defer(&event(10_000 + n))),
                1 => drop(writer.flush()),
                2 => {
                    let gone = tokio::time::timeout(std::time::Duration::ZERO, async {
                        writer.append_in_turn(&event(20_000 + n)).await
                    });
                    drop(gone.await);
                }
                _ => yield_now().await,
            }
            (
                n,
                writer
                    .append_in_turn(&event(n))
                    .await
                    .map(|id| id.sequence)
                    .ok(),
            )
        });
    }
    let done = tasks.join_all().await;
    over.store(true, Ordering::SeqCst);
    failing.join().unwrap();
    drop((writer, wal));
    let found = numbers(dir.path());
    for (at, line) in found.iter().enumerate() {
        assert!(line.starts_with(&format!("{} ", at + 1)), "gapless: {line}");
    }
    for (n, told) in done {
        let line = told.map(|sequence| format!("{sequence} {n}"));
        let here: Vec<_> = found
            .iter()
            .filter(|l| l.ends_with(&format!(" {n}")))
            .collect();
        assert_eq!(here, line.iter().collect::<Vec<_>>(), "{n}");
    }
}

fn small_segments() -> WalOptions {
    WalOptions {
        max_bytes: 8 << 20,
        segment_bytes: 4000,
        ..WalOptions::default()
    }
}
