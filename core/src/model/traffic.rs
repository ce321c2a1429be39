//! How a client's proxy shares out, bounds and heals its traffic to a service: Istio's `connectionPool`,
//! `outlierDetection`, `loadBalancer` and `retryBudget`, with Istio's defaults filled in
//! (<https://istio.io/latest/docs/reference/config/networking/destination-rule/>).

use std::{collections::BTreeMap, fmt, num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

/// A share, in millionths: exact for every percentage that Istio's API can name.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Millionths(pub u32);

impl fmt::Display for Millionths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) / 10_000.0)
    }
}

impl Millionths {
    /// All of it.
    pub const ALL: Self = Self(1_000_000);

    /// Whether this share covers a ticket drawn evenly from `0..1_000_000`.
    pub fn covers(self, ticket: u32) -> bool {
        ticket < self.0
    }

    /// This share of `of`, rounded down.
    pub fn of(self, of: usize) -> usize {
        let part = (of as u128) * u128::from(self.0) / 1_000_000;
        usize::try_from(part).unwrap_or(usize::MAX)
    }
}

/// `connectionPool.http`. `None` is no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpPool {
    /// A connection takes no more requests after so many; `None` = any number. 1 = a connection for each request.
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// `http1MaxPendingRequests`: requests that wait for a connection, HTTP/2 ones too.
    pub max_pending: Option<NonZeroU32>,
    /// `http2MaxRequests`: requests in flight, HTTP/1.1 ones too.
    pub max_requests: Option<NonZeroU32>,
    /// Retries outstanding at once.
    pub max_retries: Option<NonZeroU32>,
    /// How long a connection without requests is kept.
    pub idle_timeout: Option<Duration>,
    /// What is spoken on the way to an endpoint.
    pub upgrade: H2Upgrade,
    /// `maxConcurrentStreams`: requests at once on one HTTP/2 connection.
    pub max_streams: Option<NonZeroU32>,
}

/// `h2UpgradePolicy` and `useClientProtocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2Upgrade {
    /// Whatever costs least.
    #[default]
    Default,
    /// HTTP/1.1 where the port speaks it.
    DoNotUpgrade,
    /// HTTP/2.
    Upgrade,
    /// What the caller speaks.
    UseClientProtocol,
}

/// `connectionPool.tcp` without its connect timeout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct TcpPool {
    /// Connections at once, HTTP/1.1 and TCP.
    pub max_connections: Option<NonZeroU32>,
    /// Probes of the operating system.
    pub keepalive: Option<TcpKeepalive>,
    /// A connection takes no more requests, and a TCP connection ends, at this age.
    pub max_duration: Option<Duration>,
    /// A TCP connection through which nothing passed for so long ends; zero = never, `None` = 1 h.
    pub idle_timeout: Option<Duration>,
}

/// `tcpKeepalive`; what is `None` is left to the operating system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct TcpKeepalive {
    /// Probes without an answer before the connection is given up.
    pub probes: Option<u32>,
    /// Idle time before the first.
    pub time: Option<Duration>,
    /// Between two.
    pub interval: Option<Duration>,
}

/// `outlierDetection`: an endpoint that fails again and again is ejected for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlierDetection {
    /// 5xx answers in a row; `None` = not looked at.
    pub consecutive_5xx: Option<NonZeroU32>,
    /// 502, 503 and 504 in a row; `None` = not looked at.
    pub consecutive_gateway: Option<NonZeroU32>,
    /// Failures seen by this proxy alone, in a row; counted apart from the others only if this is there
    /// (`splitExternalLocalOriginErrors`). Zero = counted apart and not looked at.
    pub consecutive_local: Option<u32>,
    /// How often it is looked whether an ejection is over.
    pub interval: Duration,
    /// The first ejection's length; each further one is longer by as much.
    pub base_ejection: Duration,
    /// Most endpoints that may be out, in percent.
    pub max_ejection_percent: u8,
    /// With fewer endpoints in than this, in percent, all are used.
    pub min_health_percent: u8,
    /// Who succeeds much less often than the others is ejected; `None` = not looked at.
    #[serde(default)]
    pub success_rate: Option<SuccessRate>,
    /// Who fails so often is ejected; `None` = not looked at.
    #[serde(default)]
    pub failure_percentage: Option<FailurePercentage>,
}

/// Envoy's ejection by success rate: of the endpoints that were asked often enough in an interval, those are ejected whose
/// share of successes is below the mean by so many standard deviations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuccessRate {
    /// Endpoints asked often enough, at least; with fewer none is ejected.
    pub minimum_hosts: u32,
    /// What is often enough, in requests.
    pub request_volume: u32,
    /// Standard deviations, in thousandths.
    pub stdev_factor_permille: u32,
}

impl Default for SuccessRate {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            minimum_hosts: 5,
            request_volume: 100,
            stdev_factor_permille: 1900,
        }
    }
}

/// Envoy's ejection by failure percentage: of the endpoints that were asked often enough in an interval, those are ejected
/// whose share of failures is as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailurePercentage {
    /// The share, in percent.
    pub threshold: u8,
    /// Endpoints asked often enough, at least; with fewer none is ejected.
    pub minimum_hosts: u32,
    /// What is often enough, in requests.
    pub request_volume: u32,
}

impl Default for FailurePercentage {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            threshold: 85,
            minimum_hosts: 5,
            request_volume: 50,
        }
    }
}

