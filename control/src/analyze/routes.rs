//! `VirtualService` beside services and gateways.

use reeve_core::ServiceName;

use super::{Findings, Level, Message, UNREACHABLE};
use crate::{
    Code,
    kinds::{DestinationSpec, HttpRouteSpec, MatchSpec, Object, VirtualServiceSpec},
    resolve::hosts::{falls_under, full},
    source::path::Path,
};

const PORT_NEEDED: Message = (
    "IST0112",
    "VirtualServiceDestinationPortSelectorRequired",
    Level::Error,
);
const INEFFECTIVE: Message = ("IST0131", "VirtualServiceIneffectiveMatch", Level::Info);
const HOST_NOT_IN_GATEWAY: Message = (
    "IST0132",
    "VirtualServiceHostNotFoundInGateway",
    Level::Warning,
);

const NOT_AFFECTED: Message = ("IST0140", "IngressRouteRulesNotAffected", Level::Warning);
const CLAIMS: Message = (
    "IST0149",
    "JwtClaimBasedRoutingWithoutRequestAuthN",
    Level::Error,
);

/// What stands before the name of a claim in a match on headers.
const CLAIM: &str = "@request.auth.claims";

impl Findings<'_> {
    pub(super) fn routes(&mut self) {
        for object in &self.objects.virtual_services {
            self.subsets_elsewhere(object);
            self.claims(object);
            for (n, rule) in object.spec.http.iter().enumerate() {
                let path = Path::of(&["spec", "http"]).index(n);
                self.ports(object, &path, rule);
            }
            self.matches(object);
            self.hosts(object);
        }
    }

    /// A service of several ports needs one named.
    fn ports(&mut self, object: &Object<VirtualServiceSpec>, path: &Path, rule: &HttpRouteSpec) {
        let routed = rule.route.iter().enumerate().map(|(n, to)| {
            let path = path.key("route").index(n).key("destination");
            (path, &to.destination)
        });
        let mirror = rule.mirror.iter().map(|to| (path.key("mirror"), to));
        let mirrors = rule.mirrors.iter().enumerate().filter_map(|(n, mirror)| {
            let path = path.key("mirrors").index(n).key("destination");
            Some((path, mirror.destination.as_ref()?))
        });
        let all: Vec<(Path, &DestinationSpec)> = routed.chain(mirror).chain(mirrors).collect();
        for (path, to) in all.into_iter().filter(|(_, to)| to.port.is_none()) {
            let host = ServiceName::parse(&full(&to.host, &object.namespace));
            let Some(service) = host.ok().and_then(|host| self.mesh.services.get(&host)) else {
                continue;
            };
            if service.ports.len() > 1 {
                let ports: Vec<_> = service.ports.iter().map(|p| p.port.to_string()).collect();
                let ports = ports.join(", ");
                let text = format!("{} has the ports {ports}, and none is named", service.host);
                let hint = "name one: port: {number: …}";
                self.say(object, PORT_NEEDED, (&path, Code::Missing), text, hint);
            }
        }
    }

    /// A match that stands before with an earlier rule is never the one that is taken.
    fn matches(&mut self, object: &Object<VirtualServiceSpec>) {
        let mut seen: Vec<(String, usize)> = Vec::new();
        for (n, rule) in object.spec.http.iter().enumerate() {
            let path = Path::of(&["spec", "http"]).index(n);
            let mut doubled = Vec::new();
            let mut own = Vec::new();
            for (m, one) in rule.r#match.iter().enumerate() {
                let key = meaning(one);
                match seen.iter().chain(&own).find(|(known, _)| *known == key) {
                    Some((_, before)) => doubled.push((m, *before)),
                    None => own.push((key, n)),
                }
            }
            let all = !doubled.is_empty() && doubled.len() == rule.r#match.len();
            if all && doubled.iter().all(|(_, before)| *before != n) {
                let text =
                    format!("every match of rule {n} stands in an earlier rule: it is never taken");
                let hint = "remove it, or put it before the other";
                self.say(object, UNREACHABLE, (&path, Code::Unreachable), text, hint);
            } else {
                for (m, before) in doubled {
                    let path = path.key("match").index(m);
                    let text = format!("rule {before} has the same match: this one has no effect");
                    self.say(
                        object,
                        INEFFECTIVE,
                        (&path, Code::Unreachable),
                        text,
                        "remove it",
                    );
                }
            }
            seen.extend(own);
        }
    }

    /// A gateway's route to a service does not meet the rules that sidecars have for that service.
    fn subsets_elsewhere(&mut self, object: &Object<VirtualServiceSpec>) {
        if !object.spec.gateways.iter().any(|g| g != "mesh") {
            return;
        }
        let mut found = Vec::new();
        for (n, rule) in object.spec.http.iter().enumerate() {
            for (m, to) in rule.route.iter().enumerate() {
                let to = &to.destination;
                let host = full(&to.host, &object.namespace);
                if to.subset.is_some() {
                    continue;
                }
                let mut all = self.objects.virtual_services.iter();
                let other = all.find(|other| {
                    let hosts = &other.spec.hosts;
                    let of_host = hosts.iter().any(|h| full(h, &other.namespace) == host);
                    of_host && in_mesh_alone(&other.spec) && names_subsets(&other.spec)
                });
                if let Some(other) = other {
                    let text = format!(
                        "the subsets that VirtualService {}/{} chooses for {host} have no effect on what comes by the gateway",
                        other.namespace, other.name
                    );
                    found.push((n, m, text));
                }
            }
        }
        for (n, m, text) in found {
            let path = Path::of(&["spec", "http"]).index(n);
            let path = path.key("route").index(m).key("destination");
            let hint = "name the subset here, or the gateway there";
            self.say(object, NOT_AFFECTED, (&path, Code::Conflict), text, hint);
        }
    }

    /// Claims are there only where a token is verified.
    fn claims(&mut self, object: &Object<VirtualServiceSpec>) {
        let same = |v: &&crate::mesh::VirtualService| {
            v.namespace == object.namespace && v.name == object.name
        };
        let Some(service) = self.mesh.virtual_services.iter().find(same) else {
            return;
        };
        let named = |g: &&crate::mesh::Gateway| {
            let key = (g.namespace.clone(), g.name.clone());
            service.gateways.contains(&key)
        };
        let gateways: Vec<_> = self.mesh.gateways.iter().filter(named).collect();
        let workloads = self.mesh.workloads.iter();
        let at = workloads.filter(|w| gateways.iter().any(|g| g.selects(w)));
        let rules = &self.mesh.request_authentications;
        let unverified: Vec<_> = at
            .filter(|w| !rules.iter().any(|r| r.covers(w)))
            .map(|w| w.name.to_string())
            .collect();
        if unverified.is_empty() {
            return;
        }
        let mut found = Vec::new();
        for (n, rule) in object.spec.http.iter().enumerate() {
            for (m, one) in rule.r#match.iter().enumerate() {
                let path = Path::of(&["spec", "http"]).index(n).key("match").index(m);
                let headers = one.headers.keys().map(|key| ("headers", key));
                let without = one
                    .without_headers
                    .keys()
                    .map(|key| ("withoutHeaders", key));
                let claims = headers
                    .chain(without)
                    .filter(|(_, key)| key.starts_with(CLAIM));
                found.extend(claims.map(|(field, key)| (path.key(field).key(key), key.clone())));
            }
        }
        for (path, key) in found {
            let workloads = unverified.join(", ");
            let text = format!(
                "{key} is asked for, and no RequestAuthentication verifies tokens at {workloads}"
            );
            let hint = "add one that selects the gateway's workload";
            self.say(object, CLAIMS, (&path, Code::UnknownReference), text, hint);
        }
    }

    /// A host that its gateway does not take is served nowhere.
    fn hosts(&mut self, object: &Object<VirtualServiceSpec>) {
        let same = |v: &&crate::mesh::VirtualService| {
            v.namespace == object.namespace && v.name == object.name
        };
        let Some(service) = self.mesh.virtual_services.iter().find(same) else {
            return;
        };
        for (namespace, name) in &service.gateways {
            let of = |g: &&crate::mesh::Gateway| g.namespace == *namespace && g.name == *name;
            let Some(gateway) = self.mesh.gateways.iter().find(of) else {
                continue;
            };
            let patterns = gateway.servers.iter().flat_map(|s| &s.hosts);
            let own = service.namespace.as_str();
            let open = patterns.filter(|(only, _)| only.as_deref().is_none_or(|n| n == own));
            let open: Vec<&str> = open.map(|(_, pattern)| pattern.as_str()).collect();
            let meets = |host: &str| {
                let mut all = open.iter();
                all.any(|p| *p == host || falls_under(host, p) || falls_under(p, host))
            };
            for (n, host) in service.hosts.iter().enumerate().filter(|(_, h)| !meets(h)) {
                let path = Path::of(&["spec", "hosts"]).index(n);
                let text = format!("{host} is no host of Gateway {namespace}/{name}");
                let hint = format!("its hosts: {}", open.join(", "));
                let code = Code::UnknownReference;
                self.say(object, HOST_NOT_IN_GATEWAY, (&path, code), text, &hint);
            }
        }
    }
}

fn in_mesh_alone(spec: &VirtualServiceSpec) -> bool {
    spec.gateways.iter().all(|gateway| gateway == "mesh")
}

fn names_subsets(spec: &VirtualServiceSpec) -> bool {
    let mut routes = spec.http.iter().flat_map(|rule| &rule.route);
    routes.any(|to| to.destination.subset.is_some())
}

/// What a match asks for; names do not count.
fn meaning(one: &MatchSpec) -> String {
    let bare = MatchSpec {
        name: None,
        stat_prefix: None,
        ..one.clone()
    };
    format!("{bare:?}")
}
