//! TLS by server name: what each listener gets of `tls` routes.

use reeve_core::model::SniRoute;

use super::*;

const SECURE: &str = "apiVersion: v1
kind: Service
metadata: {name: secure}
spec: {selector: {app: reviews}, ports: [{port: 443, name: tls, targetPort: 8443}, {port: 444, name: https}, {port: 445, name: tcp}]}
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {selector: {app: page}, ports: [{port: 8443, name: tls}]}
---
";

const ROUTES: &str = "  hosts: [secure, '*.example.org']
  gateways: [mesh, edge]
  tls:
    - match: [{sniHosts: [a.example.org], port: 443, sourceLabels: {app: page}}]
      route: [{destination: {host: other}}]
    - match: [{sniHosts: [a.example.org, '*.example.org']}]
      route: [{destination: {host: secure, subset: v1, port: {number: 443}}, weight: 1}, {destination: {host: other}, weight: 0}, {destination: {host: gone}, weight: 3}]
    - match: [{sniHosts: [g.example.org], gateways: [edge]}]
      route: [{destination: {host: other}}]";

pub(super) fn listener<'a>(
    config: &'a ProxyConfig,
    service: &str,
    port: u16,
) -> &'a reeve_core::model::OutboundListener {
    let host = format!("{service}.default.svc.cluster.local");
    let stands_for = |s: &(ServiceName, u16)| s.0.as_str() == host && s.1 == port;
    let mut all = config.workload.outbound.iter();
    all.find(|l| l.service.as_ref().is_some_and(stands_for))
        .expect("a listener")
}

/// `hosts → service:port*weight, …`
fn shown(routes: &[SniRoute]) -> Vec<String> {
    let destination = |d: &reeve_core::model::Destination| {
        let short = d.service.as_str().split('.').next().unwrap_or_default();
        format!("{short}:{}*{}", d.port, d.weight)
    };
    let route = |r: &SniRoute| {
        let to: Vec<_> = r.destinations.iter().map(destination).collect();
        format!("{} → {}", r.hosts.join(" "), to.join(" "))
    };
    routes.iter().map(route).collect()
}

#[test]
fn tls_ports_have_the_routes_that_hold_there() {
    let routed = format!("{SECURE}{}", document("VirtualService", "v", ROUTES));
    let page = config(&routed, "page-0");
    assert_eq!(
        shown(&listener(&page, "secure", 443).sni),
        [
            "a.example.org → other:8443*100",
            "*.example.org → secure:443*1 gone:443*3"
        ],
        "of two rules for one name the first holds"
    );
    assert_eq!(
        shown(&listener(&page, "secure", 444).sni),
        ["a.example.org *.example.org → secure:443*1 gone:444*3"]
    );
    assert!(listener(&page, "secure", 445).sni.is_empty(), "no TLS");
    assert!(
        listener(&page, "other", 8443).sni.is_empty(),
        "another host"
    );
    let gone = ServiceName::parse("gone.default.svc.cluster.local").unwrap();
    assert!(page.endpoints[&gone].endpoints.is_empty());
    let far = config(&routed, "far-0.other");
    assert_eq!(
        shown(&listener(&far, "secure", 443).sni),
        ["a.example.org *.example.org → secure:443*1 gone:443*3"],
        "other labels"
    );
}

#[test]
fn of_tls_rules_for_one_name_the_first_that_means_the_address_holds() {
    let routes = "  hosts: [secure]
  tls:
    - match: [{sniHosts: [secure], destinationSubnets: [192.0.2.0/24]}]
      route: [{destination: {host: gone}}]
    - match: [{sniHosts: [secure], destinationSubnets: [192.0.2.0/24, 127.0.0.0/8]}]
      route: [{destination: {host: other}}]";
    let page = config(
        &format!("{SECURE}{}", document("VirtualService", "v", routes)),
        "page-0",
    );
    assert_eq!(
        shown(&listener(&page, "secure", 443).sni),
        ["secure → other:8443*100"]
    );
}

#[test]
fn a_gateway_takes_the_names_that_its_servers_and_the_routes_have_in_common() {
    let server = |hosts: &str| {
        let spec = format!(
            "  selector: {{istio: edge}}\n  servers: [{{port: {{number: 8443, name: tls, protocol: TLS}}, tls: {{mode: PASSTHROUGH}}, hosts: [{hosts}]}}]"
        );
        format!(
            "{SECURE}{}---\n{}",
            document("VirtualService", "v", ROUTES),
            document("Gateway", "edge", &spec)
        )
    };
    let of = |hosts: &str| {
        let config = config(&server(hosts), "edge-0");
        let [listener] = config.workload.outbound.as_slice() else {
            panic!("{:?}", config.workload.outbound);
        };
        assert_eq!(
            (listener.protocol, listener.bind.port()),
            (Protocol::Tls, 8443)
        );
        assert_eq!(listener.service, None);
        shown(&listener.sni)
    };
    let last = "g.example.org → other:8443*100";
    let rest = "→ secure:443*1 gone:8443*3";
    assert_eq!(
        of("'*'"),
        [
            format!("a.example.org *.example.org {rest}"),
            last.to_owned()
        ]
    );
    assert_eq!(
        of("default/a.example.org"),
        [format!("a.example.org {rest}")]
    );
    assert_eq!(
        of("b.example.org, x.org"),
        [format!("b.example.org {rest}")]
    );
    assert_eq!(of("other/*"), Vec::<String>::new(), "another namespace's");
}

#[test]
fn a_wildcard_entry_is_called_by_the_names_under_it() {
    let spec = "  hosts: ['*.wild.example']\n  ports: [{number: 8080, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]\n  resolution: DYNAMIC_DNS";
    let rule =
        "  host: '*.wild.example'\n  trafficPolicy: {connectionPool: {tcp: {connectTimeout: 2s}}}";
    let all = format!(
        "{}---\n{}",
        document("ServiceEntry", "wild", spec),
        document("DestinationRule", "wild", rule)
    );
    let page = config(&all, "page-0");
    let name: ServiceName = "wild.default.entry".parse().unwrap();
    let service = &page.services[&name];
    assert_eq!(service.patterns, ["*.wild.example"]);
    assert_eq!(service.traffic.connect_timeout.as_secs(), 2);
    let by_name = |l: &&reeve_core::model::OutboundListener| {
        l.service
            .as_ref()
            .is_some_and(|(s, port)| *s == name && *port == 443)
    };
    let listener = page.workload.outbound.iter().find(by_name).unwrap();
    assert_eq!(listener.sni[0].hosts, ["*.wild.example"]);
    let found = host(&page, "15001", "*.wild.example:8080");
    assert_eq!(found.map(|h| h.routes.len()), Some(1));
    assert!(page.endpoints[&name].endpoints.is_empty() && page.endpoints[&name].names.is_empty());
}
