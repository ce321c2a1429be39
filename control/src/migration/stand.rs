//! How each port stands: who speaks what to it, whether it can be flipped, and if not, exactly why and what to do.

use std::{collections::BTreeSet, fmt, time::Duration};

use reeve_core::{
    UnixTime,
    model::{MtlsMode, Protocol},
};
use serde::{Deserialize, Serialize};

use super::{
    evidence::{Call, Caller, Manner, Observed, Spoken},
    landscape::{Exemption, Landscape, Origin, Port, WorkloadKey},
};

/// The time that verdicts rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// From.
    pub from: UnixTime,
    /// To before.
    pub to: UnixTime,
}

impl Window {
    /// Its length.
    pub fn length(&self) -> Duration {
        self.to.since(self.from)
    }
}

/// What a port's standing comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is STRICT already.
    Strict,
    /// It can be flipped.
    Ready,
    /// Nothing speaks against it, but it was not watched for long enough.
    Unproven,
    /// Something would be refused.
    Blocked,
    /// Plaintext is allowed on purpose, by somebody and until some day.
    Exempt,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Strict => "strict",
            Self::Ready => "ready",
            Self::Unproven => "unproven",
            Self::Blocked => "blocked",
            Self::Exempt => "exempt",
        })
    }
}

/// Something that stands in the way, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// What.
    pub what: String,
    /// The remedy.
    pub remedy: String,
}

/// How many decisions there were of each sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Over the mesh's mTLS.
    pub mtls: u64,
    /// Over TLS of the callers' own.
    pub own_tls: u64,
    /// In plaintext.
    pub plaintext: u64,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStand {
    /// Whose.
    #[serde(flatten)]
    pub workload: WorkloadKey,
    /// Its number.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The mode in force.
    pub mode: MtlsMode,
    /// Who says so.
    pub origin: Origin,
    /// What came in.
    pub share: Share,
    /// Who spoke no mTLS last, and when.
    pub last_plaintext: Option<(UnixTime, Caller)>,
    /// Policies that denied callers without an identity.
    pub denied_by: BTreeSet<String>,
    /// What the verdict rests on.
    pub window: Window,
    /// The longest silence of a caller that came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycle_ms: Option<u64>,
    /// What it comes to.
    pub verdict: Verdict,
    /// In words.
    pub reason: String,
    /// What stands in the way.
    pub obstacles: Vec<Obstacle>,
    /// Who may speak plaintext, as far as that is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exemption: Option<Exemption>,
    /// Everybody who came.
    pub calls: Vec<Call>,
}

/// What is to be proved.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// The time that was looked at.
    pub window: Window,
    /// The longest cycle in which callers are known to come: a nightly job's is a day.
    pub cycle: Duration,
}

/// How every port stands.
pub fn stand(landscape: &Landscape, observed: &Observed, asked: &Standing) -> Vec<PortStand> {
    let ports = landscape.ports().into_iter();
    ports
        .map(|port| port_stand(landscape, observed, asked, port))
        .collect()
}

fn port_stand(
    landscape: &Landscape,
    observed: &Observed,
    asked: &Standing,
    port: Port,
) -> PortStand {
    let calls: Vec<Call> = observed.calls(&port.workload, port.port).cloned().collect();
    let mut share = Share::default();
    for call in &calls {
        *match call.spoken {
            Spoken::Mtls => &mut share.mtls,
            Spoken::OwnTls => &mut share.own_tls,
            Spoken::Plaintext => &mut share.plaintext,
        } += call.count();
    }
    let without = || calls.iter().filter(|call| call.spoken != Spoken::Mtls);
    let last = without().max_by_key(|call| call.last);
    let roster = observed.roster();
    let there = roster.first_seen(&port.workload.namespace, &port.workload.workload);
    let window = Window {
        from: there.map_or(asked.window.from, |at| at.max(asked.window.from)),
        to: asked.window.to,
    };
    let mut stand = PortStand {
        share,
        last_plaintext: last.map(|call| (call.last, call.caller.clone())),
        denied_by: without().flat_map(|c| c.denied_by.clone()).collect(),
        window,
        cycle_ms: calls
            .iter()
            .filter(|call| call.presence.visits() > 2)
            .filter_map(|call| call.presence.longest_silence())
            .max()
            .map(|cycle| u64::try_from(cycle.as_millis()).unwrap_or(u64::MAX)),
        verdict: Verdict::Ready,
        reason: String::new(),
        obstacles: obstacles(landscape, observed, &port, &calls),
        workload: port.workload,
        port: port.port,
        protocol: port.protocol,
        mode: port.mode,
        origin: port.origin,
        exemption: port.exemption,
        calls,
    };
    (stand.verdict, stand.reason) = verdict(&stand, observed, asked);
    stand
}

