//! What the callers' sidecars count of one version's answers.

use std::{collections::BTreeMap, time::Duration};

use reeve_control::{Split, instances::Instances};
use reeve_core::InstanceName;

use crate::{
    demo::prometheus::{self, Sample},
    problem::Problem,
    state::StateDir,
};

/// How long a sidecar may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The label that tells versions apart in Istio's metrics.
const VERSION: &str = "version";
/// Codes that say that the server failed (gRPC's status codes UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and
/// DATA_LOSS).
const GRPC_FAULTS: [&str; 5] = ["2", "4", "13", "14", "15"];

/// Answers of one version; a TCP connection counts as one when it ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::verb) struct Counts {
    /// How many.
    pub(in crate::verb) requests: u64,
    /// How many of them are the server's failures.
    pub(in crate::verb) failures: u64,
    /// Latency: upper bound in milliseconds → how many took no longer.
    pub(in crate::verb) buckets: Vec<(f64, f64)>,
}

impl Counts {
    /// The share that succeeded; 1 without any.
    pub(in crate::verb) fn success(&self) -> f64 {
        if self.requests == 0 {
            return 1.0;
        }
        1.0 - float(self.failures) / float(self.requests)
    }

    /// A quantile of latency in milliseconds.
    pub(in crate::verb) fn quantile_ms(&self, share: f64) -> Option<f64> {
        prometheus::quantile(&self.buckets, share)
    }

    /// What came since `before`. Counters that are smaller than before began anew.
    pub(in crate::verb) fn since(&self, before: &Self) -> Self {
        if self.requests < before.requests {
            return self.clone();
        }
        let earlier = |bound: f64| {
            let same = before.buckets.iter().find(|(b, _)| *b == bound);
            same.map_or(0.0, |(_, count)| *count)
        };
        Self {
            requests: self.requests - before.requests,
            failures: self.failures.saturating_sub(before.failures),
            buckets: (self.buckets.iter())
                .map(|(bound, count)| (*bound, (count - earlier(*bound)).max(0.0)))
                .collect(),
        }
    }

    pub(in crate::verb) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        if self.buckets.is_empty() {
            self.buckets = other.buckets.clone();
            return;
        }
        for ((_, count), (_, more)) in self.buckets.iter_mut().zip(&other.buckets) {
            *count += more;
        }
    }
}

fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The sidecars of a mesh, and whose answers are counted.
#[derive(Debug)]
pub(in crate::verb) struct Source {
    state: StateDir,
    service: String,
    version: String,
    /// What each sidecar said last.
    last: BTreeMap<InstanceName, Counts>,
    /// What came since the first look.
    total: Counts,
}

impl Source {
    /// Counts the answers of the subset that traffic moves to.
    pub(in crate::verb) fn of(
        split: &Split,
        state: &StateDir,
        subset: &str,
    ) -> Result<Self, Problem> {
        let version = split.to.labels.get(VERSION).ok_or_else(|| {
            Problem::new(format!(
                "subset {subset} does not select by the label `version`, which the mesh's metrics tell versions by"
            ))
            .fix(format!("give its endpoints and the subset in the DestinationRule `version: {subset}`"))
        })?;
        Ok(Self {
            state: state.clone(),
            service: split.service.to_string(),
            version: version.clone(),
            last: BTreeMap::new(),
            total: Counts::default(),
        })
    }

    /// Everything since the first call, which answers zero.
    pub(in crate::verb) async fn counts(&mut self) -> Result<Counts, Problem> {
        let instances = Instances::read(&self.state.instances()).map_err(Problem::new)?;
        let mut asked = 0_usize;
        let first = self.last.is_empty();
        for instance in &instances.instances {
            // A sidecar that is being restarted is asked again the next time.
            let Some(samples) = prometheus::scrape(instance, PATIENCE).await else {
                continue;
            };
            asked += 1;
            let now = count(&samples, &self.service, &self.version);
            let before = self.last.insert(instance.instance.clone(), now.clone());
            match before {
                Some(before) => self.total.add(&now.since(&before)),
                // One that came later has counted nothing before.
                None if !first => self.total.add(&now),
                None => {}
            }
        }
        if asked == 0 {
            return Err(Problem::new("no sidecar answers with its metrics")
                .fix("see `reeve status` for the instances that run"));
        }
        Ok(self.total.clone())
    }
}

fn count(samples: &[Sample], service: &str, version: &str) -> Counts {
    count_of(samples, |sample| {
        sample.label("destination_service") == service
            && sample.label("destination_version") == version
    })
}

