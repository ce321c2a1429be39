//! The listeners of a gateway, and the route tables behind them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use reeve_core::{
    Namespace,
    model::{
        AuthoritySource, CertificateSource, ClientCertificates, Destination, OutboundListener,
        Protocol, PublicTls, RouteTable, RouteTableName, SecretName, ServerTls, ServerTlsMode,
    },
};

use super::{
    Hosts, Index, authorities,
    routes::{Place, destinations, routes},
    sni, tcp,
};
use crate::{
    LocalWorkload,
    index::paths,
    instances::Instance,
    mesh::{Credential, Gateway, GatewayCertificates, GatewayServer, GatewayTls, VirtualService},
    resolve::hosts::falls_under,
};

/// One server of a port, and its number within its `Gateway`.
#[derive(Clone, Copy)]
struct Server<'i> {
    gateway: &'i Gateway,
    server: &'i GatewayServer,
    number: usize,
}

/// The listeners of a gateway: one per port of the `Gateway`s that select it.
pub(in crate::index) fn gateway(
    index: &Index<'_>,
    instance: &Instance,
    workload: &LocalWorkload,
) -> (Vec<OutboundListener>, Vec<Arc<RouteTable>>) {
    let selects = |g: &&Gateway| g.selects(workload);
    let mut by_port: BTreeMap<(Option<IpAddr>, u16), Vec<Server<'_>>> = BTreeMap::new();
    for gateway in index.mesh.gateways.iter().filter(selects) {
        for (number, server) in gateway.servers.iter().enumerate() {
            let entry = by_port.entry((server.bind, server.port)).or_default();
            entry.push(Server {
                gateway,
                server,
                number,
            });
        }
    }
    let mut listeners = Vec::new();
    let mut tables = Vec::new();
    for ((at, port), mut servers) in by_port {
        let first = servers.first().map(|s| s.server);
        let (tls, http) = first.map_or((false, true), |s| (s.is_tls(), s.protocol.is_http()));
        // Others on the port were refused with the configuration.
        servers.retain(|s| s.server.is_tls() == tls);
        let port = Port {
            index,
            workload,
            at,
            number: port,
        };
        let address = at.unwrap_or(IpAddr::V4(instance.address));
        let bind = SocketAddr::new(address, port.number);
        listeners.push(match (tls, http) {
            (true, _) => port.tls(bind, &servers, &mut tables),
            (false, true) => port.http(bind, &servers, &mut tables),
            (false, false) => port.tcp(bind, &servers),
        });
    }
    let some = tables.into_iter().filter(|t| !t.virtual_hosts.is_empty());
    (listeners, some.map(Arc::new).collect())
}

/// One port of a gateway's workload.
struct Port<'i> {
    index: &'i Index<'i>,
    workload: &'i LocalWorkload,
    /// The address, if it is not the workload's own.
    at: Option<IpAddr>,
    number: u16,
}

impl<'i> Port<'i> {
    fn table_name(&self) -> String {
        let (name, number) = (&self.workload.name, self.number);
        match self.at {
            None => format!("gateway/{name}:{number}"),
            Some(at) => format!("gateway/{name}:{}", SocketAddr::new(at, number)),
        }
    }

    fn listener(&self, bind: SocketAddr, protocol: Protocol) -> OutboundListener {
        OutboundListener {
            bind,
            protocol,
            routes: RouteTableName(self.table_name()),
            service: None,
            tcp: Vec::new(),
            sni: Vec::new(),
            tls: Vec::new(),
            unknown: None,
            https_redirect: Vec::new(),
            path_normalization: Some(paths::mode(self.index.mesh, self.workload, self.number)),
        }
    }