fn verdict(stand: &PortStand, observed: &Observed, asked: &Standing) -> (Verdict, String) {
    if stand.mode == MtlsMode::Strict {
        return (Verdict::Strict, "only mTLS is let in".to_owned());
    }
    if let Some(exemption) = stand
        .exemption
        .as_ref()
        .filter(|e| e.until > asked.window.to)
    {
        let reason = format!("{} answers for plaintext here", exemption.owner);
        return (Verdict::Exempt, reason);
    }
    if let Some(first) = stand.obstacles.first() {
        let more = match stand.obstacles.len() {
            1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        return (Verdict::Blocked, format!("{}{more}", first.what));
    }
    if observed.beyond() > 0 {
        let reason = "there were more callers than are told apart; ask for a shorter time";
        return (Verdict::Unproven, reason.to_owned());
    }
    let twice = stand
        .cycle_ms
        .map(|ms| Duration::from_millis(ms.saturating_mul(2)));
    let needed = asked.cycle.max(twice.unwrap_or_default());
    let length = stand.window.length();
    if length < needed {
        let ready = words(needed.saturating_sub(length));
        let (length, needed) = (words(length), words(needed));
        let reason =
            format!("watched for {length} of {needed}; nothing speaks against it in {ready}");
        return (Verdict::Unproven, reason);
    }
    let reason = match stand.share.mtls {
        0 => format!("nobody called it within {}", words(length)),
        n => format!("all {n} came by mTLS within {}", words(length)),
    };
    (Verdict::Ready, reason)
}

fn obstacles(
    landscape: &Landscape,
    observed: &Observed,
    port: &Port,
    calls: &[Call],
) -> Vec<Obstacle> {
    let mut found = Vec::new();
    if port.mode == MtlsMode::Disable {
        found.push(Obstacle {
            what: format!("mTLS is switched off here by {}", port.origin),
            remedy: "set that mode to PERMISSIVE, and let a window pass".to_owned(),
        });
    }
    let standing = calls
        .iter()
        .filter(|call| call.strict_would_refuse() && !remedied(landscape, observed, call));
    found.extend(standing.map(|call| Obstacle {
        what: what(call),
        remedy: remedy(landscape, port, call),
    }));
    found
}

/// Whether what it was that spoke plaintext has had a sidecar ever since.
fn remedied(landscape: &Landscape, observed: &Observed, call: &Call) -> bool {
    let Caller::Workload {
        namespace,
        workload,
        meshed: false,
    } = &call.caller
    else {
        return false;
    };
    let key = WorkloadKey {
        namespace: namespace.clone(),
        workload: workload.clone(),
    };
    let since = observed.roster().meshed_since(namespace, workload);
    landscape.is_meshed(&key) == Some(true) && since.is_some_and(|since| call.last < since)
}

/// What it is, in words.
fn what(call: &Call) -> String {
    let does = match (call.manner, call.spoken) {
        (Manner::Probe, _) => "probes its health in plaintext",
        (Manner::Scrape, _) => "scrapes its metrics in plaintext",
        (_, Spoken::OwnTls) => "speaks TLS of its own",
        (Manner::Connections, _) => {
            "opens plaintext connections (a protocol that is not read; perhaps the server speaks first)"
        }
        (Manner::Requests, _) => "sends plaintext requests",
    };
    let every = match (call.presence.visits(), call.presence.longest_silence()) {
        (visits, Some(silence)) if visits > 2 => format!(", about every {}", words(silence)),
        _ => String::new(),
    };
    let around = match matches!(call.caller, Caller::Workload { meshed: true, .. }) {
        true => ", around its sidecar",
        false => "",
    };
    let from = call.address;
    format!(
        "{} ({from}) {does}{around}: {} times{every}",
        call.caller, call.allowed
    )
}

/// What to do about it.
fn remedy(landscape: &Landscape, port: &Port, call: &Call) -> String {
    let number = port.port;
    let exempt = format!(
        "or exempt port {number}: a PeerAuthentication for {} with portLevelMtls {number} PERMISSIVE and annotations \
         reeve.dev/exempt-owner, reeve.dev/exempt-until",
        port.workload
    );
    let told = landscape.told_plaintext(&port.workload);
    let key = match &call.caller {
        Caller::Workload {
            namespace,
            workload,
            ..
        } => Some(WorkloadKey {
            namespace: namespace.clone(),
            workload: workload.clone(),
        }),
        Caller::Identity(_) | Caller::Network(_) => None,
    };
    match (call.manner, &call.caller, call.spoken) {
        (Manner::Probe, ..) => format!(
            "let it ask the sidecar's port 15021 (/healthz/ready), which needs no mTLS, {exempt}"
        ),
        (Manner::Scrape, ..) => {
            "move this scraper to port 15020 (/stats/prometheus), where the sidecar serves the application's metrics merged \
             with its own; name the application's page by the annotations prometheus.io/port and prometheus.io/path"
                .to_owned()
        }
        (_, Caller::Workload { meshed: true, .. }, _) if !told.is_empty() => format!(
            "remove tls mode DISABLE from the DestinationRule of {}: its sidecar is told to speak plaintext",
            told.join(", ")
        ),
        (_, Caller::Workload { meshed: true, .. }, _) => {
            "let it call the service by its name, not by an address that goes around its sidecar".to_owned()
        }
        (_, Caller::Workload { .. }, spoken) => {
            let hint = key.and_then(|key| landscape.sidecar_hint(&key));
            let how = hint.unwrap_or_else(|| "it is not in this configuration".to_owned());
            let inside = match spoken {
                Spoken::OwnTls => "; its own TLS then travels inside mTLS",
                Spoken::Mtls | Spoken::Plaintext => "",
            };
            format!("inject a sidecar into this caller: {how}{inside}")
        }
        (_, _, Spoken::OwnTls) => format!(
            "this client speaks its own TLS from outside the mesh: bring it in through a gateway with TLS passthrough, {exempt}"
        ),
        (_, Caller::Network(network), _) if network.starts_with("127.") => format!(
            "a process of this machine that no workload is known to be: give it a sidecar as a workload, bring it in through a \
             gateway, {exempt}"
        ),
        (_, Caller::Identity(_) | Caller::Network(_), _) => {
            format!("it is outside the mesh: bring it in through a gateway, {exempt}")
        }
    }
}

/// A time as people say it.
pub(super) fn words(time: Duration) -> String {
    let secs = time.as_secs();
    match secs {
        0..=119 => format!("{secs} s"),
        120..=7_199 => format!("{} min", secs / 60),
        7_200..=172_799 => format!("{} h", secs / 3_600),
        _ => format!("{} days", secs / 86_400),
    }
}
