use std::collections::VecDeque;

use super::*;

/// A worker on paper: it has one unit of work per millisecond, a request served costs one and a request refused a twentieth.
struct Paper {
    queue: VecDeque<u64>,
    shedding: Shedding,
    controller: Pie,
    now: u64,
    work: f64,
    owed: f64,
    served: u64,
    longest: usize,
    sheds: bool,
}

const REFUSAL: f64 = 0.05;

impl Paper {
    fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            shedding: Shedding::default(),
            controller: Pie::default(),
            now: 0,
            work: 0.0,
            owed: 0.0,
            served: 0,
            longest: 0,
            sheds: true,
        }
    }

    /// Lets `ms` pass while `load` requests arrive per millisecond. Returns how many were served.
    fn run(&mut self, ms: u64, load: f64) -> u64 {
        let served = self.served;
        let tick = u64::try_from(OVERLOAD_TICK.as_millis()).unwrap();
        let window = tick * u64::from(OVERLOAD_TICKS_PER_WINDOW);
        let mut least = u64::MAX;
        for _ in 0..ms {
            self.now += 1;
            self.owed += load;
            while self.owed >= 1.0 {
                self.owed -= 1.0;
                self.queue.push_back(self.now);
            }
            self.longest = self.longest.max(self.queue.len());
            self.work += 1.0;
            while self.work > 0.0 {
                if self.queue.pop_front().is_none() {
                    self.work = 0.0;
                } else if self.shedding.refuses() {
                    self.work -= REFUSAL;
                } else {
                    self.work -= 1.0;
                    self.served += 1;
                }
            }
            if self.now.is_multiple_of(tick) {
                least = least.min(self.queue.front().map_or(0, |came| self.now - came));
            }
            if self.now.is_multiple_of(window) {
                let share = self.controller.step(Duration::from_millis(least));
                self.shedding.set(if self.sheds { share } else { 0.0 });
                least = u64::MAX;
            }
        }
        self.served - served
    }
}

#[test]
fn goodput_stays_near_what_can_be_had_under_four_times_the_load() {
    let mut paper = Paper::new();
    paper.run(5_000, 4.0);
    let seconds = 20;
    let served = paper.run(seconds * 1000, 4.0);
    // Of 4 units of load, x are served and the rest refused: x + 0.05 (4 - x) = 1, so x = 0.84 can be had.
    assert!(
        served > seconds * 1000 * 80 / 100,
        "{served} of {}",
        seconds * 1000
    );
    let wait = paper.queue.front().map_or(0, |came| paper.now - came);
    assert!(wait < 2 * 100, "requests wait {wait} ms");
    assert!(paper.longest < 16_000, "{} requests wait", paper.longest);
}

#[test]
fn without_shedding_the_queue_grows_without_end() {
    let mut paper = Paper::new();
    paper.sheds = false;
    paper.run(20_000, 4.0);
    assert!(paper.queue.len() > 50_000, "{}", paper.queue.len());
}

#[test]
fn nothing_is_refused_under_less_than_full_load_nor_for_a_burst() {
    let mut paper = Paper::new();
    assert!(paper.run(10_000, 0.9) >= 8_999);
    assert_eq!(
        paper.shedding.turn.load(Ordering::Relaxed),
        0,
        "some were at risk"
    );
    // A burst of work for a tenth of a second.
    paper.owed += 100.0;
    let served = paper.run(10_000, 0.5);
    assert!(served >= 5_099, "{served}");
    assert_eq!(
        paper.shedding.turn.load(Ordering::Relaxed),
        0,
        "some were at risk"
    );
}

#[test]
fn after_the_overload_everything_is_served_again_within_seconds() {
    let mut paper = Paper::new();
    paper.run(20_000, 4.0);
    assert!(paper.controller.share > 0.5, "{}", paper.controller.share);
    paper.run(6_000, 0.5);
    assert_eq!(paper.run(10_000, 0.5), 5_000);
}

#[test]
fn a_share_is_refused_evenly() {
    for share in [0.1, 0.5, 0.9] {
        let shedding = Shedding::default();
        shedding.set(share);
        let refused = (0..10_000).filter(|_| shedding.refuses()).count();
        let expected = share * 10_000.0;
        assert!(
            (refused as f64 - expected).abs() < 20.0,
            "{share}: {refused}"
        );
    }
}

#[test]
fn requests_in_flight_are_bounded_exactly() {
    let in_flight = InFlight::default();
    let entered = (0..MAX_REQUESTS_IN_FLIGHT + 10)
        .filter(|_| in_flight.enter())
        .count();
    assert_eq!(entered, MAX_REQUESTS_IN_FLIGHT);
    in_flight.leave();
    assert!(in_flight.enter() && !in_flight.enter());
}

impl Worker {
    /// Sheds everything until it next measures how late it is.
    pub(crate) fn shed_all(&self) {
        self.shedding.set(1.0);
    }
}
