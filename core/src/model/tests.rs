use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{ServiceName, TrustDomain};

fn workload() -> WorkloadConfig {
    let namespace = "default".parse().unwrap();
    let account = "reviews".parse().unwrap();
    WorkloadConfig {
        instance: "reviews-v1-0".parse().unwrap(),
        workload: "reviews-v1".parse().unwrap(),
        identity: TrustDomain::parse("mesh.local")
            .unwrap()
            .workload(&namespace, &account),
        namespace,
        service_account: account,
        labels: BTreeMap::from([("app".into(), "reviews".into())]),
        role: ProxyRole::Sidecar,
        address: Ipv4Addr::LOCALHOST.into(),
        inbound: vec![],
        outbound: vec![],
        services: vec![],
        ecdh_curves: vec![],
        topology: Default::default(),
        gateways: vec![],
        caller_shares: Default::default(),
        rate_limits: vec![],
        transformations: vec![],
        global_rate_limits: vec![],
        name_servers: vec![],
        path_normalization: PathNormalization::default(),
        external_authorizations: Vec::new(),
        jwt_rules: vec![],
        tracing: None,
        telemetry: Default::default(),
        break_glass: Default::default(),
        recorded_headers: vec![],
        danger_pass_unrecorded: false,
        audit_replicas: vec![],
        field_classes: Default::default(),
        capture: None,
    }
}

fn config(generation: u64, services: &[String]) -> ProxyConfig {
    let name = |s: &String| ServiceName::parse(s).unwrap();
    let service = |s: &String| ServiceConfig {
        name: name(s),
        namespace: "default".parse().unwrap(),
        ports: vec![],
        patterns: Vec::new(),
        identities: vec![],
        traffic: TrafficPolicy::default(),
        port_traffic: BTreeMap::new(),
        subsets: vec![],
    };
    let endpoints = |s: &String| EndpointSet {
        service: name(s),
        endpoints: vec![],
        names: vec![],
    };
    let table = |s: &String| {
        let host = VirtualHost {
            name: s.clone(),
            domains: vec![s.clone()],
            routes: vec![],
            path_normalization: None,
        };
        RouteTable::new(RouteTableName(s.clone()), [host])
    };
    ProxyConfig {
        generation: Generation(generation),
        workload: Arc::new(workload()),
        services: services
            .iter()
            .map(|s| (name(s), Arc::new(service(s))))
            .collect(),
        endpoints: services
            .iter()
            .map(|s| (name(s), Arc::new(endpoints(s))))
            .collect(),
        routes: services
            .iter()
            .map(|s| (RouteTableName(s.clone()), Arc::new(table(s))))
            .collect(),
        policies: Arc::default(),
        secrets: BTreeMap::new(),
    }
}

proptest! {
    #[test]
    fn a_configuration_survives_the_way_to_the_proxy(
        generation: u64,
        services in prop::collection::btree_set("[a-z]{1,8}", 0..5),
    ) {
        let services: Vec<_> = services.into_iter().collect();
        let config = config(generation, &services);
        let wire: Vec<_> = config.resources().iter().map(|r| serde_json::to_string(r).unwrap()).collect();
        let back = wire.iter().map(|r| serde_json::from_str::<Resource>(r).unwrap());
        prop_assert_eq!(ProxyConfig::from_resources(back).unwrap(), config);
    }
}

#[test]
fn the_generation_is_sent_last() {
    let resources = config(7, &["a".into(), "b".into()]).resources();
    assert_eq!(resources.last(), Some(&Resource::Generation(Generation(7))));
    let order: Vec<_> = resources.iter().map(Resource::kind).collect();
    let position = |kind| ResourceKind::ALL.iter().position(|k| *k == kind).unwrap();
    assert!(order.is_sorted_by_key(|kind| position(*kind)));
}

#[test]
fn incomplete_or_doubled_resources_are_refused() {
    let all = config(1, &["a".into()]).resources();
    for kind in [
        ResourceKind::Workload,
        ResourceKind::Policies,
        ResourceKind::Generation,
    ] {
        let rest = all.iter().filter(|r| r.kind() != kind).cloned();
        assert_eq!(
            ProxyConfig::from_resources(rest),
            Err(ResourceError::Missing(kind))
        );
    }
    let doubled = all.iter().chain(all.first()).cloned();
    assert_eq!(
        ProxyConfig::from_resources(doubled),
        Err(ResourceError::Duplicate {
            kind: ResourceKind::Service,
            name: "a".into()
        })
    );
}
