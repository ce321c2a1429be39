//! Is a difference more than chance?

use statrs::distribution::{Binomial, ContinuousCDF as _, DiscreteCDF as _, Normal};

/// What counts as a difference.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// How improbable it must be by chance.
    pub(super) alpha: f64,
    /// How far medians may be apart, as a share.
    pub(super) tolerance: f64,
    /// Fewer pairs are no basis.
    pub(super) min_pairs: usize,
}

/// McNemar's exact test: the probability that of `first + second` differing pairs the split is at least as uneven, if
/// either way is as likely.
pub(super) fn mcnemar(first: u64, second: u64) -> f64 {
    let Ok(distribution) = Binomial::new(0.5, first + second) else {
        return 1.0;
    };
    (2.0 * distribution.cdf(first.min(second))).min(1.0)
}

/// Wilcoxon's signed-rank test, two-sided, by its normal approximation with corrections for ties and continuity; pairs
/// without a difference are left out. 1 for fewer than ten others, where the approximation says nothing.
pub(super) fn wilcoxon(differences: &[i64]) -> f64 {
    let mut differences: Vec<i64> = differences.iter().copied().filter(|d| *d != 0).collect();
    let count = differences.len();
    if count < 10 {
        return 1.0;
    }
    differences.sort_unstable_by_key(|d| d.unsigned_abs());
    let (mut positive, mut ties, mut rank) = (0.0, 0.0, 0.0);
    for group in differences.chunk_by(|a, b| a.unsigned_abs() == b.unsigned_abs()) {
        let size = float(group.len());
        let mean_rank = rank + (size + 1.0) / 2.0;
        let more = group.iter().filter(|d| **d > 0).count();
        positive += mean_rank * float(more);
        ties += size.powi(3) - size;
        rank += size;
    }
    let n = float(count);
    let mean = n * (n + 1.0) / 4.0;
    let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
    if variance <= 0.0 {
        return 1.0;
    }
    let distance = ((positive - mean).abs() - 0.5).max(0.0);
    2.0 * Normal::standard().sf(distance / variance.sqrt())
}

/// The value that `share` of all do not exceed.
pub(super) fn quantile(values: &mut [u64], share: f64) -> Option<u64> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of an index"
    )]
    let at = (float(last) * share.clamp(0.0, 1.0)).round() as usize;
    values.get(at).copied()
}

fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_split_is_chance_and_an_uneven_one_is_not() {
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(mcnemar(7, 7), 1.0);
        // 2 * (1/2)^10, by hand.
        assert!((mcnemar(0, 10) - 2.0 / 1024.0).abs() < 1e-12);
        assert_eq!(mcnemar(0, 10), mcnemar(10, 0));
        assert!(mcnemar(3, 9) > 0.1);
    }

    #[test]
    fn paired_latencies_that_shift_are_told_from_noise() {
        let noise: Vec<i64> = (1..=200).map(|n| if n % 2 == 0 { n } else { -n }).collect();
        assert!(wilcoxon(&noise) > 0.5, "{}", wilcoxon(&noise));
        let shifted: Vec<i64> = noise.iter().map(|d| d + 60).collect();
        assert!(wilcoxon(&shifted) < 1e-4, "{}", wilcoxon(&shifted));
        let back: Vec<i64> = shifted.iter().map(|d| -d).collect();
        assert_eq!(wilcoxon(&shifted), wilcoxon(&back));
        // Conover's worked form: W+ = 55 of ten pairs that all grew, z = (55 - 27.5 - 0.5) / sqrt(96.25).
        let grew: Vec<i64> = (1..=10).collect();
        assert!(
            (wilcoxon(&grew) - 0.005_9).abs() < 1e-4,
            "{}",
            wilcoxon(&grew)
        );
        assert_eq!(wilcoxon(&[5; 9]), 1.0);
        assert_eq!(wilcoxon(&[0; 100]), 1.0);
    }

    #[test]
    fn quantiles_are_of_the_values_there_are() {
        assert_eq!(quantile(&mut [3, 1, 2], 0.5), Some(2));
        assert_eq!(quantile(&mut [3, 1, 2], 0.99), Some(3));
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
