//! Quantiles of latencies.

use std::time::Duration;

/// Buckets per factor of two; a quantile is exact to 1/16.
const STEPS: u32 = 16;
/// From 1 µs to over a minute.
const BUCKETS: usize = 27 * 16;

/// Counts latencies in buckets that grow by a sixteenth of their power of two.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
        }
    }
}

impl Latencies {
    /// Counts one.
    pub(crate) fn add(&mut self, latency: Duration) {
        let micros = u32::try_from(latency.as_micros())
            .unwrap_or(u32::MAX)
            .max(1);
        if let Some(count) = self.counts.get_mut(index(micros).min(BUCKETS - 1)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// The latency in milliseconds that `share` (0 to 1) of all did not exceed; `None` without any.
    pub(crate) fn quantile_ms(&self, share: f64) -> Option<f64> {
        if self.total == 0 {
            return None;
        }
        let wanted = share.clamp(0.0, 1.0) * as_float(self.total);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && as_float(seen) >= wanted {
                return Some(upper_bound(bucket) / 1000.0);
            }
        }
        None
    }
}

fn index(micros: u32) -> usize {
    let power = micros.ilog2();
    // The four bits below the leading one.
    let step = if power >= 4 {
        (micros >> (power - 4)) & (STEPS - 1)
    } else {
        (micros << (4 - power)) & (STEPS - 1)
    };
    usize::try_from(power * STEPS + step).unwrap_or(BUCKETS)
}

fn upper_bound(bucket: usize) -> f64 {
    let bucket = u32::try_from(bucket).unwrap_or_default();
    let (power, step) = (bucket / STEPS, bucket % STEPS);
    f64::from(power).exp2() * (1.0 + f64::from(step + 1) / f64::from(STEPS))
}

/// A count as a float; exact to 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts shown to people, exact to 2^53"
)]
pub(crate) fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_to_a_sixteenth() {
        let mut latencies = Latencies::default();
        for micros in 1..=10_000_u64 {
            latencies.add(Duration::from_micros(micros));
        }
        for (share, exact) in [(0.5, 5.0), (0.99, 9.9), (1.0, 10.0)] {
            let found = latencies.quantile_ms(share).unwrap();
            assert!(
                (exact..=exact * 17.0 / 16.0 + 0.001).contains(&found),
                "{share}: {found}"
            );
        }
    }

    #[test]
    fn extremes_are_counted_and_nothing_is_no_quantile() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile_ms(0.5), None);
        latencies.add(Duration::ZERO);
        latencies.add(Duration::from_secs(10_000));
        assert!(latencies.quantile_ms(0.1).unwrap() < 0.01);
        assert!(latencies.quantile_ms(1.0).unwrap() > 60_000.0);
    }
}
