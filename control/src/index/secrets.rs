//! Which key material a proxy is given: what a gateway serves or calls by, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use reeve_core::{
    Namespace, ServiceName,
    model::{
        AuthoritySource, CertificateSource, ClientTls, OriginateTls, OutboundListener, ProxyRole,
        SecretName, ServerTlsMode, ServiceConfig, TlsSecret,
    },
};

use crate::Mesh;

/// Stands before the name of a secret that each proxy has in its own namespace; no namespace is called so.
pub(crate) const OWN: &str = "~/";

/// The services as a proxy of `namespace` calls them: by the secrets of that. A sidecar is told of none.
pub(super) fn own(
    role: ProxyRole,
    namespace: &Namespace,
    services: &BTreeMap<ServiceName, Arc<ServiceConfig>>,
) -> BTreeMap<ServiceName, Arc<ServiceConfig>> {
    let mut services = services.clone();
    if role == ProxyRole::Sidecar {
        return services;
    }
    for service in services.values_mut() {
        if !service.policies().any(|policy| names_own(&policy.tls)) {
            continue;
        }
        for policy in Arc::make_mut(service).policies_mut() {
            if let ClientTls::Originate(tls) = &mut policy.tls {
                in_namespace(Arc::make_mut(tls), namespace);
            }
        }
    }
    services
}

fn names_own(tls: &ClientTls) -> bool {
    let ClientTls::Originate(tls) = tls else {
        return false;
    };
    let certificate = tls.certificate.iter().filter_map(of_certificate);
    let authorities = tls.authorities.iter().flat_map(of_authorities);
    certificate
        .chain(authorities)
        .any(|name| name.0.starts_with(OWN))
}

fn in_namespace(tls: &mut OriginateTls, namespace: &Namespace) {
    let full = |name: &mut SecretName| {
        if let Some(short) = name.0.strip_prefix(OWN) {
            *name = SecretName(format!("{namespace}/{short}"));
        }
    };
    if let Some(CertificateSource::Secret(name)) = &mut tls.certificate {
        full(name);
    }
    if let Some(AuthoritySource::Secrets(names)) = &mut tls.authorities {
        names.iter_mut().for_each(full);
    }
}

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
        for policy in service.policies() {
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