/// The answers to a caller's requests that are meant.
pub(in crate::verb) fn count_of(samples: &[Sample], meant: impl Fn(&Sample) -> bool) -> Counts {
    let meant = |sample: &&Sample| sample.label("reporter") == "source" && meant(sample);
    let mut counts = Counts::default();
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for sample in samples.iter().filter(meant) {
        match sample.name.as_str() {
            "istio_requests_total" => {
                let requests = whole(sample.value);
                counts.requests += requests;
                if failed(sample) {
                    counts.failures += requests;
                }
            }
            "istio_request_duration_milliseconds_bucket" => {
                let Ok(bound) = sample.label("le").parse::<f64>() else {
                    continue;
                };
                match buckets.iter_mut().find(|(b, _)| *b == bound) {
                    Some((_, count)) => *count += sample.value,
                    None => buckets.push((bound, sample.value)),
                }
            }
            "istio_tcp_connections_closed_total" => {
                let connections = whole(sample.value);
                counts.requests += connections;
                if broken(sample) {
                    counts.failures += connections;
                }
            }
            _ => {}
        }
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    counts.buckets = buckets;
    counts
}

/// 5xx, no answer at all (0), or a gRPC status that is the server's fault.
fn failed(sample: &Sample) -> bool {
    let status = sample.label("response_code");
    status == "0"
        || status.starts_with('5')
        || GRPC_FAULTS.contains(&sample.label("grpc_response_status"))
}

/// A connection whose end is flagged with anything but that the caller went away (`DC`).
fn broken(sample: &Sample) -> bool {
    !["", "-", "DC"].contains(&sample.label("response_flags"))
}

/// A counter's value; a sidecar that is long in use may have counted more, which makes no difference to a share.
fn whole(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "held between zero and what fits"
    )]
    let count = value.clamp(0.0, f64::from(u32::MAX)) as u64;
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
istio_requests_total{reporter=\"source\",destination_service=\"reviews\",destination_version=\"v2\",response_code=\"200\"} 90
istio_requests_total{reporter=\"source\",destination_service=\"reviews\",destination_version=\"v2\",response_code=\"404\"} 5
istio_requests_total{reporter=\"source\",destination_service=\"reviews\",destination_version=\"v2\",response_code=\"503\"} 3
istio_requests_total{reporter=\"source\",destination_service=\"reviews\",destination_version=\"v2\",response_code=\"0\"} 1
istio_requests_total{reporter=\"source\",destination_service=\"reviews\",destination_version=\"v2\",response_code=\"200\",grpc_response_status=\"14\"} 1
istio_requests_total{reporter=\"destination\",destination_service=\"reviews\",destination_version=\"v2\",response_code=\"500\"} 7
istio_requests_total{reporter=\"source\",destination_service=\"reviews\",destination_version=\"v1\",response_code=\"500\"} 7
istio_requests_total{reporter=\"source\",destination_service=\"ratings\",destination_version=\"v2\",response_code=\"500\"} 7
istio_request_duration_milliseconds_bucket{reporter=\"source\",destination_service=\"reviews\",destination_version=\"v2\",le=\"+Inf\"} 100
istio_request_duration_milliseconds_bucket{reporter=\"source\",destination_service=\"reviews\",destination_version=\"v2\",le=\"10\"} 40
istio_request_duration_milliseconds_bucket{reporter=\"source\",destination_service=\"reviews\",destination_version=\"v2\",le=\"5\"} 10
istio_request_duration_milliseconds_bucket{reporter=\"source\",destination_service=\"reviews\",destination_version=\"v2\",le=\"10\",response_code=\"503\"} 60
istio_tcp_connections_closed_total{reporter=\"source\",destination_service=\"db\",destination_version=\"v1\",response_flags=\"-\"} 8
istio_tcp_connections_closed_total{reporter=\"source\",destination_service=\"db\",destination_version=\"v1\",response_flags=\"DC\"} 1
istio_tcp_connections_closed_total{reporter=\"source\",destination_service=\"db\",destination_version=\"v1\",response_flags=\"UF,URX\"} 1
istio_tcp_connections_closed_total{reporter=\"destination\",destination_service=\"db\",destination_version=\"v1\",response_flags=\"UF\"} 9
";

    #[test]
    fn only_the_callers_counts_of_that_version_are_added_up() {
        let counts = count(&prometheus::parse(PAGE), "reviews", "v2");
        assert_eq!((counts.requests, counts.failures), (100, 5));
        assert_eq!(counts.success(), 0.95);
        assert_eq!(
            counts.buckets,
            [(5.0, 10.0), (10.0, 100.0), (f64::INFINITY, 100.0)]
        );
        let tcp = count(&prometheus::parse(PAGE), "db", "v1");
        assert_eq!((tcp.requests, tcp.failures), (10, 1));
        let other = count(&prometheus::parse(PAGE), "reviews", "v9");
        assert_eq!(
            (other, Counts::default().success()),
            (Counts::default(), 1.0)
        );
    }

    #[test]
    fn what_came_since_is_the_difference_and_a_restart_begins_anew() {
        let of = |requests, failures, fast| Counts {
            requests,
            failures,
            buckets: vec![(10.0, fast), (f64::INFINITY, float(requests))],
        };
        let since = of(150, 7, 120.0).since(&of(100, 5, 90.0));
        assert_eq!(since, of(50, 2, 30.0));
        assert_eq!(of(30, 1, 20.0).since(&of(100, 5, 90.0)), of(30, 1, 20.0));
        let mut total = Counts::default();
        total.add(&of(50, 2, 30.0));
        total.add(&of(30, 1, 20.0));
        assert_eq!(total, of(80, 3, 50.0));
    }
}
