//! What it costs to find a route among few and among many, and to take in a change of one of many services, as JSON on one
//! line: `cargo run --release -p reeve-proxy --example route_lookup`.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{error::Error, hint::black_box, net::SocketAddr, sync::Arc};

use reeve_core::model::{
    Generation, PathNormalization, Protocol, ProxyConfig, Resource, Route, RouteMatch,
    RouteTableName, StringMatch, VirtualHost,
};
use reeve_proxy::Snapshot;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Lookups of one span.
const CALLS: u32 = 50_000;
/// The same, where each takes long.
const SCANS: u32 = 500;
/// Spans of each figure; the median counts.
const ROUNDS: usize = 7;

fn main() -> Outcome<()> {
    let mut figures = serde_json::Map::new();
    for services in [10_usize, 500, 5_000] {
        let snapshot = Snapshot::compile(Arc::new(config(hosts(services, 2)?)?))?;
        let at = bind()?;
        let nanos = median(|call| {
            let number = call as usize * 7919 % services;
            let authority = format!("service-{number}.default.svc.cluster.local");
            drop(black_box(snapshot.route_of(at, &authority, "/r1/x")));
        });
        figures.insert(format!("lookup_ns_{services}_services"), nanos.into());
    }
    for routes in [10_usize, 500, 10_000] {
        let snapshot = Snapshot::compile(Arc::new(config(hosts(1, routes)?)?))?;
        let at = bind()?;
        let nanos = median(|call| {
            let path = format!("/r{}/x", call as usize * 7919 % routes);
            let authority = "service-0.default.svc.cluster.local";
            drop(black_box(snapshot.route_of(at, authority, &path)));
        });
        figures.insert(
            format!("lookup_ns_{routes}_routes_of_one_host"),
            nanos.into(),
        );
    }
    // What cannot be indexed is scanned: the same routes, whatever the case of their paths.
    let mut scanned = hosts(1, 10_000)?;
    let routes = scanned.iter_mut().flat_map(|host| &mut host.routes);
    for one in routes.flat_map(|route| &mut route.matches) {
        one.ignore_uri_case = true;
    }
    let snapshot = Snapshot::compile(Arc::new(config(scanned)?))?;
    let at = bind()?;
    let nanos = median(|call| {
        if call < SCANS {
            let path = format!("/r{}/x", call as usize * 7919 % 10_000);
            let authority = "service-0.default.svc.cluster.local";
            drop(black_box(snapshot.route_of(at, authority, &path)));
        }
    });
    let scan = nanos * u64::from(CALLS / SCANS);
    figures.insert("lookup_ns_10000_routes_scanned".to_owned(), scan.into());
    let all = hosts(5_000, 2)?;
    let first = Arc::new(config(all.clone())?);
    let whole = once(|| drop(black_box(Snapshot::compile(first.clone()))));
    let before = Snapshot::compile(Arc::new(config(all.clone())?))?;
    let mut changed = all;
    if let Some(host) = changed.get_mut(2_500) {
        host.routes.truncate(1);
    }
    let next = Arc::new(config(changed)?);
    let one = once(|| drop(black_box(Snapshot::compile_again(next.clone(), &before))));
    figures.insert("compile_ms_10000_routes".to_owned(), whole.into());
    figures.insert(
        "compile_ms_one_of_5000_services_changed".to_owned(),
        one.into(),
    );
    println!("{}", serde_json::Value::Object(figures));
    Ok(())
}

fn bind() -> Outcome<SocketAddr> {
    Ok("127.0.0.1:9080".parse()?)
}

/// Services with so many routes each: prefixes, and every tenth an exact path.
fn hosts(services: usize, routes: usize) -> Outcome<Vec<VirtualHost>> {
    let mut hosts = Vec::new();
    for service in 0..services {
        let name = format!("service-{service}.default.svc.cluster.local");
        let mut all = Vec::new();
        for route in 0..routes {
            let uri = match route % 10 {
                9 => StringMatch::Exact(format!("/r{route}/x")),
                _ => StringMatch::Prefix(format!("/r{route}/")),
            };
            let one = RouteMatch {
                uri: Some(uri),
                ..RouteMatch::default()
            };
            all.push(Route {
                matches: vec![one],
                ..Route::to(name.parse()?, 9080)
            });
        }
        hosts.push(VirtualHost {
            domains: vec![name.clone(), format!("{name}:9080")],
            name,
            routes: all,
            path_normalization: None,
        });
    }
    Ok(hosts)
}

fn config(virtual_hosts: Vec<VirtualHost>) -> Outcome<ProxyConfig> {
    let workload = serde_json::json!({
        "instance": "client-0", "workload": "client", "namespace": "default", "service_account": "client",
        "identity": "spiffe://mesh.local/ns/default/sa/client", "labels": {}, "role": "sidecar",
        "address": "127.0.0.1", "inbound": [], "services": [], "path_normalization": PathNormalization::default(),
        "jwt_rules": [], "tracing": null, "recorded_headers": [],
        "outbound": [{"bind": bind()?, "protocol": Protocol::Http, "routes": "9080", "service": null}],
    });
    let table = RouteTableName("9080".to_owned());
    let hosts = virtual_hosts.into_iter().map(Arc::new);
    let hosts = hosts.map(|host| Resource::VirtualHost(table.clone(), host));
    let others = [
        Resource::Workload(serde_json::from_value(workload)?),
        Resource::Policies(Arc::default()),
        Resource::Generation(Generation(1)),
    ];
    Ok(ProxyConfig::from_resources(hosts.chain(others))?)
}

/// The median of the rounds, in nanoseconds per call.
fn median(mut call: impl FnMut(u32)) -> u64 {
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        let began = tokio::time::Instant::now();
        for number in 0..CALLS {
            call(number);
        }
        all.push(began.elapsed().as_nanos() / u128::from(CALLS));
    }
    all.sort_unstable();
    let middle = all.get(ROUNDS / 2).copied().unwrap_or_default();
    u64::try_from(middle).unwrap_or(u64::MAX)
}

/// The median of a few runs, in milliseconds.
fn once(mut run: impl FnMut()) -> f64 {
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        let began = tokio::time::Instant::now();
        run();
        all.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    all.sort_by(f64::total_cmp);
    let middle = all.get(ROUNDS / 2).copied().unwrap_or_default();
    (middle * 100.0).round() / 100.0
}
