//! What recorded decisions say of who spoke what to which port.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use reeve_core::{Namespace, SpiffeId, UnixTime, WorkloadName};
use serde::{Deserialize, Serialize};

use super::{Roster, landscape::WorkloadKey};

/// Callers of all ports that are told apart; when there are more, no port is ready.
pub const MAX_CALLS: usize = 20_000;
/// Moments in which one caller was there; with more, they become coarser.
const MAX_MOMENTS: usize = 256;
/// The finest moment, in milliseconds.
const MOMENT_MS: u64 = 1_000;
/// Policies that are named of one caller.
const MAX_POLICIES: usize = 16;

/// What a caller spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spoken {
    /// The mesh's mTLS.
    Mtls,
    /// TLS of its own.
    OwnTls,
    /// Neither.
    Plaintext,
}

/// How a caller behaved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Manner {
    /// Requests.
    Requests,
    /// Connections that nobody reads.
    Connections,
    /// `GET` of a health check, and nothing else.
    Probe,
    /// `GET` of a page of metrics, and nothing else.
    Scrape,
}

/// Who called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// It proved its identity.
    Identity(SpiffeId),
    /// The workload that held its address then.
    Workload {
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        workload: WorkloadName,
        /// Whether it had a sidecar, which this went around.
        meshed: bool,
    },
    /// An address that no workload held then: its network (`/24`, of IPv6 `/64`).
    Network(String),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(id) => write!(f, "{id}"),
            Self::Workload {
                namespace,
                workload,
                ..
            } => write!(f, "workload {namespace}/{workload}"),
            Self::Network(network) => write!(f, "network {network}"),
        }
    }
}

/// One inbound decision.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// When.
    pub time: UnixTime,
    /// The workload that was called.
    pub receiver: WorkloadKey,
    /// Its port.
    pub port: u16,
    /// The caller's identity, if it proved one.
    pub principal: Option<&'a str>,
    /// Where it came from.
    pub source: IpAddr,
    /// What it spoke.
    pub spoken: Spoken,
    /// The path of a `GET`; none of other requests and of connections.
    pub got: Option<&'a str>,
    /// Whether it was a connection whose bytes nobody reads.
    pub opaque: bool,
    /// Whether it was let in.
    pub allowed: bool,
    /// Whether it was refused because it was plaintext.
    pub refused: bool,
    /// The policies that decided.
    pub policies: &'a [&'a str],
}

/// All decisions about one caller, of what it spoke and how it behaved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Who.
    pub caller: Caller,
    /// What it spoke.
    pub spoken: Spoken,
    /// How it behaved.
    pub manner: Manner,
    /// How often it was let in.
    pub allowed: u64,
    /// How often a policy denied it.
    pub denied: u64,
    /// How often it was refused as plaintext.
    pub refused: u64,
    /// When first.
    pub first: UnixTime,
    /// When last.
    pub last: UnixTime,
    /// Its last address.
    pub address: IpAddr,
    /// Of those denied: by which policies.
    pub denied_by: BTreeSet<String>,
    /// When it was there.
    pub presence: Presence,
}

/// When something was there, as moments of equal length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The length of a moment in milliseconds.
    width_ms: u64,
    moments: BTreeSet<u64>,
}

impl Default for Presence {
    fn default() -> Self {
        Self {
            width_ms: MOMENT_MS,
            moments: BTreeSet::new(),
        }
    }
}

impl Presence {
    fn add(&mut self, time: UnixTime) {
        self.moments.insert(time.as_millis() / self.width_ms);
        while self.moments.len() > MAX_MOMENTS {
            self.width_ms = self.width_ms.saturating_mul(2);
            self.moments = self.moments.iter().map(|moment| moment / 2).collect();
        }
    }

    /// The longest silence between two appearances, where it is more than two moments.
    pub fn longest_silence(&self) -> Option<Duration> {
        let next = self.moments.iter().skip(1);
        let gaps = self.moments.iter().zip(next).map(|(a, b)| b - a);
        let longest = gaps.max().filter(|gap| *gap > 2)?;
        Some(Duration::from_millis(longest.saturating_mul(self.width_ms)))
    }

    /// How often it came after a silence at least half as long as the longest; 1 without any.
    pub fn visits(&self) -> usize {
        let Some(longest) = self.longest_silence() else {
            return 1;
        };
        let least = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX) / self.width_ms / 2;
        let next = self.moments.iter().skip(1);
        let gaps = self.moments.iter().zip(next).map(|(a, b)| b - a);
        1 + gaps.filter(|gap| *gap >= least.max(1)).count()
    }
}

/// What calls of one port are told apart by.
type CallKey = (Caller, Spoken, Manner);

/// Everything that was seen in a window.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    roster: Roster,
    /// Paths of health checks beside the usual ones, by receiver.
    probes: BTreeSet<(WorkloadKey, String)>,
    /// The same of metrics.
    metrics: BTreeSet<(WorkloadKey, String)>,
    calls: BTreeMap<(WorkloadKey, u16), BTreeMap<CallKey, Call>>,
    count: usize,
    beyond: u64,
    first: Option<UnixTime>,
}

/// Paths that health checks ask, in most meshes.
const PROBED: [&str; 8] = [
    "/healthz",
    "/health",
    "/livez",
    "/live",
    "/readyz",
    "/ready",
    "/healthz/ready",
    "/healthz/live",
];
/// Paths of metrics, in most meshes.
const SCRAPED: [&str; 3] = ["/metrics", "/stats/prometheus", "/actuator/prometheus"];

impl Observed {
    /// Nothing yet, of a mesh in which these held addresses.
    pub fn new(roster: Roster) -> Self {
        Self {
            roster,
            ..Self::default()
        }
    }

