//! The end of a stream's permit, as a signal: cheap to make for every request, seldom given.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crate::ledger::lock;

/// Whether something must end. Clones share one signal.
#[derive(Clone, Debug, Default)]
pub(crate) struct End(Arc<Signal>);

#[derive(Debug, Default)]
struct Signal {
    given: AtomicBool,
    /// One per task that waits: the connections that carry the stream, two or three.
    waiting: Mutex<Vec<Waker>>,
}

impl End {
    /// Gives the signal; it stays given.
    pub(crate) fn give(&self) {
        self.0.given.store(true, Ordering::Release);
        for waker in std::mem::take(&mut *lock(&self.0.waiting)) {
            waker.wake();
        }
    }

    /// Whether it was given.
    pub(crate) fn is_given(&self) -> bool {
        self.0.given.load(Ordering::Acquire)
    }

    /// Ready once it is given.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_given() {
            return Poll::Ready(());
        }
        let mut waiting = lock(&self.0.waiting);
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        drop(waiting);
        // Given between the first look and the push: `give` may have missed this waker.
        if self.is_given() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Waits until it is given. Cancel-safe.
    pub(crate) async fn wait(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_waiter_is_woken_once_it_is_given() {
        let end = End::default();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let end = end.clone();
                tokio::spawn(async move { end.wait().await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()) && !end.is_given());
        end.give();
        for waiter in waiters {
            waiter.await.unwrap();
        }
        end.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_polls_often_waits_once() {
        let end = End::default();
        poll_fn(|cx| {
            for _ in 0..100 {
                assert!(end.poll(cx).is_pending());
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!(lock(&end.0.waiting).len(), 1);
    }
}
