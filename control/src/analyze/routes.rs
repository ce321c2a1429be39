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

impl Findings<'_> {
    pub(super) fn routes(&mut self) {
        for object in &self.objects.virtual_services {
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

/// What a match asks for; names do not count.
fn meaning(one: &MatchSpec) -> String {
    let bare = MatchSpec {
        name: None,
        stat_prefix: None,
        ..one.clone()
    };
    format!("{bare:?}")
}
