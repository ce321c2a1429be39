use super::{super::pairs::Answer, *};

fn pair(n: u64, a: (u16, u64), b: (u16, u64)) -> Pair {
    let answer = |(status, duration_us): (u16, u64), side: &str| Answer {
        decision_id: format!("d-{side}{n}"),
        status,
        failed: status >= 500,
        duration_us,
        bytes: 100,
    };
    Pair {
        method: "GET".to_owned(),
        path: format!("/{n}"),
        a: answer(a, "a"),
        b: answer(b, "b"),
    }
}

fn judged(pairs: impl Iterator<Item = Pair>) -> Report {
    let pairs = Pairs {
        both: pairs.collect(),
        alone: [0, 0],
    };
    let name = |n: &str| WorkloadName::parse(n).unwrap();
    let window = Window {
        since: UnixTime::from_secs(1000),
        until: UnixTime::from_secs(2000),
        cut: false,
    };
    let bounds = Bounds {
        alpha: 0.01,
        tolerance: 0.1,
        min_pairs: 30,
    };
    Report::of(&name("web-v1"), &name("web-v2"), window, &pairs, &bounds)
}

/// Latencies that go up and down alike on both sides.
fn noise(n: u64) -> u64 {
    1000 + n * 37 % 200
}

#[test]
fn a_version_that_answers_where_the_other_fails_mends_it() {
    let report = judged((0..100).map(|n| {
        let status = if n % 5 == 0 { 500 } else { 200 };
        pair(n, (status, noise(n)), (200, noise(n + 1)))
    }));
    assert_eq!(report.verdict, Verdict::FailsLess);
    assert_eq!((report.mended, report.broken), (20, 0));
    assert_eq!(report.statuses[&500][&200], 20);
    assert_eq!(report.examples.len(), 5);
    assert!(report.describe().contains("web-v2 mends it"));
    let other_way = judged((0..100).map(|n| {
        let status = if n % 5 == 0 { 500 } else { 200 };
        pair(n, (200, noise(n)), (status, noise(n + 1)))
    }));
    assert_eq!(other_way.verdict, Verdict::FailsMore);
    assert!(!other_way.verdict.is_fine());
}

#[test]
fn failing_alike_is_no_difference() {
    let report = judged((0..100).map(|n| {
        let (a, b) = (n % 5 == 0, n % 5 == 1);
        let status = |failed| if failed { 500 } else { 200 };
        pair(n, (status(a), noise(n)), (status(b), noise(n + 1)))
    }));
    assert_eq!(report.verdict, Verdict::Same, "{}", report.describe());
    assert_eq!(report.failures, [20, 20]);
}

#[test]
fn slower_needs_both_the_test_and_the_tolerance() {
    let by = |extra: u64| {
        judged((0..200).map(move |n| pair(n, (200, noise(n)), (200, noise(n + 7) + extra))))
    };
    assert_eq!(by(0).verdict, Verdict::Same);
    let a_little = by(50);
    assert!(a_little.latency_p < 0.01, "{a_little:?}");
    assert_eq!(
        a_little.verdict,
        Verdict::Same,
        "5 % is within the tolerance"
    );
    assert_eq!(by(500).verdict, Verdict::Slower);
    let faster = judged((0..200).map(|n| pair(n, (200, noise(n) + 500), (200, noise(n)))));
    assert_eq!(faster.verdict, Verdict::Faster);
}

#[test]
fn few_pairs_say_nothing() {
    let report = judged((0..29).map(|n| pair(n, (200, 1), (500, 1))));
    assert_eq!(report.verdict, Verdict::TooFewPairs);
    assert!(!report.verdict.is_fine());
}
