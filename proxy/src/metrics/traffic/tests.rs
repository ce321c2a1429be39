use prometheus::Registry;

use super::*;

fn ends(workload: &str) -> Ends {
    Ends {
        reporter: "destination",
        source: Arc::new(PeerInfo {
            workload: workload.into(),
            ..PeerInfo::default()
        }),
        source_principal: SpiffeId::parse("spiffe://mesh.local/ns/default/sa/a").ok(),
        service: "reviews.default.svc.cluster.local".parse().ok(),
        protocol: "http",
        security: "mutual_tls",
        ..Ends::default()
    }
}

fn outcome() -> Outcome<'static> {
    Outcome {
        status: 200,
        grpc_status: None,
        flags: &[],
        duration_ms: 1.0,
        bytes_in: 1,
        bytes_out: 2,
    }
}

#[test]
fn labels_are_istios() {
    let registry = Registry::new();
    let metrics = crate::metrics::Metrics::register(&registry).unwrap();
    let meters = metrics.meters();
    meters.request(&ends("a-v1"), &outcome());
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    for part in [
        "istio_requests_total{",
        "source_workload=\"a-v1\"",
        "source_principal=\"mesh.local/ns/default/sa/a\"",
        "destination_service_name=\"reviews\"",
        "destination_service_namespace=\"default\"",
        "response_code=\"200\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"mutual_tls\"",
        "istio_request_duration_milliseconds_bucket",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn series_are_bounded_whatever_peers_call_themselves() {
    let registry = Registry::new();
    let metrics = crate::metrics::Metrics::register(&registry).unwrap();
    let meters = metrics.meters();
    for i in 0..MAX_SERIES + 50 {
        meters.request(&ends(&format!("w{i}")), &outcome());
    }
    let families = registry.gather();
    let requests = families
        .iter()
        .find(|f| f.name() == "istio_requests_total")
        .unwrap();
    assert_eq!(requests.get_metric().len(), MAX_SERIES + 1);
}

#[test]
fn a_scrape_adds_the_workers_up() {
    let registry = Registry::new();
    let metrics = crate::metrics::Metrics::register(&registry).unwrap();
    let workers = [metrics.meters(), metrics.meters()];
    for meters in workers.iter().chain(&workers) {
        meters.request(&ends("a-v1"), &outcome());
    }
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    let line = |name: &str| {
        let found = text.lines().find(|line| line.starts_with(name));
        found
            .and_then(|line| line.rsplit(' ').next())
            .unwrap()
            .to_owned()
    };
    assert_eq!(line("istio_requests_total{"), "4");
    assert_eq!(line("istio_request_duration_milliseconds_count{"), "4");
    assert_eq!(line("istio_response_bytes_sum{"), "8");
    let le = "le=\"1\"";
    let first = text.lines().find(|line| line.contains(le)).unwrap();
    assert!(first.ends_with(" 4"), "{first}");
}