impl Default for OutlierDetection {
    /// Istio's defaults.
    fn default() -> Self {
        Self {
            consecutive_5xx: NonZeroU32::new(5),
            consecutive_gateway: None,
            consecutive_local: None,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection_percent: 10,
            min_health_percent: 0,
            success_rate: None,
            failure_percentage: None,
        }
    }
}

/// `retryBudget`: retries at once, as a share of the requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryBudget {
    /// The share.
    pub percent: Millionths,
    /// Retries that may always be outstanding.
    pub min_concurrency: u32,
}

impl Default for RetryBudget {
    /// Envoy's and Istio's defaults: 20 %, and 3 at least.
    fn default() -> Self {
        Self {
            percent: Millionths(200_000),
            min_concurrency: 3,
        }
    }
}

/// `loadBalancer.consistentHash`: requests with the same key go to the same endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsistentHash {
    /// What is hashed.
    pub key: HashKey,
    /// How endpoints are found by the hash.
    pub table: HashTable,
}

/// What a request is hashed by. A request without it goes to any endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// A header, in lower case.
    Header(String),
    /// A cookie; with a lifetime, the proxy makes it where it is missing.
    Cookie {
        /// Its name.
        name: String,
        /// `Path` of one that the proxy makes.
        path: String,
        /// `Max-Age` of one that the proxy makes (zero = a session cookie); `None` = it makes none.
        ttl: Option<Duration>,
    },
    /// The caller's address.
    SourceIp,
    /// The first query parameter of that name.
    QueryParameter(String),
}

/// How endpoints are found by a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashTable {
    /// A ring with at least so many points.
    Ring(u32),
    /// Maglev, with a table of that (prime) size.
    Maglev(u32),
}

/// `localityLbSetting`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalityPolicy {
    /// Shares by the caller's locality; the first that matches counts.
    pub distribute: Vec<Distribute>,
    /// Region → the region that stands in for it.
    pub failover: Vec<(String, String)>,
    /// Labels in order of weight, `name` or `name=value`.
    pub failover_priority: Vec<String>,
}

/// One `distribute` entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribute {
    /// The caller's locality, `region/zone/subzone` with `*` at the end.
    pub from: String,
    /// Endpoints' localities and their shares.
    pub to: BTreeMap<String, u32>,
}

/// `warmup`: a new endpoint gets its share of traffic by and by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmup {
    /// How long.
    pub duration: Duration,
    /// The least share, in percent.
    pub minimum_percent: u8,
    /// How steep, in thousandths: 1000 = in proportion to time.
    pub aggression_permille: u32,
}

/// Where something runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Locality {
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// Subzone.
    pub subzone: String,
}

impl Locality {
    /// From a workload's labels: `istio-locality` (`region.zone.subzone`, or with slashes) over Kubernetes' topology
    /// labels.
    pub fn of_labels(labels: &BTreeMap<String, String>) -> Self {
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        if let Some(text) = labels.get("istio-locality").filter(|t| !t.is_empty()) {
            let separator = if text.contains('/') { '/' } else { '.' };
            return Self::split(text, separator);
        }
        Self {
            region: label("topology.kubernetes.io/region"),
            zone: label("topology.kubernetes.io/zone"),
            subzone: label("topology.istio.io/subzone"),
        }
    }

    fn split(text: &str, separator: char) -> Self {
        let mut parts = text.splitn(3, separator).map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self {
            region: next(),
            zone: next(),
            subzone: next(),
        }
    }

    /// Whether it falls under `rule`: `*`, `region/*`, `region/zone/*`, `region/zone/subzone`, `region/zone`, `region`.
    pub fn falls_under(&self, rule: &str) -> bool {
        let mut parts = rule.split('/');
        for own in [&self.region, &self.zone, &self.subzone] {
            match parts.next() {
                None | Some("*") => return true,
                Some(part) if part == own => {}
                Some(_) => return false,
            }
        }
        true
    }

    /// How far `other` is: 0 = same subzone, 1 = same zone, 2 = same region, 3 = elsewhere.
    pub fn distance(&self, other: &Self) -> u32 {
        if self.region != other.region {
            3
        } else if self.zone != other.zone {
            2
        } else if self.subzone != other.subzone {
            1
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_exact() {
        assert_eq!(Millionths(200_000).of(10), 2);
        assert_eq!(Millionths(200_000).of(4), 0);
        assert_eq!(Millionths::ALL.of(usize::MAX), usize::MAX);
        assert!(!Millionths(0).covers(0));
        assert!(Millionths(1).covers(0) && !Millionths(1).covers(1));
        assert!(Millionths::ALL.covers(999_999));
    }

    #[test]
    fn localities_are_read_matched_and_measured() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            Locality::of_labels(&pairs.collect())
        };
        let here = of(&[("istio-locality", "eu.west.rack1")]);
        let topology = [
            ("topology.kubernetes.io/region", "eu"),
            ("topology.kubernetes.io/zone", "west"),
        ];
        let near = of(&topology);
        assert_eq!(here.distance(&here), 0);
        assert_eq!(here.distance(&near), 1);
        assert_eq!(here.distance(&of(&[("istio-locality", "eu/east/x")])), 2);
        assert_eq!(here.distance(&of(&[])), 3);
        for (rule, holds) in [
            ("*", true),
            ("eu/*", true),
            ("eu", true),
            ("eu/west/*", true),
            ("eu/west/rack1", true),
            ("eu/west/rack2", false),
            ("us/*", false),
            ("eu/east/*", false),
        ] {
            assert_eq!(here.falls_under(rule), holds, "{rule}");
        }
    }
}
