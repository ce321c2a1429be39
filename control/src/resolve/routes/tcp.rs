//! One `tcp` entry of a `VirtualService`: where connections go whose bytes nobody reads
//! (<https://istio.io/latest/docs/reference/config/networking/virtual-service/#TCPRoute>).

use super::{Known, gateway_names, http::destinations};
use crate::{
    Code,
    kinds::{TcpMatchSpec, TcpRouteSpec, VirtualServiceSpec, WeightedSpec},
    mesh::{At, Subnet, TcpRoute},
    resolve::values::Notes,
    source::path::Path,
};

type VsNotes<'a> = Notes<'a, VirtualServiceSpec>;

pub(super) fn route(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &TcpRouteSpec,
    known: &Known<'_>,
) -> TcpRoute {
    if spec.route.is_empty() {
        let text = "the rule does nothing: no route";
        notes.error(&path.key("route"), Code::Missing, text);
    }
    no_headers(notes, &path.key("route"), &spec.route);
    let matches = spec.r#match.iter().enumerate();
    TcpRoute {
        matches: matches
            .map(|(n, m)| place(notes, &path.key("match").index(n), m, known))
            .collect(),
        to: destinations(notes, &path.key("route"), &spec.route, known),
    }
}

/// There are none where nobody reads HTTP.
pub(super) fn no_headers(notes: &mut VsNotes<'_>, path: &Path, route: &[WeightedSpec]) {
    for (n, to) in route.iter().enumerate() {
        if to.headers.is_some() {
            let path = path.index(n).key("headers");
            notes.error(&path, Code::Unsupported, "only http routes have headers");
        }
    }
}

/// Where a match holds; `tls` has the same conditions.
pub(super) fn place(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &TcpMatchSpec,
    known: &Known<'_>,
) -> At {
    let (in_mesh, gateways) = gateway_names(notes, &path.key("gateways"), &spec.gateways, known);
    let subnets = path.key("destinationSubnets");
    let mut destination_subnets = Vec::new();
    for (n, text) in spec.destination_subnets.iter().enumerate() {
        let subnet = Subnet::parse(text);
        if subnet.is_none() {
            let said = format!("{text:?} is no address and no network such as 10.1.0.0/16");
            notes.error(&subnets.index(n), Code::Invalid, said);
        }
        destination_subnets.extend(subnet);
    }
    At {
        port: spec.port,
        in_mesh,
        gateways,
        source_labels: spec.source_labels.clone(),
        source_namespace: spec.source_namespace.clone(),
        destination_subnets,
    }
}
