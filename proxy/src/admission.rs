//! Admission: how many requests one proxy serves at once, and how it sheds what it has no time for.
//!
//! A worker that falls behind lets every request wait for its turn. The wait is measured by a timer of the worker's own:
//! how late it fires is how long anything else on that thread waits too. From the least lateness of a window – a standing
//! queue, not a burst – the PIE controller (RFC 8033) makes the share of requests that are refused at once, with 503 and
//! `Retry-After`, before any work is done for them. Health and metrics ports do not pass here, and a proxy that drains
//! refuses nothing. What it costs a request: two relaxed atomic additions and one load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::{
    answer::Answer,
    exchange::Exchange,
    limits::{
        MAX_REFUSED_SHARE, MAX_REQUESTS_IN_FLIGHT, OVERLOAD_DELAY, OVERLOAD_TICK,
        OVERLOAD_TICKS_PER_WINDOW,
    },
    worker::Worker,
};

/// Requests in flight through a whole proxy.
#[derive(Debug, Default)]
pub(crate) struct InFlight(AtomicUsize);

impl InFlight {
    /// One more, if there is room.
    fn enter(&self) -> bool {
        let room = self.0.fetch_add(1, Ordering::Relaxed) < MAX_REQUESTS_IN_FLIGHT;
        if !room {
            self.leave();
        }
        room
    }

    /// One fewer.
    pub(crate) fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The share of requests that one worker refuses, in 65,536ths.
#[derive(Debug, Default)]
pub(crate) struct Shedding {
    share: AtomicU32,
    turn: AtomicU32,
}

/// 2^16 divided by the golden ratio: successive multiples fall evenly (a Weyl sequence), whatever the share.
const GOLDEN: u32 = 40_503;
const WHOLE: f64 = 65_536.0;

impl Shedding {
    /// Whether it is this request's turn to be refused.
    fn refuses(&self) -> bool {
        let share = self.share.load(Ordering::Relaxed);
        if share == 0 {
            return false;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        turn.wrapping_mul(GOLDEN) & 0xffff < share
    }

    fn set(&self, share: f64) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 65,536"
        )]
        let share = (share.clamp(0.0, 1.0) * WHOLE) as u32;
        self.share.store(share, Ordering::Relaxed);
    }
}

impl Worker {
    /// Lets a request in, or answers it: there are too many, or the worker has no time.
    pub(crate) fn admit(&self, exchange: &mut Exchange) -> Result<(), Answer> {
        // What is still served while the proxy drains is to be finished.
        if self.shedding.refuses() && !self.proxy.tasks.is_closed() {
            return Err(Answer::overloaded("overload_delay"));
        }
        if !self.proxy.in_flight.enter() {
            return Err(Answer::overloaded("max_requests_in_flight"));
        }
        exchange.admitted();
        Ok(())
    }

    /// Measures how late the worker is, for as long as it is polled.
    pub(crate) async fn keep_time(self: Arc<Self>) {
        let mut controller = Pie::default();
        loop {
            let mut least = Duration::MAX;
            for _ in 0..OVERLOAD_TICKS_PER_WINDOW {
                let due = Instant::now() + OVERLOAD_TICK;
                sleep_until(due).await;
                least = least.min(due.elapsed());
            }
            self.shedding.set(controller.step(least));
        }
    }
}

/// The controller of RFC 8033 section 4.2, in units of the wanted delay.
#[derive(Debug, Default)]
struct Pie {
    share: f64,
    last: f64,
}

/// How much the distance from the wanted delay moves the share, per window …
const ALPHA: f64 = 0.04;
/// … and how much the delay's own movement.
const BETA: f64 = 0.1;
/// Above that many times the wanted delay it makes no difference.
const MAX_DELAYS: f64 = 5.0;
/// Without delay the share shrinks to this, per window.
const DECAY: f64 = 0.7;
/// A share below this is none.
const LEAST_SHARE: f64 = 0.01;

impl Pie {
    /// One window's least delay is in: the share to refuse in the next.
    fn step(&mut self, delay: Duration) -> f64 {
        let delay = (delay.as_secs_f64() / OVERLOAD_DELAY.as_secs_f64()).min(MAX_DELAYS);
        let change = ALPHA * (delay - 1.0) + BETA * (delay - self.last);
        // Section 4.2: small shares move in small steps.
        let pace = match self.share {
            share if share < 0.01 => 0.5,
            _ => 1.0,
        };
        self.share = (self.share + change * pace).clamp(0.0, MAX_REFUSED_SHARE);
        if delay < 0.5 && self.last < 0.5 {
            self.share *= DECAY;
        }
        if self.share < LEAST_SHARE {
            self.share = 0.0;
        }
        self.last = delay;
        self.share
    }
}

#[cfg(test)]
mod tests;
