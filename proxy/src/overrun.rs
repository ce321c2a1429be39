//! Services that others find overrun: their breakers tripped, and this proxy fails a share of its own requests fast, so that
//! the service gets air before it breaks for everyone.
//!
//! SECURITY: what others say is not verified. A workload counts once, however many instances of it speak, for
//! [`OVERRUN_SHARE`]; all of them together for [`MAX_OVERRUN_SHARE`]; and no longer than [`TRIP_MEMORY`] after they said so
//! last. So one that lies or is broken costs others a bounded share, and nobody can talk a service away. It is heard only
//! where the caller's own `DestinationRule` bounds what is under way, and what is failed so is not told on: no echo.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use rand::Rng;
use reeve_core::model::OpenCircuit;

use crate::{
    breaker::Overflow,
    cluster::{Cluster, ClusterKey, workload_of},
    limits::{HEALING, MAX_OVERRUN_SHARE, OVERRUN_SHARE, TRIP_MEMORY},
    outlier::millis,
};

/// What others say of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Overrun {
    /// The share of requests that is failed, in thousandths, before it heals; 0 = none, as a hint.
    share: AtomicU32,
    /// The cluster's time until which it holds; from then on it shrinks.
    until: AtomicU64,
}

impl Overrun {
    /// The share at `now`, in thousandths: less and less once nobody says so any more.
    fn share(&self, now: u64) -> u32 {
        let share = self.share.load(Ordering::Acquire);
        let healing = millis(HEALING);
        let healed = now.saturating_sub(self.until.load(Ordering::Acquire));
        let left = u64::from(share).saturating_mul(healing.saturating_sub(healed)) / healing.max(1);
        u32::try_from(left).unwrap_or(share)
    }

    /// So many workloads say so, for `left` milliseconds more.
    fn heed(&self, now: u64, workloads: usize, left: u64) {
        let share = u32::try_from(workloads).unwrap_or(u32::MAX);
        let share = share.saturating_mul(OVERRUN_SHARE).min(MAX_OVERRUN_SHARE);
        let held = self.share(now);
        if share > 0 && share >= held {
            self.share.store(share, Ordering::Release);
            let until = now.saturating_add(left.min(millis(TRIP_MEMORY)));
            self.until.store(until, Ordering::Release);
        } else if held == 0 {
            self.share.store(0, Ordering::Release);
        } else {
            // Fewer say so, or nobody: it begins to heal, if it has not.
            self.until.fetch_min(now, Ordering::AcqRel);
        }
    }
}

impl Cluster {
    /// Takes in which breakers tripped for others.
    pub(crate) fn heed_trips(&self, key: &ClusterKey, others: &[OpenCircuit]) {
        let (tcp, http) = (&self.traffic.tcp, &self.traffic.http);
        let bounds = [http.max_requests, http.max_pending, tcp.max_connections];
        let heard = bounds.iter().any(Option::is_some);
        let about = |circuit: &&OpenCircuit| {
            circuit.endpoint.is_none()
                && Overflow::of_service(&circuit.cause)
                && (&circuit.service, &circuit.subset, circuit.port) == (&key.0, &key.1, key.2)
        };
        let said: Vec<&OpenCircuit> = others.iter().filter(|_| heard).filter(about).collect();
        let speakers = said.iter().flat_map(|circuit| &circuit.held_by);
        let workloads: BTreeSet<&str> = speakers.map(|name| workload_of(name.as_str())).collect();
        let left = said.iter().map(|circuit| circuit.left_ms).max();
        let state = self.state();
        state
            .overrun
            .heed(state.now(), workloads.len(), left.unwrap_or_default());
    }

