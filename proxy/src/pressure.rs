//! Pressure: how many requests an application has time for.
//!
//! An application that gets more than it can serve lets every request wait in its queue, until callers give up before
//! their turn comes: it is busy with nothing but answers that nobody waits for. The proxy cannot see the queue, but its two
//! signs: callers give up, and even the fastest answer took about as long as they waited. While both show, the requests
//! that may wait for the application at once are cut by a quarter per window; without them they grow again, slowly near
//! the number that was too many, until no bound is needed. Callers that give up early, for reasons of their own, are no
//! sign, since others are answered sooner. What goes beyond is answered 503 with `Retry-After`, before it is judged – unless
//! its caller has less than its part of what may wait: whoever makes the pressure, others have room.
//! (Multiplicative decrease and additive increase on drops, as TCP's congestion avoidance, RFC 5681.)
//!
//! Only the time from the end of a request to the head of its response counts: who is slow to ask, or reads a stream for long, waits
//! for nothing.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use foldhash::HashMap;
use tokio::time::Instant;

use crate::{
    ledger::lock,
    limits::{APP_PATIENCE, APP_WINDOW, MIN_APP_REQUESTS, MIN_APP_WAIT, MIN_GIVEN_UP},
};

/// One given up of so many is a sign.
const GIVEN_UP_SHARE: u32 = 10;
/// Windows without need of the bound until it goes.
const CALM_WINDOWS: u32 = 20;

/// Of every port of the workload, as one worker sees it: a request takes no lock that another worker could hold.
#[derive(Debug, Default)]
pub(crate) struct Pressures(Mutex<HashMap<SocketAddr, Arc<Pressure>>>);

impl Pressures {
    /// Of the application behind `bind`.
    pub(crate) fn of(&self, bind: SocketAddr) -> Arc<Pressure> {
        let mut all = lock(&self.0);
        if !all.contains_key(&bind) {
            all.retain(|_, pressure| Arc::strong_count(pressure) > 1);
        }
        all.entry(bind).or_default().clone()
    }
}

/// Of one application.
#[derive(Debug)]
pub(crate) struct Pressure {
    /// Requests whose response has not begun.
    waiting: AtomicUsize,
    most: AtomicUsize,
    seen: Mutex<Seen>,
}

/// Tells callers apart: equal for requests of the same caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CallerKey(pub(crate) usize);

#[derive(Debug)]
struct Seen {
    window: Window,
    /// How many requests of each wait.
    callers: HashMap<CallerKey, usize>,
}

impl Default for Pressure {
    fn default() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            most: AtomicUsize::new(usize::MAX),
            seen: Mutex::new(Seen {
                window: Window::new(Instant::now()),
                callers: HashMap::default(),
            }),
        }
    }
}

/// A request that waits for the application. Dropped before its answer, it was given up.
#[derive(Debug)]
pub(crate) struct Waiting {
    pressure: Arc<Pressure>,
    caller: CallerKey,
    since: Instant,
    ended: bool,
}

impl Pressure {
    /// Whether the application has no time for another request of this caller.
    pub(crate) fn is_full_for(&self, caller: CallerKey) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        if self.waiting.load(Ordering::Relaxed) < most {
            return false;
        }
        let seen = lock(&self.seen);
        let part = most.checked_div(seen.callers.len()).unwrap_or(most);
        let own = seen.callers.get(&caller).copied().unwrap_or_default();
        own >= part.max(1)
    }

    /// One more waits.
    pub(crate) fn enter(self: &Arc<Self>, caller: CallerKey) -> Waiting {
        let now = Instant::now();
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
        let mut seen = lock(&self.seen);
        seen.window.peak = seen.window.peak.max(waiting);
        self.turn(&mut seen.window, now);
        let own = seen.callers.entry(caller).or_default();
        *own = own.saturating_add(1);
        drop(seen);
        Waiting {
            pressure: self.clone(),
            caller,
            since: now,
            ended: false,
        }
    }

    /// Ends a window when it is time.
    fn turn(&self, window: &mut Window, now: Instant) {
        if now.saturating_duration_since(window.since) >= APP_WINDOW {
            let waiting = self.waiting.load(Ordering::Relaxed);
            self.most
                .store(window.next(waiting, now), Ordering::Relaxed);
        }
    }
}

impl Waiting {
    /// The response has begun.
    pub(crate) fn answered(mut self) {
        self.ended = true;
        let now = Instant::now();
        let mut seen = lock(&self.pressure.seen);
        let window = &mut seen.window;
        window.answered = window.answered.saturating_add(1);
        window.fastest = window
            .fastest
            .min(now.saturating_duration_since(self.since));
        self.pressure.turn(window, now);
    }

    /// There was no answer, for another reason than time.
    pub(crate) fn failed(mut self) {
        self.ended = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pressure.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut seen = lock(&self.pressure.seen);
        seen.leave(self.caller);
        if self.ended {
            return;
        }
        let now = Instant::now();
        let waited = now.saturating_duration_since(self.since);
        if waited <= APP_PATIENCE {
            let window = &mut seen.window;
            window.given_up = window.given_up.saturating_add(1);
            window.waited = window.waited.saturating_add(waited);
            self.pressure.turn(window, now);
        }
    }
}

impl Seen {
    fn leave(&mut self, caller: CallerKey) {
        if let Some(own) = self.callers.get_mut(&caller) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                self.callers.remove(&caller);
            }
        }
    }
}

/// What is seen for a while, and the bound that came of what was seen before.
#[derive(Debug)]
struct Window {
    since: Instant,
    answered: u32,
    fastest: Duration,
    given_up: u32,
    /// Those given up, all together.
    waited: Duration,
    peak: usize,
    most: usize,
    /// The bound that was last found to be too high.
    too_many: usize,
    calm: u32,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            answered: 0,
            fastest: Duration::MAX,
            given_up: 0,
            waited: Duration::ZERO,
            peak: 0,
            most: usize::MAX,
            too_many: usize::MAX,
            calm: 0,
        }
    }

    /// Begins the next window; returns how many may wait in it.
    fn next(&mut self, waiting: usize, now: Instant) -> usize {
        let (mut most, mut too_many, mut calm) = (self.most, self.too_many, self.calm);
        if self.is_overloaded() {
            too_many = most.min(self.peak);
            most = (too_many - too_many / 4).max(MIN_APP_REQUESTS);
            calm = 0;
        } else if most != usize::MAX {
            let careful = most.saturating_mul(5) >= too_many.saturating_mul(4);
            let step = if careful { most / 100 } else { most / 20 };
            calm = if self.peak < most / 2 { calm + 1 } else { 0 };
            most = if calm < CALM_WINDOWS {
                most.saturating_add(step.max(1))
            } else {
                usize::MAX
            };
        }
        *self = Self {
            most,
            too_many,
            calm,
            peak: waiting,
            ..Self::new(now)
        };
        most
    }

    fn is_overloaded(&self) -> bool {
        let all = self.given_up.saturating_add(self.answered);
        let many =
            self.given_up >= MIN_GIVEN_UP && self.given_up.saturating_mul(GIVEN_UP_SHARE) >= all;
        let waited = self.waited.checked_div(self.given_up).unwrap_or_default();
        many && waited >= MIN_APP_WAIT && self.fastest >= waited / 2
    }
}

#[cfg(test)]
mod tests;
