//! Services, their workloads, and `DestinationRule`s.

use std::collections::{BTreeMap, BTreeSet};

use reeve_core::{
    ServiceName,
    model::{ClientTls, MtlsMode},
};

use super::{Findings, Level, Message};
use crate::{
    Code, LocalWorkload, Service,
    index::mtls_mode,
    kinds::{DestinationRuleSpec, Object, ServiceSpec},
    mesh::is_subset,
    resolve::hosts::full,
    source::path::Path,
};

const MTLS: Message = ("IST0113", "MTLSPolicyConflict", Level::Error);
const PROTOCOLS: Message = (
    "IST0116",
    "DeploymentAssociatedToMultipleServices",
    Level::Warning,
);
const JWT_PORT: Message = (
    "IST0119",
    "JwtFailureDueToInvalidServicePortPrefix",
    Level::Warning,
);
const NO_WORKLOADS: Message = ("IST0127", "NoMatchingWorkloadsFound", Level::Warning);
const PORTS: Message = ("IST0137", "DeploymentConflictingPorts", Level::Warning);
const SUBSET: Message = (
    "IST0173",
    "DestinationRuleSubsetNotSelectPods",
    Level::Warning,
);

impl Findings<'_> {
    pub(super) fn services(&mut self) {
        for object in &self.objects.services {
            let of = |s: &&std::sync::Arc<Service>| {
                s.name == object.name && s.namespace == object.namespace
            };
            if let Some(service) = self.mesh.services.values().find(of).cloned() {
                self.selector(object, &service);
                self.tokens(object, &service);
                self.neighbours(object, &service);
            }
        }
        for object in &self.objects.destination_rules {
            self.rule(object);
        }
        self.policies();
    }

    fn behind(&self, service: &Service) -> Vec<&LocalWorkload> {
        let all = self.mesh.workloads.iter();
        all.filter(|w| service.selects(w)).collect()
    }

    fn selector(&mut self, object: &Object<ServiceSpec>, service: &Service) {
        // Without a selector, its endpoints are somebody else's to name.
        if !service.selector.is_empty() && self.behind(service).is_empty() {
            let path = Path::of(&["spec", "selector"]);
            let text = format!("no workload of {} has these labels", service.namespace);
            let hint = "requests to the service are answered 503 until one has";
            self.say(
                object,
                NO_WORKLOADS,
                (&path, Code::UnknownReference),
                text,
                hint,
            );
        }
    }

    /// Tokens are looked for in requests, which a port of TCP has none of.
    fn tokens(&mut self, object: &Object<ServiceSpec>, service: &Service) {
        let behind = self.behind(service);
        let rules = &self.mesh.request_authentications;
        let wanted = behind.iter().any(|w| rules.iter().any(|r| r.covers(w)));
        let opaque: Vec<_> = service.ports.iter().enumerate().collect();
        for (n, port) in opaque
            .into_iter()
            .filter(|(_, p)| wanted && !p.protocol.is_http())
        {
            let path = Path::of(&["spec", "ports"]).index(n).key("name");
            let text = format!(
                "a RequestAuthentication holds for the workload, but port {} is not HTTP",
                port.port
            );
            let hint = "name the port http if requests come there";
            self.say(object, JWT_PORT, (&path, Code::Conflict), text, hint);
        }
    }

    /// Two services of one workload must not say different things of one port.
    fn neighbours(&mut self, object: &Object<ServiceSpec>, service: &Service) {
        let mut told = BTreeSet::new();
        let mut found = Vec::new();
        for workload in self.behind(service) {
            let others = self.mesh.services.values();
            for other in others.filter(|o| o.host != service.host && o.selects(workload)) {
                for (n, port) in service.ports.iter().enumerate() {
                    for theirs in &other.ports {
                        let protocols =
                            port.port == theirs.port && port.protocol != theirs.protocol;
                        let same_target =
                            port.on(workload).is_some() && port.on(workload) == theirs.on(workload);
                        if protocols && told.insert((n, "protocol")) {
                            let text = format!(
                                "{} and {} share workload {}, and say different protocols of port {}",
                                service.name, other.name, workload.name, port.port
                            );
                            found.push((PROTOCOLS, n, text));
                        }
                        if same_target && port.port != theirs.port && told.insert((n, "port")) {
                            let text = format!(
                                "{} and {} lead to one port of workload {} by different ports, {} and {}",
                                service.name, other.name, workload.name, port.port, theirs.port
                            );
                            found.push((PORTS, n, text));
                        }
                    }
                }
            }
        }
        for (message, n, text) in found {
            let path = Path::of(&["spec", "ports"]).index(n);
            let hint = "let the services agree";
            self.say(object, message, (&path, Code::Conflict), text, hint);
        }
    }

    fn rule(&mut self, object: &Object<DestinationRuleSpec>) {
        let host = ServiceName::parse(&full(&object.spec.host, &object.namespace));
        let service = host
            .ok()
            .and_then(|host| self.mesh.services.get(&host).cloned());
        let Some(service) = service else {
            return;
        };
        let labels: Vec<_> = self
            .behind(&service)
            .into_iter()
            .map(|w| w.labels.clone())
            .collect();
        for (n, subset) in object.spec.subsets.iter().enumerate() {
            if !labels.iter().any(|of| is_subset(&subset.labels, of)) {
                let path = Path::of(&["spec", "subsets"]).index(n);
                let text = format!(
                    "no workload of {} is of subset {}",
                    service.host, subset.name
                );
                let hint = "requests for it are answered 503 until one has its labels";
                self.say(object, SUBSET, (&path, Code::UnknownReference), text, hint);
            }
        }
        self.mtls(object, &service);
    }

    /// A client that speaks plaintext where only mTLS is taken, or the other way round.
    fn mtls(&mut self, object: &Object<DestinationRuleSpec>, service: &Service) {
        let Some(rule) = self.mesh.rules.get(&service.host) else {
            return;
        };
        let says = &rule.traffic.tls;
        let behind = self.behind(service);
        let ports = service.ports.iter();
        let conflicts = ports.flat_map(|port| {
            let modes = behind
                .iter()
                .filter_map(|w| Some(mtls_mode(self.mesh, w, port.on(w)?)));
            modes
                .map(|mode| (port.port, mode))
                .collect::<BTreeMap<_, _>>()
        });
        let conflict = conflicts.into_iter().find(|(_, mode)| {
            matches!(
                (says, mode),
                (ClientTls::Disable, MtlsMode::Strict) | (ClientTls::Mutual, MtlsMode::Disable)
            )
        });
        if let Some((port, mode)) = conflict {
            let path = Path::of(&["spec", "trafficPolicy", "tls"]);
            let text = format!(
                "the rule says {says:?}, but port {port} of {} is {mode:?}",
                service.host
            );
            let hint = "let the rule and PeerAuthentication agree";
            self.say(object, MTLS, (&path, Code::Conflict), text, hint);
        }
    }

    /// Policies that select nobody.
    fn policies(&mut self) {
        let path = Path::of(&["spec", "selector"]);
        let text = "no workload has these labels: the policy has no effect";
        let hint = "look at the labels, and at the namespace";
        let peers = self
            .objects
            .peer_authentications
            .iter()
            .zip(&self.mesh.peer_authentications);
        let peers: Vec<_> = peers
            .map(|(object, resolved)| (object, &resolved.scope))
            .collect();
        for (object, scope) in peers {
            if !scope.selector.is_empty() && !self.mesh.workloads.iter().any(|w| scope.covers(w)) {
                self.say(
                    object,
                    NO_WORKLOADS,
                    (&path, Code::UnknownReference),
                    text.to_owned(),
                    hint,
                );
            }
        }
    }
}
