//! Gateway API (<https://gateway-api.sigs.k8s.io/reference/spec/>): routes become what a `VirtualService` becomes, those of
//! requests with the most specific match first; a listener of a `Gateway` becomes a `Gateway` of its own.

mod backends;
mod classes;
mod filters;
mod gateways;
mod grants;
mod matches;
mod parents;
mod requests;
mod streams;

use reeve_core::{Namespace, ServiceName};

use super::{hosts::Services, values::Notes};
use crate::{
    Code, Fault,
    kinds::{
        KubernetesGrpcRouteSpec, KubernetesHttpRouteSpec, KubernetesTcpRouteSpec,
        KubernetesTlsRouteSpec, Object, Objects, ParentRefSpec, ReferenceGrantSpec,
    },
    mesh::{Gateway, HttpRoute, Precedence, TcpRoute, TlsRoute, VirtualService},
    source::path::Path,
};
pub(super) use gateways::{LABEL, listeners};

/// What routes may refer to.
pub(super) struct Known<'a> {
    pub(super) services: &'a Services,
    pub(super) listeners: &'a [Listener],
    pub(super) grants: &'a [Object<ReferenceGrantSpec>],
    /// Hosts that `VirtualService`s route for sidecars.
    pub(super) taken: &'a [VirtualService],
}

/// A listener of a `Gateway`.
pub(super) struct Listener {
    /// As a `Gateway` of its own, of one server.
    pub(super) gateway: Gateway,
    /// The routes that it takes.
    kinds: Vec<Kind>,
}

/// The kind of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Grpc,
    Tls,
    Tcp,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Http, Self::Grpc, Self::Tls, Self::Tcp];

    fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }

    fn is_stream(self) -> bool {
        matches!(self, Self::Tls | Self::Tcp)
    }
}

/// A kind of route: what it is attached to, and what it says.
trait RouteSpec: Sized {
    const KIND: Kind;
    fn parents(&self) -> &[ParentRefSpec];
    fn hostnames(&self) -> &[String];
    fn rules(notes: &mut Notes<'_, Self>, known: &Known<'_>) -> Rules;
}

/// What a route says; one of them, by its kind.
#[derive(Clone, Debug, Default)]
struct Rules {
    http: Vec<HttpRoute>,
    tls: Vec<TlsRoute>,
    tcp: Vec<TcpRoute>,
}

/// Every route of every kind, in order of namespace and name.
pub(super) fn all_routes(
    objects: &Objects,
    known: &Known<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<VirtualService> {
    let mut all = routes(&objects.http_routes, known, faults);
    all.extend(routes(&objects.grpc_routes, known, faults));
    all.extend(routes(&objects.tls_routes, known, faults));
    all.extend(routes(&objects.tcp_routes, known, faults));
    all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    all
}

fn routes<S: RouteSpec>(
    objects: &[Object<S>],
    known: &Known<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<VirtualService> {
    let mut all = Vec::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let rules = S::rules(&mut notes, known);
        all.extend(parents::attach(&mut notes, rules, known));
    }
    all
}

impl RouteSpec for KubernetesHttpRouteSpec {
    const KIND: Kind = Kind::Http;

    fn parents(&self) -> &[ParentRefSpec] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &self.hostnames
    }

    fn rules(notes: &mut Notes<'_, Self>, known: &Known<'_>) -> Rules {
        Rules {
            http: requests::http(notes, known),
            ..Rules::default()
        }
    }
}

impl RouteSpec for KubernetesGrpcRouteSpec {
    const KIND: Kind = Kind::Grpc;

    fn parents(&self) -> &[ParentRefSpec] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &self.hostnames
    }

    fn rules(notes: &mut Notes<'_, Self>, known: &Known<'_>) -> Rules {
        Rules {
            http: requests::grpc(notes, known),
            ..Rules::default()
        }
    }
}

impl RouteSpec for KubernetesTlsRouteSpec {
    const KIND: Kind = Kind::Tls;

    fn parents(&self) -> &[ParentRefSpec] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &self.hostnames
    }

    fn rules(notes: &mut Notes<'_, Self>, known: &Known<'_>) -> Rules {
        Rules {
            tls: streams::tls(notes, known),
            ..Rules::default()
        }
    }
}

impl RouteSpec for KubernetesTcpRouteSpec {
    const KIND: Kind = Kind::Tcp;

    fn parents(&self) -> &[ParentRefSpec] {
        &self.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &[]
    }

    fn rules(notes: &mut Notes<'_, Self>, known: &Known<'_>) -> Rules {
        Rules {
            tcp: streams::tcp(notes, known),
            ..Rules::default()
        }
    }
}

fn rule_path(n: usize) -> Path {
    Path::of(&["spec", "rules"]).index(n)
}

/// Gateway API's own group.
pub(super) const GROUP: &str = "gateway.networking.k8s.io";

/// The namespace that a reference says, or the object's own.
fn namespace_of<S>(notes: &mut Notes<'_, S>, path: &Path, said: Option<&str>) -> Option<Namespace> {
    match said.map(Namespace::parse) {
        None => Some(notes.object.namespace.clone()),
        Some(Ok(namespace)) => Some(namespace),
        Some(Err(error)) => {
            notes.error(&path.key("namespace"), Code::Invalid, error.to_string());
            None
        }
    }
}

/// The host of a service by its short name.
fn host_of(name: &str, namespace: &Namespace) -> Option<ServiceName> {
    let host = format!("{name}.{namespace}.{}", super::hosts::CLUSTER_SUFFIX);
    ServiceName::parse(&host).ok()
}

/// Routes of one name and several parents are `VirtualService`s of one name.
fn virtual_service<S>(notes: &Notes<'_, S>, hosts: Vec<String>, rules: Rules) -> VirtualService {
    VirtualService {
        export_to: Vec::new(),
        namespace: notes.object.namespace.clone(),
        name: notes.object.name.clone(),
        hosts,
        in_mesh: false,
        gateways: Vec::new(),
        http: rules.http,
        tls: rules.tls,
        tcp: rules.tcp,
        precedence: Precedence::MostSpecific,
    }
}
