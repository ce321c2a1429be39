//! `Gateway`s beside each other, workloads and services.

use super::{Findings, Level, Message, NOT_FOUND};
use crate::{
    Code,
    kinds::{GatewaySpec, Object},
    mesh::{GatewayServer, is_subset},
    resolve::hosts::falls_under,
    source::path::Path,
};

const CERTIFICATE: Message = ("IST0138", "GatewayDuplicateCertificate", Level::Warning);
const CONFLICT: Message = ("IST0145", "ConflictingGateways", Level::Error);
const PORT: Message = ("IST0162", "GatewayPortNotDefinedOnService", Level::Warning);

impl Findings<'_> {
    pub(super) fn gateways(&mut self) {
        for object in &self.objects.gateways {
            self.selected(object);
            self.conflicts(object);
            self.certificates(object);
        }
    }

    /// It needs a workload; and where that is behind services, one of them has the port.
    fn selected(&mut self, object: &Object<GatewaySpec>) {
        let spec = &object.spec;
        if spec.selector.is_empty() {
            return;
        }
        let workloads = self.mesh.workloads.iter();
        let chosen: Vec<_> = workloads
            .filter(|w| is_subset(&spec.selector, &w.labels))
            .collect();
        if chosen.is_empty() {
            let path = Path::of(&["spec", "selector"]);
            let text = "no workload has these labels: the gateway listens nowhere".to_owned();
            let hint = "give the labels to a workload whose role is gateway";
            self.say(
                object,
                NOT_FOUND,
                (&path, Code::UnknownReference),
                text,
                hint,
            );
        }
        let services = self.mesh.services.values();
        let before: Vec<_> = services
            .flat_map(|s| chosen.iter().filter(|w| s.selects(w)).map(move |w| (s, *w)))
            .collect();
        let leads = |number: u16| {
            let mut all = before.iter();
            all.any(|(s, w)| s.ports.iter().any(|p| p.on(w) == Some(number)))
        };
        let mut found = Vec::new();
        for (n, server) in spec.servers.iter().enumerate() {
            let number = server.port.as_ref().map(|p| p.number);
            let missing = number.filter(|number| !before.is_empty() && !leads(*number));
            found.extend(missing.map(|number| (n, number)));
        }
        for (n, number) in found {
            let path = Path::of(&["spec", "servers"]).index(n).key("port");
            let text = format!("no service of the gateway's workload leads to port {number}");
            let hint = "add the port to the service, if it is to be reached through that";
            self.say(object, PORT, (&path, Code::UnknownReference), text, hint);
        }
    }

    /// Two gateways of the same workloads that take one host at one port.
    fn conflicts(&mut self, object: &Object<GatewaySpec>) {
        let of =
            |g: &&crate::mesh::Gateway| g.namespace == object.namespace && g.name == object.name;
        let Some(own) = self.mesh.gateways.iter().find(of) else {
            return;
        };
        let others = self.mesh.gateways.iter().filter(|g| {
            g.selector == own.selector && (&g.namespace, &g.name) != (&own.namespace, &own.name)
        });
        let mut found = Vec::new();
        for other in others {
            for (n, server) in own.servers.iter().enumerate() {
                if other
                    .servers
                    .iter()
                    .any(|s| s.port == server.port && meet(s, server))
                {
                    let text = format!(
                        "Gateway {}/{} takes such hosts at port {} as well",
                        other.namespace, other.name, server.port
                    );
                    found.push((n, text));
                }
            }
        }
        for (n, text) in found {
            let path = Path::of(&["spec", "servers"]).index(n);
            let hint = "keep each host and port in one Gateway";
            self.say(object, CONFLICT, (&path, Code::Conflict), text, hint);
        }
    }

    /// Clients use one HTTP/2 connection for all names of a certificate, and meet the first gateway's routes alone.
    fn certificates(&mut self, object: &Object<GatewaySpec>) {
        let name = |o: &Object<GatewaySpec>, n: usize| {
            let server = o.spec.servers.get(n)?;
            let name = server.tls.as_ref().map(|tls| tls.credential_name.clone())?;
            (!name.is_empty()).then_some(name)
        };
        let others = self.objects.gateways.iter().filter(|o| {
            let other = (&o.namespace, &o.name) != (&object.namespace, &object.name);
            other && o.spec.selector == object.spec.selector
        });
        let all = others.flat_map(|o| (0..o.spec.servers.len()).filter_map(move |n| name(o, n)));
        let theirs: Vec<String> = all.collect();
        for n in 0..object.spec.servers.len() {
            if let Some(own) = name(object, n).filter(|own| theirs.contains(own)) {
                let path = Path::of(&["spec", "servers"])
                    .index(n)
                    .key("tls")
                    .key("credentialName");
                let text = format!(
                    "another Gateway of the same workloads has the certificate {own}: clients that keep an HTTP/2 connection may get 404"
                );
                let hint = "serve the hosts of one certificate by one Gateway";
                self.say(object, CERTIFICATE, (&path, Code::Conflict), text, hint);
            }
        }
    }
}

/// Whether some host is for both.
fn meet(one: &GatewayServer, other: &GatewayServer) -> bool {
    one.hosts.iter().any(|(here, a)| {
        other.hosts.iter().any(|(there, b)| {
            let namespaces = here.is_none() || there.is_none() || here == there;
            // Hosts that overlap in part are told apart by which is narrower.
            namespaces
                && (a == b
                    || (a.starts_with('*')
                        && b.starts_with('*')
                        && falls_under(a, b)
                        && falls_under(b, a)))
        })
    })
}
