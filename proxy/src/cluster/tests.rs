use std::net::Ipv4Addr;

use reeve_core::model::{LoadBalancer, Subset};

use super::*;

const HOST: &str = "reviews.default.svc.cluster.local";

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://mesh.local/ns/default/sa/reviews").unwrap()
}

fn labels(version: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("version".to_owned(), version.to_owned())])
}

fn endpoint(host: u8, version: &str, identity: Option<SpiffeId>) -> Endpoint {
    Endpoint {
        instance: format!("reviews-{version}-{host}").parse().unwrap(),
        address: Ipv4Addr::new(127, 0, 0, host).into(),
        ports: BTreeMap::from([(80, 9080)]),
        labels: labels(version),
        identity,
        weight: 1,
    }
}

fn clusters(tls: ClientTls) -> Clusters {
    let name: ServiceName = HOST.parse().unwrap();
    let traffic = TrafficPolicy {
        tls,
        ..TrafficPolicy::default()
    };
    let random = TrafficPolicy {
        load_balancer: LoadBalancer::Random,
        ..traffic.clone()
    };
    let port = |port| ServicePort {
        port,
        name: "http".to_owned(),
        protocol: Protocol::Http,
    };
    let service = Arc::new(ServiceConfig {
        name: name.clone(),
        namespace: "default".parse().unwrap(),
        ports: vec![port(80), port(81)],
        patterns: Vec::new(),
        identities: vec![id()],
        traffic,
        port_traffic: BTreeMap::new(),
        subsets: vec![Subset {
            name: "v2".to_owned(),
            labels: labels("v2"),
            traffic: random,
            port_traffic: BTreeMap::new(),
        }],
    });
    let endpoints = vec![
        endpoint(1, "v1", Some(id())),
        endpoint(2, "v2", Some(id())),
        endpoint(3, "v2", None),
    ];
    let set = EndpointSet {
        service: name.clone(),
        endpoints,
        names: vec![],
    };
    let mut all = HashMap::default();
    for port in &service.ports {
        let no_labels = BTreeMap::new();
        let own = LocalityPlace {
            locality: Locality::default(),
            labels: &no_labels,
        };
        let all_of_it = (None, &service.traffic);
        let whole = Cluster::compile(&service, port, all_of_it, Some(&set), &own);
        all.insert((name.clone(), None, port.port), Arc::new(whole));
        let subset = &service.subsets[0];
        let part = (Some(&subset.labels), &subset.traffic);
        let part = Cluster::compile(&service, port, part, Some(&set), &own);
        all.insert(
            (name.clone(), Some("v2".to_owned()), port.port),
            Arc::new(part),
        );
    }
    Clusters(all)
}

fn hops(clusters: &Clusters, subset: Option<&str>, port: u16) -> Vec<(u8, Security)> {
    let key = (HOST.parse().unwrap(), subset.map(str::to_owned), port);
    let host = |hop: &Arc<Hop>| match hop.address.ip() {
        std::net::IpAddr::V4(ip) => (ip.octets()[3], hop.security.clone()),
        std::net::IpAddr::V6(_) => panic!("IPv4 only"),
    };
    clusters.get(&key).unwrap().hops.iter().map(host).collect()
}

#[test]
fn a_subset_has_the_endpoints_with_its_labels_and_its_own_settings() {
    let clusters = clusters(ClientTls::Auto);
    let hosts = |subset, port| -> Vec<u8> {
        hops(&clusters, subset, port)
            .into_iter()
            .map(|(host, _)| host)
            .collect()
    };
    assert_eq!(hosts(None, 80), [1, 2, 3]);
    assert_eq!(hosts(Some("v2"), 80), [2, 3]);
    assert_eq!(hosts(None, 81), [0u8; 0], "no endpoint serves that port");
    let key = (HOST.parse().unwrap(), Some("v2".to_owned()), 80);
    assert_eq!(
        clusters.get(&key).unwrap().traffic.load_balancer,
        LoadBalancer::Random
    );
    assert!(
        clusters
            .get(&(HOST.parse().unwrap(), Some("v3".to_owned()), 80))
            .is_none()
    );
}

#[test]
fn who_is_in_the_mesh_is_spoken_to_by_mtls_and_nobody_falls_back() {
    let mesh = || Security::Mesh(vec![id()].into());
    for (tls, meshed, outside) in [
        (ClientTls::Auto, mesh(), Security::Plain),
        (ClientTls::Mutual, mesh(), Security::Unreachable),
        (ClientTls::Disable, Security::Plain, Security::Plain),
    ] {
        let clusters = clusters(tls.clone());
        let expected = vec![(1, meshed.clone()), (2, meshed), (3, outside)];
        assert_eq!(hops(&clusters, None, 80), expected, "{tls:?}");
    }
}

#[test]
fn a_workloads_name_is_its_instances_without_the_last_part() {
    assert_eq!(workload_of("reviews-v1-0"), "reviews-v1");
    assert_eq!(workload_of("single"), "single");
}

/// Two services with an endpoint each.
fn two(changed: u8, tls: ClientTls) -> ProxyConfig {
    let mut config = ProxyConfig {
        generation: reeve_core::model::Generation(1),
        workload: Arc::new(crate::tests::workload()),
        services: BTreeMap::new(),
        endpoints: BTreeMap::new(),
        routes: BTreeMap::new(),
        policies: Arc::default(),
        secrets: BTreeMap::new(),
    };
    for (name, host) in [("a.default.svc.cluster.local", 1), (HOST, changed)] {
        let name: ServiceName = name.parse().unwrap();
        let port = ServicePort {
            port: 80,
            name: "http".to_owned(),
            protocol: Protocol::Http,
        };
        let service = ServiceConfig {
            name: name.clone(),
            namespace: "default".parse().unwrap(),
            ports: vec![port],
            patterns: vec![],
            identities: vec![id()],
            traffic: TrafficPolicy {
                tls: tls.clone(),
                ..TrafficPolicy::default()
            },
            port_traffic: BTreeMap::new(),
            subsets: vec![],
        };
        let set = EndpointSet {
            service: name.clone(),
            endpoints: vec![endpoint(host, "v1", Some(id()))],
            names: vec![],
        };
        config.services.insert(name.clone(), Arc::new(service));
        config.endpoints.insert(name, Arc::new(set));
    }
    config
}

#[test]
fn clusters_that_did_not_change_are_kept_unless_certificates_or_labels_are_part_of_them() {
    let kept = |before: ProxyConfig, after: ProxyConfig| {
        let before = Snapshot::compile(Arc::new(before)).unwrap();
        let after = Snapshot::compile_again(Arc::new(after), &before).unwrap();
        ["a.default.svc.cluster.local", HOST].map(|name| {
            let key = (name.parse().unwrap(), None, 80);
            let [one, two] = [&before, &after].map(|s| s.clusters.get(&key).unwrap());
            Arc::ptr_eq(one, two)
        })
    };
    let auto = |changed| two(changed, ClientTls::Auto);
    assert_eq!(kept(auto(2), auto(2)), [true, true]);
    assert_eq!(kept(auto(2), auto(3)), [true, false]);
    let originate = ClientTls::Originate(Arc::default());
    let originated = two(2, originate);
    assert_eq!(kept(originated.clone(), originated), [false, false]);
    let mut moved = auto(2);
    let labels = &mut Arc::make_mut(&mut moved.workload).labels;
    labels.insert("topology.kubernetes.io/region".to_owned(), "eu".to_owned());
    assert_eq!(kept(auto(2), moved), [false, false]);
}