    /// Fails a share of requests while others find the service overrun.
    pub(crate) fn spare(&self, rng: &mut impl Rng) -> Result<(), Overflow> {
        let state = self.state();
        if state.overrun.share.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let share = state.overrun.share(state.now());
        match rng.random_range(0..1000) < share {
            true => Err(Overflow::Others),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use rand::{SeedableRng as _, rngs::StdRng};
    use reeve_core::model::TrafficPolicy;

    use super::*;
    use crate::{
        balance::tests::{cluster, clusters, key},
        cluster::Clusters,
    };

    fn bounded() -> Clusters {
        let mut traffic = TrafficPolicy::default();
        traffic.http.max_requests = NonZeroU32::new(100);
        clusters(traffic, &[(1, "")], "")
    }

    fn tripped(by: &[&str]) -> Vec<OpenCircuit> {
        let (service, subset, port) = key();
        let circuit = OpenCircuit {
            service,
            subset,
            port,
            endpoint: None,
            cause: "cluster_max_requests".to_owned(),
            left_ms: 3_600_000,
            held_by: by.iter().map(|name| name.parse().unwrap()).collect(),
        };
        vec![circuit]
    }

    /// Of 4,000 requests, how many are failed fast, in percent.
    fn failed(all: &Clusters) -> usize {
        let (cluster, mut rng) = (cluster(all), StdRng::seed_from_u64(3));
        let failed = (0..4000).filter(|_| cluster.spare(&mut rng).is_err());
        (failed.count() + 20) / 40
    }

    #[tokio::test(start_paused = true)]
    async fn others_fail_fast_and_heal_gently() {
        let all = bounded();
        assert_eq!(failed(&all), 0);
        all.heed_circuits(&tripped(&["a-0", "b-0"]));
        assert!((47..54).contains(&failed(&all)), "{}", failed(&all));
        assert!(all.open_circuits().is_empty(), "it is not told on");
        all.heed_circuits(&[]);
        let mut shares = vec![failed(&all)];
        for _ in 0..5 {
            tokio::time::advance(HEALING / 5).await;
            all.heed_circuits(&[]);
            shares.push(failed(&all));
        }
        assert!(shares.is_sorted_by(|a, b| a > b), "{shares:?}");
        assert_eq!(shares.last(), Some(&0));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_can_talk_a_service_away() {
        let all = bounded();
        let crowd: Vec<String> = (0..500).map(|n| format!("liar-{n}")).collect();
        let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
        all.heed_circuits(&tripped(&crowd));
        assert!((22..29).contains(&failed(&all)), "a workload counts once");
        let many = ["a-0", "b-0", "c-0", "d-0", "e-0", "f-0"];
        all.heed_circuits(&tripped(&many));
        assert!((72..79).contains(&failed(&all)), "never all");
        // An hour was said, and then nothing more.
        tokio::time::advance(TRIP_MEMORY + HEALING + Duration::from_millis(1)).await;
        assert_eq!(failed(&all), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_bears_on_a_bounded_service_is_heard() {
        let unbounded = clusters(TrafficPolicy::default(), &[(1, "")], "");
        unbounded.heed_circuits(&tripped(&["a-0"]));
        assert_eq!(failed(&unbounded), 0);
        let all = bounded();
        for change in [
            |circuit: &mut OpenCircuit| circuit.port = 81,
            |circuit: &mut OpenCircuit| circuit.subset = Some("v1".to_owned()),
            |circuit: &mut OpenCircuit| circuit.cause = "cluster_max_retries".to_owned(),
            |circuit: &mut OpenCircuit| circuit.endpoint = Some(([127, 0, 0, 1], 9080).into()),
        ] {
            let mut other = tripped(&["a-0"]);
            change(&mut other[0]);
            all.heed_circuits(&other);
            assert_eq!(failed(&all), 0, "{other:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_lasts_while_somebody_says_so_and_ends_by_itself() {
        let all = bounded();
        for _ in 0..20 {
            all.heed_circuits(&tripped(&["a-0"]));
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!((22..29).contains(&failed(&all)));
        }
        // The mesh is away, and nothing is heard.
        tokio::time::advance(TRIP_MEMORY + HEALING).await;
        assert_eq!(failed(&all), 0);
    }
}
