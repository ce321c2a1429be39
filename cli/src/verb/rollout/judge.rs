//! Whether a version does well enough.

use std::time::Duration;

use super::measure::Counts;

/// What a version must keep to.
#[derive(Clone, Debug)]
pub(in crate::verb) struct Thresholds {
    /// The least share of requests that succeed, 0 to 1.
    pub(in crate::verb) min_success: f64,
    /// The longest 99th percentile of latency.
    pub(in crate::verb) max_p99: Option<Duration>,
    /// Fewer requests are not judged.
    pub(in crate::verb) min_requests: u64,
}

/// What the counts say.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::verb) enum Judgement {
    /// It keeps to the thresholds.
    Good,
    /// Not enough requests came.
    TooFew,
    /// It does not; why.
    Bad(String),
}

impl Thresholds {
    /// Judges what was counted within a step.
    pub(in crate::verb) fn judge(&self, counts: &Counts) -> Judgement {
        if counts.requests < self.min_requests.max(1) {
            return Judgement::TooFew;
        }
        let success = counts.success();
        if success < self.min_success {
            return Judgement::Bad(format!(
                "{:.2} % of {} requests succeeded, less than {:.2} %",
                success * 100.0,
                counts.requests,
                self.min_success * 100.0
            ));
        }
        match (self.max_p99, counts.quantile_ms(0.99)) {
            (Some(max), Some(p99)) if p99 > max.as_secs_f64() * 1000.0 => Judgement::Bad(format!(
                "the 99th percentile of latency is {p99:.0} ms, more than {} ms",
                max.as_millis()
            )),
            _ => Judgement::Good,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(requests: u64, failures: u64) -> Counts {
        let share = |n: u64| f64::from(u32::try_from(n).unwrap());
        Counts {
            requests,
            failures,
            buckets: vec![
                (50.0, share(requests) * 0.9),
                (100.0, share(requests)),
                (f64::INFINITY, share(requests)),
            ],
        }
    }

    fn thresholds(max_p99: Option<u64>) -> Thresholds {
        Thresholds {
            min_success: 0.99,
            max_p99: max_p99.map(Duration::from_millis),
            min_requests: 20,
        }
    }

    #[test]
    fn failures_beyond_the_share_are_bad_and_up_to_it_are_not() {
        assert_eq!(thresholds(None).judge(&counts(1000, 10)), Judgement::Good);
        let bad = thresholds(None).judge(&counts(1000, 11));
        assert_eq!(
            bad,
            Judgement::Bad("98.90 % of 1000 requests succeeded, less than 99.00 %".to_owned())
        );
    }

    #[test]
    fn latency_beyond_the_bound_is_bad() {
        let slow = counts(1000, 0);
        assert_eq!(thresholds(Some(100)).judge(&slow), Judgement::Good);
        let bad = thresholds(Some(90)).judge(&slow);
        assert!(
            matches!(&bad, Judgement::Bad(why) if why.contains("95 ms")),
            "{bad:?}"
        );
    }

    #[test]
    fn few_requests_are_no_judgement_however_bad() {
        assert_eq!(thresholds(None).judge(&counts(19, 19)), Judgement::TooFew);
        let none = Thresholds {
            min_requests: 0,
            ..thresholds(None)
        };
        assert_eq!(none.judge(&counts(0, 0)), Judgement::TooFew);
    }
}
