//! Counts with a bound, shared by every worker of a proxy and exact: a place is taken by compare-and-swap, so that no
//! two workers ever take the last one both. No lock.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// How many of something there are now.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicUsize);

impl Gauge {
    /// How many there are.
    pub(crate) fn now(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    /// One more, if there are fewer than `most`.
    pub(crate) fn try_enter(self: &Arc<Self>, most: usize) -> Option<Entered> {
        let more = |now: usize| (now < most).then(|| now + 1);
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.is_ok().then(|| Entered(self.clone()))
    }
}

/// Counts as one while it lives.
#[derive(Debug)]
pub(crate) struct Entered(Arc<Gauge>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Places that can be waited for, such as connections to a cluster.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    taken: Arc<Gauge>,
    waiting: Arc<Gauge>,
    freed: Notify,
}

impl Slots {
    /// One, if fewer than `most` are taken.
    pub(crate) fn try_take(self: &Arc<Self>, most: usize) -> Option<Slot> {
        let entered = self.taken.try_enter(most)?;
        let slots = self.clone();
        Some(Slot {
            entered: Some(entered),
            slots,
        })
    }

    /// Counts the caller as waiting, until the guard goes.
    pub(crate) fn wait(&self) -> Option<Entered> {
        self.waiting.try_enter(usize::MAX)
    }

    /// Whether somebody waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting.now() > 0
    }

    /// One, as soon as fewer than `most` are taken; first come, first served. Cancel-safe.
    pub(crate) async fn take(self: &Arc<Self>, most: usize) -> Slot {
        loop {
            let freed = self.freed.notified();
            if let Some(slot) = self.try_take(most) {
                return slot;
            }
            freed.await;
        }
    }
}

/// A place, while it lives.
#[derive(Debug)]
pub(crate) struct Slot {
    entered: Option<Entered>,
    slots: Arc<Slots>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.entered.take());
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn no_bound_is_ever_passed_and_every_place_comes_back() {
        let gauge = Arc::new(Gauge::default());
        let most = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (gauge, most) = (gauge.clone(), most.clone());
                thread::spawn(move || {
                    for _ in 0..20_000 {
                        if let Some(_entered) = gauge.try_enter(3) {
                            most.fetch_max(gauge.now(), Ordering::AcqRel);
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        assert!(most.load(Ordering::Acquire) <= 3);
        assert_eq!(gauge.now(), 0);
        assert!(gauge.try_enter(0).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_place_that_is_freed() {
        let slots = Arc::new(Slots::default());
        let first = slots.try_take(1).unwrap();
        assert!(slots.try_take(1).is_none());
        let waiter = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take(1).await }
        });
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        assert!(!waiter.is_finished());
        drop(first);
        let second = waiter.await.unwrap();
        assert!(slots.try_take(1).is_none());
        drop(second);
        assert!(slots.try_take(1).is_some());
    }
}
