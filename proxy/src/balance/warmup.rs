//! Slow start: a new endpoint gets its share of traffic by and by, as Envoy's does
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/slow_start>).

use rand::Rng;
use reeve_core::model::Warmup;

/// The share that an endpoint of that age gets, of 1.
pub(crate) fn share(warmup: &Warmup, age_ms: u64) -> f64 {
    let window_ms = warmup.duration.as_secs_f64() * 1000.0;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a window")]
    let part = (age_ms.max(1) as f64 / window_ms.max(1.0)).min(1.0);
    let aggression = f64::from(warmup.aggression_permille.max(1)) / 1000.0;
    let least = f64::from(warmup.minimum_percent) / 100.0;
    part.powf(aggression.recip()).max(least).min(1.0)
}

/// Draws one of `count` by share.
pub(crate) fn draw(
    count: usize,
    share: impl Fn(usize) -> f64,
    rng: &mut impl Rng,
) -> Option<usize> {
    let sum: f64 = (0..count).map(&share).sum();
    if sum <= 0.0 {
        return (count > 0).then(|| rng.random_range(0..count));
    }
    let mut ticket = rng.random_range(0.0..sum);
    let found = (0..count).find(|at| {
        let mine = share(*at);
        let found = ticket < mine;
        ticket -= mine;
        found
    });
    found.or(count.checked_sub(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    fn warmup(aggression_permille: u32) -> Warmup {
        Warmup {
            duration: Duration::from_secs(60),
            minimum_percent: 10,
            aggression_permille,
        }
    }

    #[test]
    fn a_share_grows_from_the_least_to_the_whole() {
        let at = |seconds: u64| share(&warmup(1000), seconds * 1000);
        assert!((at(0) - 0.1).abs() < 1e-9);
        assert!((at(30) - 0.5).abs() < 1e-9);
        assert!((at(60) - 1.0).abs() < 1e-9 && (at(600) - 1.0).abs() < 1e-9);
        assert!(share(&warmup(2000), 15_000) > at(15), "steeper at first");
    }

    #[test]
    fn endpoints_are_drawn_by_share() {
        let mut rng = StdRng::seed_from_u64(9);
        let shares = [1.0, 1.0, 0.1];
        let mut counts = [0; 3];
        for _ in 0..21_000 {
            counts[draw(3, |at| shares[at], &mut rng).unwrap()] += 1;
        }
        assert!((850..1150).contains(&counts[2]), "{counts:?}");
        assert!((9700..10_300).contains(&counts[0]), "{counts:?}");
        assert_eq!(draw(0, |_| 1.0, &mut rng), None);
    }
}
