//! One `tls` entry of a `VirtualService`: where TLS goes that nobody on the way ends, by the name in its ClientHello.

use super::{Known, http::destinations, tcp};
use crate::{
    Code,
    kinds::{TcpMatchSpec, TlsMatchSpec, TlsRouteSpec, VirtualServiceSpec},
    mesh::{TlsMatch, TlsRoute},
    resolve::{
        hosts::{falls_under, full},
        values::Notes,
    },
    source::path::Path,
};

type VsNotes<'a> = Notes<'a, VirtualServiceSpec>;

/// `hosts` are the `VirtualService`'s own: a server name must fall under one of them, as in Istio.
pub(super) fn route(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &TlsRouteSpec,
    hosts: &[String],
    known: &Known<'_>,
) -> TlsRoute {
    if spec.r#match.is_empty() {
        let text = "a tls route needs a match with sniHosts";
        notes.error(&path.key("match"), Code::Missing, text);
    }
    if spec.route.is_empty() {
        let text = "the rule does nothing: no route";
        notes.error(&path.key("route"), Code::Missing, text);
    }
    tcp::no_headers(notes, &path.key("route"), &spec.route);
    let matches = spec.r#match.iter().enumerate();
    TlsRoute {
        matches: matches
            .map(|(n, m)| one_match(notes, &path.key("match").index(n), m, hosts, known))
            .collect(),
        to: destinations(notes, &path.key("route"), &spec.route, known),
    }
}

fn one_match(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &TlsMatchSpec,
    hosts: &[String],
    known: &Known<'_>,
) -> TlsMatch {
    let sni_path = path.key("sniHosts");
    if spec.sni_hosts.is_empty() {
        notes.error(&sni_path, Code::Missing, "there are no sniHosts");
    }
    let named = spec.sni_hosts.iter().enumerate();
    let sni_hosts = named
        .map(|(n, host)| sni_host(notes, &sni_path.index(n), host, hosts))
        .collect();
    let place = TcpMatchSpec {
        destination_subnets: spec.destination_subnets.clone(),
        port: spec.port,
        gateways: spec.gateways.clone(),
        source_labels: spec.source_labels.clone(),
        source_namespace: spec.source_namespace.clone(),
    };
    let at = tcp::place(notes, path, &place, known);
    TlsMatch { sni_hosts, at }
}

fn sni_host(notes: &mut VsNotes<'_>, path: &Path, host: &str, hosts: &[String]) -> String {
    let lower = host.to_ascii_lowercase();
    let rest = lower.strip_prefix("*.").unwrap_or(&lower);
    if lower != "*" && reeve_core::ServiceName::parse(rest).is_err() {
        let text = format!("{host:?} is not a server name, *.suffix or *");
        notes.error(path, Code::Invalid, text);
        return lower;
    }
    // A short host is its full name, and both are what a client may say.
    let own = full(&lower, &notes.object.namespace);
    let covers = |known: &String| {
        *known == lower || *known == own || falls_under(&lower, known) || known == "*"
    };
    if !hosts.iter().any(covers) {
        let text = format!("{host} falls under none of the VirtualService's hosts");
        let hint = "add it, or a *.suffix that it falls under, to spec.hosts";
        notes.hint(path, Code::Invalid, text, hint);
    }
    lower
}