    fn http(
        &self,
        bind: SocketAddr,
        servers: &[Server<'i>],
        tables: &mut Vec<RouteTable>,
    ) -> OutboundListener {
        let protocol = servers
            .first()
            .map_or(Protocol::Http, |s| s.server.protocol);
        let redirecting = servers.iter().filter(|s| s.server.https_redirect);
        let hosts = redirecting.flat_map(|s| s.server.hosts.iter().map(|(_, host)| host.clone()));
        let name = RouteTableName(self.table_name());
        tables.push(self.table(servers, name));
        OutboundListener {
            https_redirect: hosts.collect(),
            ..self.listener(bind, protocol)
        }
    }

    fn tcp(&self, bind: SocketAddr, servers: &[Server<'i>]) -> OutboundListener {
        OutboundListener {
            tcp: self.straight(bind.ip(), servers),
            ..self.listener(bind, Protocol::Tcp)
        }
    }

    fn tls(
        &self,
        bind: SocketAddr,
        servers: &[Server<'i>],
        tables: &mut Vec<RouteTable>,
    ) -> OutboundListener {
        let passed = servers
            .iter()
            .filter(|s| s.server.tls == GatewayTls::Passthrough);
        let passed: Vec<_> = passed.map(|s| (s.gateway, s.server)).collect();
        let mut sni = sni::of_gateway(self.index, self.workload, bind, &passed);
        let auto = |s: &&Server<'i>| s.server.tls == GatewayTls::AutoPassthrough;
        for server in servers.iter().filter(auto) {
            sni.extend(sni::told_by_name(self.index, server.gateway, server.server));
        }
        let mut ended = Vec::new();
        for server in servers {
            if let GatewayTls::Public(public) = &server.server.tls {
                let one = std::slice::from_ref(server);
                let mode = ServerTlsMode::Public(self.public(public));
                let hosts = server.server.hosts.iter().map(|(_, host)| host.clone());
                let name = format!(
                    "{}/{}/{}",
                    server.gateway.namespace, server.gateway.name, server.number
                );
                ended.push(self.server_tls((name, bind.ip()), hosts.collect(), mode, one, tables));
            }
        }
        // Workloads of the mesh say no server name: theirs is one server of all.
        let mesh = servers.iter().filter(|s| s.server.tls == GatewayTls::Mesh);
        let mesh: Vec<_> = mesh.copied().collect();
        if !mesh.is_empty() {
            let name = "mesh".to_owned();
            ended.push(self.server_tls(
                (name, bind.ip()),
                Vec::new(),
                ServerTlsMode::Mesh,
                &mesh,
                tables,
            ));
        }
        OutboundListener {
            sni,
            tls: ended,
            ..self.listener(bind, Protocol::Tls)
        }
    }

    fn server_tls(
        &self,
        (name, address): (String, IpAddr),
        hosts: Vec<String>,
        mode: ServerTlsMode,
        servers: &[Server<'i>],
        tables: &mut Vec<RouteTable>,
    ) -> ServerTls {
        let protocol = servers
            .first()
            .map_or(Protocol::Http, |s| s.server.protocol);
        let routes = RouteTableName(format!("{}/{name}", self.table_name()));
        let tcp = match protocol.is_http() {
            true => {
                tables.push(self.table(servers, routes.clone()));
                Vec::new()
            }
            false => self.straight(address, servers),
        };
        ServerTls {
            name,
            hosts,
            mode,
            protocol,
            routes,
            tcp,
        }
    }

    fn public(&self, public: &GatewayCertificates) -> PublicTls {
        let own = &self.workload.namespace;
        let source = |credential: &Credential| match credential {
            Credential::Files { certificate, key } => Some(CertificateSource::Files {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            Credential::Secret { .. } => credential.secret_of(own).map(CertificateSource::Secret),
            Credential::Authorities { .. } => None,
        };
        PublicTls {
            certificates: public.certificates.iter().filter_map(source).collect(),
            client: public.client.as_ref().map(|client| ClientCertificates {
                required: client.required,
                authorities: authorities_of(&client.authorities, own),
                subject_alt_names: client.subject_alt_names.clone(),
                pins: client.pins.clone(),
            }),
            min_version: public.min_version,
            max_version: public.max_version,
            cipher_suites: public.cipher_suites.clone(),
        }
    }

    /// Where bytes go: the first `tcp` rule that holds for one of the servers.
    fn straight(&self, address: IpAddr, servers: &[Server<'i>]) -> Vec<Destination> {
        let found = servers.iter().find_map(|s| {
            let key = (s.gateway.namespace.clone(), s.gateway.name.clone());
            let place = Place::Gateway {
                gateway: &key,
                workload: self.workload,
                port: self.number,
            };
            let services = self.index.mesh.virtual_services.iter();
            let bound = services.filter(|v| v.gateways.contains(&key));
            let mut admitted = bound.filter(|v| !admitted(s.server, v).is_empty());
            admitted.find_map(|v| tcp::first(v, &place, address))
        });
        found.map_or(Vec::new(), |rule| {
            destinations(self.index, &rule.to, self.number)
        })
    }

    fn table(&self, servers: &[Server<'i>], name: RouteTableName) -> RouteTable {
        let mut hosts = Hosts::default();
        for Server {
            gateway, server, ..
        } in servers
        {
            let key = (gateway.namespace.clone(), gateway.name.clone());
            let place = Place::Gateway {
                gateway: &key,
                workload: self.workload,
                port: self.number,
            };
            let services = self.index.mesh.virtual_services.iter();
            for virtual_service in services.filter(|v| v.gateways.contains(&key)) {
                for host in admitted(server, virtual_service) {
                    let domains = match host.starts_with('*') {
                        true => vec![host.clone()],
                        false => authorities::with_port(vec![host.clone()], self.number),
                    };
                    let shown = format!(
                        "{}/{}:{host}",
                        virtual_service.namespace, virtual_service.name
                    );
                    let rules = routes(self.index, virtual_service, &place);
                    hosts.merge(shown, domains, rules, virtual_service.precedence);
                }
            }
        }
        hosts.table(name)
    }
}

/// A `Secret`'s own authorities, or those of the one beside it, which wins as in Istio.
fn authorities_of(credential: &Credential, own: &Namespace) -> AuthoritySource {
    match credential {
        Credential::Authorities {
            authorities,
            revoked,
        } => AuthoritySource::File {
            authorities: authorities.clone(),
            revoked: revoked.clone(),
        },
        Credential::Secret { .. } | Credential::Files { .. } => {
            let named = credential.secret_of(own).into_iter();
            let both = named.flat_map(|name| [SecretName(format!("{name}-cacert")), name]);
            AuthoritySource::Secrets(both.collect())
        }
    }
}

/// The hosts of `virtual_service` that `server` takes; of a host and a pattern, the narrower.
fn admitted(server: &GatewayServer, virtual_service: &VirtualService) -> BTreeSet<String> {
    let patterns = server.hosts.iter().filter(|h| admits(h, virtual_service));
    let narrowed = patterns.flat_map(|(_, pattern)| {
        let hosts = virtual_service.hosts.iter();
        hosts.filter_map(move |host| narrower(host, pattern))
    });
    narrowed.map(str::to_owned).collect()
}

/// Whether a host of a gateway's server is for `virtual_service`s of that namespace.
pub(super) fn admits(
    (namespace, _): &&(Option<String>, String),
    virtual_service: &VirtualService,
) -> bool {
    let own = virtual_service.namespace.as_str();
    namespace.as_ref().is_none_or(|n| n == own)
}

/// Of two hosts or patterns of which one falls under the other, the narrower.
pub(super) fn narrower<'h>(one: &'h str, other: &'h str) -> Option<&'h str> {
    if one == other || falls_under(one, other) {
        Some(one)
    } else if falls_under(other, one) {
        Some(other)
    } else {
        None
    }
}
