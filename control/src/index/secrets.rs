//! Which key material a proxy is given: what its own listeners name, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use reeve_core::model::{
    AuthoritySource, CertificateSource, OutboundListener, SecretName, ServerTlsMode, TlsSecret,
};

use crate::Mesh;

/// The secrets that `listeners` serve by.
pub(super) fn of(
    mesh: &Mesh,
    listeners: &[OutboundListener],
) -> BTreeMap<SecretName, Arc<TlsSecret>> {
    let servers = listeners.iter().flat_map(|listener| &listener.tls);
    let mut wanted = BTreeSet::new();
    for server in servers {
        let ServerTlsMode::Public(public) = &server.mode else {
            continue;
        };
        for source in &public.certificates {
            if let CertificateSource::Secret(name) = source {
                wanted.insert(name);
            }
        }
        let client = public.client.as_ref();
        if let Some(AuthoritySource::Secrets(names)) = client.map(|client| &client.authorities) {
            wanted.extend(names);
        }
    }
    let found = wanted.into_iter().filter_map(|name| {
        let secret = mesh.secrets.get(name)?;
        Some((name.clone(), Arc::clone(secret)))
    });
    found.collect()
}
