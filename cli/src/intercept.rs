//! Rules that bring a network namespace's TCP traffic to the proxy in it: one nftables table, of our own alone.
//!
//! The table is replaced as a whole in one transaction (`nft -f`), so that doing it twice is doing it once and nothing
//! is ever half in force; removing it removes exactly what was added. What is captured, and what is let past, follows
//! istio-init (<https://github.com/istio/istio/tree/master/tools/istio-iptables>).

pub(crate) mod nft;
mod range;

use std::fmt::Write as _;

use reeve_control::instances::{INBOUND_CAPTURE_PORT, OUTBOUND_CAPTURE_PORT};
use reeve_core::model::CaptureMode;

pub(crate) use range::Range;

/// The table's name.
pub(crate) const TABLE: &str = "reeve";
/// Istio's user for proxies.
pub(crate) const PROXY_UID: u32 = 1337;
/// Metrics and health of the proxy: for whoever asks from outside.
const OWN_PORTS: [u16; 2] = [15020, 15021];
/// QUIC: HTTP over UDP would go around the proxy; refused, clients fall back to TCP.
const QUIC_PORT: u16 = 443;

/// What is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// How inbound connections are brought to the proxy.
    pub(crate) mode: CaptureMode,
    /// Whether this machine has IPv6; without it, the rules are for IPv4 alone.
    pub(crate) ipv6: bool,
    /// The proxy's port for others' connections.
    pub(crate) inbound_port: u16,
    /// The proxy's port for the workload's own connections.
    pub(crate) outbound_port: u16,
    /// The user whose connections are not captured: the proxy's.
    pub(crate) proxy_uid: u32,
    /// The group whose connections are not captured, if any.
    pub(crate) proxy_gid: Option<u32>,
    /// Captured inbound ports; `None` = all.
    pub(crate) include_inbound_ports: Option<Vec<u16>>,
    /// Inbound ports that go around the proxy.
    pub(crate) exclude_inbound_ports: Vec<u16>,
    /// Captured outbound ports; `None` = all.
    pub(crate) include_outbound_ports: Option<Vec<u16>>,
    /// Outbound ports that go around the proxy.
    pub(crate) exclude_outbound_ports: Vec<u16>,
    /// Captured destinations; `None` = all.
    pub(crate) include_outbound_ranges: Option<Vec<Range>>,
    /// Destinations that are reached around the proxy.
    pub(crate) exclude_outbound_ranges: Vec<Range>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            mode: CaptureMode::Redirect,
            ipv6: true,
            inbound_port: INBOUND_CAPTURE_PORT,
            outbound_port: OUTBOUND_CAPTURE_PORT,
            proxy_uid: PROXY_UID,
            proxy_gid: None,
            include_inbound_ports: None,
            exclude_inbound_ports: Vec::new(),
            include_outbound_ports: None,
            exclude_outbound_ports: Vec::new(),
            include_outbound_ranges: None,
            exclude_outbound_ranges: Vec::new(),
        }
    }
}

/// The family of our table.
pub(crate) fn family(ipv6: bool) -> &'static str {
    if ipv6 { "inet" } else { "ip" }
}

impl Rules {
    /// The rules as `nft -f` reads them. They replace those of an earlier run.
    pub(crate) fn to_nft(&self) -> String {
        let family = family(self.ipv6);
        let mut text = format!("add table {family} {TABLE}\ndelete table {family} {TABLE}\n");
        text.push_str(&format!("table {family} {TABLE} {{\n"));
        for (name, hook, rules) in [
            ("inbound", self.inbound_hook(), self.inbound()),
            (
                "outbound",
                "type nat hook output priority -100; policy accept;",
                self.outbound(),
            ),
            (
                "datagrams",
                "type filter hook output priority 0; policy accept;",
                self.datagrams(),
            ),
        ] {
            // Writing to a string cannot fail.
            writeln!(text, "  chain {name} {{\n    {hook}").unwrap_or_default();
            for rule in rules {
                writeln!(text, "    {rule}").unwrap_or_default();
            }
            text.push_str("  }\n");
        }
        text.push_str("}\n");
        text
    }

