//! Which key material a proxy is given: what a gateway serves or calls by, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use reeve_core::{
    ServiceName,
    model::{
        AuthoritySource, CertificateSource, ClientTls, OutboundListener, ProxyRole, SecretName,
        ServerTlsMode, ServiceConfig, TlsSecret,
    },
};

use crate::Mesh;

/// The secrets of one proxy. A sidecar has none, as in Istio: it calls by files of its own machine.
pub(super) fn of(
    mesh: &Mesh,
    role: ProxyRole,
    listeners: &[OutboundListener],
    services: &BTreeMap<ServiceName, Arc<ServiceConfig>>,
) -> BTreeMap<SecretName, Arc<TlsSecret>> {
    if role == ProxyRole::Sidecar {
        return BTreeMap::new();
    }
    let mut wanted = BTreeSet::new();
    for server in listeners.iter().flat_map(|listener| &listener.tls) {
        if let ServerTlsMode::Public(public) = &server.mode {
            wanted.extend(public.certificates.iter().filter_map(of_certificate));
            let client = public.client.as_ref().map(|client| &client.authorities);
            wanted.extend(client.into_iter().flat_map(of_authorities));
        }
    }
    for service in services.values() {
        let subsets = service.subsets.iter().flat_map(|subset| {
            let ports = subset.port_traffic.values();
            ports.chain([&subset.traffic])
        });
        let own = service.port_traffic.values().chain([&service.traffic]);
        for policy in subsets.chain(own) {
            if let ClientTls::Originate(tls) = &policy.tls {
                wanted.extend(tls.certificate.iter().filter_map(of_certificate));
                wanted.extend(tls.authorities.iter().flat_map(of_authorities));
            }
        }
    }
    let found = wanted.into_iter().filter_map(|name| {
        let secret = mesh.secrets.get(name)?;
        Some((name.clone(), Arc::clone(secret)))
    });
    found.collect()
}

fn of_certificate(source: &CertificateSource) -> Option<&SecretName> {
    match source {
        CertificateSource::Secret(name) => Some(name),
        CertificateSource::Files { .. } => None,
    }
}

fn of_authorities(source: &AuthoritySource) -> &[SecretName] {
    match source {
        AuthoritySource::Secrets(names) => names,
        AuthoritySource::File { .. } => &[],
    }
}
