use super::*;

/// A mesh whose new version answers ten requests a second, some of which fail.
struct Fake {
    weights: (u32, u32),
    set: Vec<(u32, u32)>,
    begun: Instant,
    per_second: u64,
    /// From this weight on, every second request fails.
    breaks_at: u32,
    failures: u64,
    failing_since: Option<u64>,
    stop_at: Option<Duration>,
}

impl Fake {
    fn new(weights: (u32, u32)) -> Self {
        Self {
            weights,
            set: Vec::new(),
            begun: Instant::now(),
            per_second: 10,
            breaks_at: u32::MAX,
            failures: 0,
            failing_since: None,
            stop_at: None,
        }
    }

    fn requests(&self) -> u64 {
        self.begun.elapsed().as_secs() * self.per_second
    }
}

impl Stage for Fake {
    fn weights(&self) -> (u32, u32) {
        self.weights
    }

    async fn set(&mut self, from: u32, to: u32) -> Result<(), Problem> {
        self.weights = (from, to);
        self.set.push((from, to));
        let failing = to >= self.breaks_at;
        self.failing_since = failing.then(|| self.requests());
        Ok(())
    }

    async fn counts(&mut self) -> Result<Counts, Problem> {
        let requests = self.requests();
        if let Some(since) = self.failing_since {
            self.failures += (requests - since) / 2;
            self.failing_since = Some(requests);
        }
        Ok(Counts {
            requests,
            failures: self.failures,
            buckets: Vec::new(),
        })
    }

    fn tell(&self, _text: &str) {}

    async fn stopped(&mut self) {
        match self.stop_at {
            Some(at) => tokio::time::sleep_until(self.begun + at).await,
            None => std::future::pending().await,
        }
    }
}

fn plan() -> Plan {
    Plan {
        steps: vec![5, 25, 50, 100],
        hold: Duration::from_secs(60),
        patience: Duration::from_secs(600),
        ask: Duration::from_secs(1),
        thresholds: Thresholds {
            min_success: 0.99,
            max_p99: None,
            min_requests: 20,
        },
    }
}

fn report() -> Report {
    Report {
        service: "reviews".to_owned(),
        place: "mesh.yaml:1".to_owned(),
        from: "v1".to_owned(),
        to: "v2".to_owned(),
        before: [100, 0],
        after: [100, 0],
        promoted: false,
        reason: None,
        steps: Vec::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_version_gets_everything_step_by_step() {
    let mut mesh = Fake::new((100, 0));
    let report = drive(&plan(), &mut mesh, report()).await.unwrap();
    assert_eq!(mesh.set, [(95, 5), (75, 25), (50, 50), (0, 100)]);
    assert!(report.promoted && report.reason.is_none(), "{report:?}");
    assert_eq!(report.after, [0, 100]);
    let held: Vec<_> = report
        .steps
        .iter()
        .map(|s| (s.held_s, s.requests))
        .collect();
    assert_eq!(held, [(60.0, 600); 4]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_version_is_rolled_back_as_soon_as_it_shows() {
    let mut mesh = Fake::new((100, 0));
    mesh.breaks_at = 25;
    let report = drive(&plan(), &mut mesh, report()).await.unwrap();
    assert_eq!(mesh.set, [(95, 5), (75, 25), (100, 0)]);
    assert!(!report.promoted);
    assert_eq!(report.after, [100, 0]);
    let last = report.steps.last().unwrap();
    assert_eq!((last.percent, last.held_s, last.requests), (25, 2.0, 20));
    assert!(report.reason.unwrap().contains("50.00 % of 20"), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_nobody_asks_is_not_promoted() {
    let mut mesh = Fake::new((100, 0));
    mesh.per_second = 0;
    let report = drive(&plan(), &mut mesh, report()).await.unwrap();
    assert_eq!(mesh.set, [(95, 5), (100, 0)]);
    assert_eq!(report.steps[0].held_s, 600.0);
    assert!(report.reason.unwrap().starts_with("fewer than 20 requests"));
}

#[tokio::test(start_paused = true)]
async fn an_interruption_puts_the_weights_back() {
    let mut mesh = Fake::new((80, 0));
    mesh.stop_at = Some(Duration::from_secs(90));
    let report = drive(&plan(), &mut mesh, report()).await.unwrap();
    assert_eq!(mesh.set, [(76, 4), (60, 20), (80, 0)]);
    assert_eq!(report.reason.as_deref(), Some("it was interrupted"));
    assert_eq!(report.steps.last().unwrap().held_s, 30.0);
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_was_killed_is_taken_up_where_it_stood() {
    let mut mesh = Fake::new((75, 25));
    let report = drive(&plan(), &mut mesh, report()).await.unwrap();
    assert_eq!(mesh.set, [(75, 25), (50, 50), (0, 100)]);
    assert!(report.promoted);
}

#[test]
fn a_step_gives_the_new_version_at_least_something_and_never_more_than_all() {
    assert_eq!(share(100, 5), (95, 5));
    assert_eq!(share(10, 5), (9, 1));
    assert_eq!(share(3, 100), (0, 3));
    assert_eq!(share(u32::MAX, 50), (2_147_483_648, 2_147_483_647));
}
