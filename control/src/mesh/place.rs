//! What a configuration makes of a place where requests are decided: asked by replays of recorded decisions.

use reeve_core::{
    decision::ResourceRef,
    model::{Protocol, ServiceState},
};

use super::{LocalWorkload, Mesh, Service};
use crate::index::doors::{self, strictest};

/// The rules of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceRules {
    /// Whether policies bind there.
    pub state: ServiceState,
    /// Whether HTTP is expected, so that what cannot be read as such is refused where a `forbid` looks at HTTP.
    pub http: bool,
    /// Whether tokens are verified there.
    pub tokens: bool,
}

impl Mesh {
    /// The rules for requests to the proxy in front of `resource` at `port`; where several workloads are meant, the
    /// strictest.
    pub fn place(&self, resource: &ResourceRef, port: u16) -> PlaceRules {
        let own = |w: &&LocalWorkload| w.identity.is_some() && w.identity == resource.workload;
        let found = self.workloads.iter().filter(own);
        let found = found.map(|workload| self.at_workload(workload, port));
        let strictest = found.reduce(|a, b| PlaceRules {
            state: strictest(a.state, b.state),
            http: a.http || b.http,
            tokens: a.tokens || b.tokens,
        });
        strictest.unwrap_or_else(|| self.at_services(resource, port))
    }

    fn at_workload(&self, workload: &LocalWorkload, port: u16) -> PlaceRules {
        let here = |s: &Service| {
            s.ports
                .iter()
                .find(|p| p.on(workload) == Some(port))
                .cloned()
        };
        let selecting = self.services.values().filter(|s| s.selects(workload));
        let behind: Vec<_> = selecting
            .filter_map(|service| Some((&**service, here(service)?.protocol)))
            .collect();
        let declared = workload.ports.iter().find(|p| p.port == port);
        let said = behind.first().map(|(_, protocol)| *protocol);
        let protocol = said.or(declared.map(|port| port.protocol));
        let services: Vec<_> = behind.iter().map(|(service, _)| *service).collect();
        let rules = &self.request_authentications;
        PlaceRules {
            state: doors::state(&self.settings.authorization, &workload.namespace, &services),
            http: protocol.is_some_and(Protocol::is_http),
            tokens: rules
                .iter()
                .any(|r| r.covers(workload) && !r.rules.is_empty()),
        }
    }

    /// Of a workload that is no more, its services tell.
    fn at_services(&self, resource: &ResourceRef, port: u16) -> PlaceRules {
        let known = resource.services.iter();
        let known: Vec<_> = known
            .filter_map(|name| self.services.get(name).map(AsRef::as_ref))
            .collect();
        let mut ports = known.iter().flat_map(|service| &service.ports);
        let http = ports.any(|p| p.port == port && p.protocol.is_http());
        PlaceRules {
            state: doors::state(&self.settings.authorization, &resource.namespace, &known),
            http,
            tokens: false,
        }
    }
}
