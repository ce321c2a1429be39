//! Headless services: each instance has a host of its own, `<instance>.<service>.<namespace>.svc.cluster.local`, as a pod of
//! a `StatefulSet` has. It is a subset of one endpoint.

use std::collections::BTreeMap;

use reeve_core::{
    InstanceName, Namespace,
    model::{Destination, EndpointSet, Rewrite, Route, RouteAction, Subset, TrafficPolicy},
};

use super::authorities;
use crate::{Mesh, Service};

/// Kubernetes' label of a pod's own name.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";

/// Labels each endpoint by its own name.
pub(super) fn label(set: &mut EndpointSet) {
    for endpoint in &mut set.endpoints {
        let name = endpoint.instance.to_string();
        endpoint.labels.insert(POD_NAME.to_owned(), name);
    }
}

/// A subset for each instance.
pub(super) fn subsets(
    mesh: &Mesh,
    service: &Service,
    traffic: &TrafficPolicy,
    port_traffic: &BTreeMap<u16, TrafficPolicy>,
) -> Vec<Subset> {
    let one = |instance: &InstanceName| Subset {
        name: subset(instance),
        labels: BTreeMap::from([(POD_NAME.to_owned(), instance.to_string())]),
        traffic: traffic.clone(),
        port_traffic: port_traffic.clone(),
    };
    instances(mesh, service).map(one).collect()
}

/// Each instance's virtual host: name, hosts without a port, routes.
pub(super) fn hosts<'i>(
    mesh: &'i Mesh,
    service: &'i Service,
    viewer: &Namespace,
    port: u16,
) -> impl Iterator<Item = (String, Vec<String>, Vec<Route>)> {
    let names = match service.headless {
        true => authorities::names(service, viewer),
        false => Vec::new(),
    };
    let some = instances(mesh, service).filter(|_| service.headless);
    some.map(move |instance| {
        let hosts = names.iter().map(|name| format!("{instance}.{name}"));
        let destination = Destination {
            subset: Some(subset(instance)),
            ..Destination::new(service.host.clone(), port)
        };
        let route = Route::new(RouteAction::Forward {
            destinations: vec![destination],
            rewrite: Rewrite::default(),
        });
        let name = format!("{instance}.{}:{port}", service.host);
        (name, hosts.collect(), vec![route])
    })
}

fn instances<'i>(mesh: &'i Mesh, service: &'i Service) -> impl Iterator<Item = &'i InstanceName> {
    let selected = mesh.workloads.iter().filter(|w| service.selects(w));
    selected.flat_map(|w| &w.instances)
}

fn subset(instance: &InstanceName) -> String {
    format!("pod/{instance}")
}
