//! Choosing one endpoint of several.

mod choose;
pub(crate) mod hash;
mod locality;
mod warmup;

pub(crate) use choose::Wish;
pub(crate) use hash::{HashOf, Table as HashTable};
pub(crate) use locality::{Place as LocalityPlace, Site as LocalitySite, Spread};

use std::sync::atomic::{AtomicUsize, Ordering};

use rand::Rng;
use reeve_core::model::LoadBalancer;

use crate::chance;

/// Where the round-robin of one cluster stands.
#[derive(Debug)]
pub(crate) struct Turn(AtomicUsize);

impl Turn {
    /// Starts anywhere, so that many proxies do not all begin with the same endpoint.
    pub(crate) fn random() -> Self {
        Self(AtomicUsize::new(chance::rng().random_range(0..1 << 16)))
    }

    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Picks one of `count` candidates by its place; `load` says how many requests are in flight to one.
fn pick(
    count: usize,
    how: LoadBalancer,
    turn: &Turn,
    load: impl Fn(usize) -> usize,
    rng: &mut impl Rng,
) -> Option<usize> {
    if count < 2 {
        return (count == 1).then_some(0);
    }
    Some(match how {
        LoadBalancer::RoundRobin => turn.next() % count,
        LoadBalancer::Random | LoadBalancer::Passthrough => rng.random_range(0..count),
        LoadBalancer::LeastRequest => {
            let first = rng.random_range(0..count);
            // A second one, never the first again.
            let second = (first + rng.random_range(1..count)) % count;
            if load(second) < load(first) {
                second
            } else {
                first
            }
        }
    })
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::choose::tests::{
        cluster, clusters, eject, key, outlier, picks as counts,
    };

    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    fn shares(how: LoadBalancer, loads: &[usize], picks: usize) -> Vec<usize> {
        let (turn, mut rng) = (Turn::random(), StdRng::seed_from_u64(7));
        let mut shares = vec![0; loads.len()];
        for _ in 0..picks {
            shares[pick(loads.len(), how, &turn, |i| loads[i], &mut rng).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn round_robin_is_exact() {
        assert_eq!(
            shares(LoadBalancer::RoundRobin, &[9, 0, 0], 300),
            [100, 100, 100]
        );
    }

    #[test]
    fn random_is_even() {
        let shares = shares(LoadBalancer::Random, &[9, 0, 0], 3000);
        assert!(shares.iter().all(|s| (900..1100).contains(s)), "{shares:?}");
    }

    #[test]
    fn least_request_is_even_under_even_load_and_avoids_the_busiest() {
        let even = shares(LoadBalancer::LeastRequest, &[1, 1, 1], 3000);
        assert!(even.iter().all(|s| (900..1100).contains(s)), "{even:?}");
        let uneven = shares(LoadBalancer::LeastRequest, &[5, 1, 1], 3000);
        assert_eq!(
            uneven[0], 0,
            "of any two, the busiest of all is never the less busy"
        );
    }

    #[test]
    fn one_or_none_is_no_choice() {
        for how in [
            LoadBalancer::RoundRobin,
            LoadBalancer::Random,
            LoadBalancer::LeastRequest,
        ] {
            assert_eq!(shares(how, &[3], 2), [2]);
            let mut rng = StdRng::seed_from_u64(1);
            assert_eq!(pick(0, how, &Turn::random(), |_| 0, &mut rng), None);
        }
    }
}
