//! Host names as Istio reads them.

use std::{collections::BTreeMap, sync::Arc};

use reeve_core::{Namespace, ServiceName};

use crate::Service;

/// The suffix of every service's full host.
pub(crate) const CLUSTER_SUFFIX: &str = "svc.cluster.local";

/// The services of a mesh.
pub(crate) type Services = BTreeMap<ServiceName, Arc<Service>>;

/// A short name (no dot) is completed with the namespace of the object it stands in; all others are full names.
pub(crate) fn full(host: &str, namespace: &Namespace) -> String {
    let host = host.to_ascii_lowercase();
    match host.contains('.') || host.contains('*') || host.is_empty() {
        true => host,
        false => format!("{host}.{namespace}.{CLUSTER_SUFFIX}"),
    }
}

/// Whether `host` (no pattern) or pattern falls under `pattern` (`*`, `*.suffix` or equal).
pub(crate) fn falls_under(host: &str, pattern: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.strip_prefix('*').unwrap_or(host).ends_with(suffix) && host != suffix,
        None => host == pattern,
    }
}

/// Advice for a host that is no service: what may have been meant.
pub(crate) fn advice(host: &str, services: &Services) -> String {
    let first = host.split('.').next().unwrap_or_default();
    match services.values().find(|s| s.name == first) {
        Some(service) => format!("there is {}", service.host),
        None => match services.len() {
            0 => "there are no services; add documents of kind Service".to_owned(),
            _ => {
                let names: Vec<_> = services.keys().take(8).map(ServiceName::as_str).collect();
                format!("known services: {}", names.join(", "))
            }
        },
    }
}
