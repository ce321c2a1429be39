//! What the sidecars count right now: refusals at a wave's ports, open plaintext connections, and how requests to its
//! workloads do.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use reeve_control::{
    instances::Instances,
    migration::{Target, WorkloadKey},
};

use super::journal::Figures;
use crate::{
    demo::prometheus::{self, Sample},
    problem::Problem,
    state::StateDir,
    verb::rollout::measure::{Counts, count_of},
};

/// A sidecar that takes longer is asked the next time.
const PATIENCE: Duration = Duration::from_millis(800);
/// Sidecars that are asked at one time.
const AT_ONCE: usize = 16;

/// What was counted since the first look.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Look {
    /// Connections that STRICT refused at the wave's ports.
    pub(super) refused: u64,
    /// Open connections there that speak no mTLS.
    pub(super) without_mtls: u64,
    /// Requests to the wave's workloads.
    pub(super) requests: Counts,
    /// Sidecars that answered.
    pub(super) asked: usize,
}

impl Look {
    /// What came since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            refused: self.refused.saturating_sub(before.refused),
            without_mtls: self.without_mtls,
            requests: self.requests.since(&before.requests),
            asked: self.asked,
        }
    }

    /// For the journal.
    pub(super) fn figures(&self) -> Figures {
        Figures {
            requests: self.requests.requests,
            failures: self.requests.failures,
            p99_ms: self.requests.quantile_ms(0.99),
        }
    }
}

/// One sidecar's counts.
#[derive(Clone, Debug, Default)]
struct Counted {
    refused: u64,
    without_mtls: u64,
    requests: Counts,
}

/// The sidecars of one wave.
#[derive(Debug)]
pub(super) struct Watch {
    state: StateDir,
    targets: Vec<Target>,
    /// Workloads whose sidecars are asked: those of the wave, and who calls them.
    asked: BTreeSet<WorkloadKey>,
    last: BTreeMap<String, Counted>,
    total: Look,
}

impl Watch {
    pub(super) fn new(
        state: &StateDir,
        targets: &[Target],
        senders: &BTreeSet<WorkloadKey>,
    ) -> Self {
        let own = targets.iter().filter_map(|target| match target {
            Target::Workload(key, _) => Some(key.clone()),
            Target::Namespace(_) => None,
        });
        Self {
            state: state.clone(),
            targets: targets.to_vec(),
            asked: own.chain(senders.iter().cloned()).collect(),
            last: BTreeMap::new(),
            total: Look::default(),
        }
    }

    /// Everything since the first call.
    pub(super) async fn look(&mut self) -> Result<Look, Problem> {
        let instances = Instances::read(&self.state.instances())
            .map_err(|error| Problem::because("what runs cannot be read", &error))?;
        let meant = instances.instances.iter().filter(|i| {
            let key = WorkloadKey {
                namespace: i.namespace.clone(),
                workload: i.workload.clone(),
            };
            self.asked.contains(&key)
        });
        let answers = stream::iter(meant).map(async |instance| {
            let samples = prometheus::scrape(instance, PATIENCE).await?;
            let own = WorkloadKey {
                namespace: instance.namespace.clone(),
                workload: instance.workload.clone(),
            };
            Some((instance.instance.to_string(), own, samples))
        });
        let answers: Vec<_> = answers.buffer_unordered(AT_ONCE).collect().await;
        let first = self.last.is_empty();
        self.total.asked = 0;
        for (name, own, samples) in answers.into_iter().flatten() {
            self.total.asked += 1;
            let now = self.count(&own, &samples);
            let before = self.last.insert(name, now.clone());
            match before {
                Some(before) => self.total.add(&before, &now),
                // One that came later has counted nothing before.
                None if !first => self.total.add(&Counted::default(), &now),
                None => {}
            }
        }
        self.total.without_mtls = self.last.values().map(|c| c.without_mtls).sum();
        Ok(self.total.clone())
    }

    fn count(&self, own: &WorkloadKey, samples: &[Sample]) -> Counted {
        let mut counted = Counted::default();
        let of_ours = |sample: &Sample| {
            self.targets.iter().any(|target| match target {
                Target::Workload(key, ports) => {
                    key == own && (ports.is_empty() || has(ports, sample.label("port")))
                }
                Target::Namespace(_) => false,
            })
        };
        for sample in samples.iter().filter(|sample| of_ours(sample)) {
            match sample.name.as_str() {
                "reeve_plaintext_refused_total" => counted.refused += whole(sample.value),
                "reeve_connections_without_mtls" => counted.without_mtls += whole(sample.value),
                _ => {}
            }
        }
        counted.requests = count_of(samples, |sample| {
            self.targets.iter().any(|target| match target {
                Target::Workload(key, _) => {
                    sample.label("destination_workload") == key.workload.as_str()
                        && sample.label("destination_workload_namespace") == key.namespace.as_str()
                }
                Target::Namespace(_) => false,
            })
        });
        counted
    }
}

impl Look {
    fn add(&mut self, before: &Counted, now: &Counted) {
        // A sidecar that was started again counts from zero.
        self.refused += match now.refused < before.refused {
            true => now.refused,
            false => now.refused - before.refused,
        };
        self.requests.add(&now.requests.since(&before.requests));
    }
}

fn has(ports: &[u16], port: &str) -> bool {
    port.parse().is_ok_and(|port| ports.contains(&port))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count that Prometheus writes as a float"
)]
fn whole(count: f64) -> u64 {
    count.max(0.0) as u64
}
