//! Circuits as the mesh sees them: what this proxy holds open, and what others do.
//!
//! An endpoint that another caller ejected is out here too, for as long as the other says and within this cluster's own
//! `maxEjectionPercent`: so every caller fails fast, and nobody can talk a service away. When the other lets it in again,
//! it gets its share by and by ([`HEALING`]), since all callers come back to it at once. Where a breaker tripped for others,
//! this proxy fails a share of its own requests fast (`overrun.rs`).

use reeve_core::model::OpenCircuit;

use crate::{
    breaker::Overflow,
    cluster::{Cluster, ClusterKey, Clusters},
    limits::{HEALING, TRIP_MEMORY},
    outlier::millis,
    proxy::Proxy,
};

impl Clusters {
    /// What this proxy holds open.
    pub(crate) fn open_circuits(&self) -> Vec<OpenCircuit> {
        let mut open: Vec<OpenCircuit> = Vec::new();
        for (key, cluster) in self.iter() {
            open.extend(cluster.ejections(key));
            open.extend(cluster.trips(key));
        }
        open
    }

    /// Takes in what others hold open.
    pub(crate) fn heed_circuits(&self, others: &[OpenCircuit]) {
        for (key, cluster) in self.iter() {
            if cluster.traffic.outlier.is_some() {
                cluster.heed(key, others);
            }
            cluster.heed_trips(key, others);
        }
    }
}

impl Proxy {
    /// What it holds open: endpoints that it ejected, breakers that tripped in the last seconds.
    pub fn open_circuits(&self) -> Vec<OpenCircuit> {
        let snapshot = self.shared().snapshot();
        let open = snapshot.map(|snapshot| snapshot.clusters.open_circuits());
        open.unwrap_or_default()
    }

    /// Takes in everything that other proxies hold open now.
    pub fn heed_circuits(&self, others: &[OpenCircuit]) {
        if let Some(snapshot) = self.shared().snapshot() {
            snapshot.clusters.heed_circuits(others);
        }
    }
}

fn circuit(key: &ClusterKey, cause: &str, left_ms: u64) -> OpenCircuit {
    let (service, subset, port) = key.clone();
    OpenCircuit {
        service,
        subset,
        port,
        endpoint: None,
        cause: cause.to_owned(),
        left_ms,
        held_by: Vec::new(),
    }
}

impl Cluster {
    fn ejections(&self, key: &ClusterKey) -> Vec<OpenCircuit> {
        let Some(rules) = self.traffic.outlier.as_ref() else {
            return Vec::new();
        };
        if !self.state().has_ejected() {
            return Vec::new();
        }
        let now = self.state().now();
        let open = self.hops.iter().filter_map(|hop| {
            let (left_ms, cause) = self.host(hop).ejection(rules, now)?;
            Some(OpenCircuit {
                endpoint: Some(hop.address),
                ..circuit(key, cause.name(), left_ms)
            })
        });
        open.collect()
    }

    fn trips(&self, key: &ClusterKey) -> Option<OpenCircuit> {
        let state = self.state();
        let age = |overflow| Some((state.tripped_before(overflow)?, overflow));
        let last = Overflow::ALL.into_iter().filter_map(age).min()?;
        let left_ms = millis(TRIP_MEMORY).saturating_sub(last.0);
        (left_ms > 0).then(|| circuit(key, last.1.limit(), left_ms))
    }

    fn heed(&self, key: &ClusterKey, others: &[OpenCircuit]) {
        let Some(rules) = &self.traffic.outlier else {
            return;
        };
        let now = self.state().now();
        let own = self.hops.iter().filter(|hop| self.host(hop).is_ejected());
        let mut out = own.count();
        for hop in &self.hops {
            let host = self.host(hop);
            let about = |circuit: &&OpenCircuit| {
                circuit.endpoint == Some(hop.address)
                    && (&circuit.service, &circuit.subset, circuit.port) == (&key.0, &key.1, key.2)
            };
            let told = others.iter().find(about).filter(|_| !host.is_ejected());
            match told {
                Some(circuit) if self.may_lose(rules, out) => {
                    out += 1;
                    host.share(now.saturating_add(circuit.left_ms));
                }
                Some(_) | None => host.unshare(now, millis(HEALING)),
            }
        }
        self.count_ejected();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::tests::{cluster, clusters, counts, eject, key, outlier};

    #[tokio::test(start_paused = true)]
    async fn what_one_finds_out_all_know_and_nobody_can_talk_a_service_away() {
        let at = [(1, ""), (2, ""), (3, ""), (4, "")];
        let (finder, other) = (
            clusters(outlier(50, 0), &at, ""),
            clusters(outlier(50, 0), &at, ""),
        );
        eject(&cluster(&finder), 2);
        let open = finder.open_circuits();
        assert_eq!((open.len(), open[0].cause.as_str()), (1, "consecutive_5xx"));
        assert_eq!(open[0].left_ms, 30_000);
        other.heed_circuits(&open);
        assert_eq!(counts(&cluster(&other), 300).len(), 3);
        assert!(other.open_circuits().is_empty(), "told, not found out");

        // Everything is said to be out: no more than half of it is believed.
        let all: Vec<_> = cluster(&other)
            .hops
            .iter()
            .map(|hop| OpenCircuit {
                endpoint: Some(hop.address),
                ..open[0].clone()
            })
            .collect();
        other.heed_circuits(&all);
        assert_eq!(counts(&cluster(&other), 300).len(), 2);

        // Healing: not at once, and wholly in the end.
        other.heed_circuits(&[]);
        let soon = counts(&cluster(&other), 4000);
        let returned: usize = soon.values().filter(|n| **n < 400).sum();
        assert!(soon.len() == 4 && returned > 0, "{soon:?}");
        tokio::time::advance(HEALING).await;
        other.heed_circuits(&[]);
        let healed = counts(&cluster(&other), 4000);
        assert!(
            healed.values().all(|n| (800..1200).contains(n)),
            "{healed:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_ends_by_itself_when_the_mesh_is_away() {
        let at = [(1, ""), (2, "")];
        let other = clusters(outlier(50, 0), &at, "");
        let hop = cluster(&other).hops[0].address;
        let held = OpenCircuit {
            endpoint: Some(hop),
            ..circuit(&key(), "consecutive_5xx", 5000)
        };
        other.heed_circuits(&[held]);
        assert_eq!(counts(&cluster(&other), 100).len(), 1);
        tokio::time::advance(std::time::Duration::from_millis(5001)).await;
        assert_eq!(counts(&cluster(&other), 400).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tripped_breaker_is_told_for_a_while() {
        let mut traffic = reeve_core::model::TrafficPolicy::default();
        traffic.http.max_requests = std::num::NonZeroU32::new(1);
        let all = clusters(traffic.clone(), &[(1, "")], "");
        let state = cluster(&all).state().clone();
        let _first = state.begin(&traffic).unwrap();
        assert!(all.open_circuits().is_empty());
        assert!(state.begin(&traffic).is_err());
        let open = all.open_circuits();
        assert_eq!(
            (open.len(), open[0].cause.as_str()),
            (1, "cluster_max_requests")
        );
        assert_eq!(open[0].endpoint, None);
        tokio::time::advance(TRIP_MEMORY).await;
        assert!(all.open_circuits().is_empty());
    }
}