    /// `path` is a health check of `receiver`.
    pub fn probed(&mut self, receiver: WorkloadKey, path: &str) {
        self.probes.insert((receiver, path.to_owned()));
    }

    /// `path` is a page of metrics of `receiver`.
    pub fn scraped(&mut self, receiver: WorkloadKey, path: &str) {
        self.metrics.insert((receiver, path.to_owned()));
    }

    /// Takes one decision, in any order.
    pub fn add(&mut self, seen: &Seen<'_>) {
        self.first = Some(self.first.map_or(seen.time, |first| first.min(seen.time)));
        let (caller, manner) = (self.caller(seen), self.manner(seen));
        let port = self.calls.entry((seen.receiver.clone(), seen.port));
        let calls = port.or_default();
        let key = (caller, seen.spoken, manner);
        if !calls.contains_key(&key) {
            if self.count >= MAX_CALLS {
                self.beyond += 1;
                return;
            }
            self.count += 1;
        }
        let call = calls.entry(key).or_insert_with_key(|key| Call {
            caller: key.0.clone(),
            spoken: seen.spoken,
            manner,
            allowed: 0,
            denied: 0,
            refused: 0,
            first: seen.time,
            last: seen.time,
            address: seen.source,
            denied_by: BTreeSet::new(),
            presence: Presence::default(),
        });
        call.add(seen);
    }

    /// Who called a port, by caller.
    pub fn calls(&self, receiver: &WorkloadKey, port: u16) -> impl Iterator<Item = &Call> {
        let calls = self.calls.get(&(receiver.clone(), port));
        calls.into_iter().flat_map(BTreeMap::values)
    }

    /// Who called what.
    pub fn edges(&self) -> impl Iterator<Item = (&WorkloadKey, u16, &Call)> {
        let ports = self.calls.iter();
        ports.flat_map(|((key, port), calls)| calls.values().map(move |call| (key, *port, call)))
    }

    /// Decisions of callers that there was no room for.
    pub fn beyond(&self) -> u64 {
        self.beyond
    }

    /// The earliest decision.
    pub fn first(&self) -> Option<UnixTime> {
        self.first
    }

    /// Who held which address.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    fn caller(&self, seen: &Seen<'_>) -> Caller {
        if let Some(id) = seen.principal.and_then(|id| id.parse().ok()) {
            return Caller::Identity(id);
        }
        match self.roster.holder(seen.source, seen.time) {
            Some(holder) => Caller::Workload {
                namespace: holder.namespace.clone(),
                workload: holder.workload.clone(),
                meshed: holder.meshed,
            },
            None => Caller::Network(network(seen.source)),
        }
    }

    fn manner(&self, seen: &Seen<'_>) -> Manner {
        if seen.opaque {
            return Manner::Connections;
        }
        let Some(path) = seen.got else {
            return Manner::Requests;
        };
        let path = path.split('?').next().unwrap_or_default();
        let own = (seen.receiver.clone(), path.to_owned());
        if PROBED.contains(&path) || self.probes.contains(&own) {
            Manner::Probe
        } else if SCRAPED.contains(&path) || self.metrics.contains(&own) {
            Manner::Scrape
        } else {
            Manner::Requests
        }
    }
}

impl Call {
    fn add(&mut self, seen: &Seen<'_>) {
        match (seen.allowed, seen.refused) {
            (true, _) => self.allowed += 1,
            (false, true) => self.refused += 1,
            (false, false) => {
                self.denied += 1;
                for policy in seen.policies {
                    if self.denied_by.len() < MAX_POLICIES {
                        self.denied_by.insert((*policy).to_owned());
                    }
                }
            }
        }
        self.first = self.first.min(seen.time);
        if seen.time >= self.last {
            self.last = seen.time;
            self.address = seen.source;
        }
        self.presence.add(seen.time);
    }

    /// How often it was there at all.
    pub fn count(&self) -> u64 {
        self.allowed + self.denied + self.refused
    }

    /// Whether STRICT refuses something of it that passes now.
    pub fn strict_would_refuse(&self) -> bool {
        self.spoken != Spoken::Mtls && self.allowed > 0
    }
}

fn network(address: IpAddr) -> String {
    match address {
        // Every process of a machine has these.
        _ if address.is_loopback() => address.to_string(),
        _ if address.is_unspecified() => "an address that was not recorded".to_owned(),
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            let prefix = std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0);
            format!("{prefix}/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(seconds: impl IntoIterator<Item = u64>) -> Presence {
        let mut presence = Presence::default();
        for second in seconds {
            presence.add(UnixTime::from_secs(second));
        }
        presence
    }

    #[test]
    fn a_periodic_caller_is_known_by_its_silences() {
        let steady = presence(0..200);
        assert_eq!((steady.longest_silence(), steady.visits()), (None, 1));
        let nightly = presence([0, 1, 2, 100, 101, 200, 201]);
        assert_eq!(nightly.longest_silence(), Some(Duration::from_secs(99)));
        assert_eq!(nightly.visits(), 3);
        // A month of nights, in moments that have become coarse.
        let month = presence((0..30).flat_map(|day| (0..20).map(move |s| day * 86_400 + s)));
        let silence = month.longest_silence().unwrap().as_secs();
        assert!((86_000..87_500).contains(&silence), "{silence}");
        assert_eq!(month.visits(), 30);
    }

    #[test]
    fn networks_are_24_and_64_bits_and_loopback_is_itself() {
        for (address, expected) in [
            ("10.1.2.3", "10.1.2.0/24"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "an address that was not recorded"),
        ] {
            assert_eq!(network(address.parse().unwrap()), expected);
        }
    }
}
