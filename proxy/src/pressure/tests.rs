use std::sync::atomic::AtomicU64;

use tokio::{
    sync::Semaphore,
    time::{interval, sleep, timeout},
};

use super::*;

/// An application that serves so many requests at once, each for so long, and lets the others wait in order.
#[derive(Clone)]
struct App {
    places: Arc<Semaphore>,
    service: Duration,
    /// Whether it stops working for a caller that has gone; many do not notice.
    notices: bool,
}

const AT_ONCE: usize = 10;
const SERVICE: Duration = Duration::from_millis(50);
/// Requests per second.
const CAPACITY: u32 = 200;
/// The only caller, as a rule.
const ONE: CallerKey = CallerKey(1);
const PATIENCE: Duration = Duration::from_secs(1);

impl App {
    fn new(notices: bool) -> Self {
        Self {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            service: SERVICE,
            notices,
        }
    }

    async fn serve(self) {
        let working = async move {
            let _place = self.places.acquire().await.unwrap();
            sleep(self.service).await;
        };
        if self.notices {
            working.await;
        } else {
            tokio::spawn(working).await.unwrap();
        }
    }
}

#[derive(Default)]
struct Tally {
    good: AtomicU64,
    refused: AtomicU64,
}

/// Offers `load` requests per second for `time` to `app`, whose callers wait [`PATIENCE`]. Returns how many were
/// answered in time, and how many refused.
async fn offer(
    app: &App,
    pressure: Option<&Arc<Pressure>>,
    load: u32,
    time: Duration,
) -> (u64, u64) {
    let tally = Arc::<Tally>::default();
    let mut due = interval(Duration::from_secs(1) / load);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..u64::from(load) * time.as_secs() {
        due.tick().await;
        let (app, pressure, tally) = (app.clone(), pressure.cloned(), tally.clone());
        callers.spawn(async move {
            if pressure
                .as_ref()
                .is_some_and(|pressure| pressure.is_full_for(ONE))
            {
                tally.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let waiting = pressure.map(|pressure| pressure.enter(ONE));
            if timeout(PATIENCE, app.serve()).await.is_ok() {
                waiting.into_iter().for_each(Waiting::answered);
                tally.good.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    (count(&tally.good), count(&tally.refused))
}

/// The share of the capacity that is answered in time at three times the capacity, once that has gone on for a while.
async fn goodput(notices: bool, pressure: Option<&Arc<Pressure>>) -> f64 {
    let app = App::new(notices);
    offer(&app, pressure, 3 * CAPACITY, Duration::from_secs(10)).await;
    let time = Duration::from_secs(30);
    let (good, _) = offer(&app, pressure, 3 * CAPACITY, time).await;
    good as f64 / (f64::from(CAPACITY) * time.as_secs_f64())
}

#[tokio::test(start_paused = true)]
async fn at_three_times_the_capacity_goodput_stays() {
    for notices in [true, false] {
        let without = goodput(notices, None).await;
        let with = goodput(notices, Some(&Arc::default())).await;
        assert!(without < 0.5, "no overload to speak of: {without}");
        assert!(with >= 0.8, "notices {notices}: {with}");
    }
}

#[tokio::test(start_paused = true)]
async fn within_the_capacity_nothing_is_refused_and_after_an_overload_soon_again() {
    let (app, pressure) = (App::new(true), Arc::<Pressure>::default());
    let (good, refused) = offer(&app, Some(&pressure), 180, Duration::from_secs(20)).await;
    assert!(good >= 180 * 19 && refused == 0, "{good} {refused}");
    let (_, refused) = offer(&app, Some(&pressure), 600, Duration::from_secs(20)).await;
    assert!(refused > 5000, "{refused}");
    offer(&app, Some(&pressure), 180, Duration::from_secs(15)).await;
    assert_eq!(pressure.most.load(Ordering::Relaxed), usize::MAX);
    let (_, refused) = offer(&app, Some(&pressure), 180, Duration::from_secs(10)).await;
    assert_eq!(refused, 0);
}

#[tokio::test(start_paused = true)]
async fn callers_that_leave_early_are_no_sign_of_overload() {
    let pressure = Arc::<Pressure>::default();
    for _ in 0..5000 {
        sleep(Duration::from_millis(2)).await;
        let (kept, left) = (pressure.enter(ONE), pressure.enter(ONE));
        tokio::spawn(async move {
            sleep(Duration::from_millis(30)).await;
            kept.answered();
            sleep(Duration::from_millis(120)).await;
            drop(left);
        });
    }
    assert_eq!(pressure.most.load(Ordering::Relaxed), usize::MAX);
}

#[tokio::test(start_paused = true)]
async fn rapid_resets_are_no_sign_of_overload() {
    let pressure = Arc::<Pressure>::default();
    for _ in 0..5000 {
        sleep(Duration::from_millis(2)).await;
        drop(pressure.enter(ONE));
    }
    assert_eq!(pressure.most.load(Ordering::Relaxed), usize::MAX);
}

#[tokio::test(start_paused = true)]
async fn long_polls_that_end_early_are_no_sign_of_overload() {
    let pressure = Arc::<Pressure>::default();
    for _ in 0..500 {
        sleep(Duration::from_millis(200)).await;
        let (kept, left) = (pressure.enter(ONE), pressure.enter(ONE));
        tokio::spawn(async move {
            sleep(Duration::from_secs(20)).await;
            drop(left);
            sleep(Duration::from_secs(10)).await;
            kept.answered();
        });
    }
    assert_eq!(pressure.most.load(Ordering::Relaxed), usize::MAX);
}

#[tokio::test(start_paused = true)]
async fn an_application_that_hangs_keeps_few_waiting() {
    let pressure = Arc::<Pressure>::default();
    for _ in 0..20_000 {
        sleep(Duration::from_millis(2)).await;
        if !pressure.is_full_for(ONE) {
            let waiting = pressure.enter(ONE);
            tokio::spawn(async move {
                sleep(PATIENCE).await;
                drop(waiting);
            });
        }
    }
    let most = pressure.most.load(Ordering::Relaxed);
    assert!(most <= 2 * MIN_APP_REQUESTS, "{most}");
    // Whoever holds all of that does not keep others out.
    let other = CallerKey(2);
    let held: Vec<_> = (0..most).map(|_| pressure.enter(ONE)).collect();
    assert!(pressure.is_full_for(ONE) && !pressure.is_full_for(other));
    let more: Vec<_> = (0..most / 2).map(|_| pressure.enter(other)).collect();
    assert!(pressure.is_full_for(other));
    drop((held, more));
    let waiting = pressure.enter(ONE);
    let before = pressure.waiting.load(Ordering::Relaxed);
    waiting.failed();
    assert_eq!(pressure.waiting.load(Ordering::Relaxed), before - 1);
}

impl Pressure {
    /// Lets so many wait until the next window begins.
    pub(crate) fn allow(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }
}