    fn inbound_hook(&self) -> &'static str {
        match self.mode {
            CaptureMode::Redirect => "type nat hook prerouting priority -100; policy accept;",
            CaptureMode::Tproxy => "type filter hook prerouting priority -150; policy accept;",
        }
    }

    fn inbound(&self) -> Vec<String> {
        let mut rules = vec![
            "meta l4proto != tcp return".to_owned(),
            "iifname \"lo\" return".to_owned(),
            "ct direction reply return".to_owned(),
            "fib daddr type != local return".to_owned(),
        ];
        let past = [&OWN_PORTS[..], &self.exclude_inbound_ports].concat();
        rules.push(format!("tcp dport {} return", set(&past)));
        if let Some(ports) = &self.include_inbound_ports {
            rules.push(only(ports, |ports| format!("tcp dport != {ports} return")));
        }
        let port = self.inbound_port;
        match self.mode {
            CaptureMode::Redirect => rules.push(to_proxy("", port)),
            CaptureMode::Tproxy => {
                rules.push(format!(
                    "meta l4proto tcp meta nfproto ipv4 tproxy ip to :{port} accept"
                ));
                if self.ipv6 {
                    rules.push(format!(
                        "meta l4proto tcp meta nfproto ipv6 tproxy ip6 to :{port} accept"
                    ));
                }
                // SECURITY: without a proxy that listens, tproxy does not match, and the application would be next.
                rules.push("tcp flags & (syn | ack) == syn reject with tcp reset".to_owned());
            }
        }
        rules
    }

    fn outbound(&self) -> Vec<String> {
        let uid = self.proxy_uid;
        let mut rules = vec![
            "meta l4proto != tcp return".to_owned(),
            // The proxy, on its way to the application with a connection that it judged.
            "oifname \"lo\" ip saddr 127.0.0.6 return".to_owned(),
        ];
        if self.ipv6 {
            rules.push("oifname \"lo\" ip6 saddr ::6 return".to_owned());
        }
        // The proxy, on its way to the workload itself as an endpoint of a service.
        let own = format!("oifname \"lo\" meta skuid {uid}");
        let inbound = self.inbound_port;
        rules.push(to_proxy(&format!("{own} ip daddr != 127.0.0.0/8"), inbound));
        if self.ipv6 {
            rules.push(to_proxy(&format!("{own} ip6 daddr != ::1"), inbound));
        }
        rules.push(format!("meta skuid {uid} return"));
        rules.extend(self.proxy_gid.map(|gid| format!("meta skgid {gid} return")));
        // Within the workload.
        rules.push("oifname \"lo\" return".to_owned());
        if !self.exclude_outbound_ports.is_empty() {
            let ports = set(&self.exclude_outbound_ports);
            rules.push(format!("tcp dport {ports} return"));
        }
        rules.extend(self.ranges("return", "", &self.exclude_outbound_ranges));
        if let Some(ports) = &self.include_outbound_ports {
            rules.push(only(ports, |ports| format!("tcp dport != {ports} return")));
        }
        if let Some(ranges) = &self.include_outbound_ranges {
            let proxy = format!("meta l4proto tcp redirect to :{}", self.outbound_port);
            rules.extend(self.ranges(&proxy, "", ranges));
        } else {
            rules.push(to_proxy("", self.outbound_port));
        }
        rules
    }

    fn ranges(&self, verdict: &str, before: &str, ranges: &[Range]) -> Vec<String> {
        let ranges = ranges.iter().filter(|range| self.ipv6 || range.is_v4());
        let rule = |range: &Range| {
            let family = if range.is_v4() { "ip" } else { "ip6" };
            format!("{before}{family} daddr {range} {verdict}")
        };
        ranges.map(rule).collect()
    }

    fn datagrams(&self) -> Vec<String> {
        vec![
            format!("meta skuid {} return", self.proxy_uid),
            "oifname \"lo\" return".to_owned(),
            format!("udp dport {QUIC_PORT} reject"),
        ]
    }
}

/// Brings a connection that matches `what` to a port of the proxy.
fn to_proxy(what: &str, port: u16) -> String {
    let space = if what.is_empty() { "" } else { " " };
    format!("{what}{space}meta l4proto tcp redirect to :{port}")
}

fn set(ports: &[u16]) -> String {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.dedup();
    let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", ports.join(", "))
}

/// The rule that lets past what is not in `ports`; of no ports at all, everything.
fn only(ports: &[u16], rule: impl FnOnce(String) -> String) -> String {
    if ports.is_empty() {
        return "return".to_owned();
    }
    rule(set(ports))
}

#[cfg(test)]
mod tests;
