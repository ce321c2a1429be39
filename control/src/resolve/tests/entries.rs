//! `ServiceEntry`, `WorkloadEntry` and TLS towards them.

use super::*;

const PORT: &str = "  ports: [{number: 80, name: http, protocol: HTTP}]\n";

const ENTRIES: &[(&str, &[&str])] = &[
    ("  hosts: [a.example]\n  resolution: DNS", &[]),
    (
        "  hosts: [a.example]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  endpoints: [{address: 192.0.2.1, serviceAccount: x, ports: {http: 8080}}]",
        &[],
    ),
    (
        "  hosts: [a.example]\n  resolution: STATIC\n  workloadSelector: {labels: {app: x}}",
        &[],
    ),
    (
        "  hosts: [a.example]\n  resolution: STATIC",
        &["spec.endpoints missing"],
    ),
    (
        "  hosts: [a.example]\n  resolution: STATIC\n  endpoints: [{address: b.example}]",
        &["spec.endpoints invalid"],
    ),
    (
        "  hosts: [a.example]\n  resolution: DNS\n  endpoints: [{address: b.example}, {address: 192.0.2.1}]",
        &[],
    ),
    (
        "  hosts: [a.example]\n  resolution: DNS_ROUND_ROBIN\n  endpoints: [{address: b.example}, {address: c.example}]",
        &["spec.endpoints conflict"],
    ),
    (
        "  hosts: [a.example]\n  endpoints: [{address: 192.0.2.1}]",
        &["spec.endpoints conflict"],
    ),
    ("  hosts: ['*.example', a.example]", &[]),
    ("  hosts: ['*.example']\n  resolution: DYNAMIC_DNS", &[]),
    (
        "  hosts: ['*.example']\n  resolution: DNS",
        &["spec.resolution conflict"],
    ),
    (
        "  hosts: ['*.example']\n  resolution: DNS\n  endpoints: [{address: b.example}]",
        &[],
    ),
    (
        "  hosts: ['*.example']\n  location: MESH_INTERNAL",
        &["spec.location unsupported"],
    ),
    ("  hosts: ['*']", &["spec.hosts[0] invalid"]),
    ("  hosts: ['a*.example']", &["spec.hosts[0] invalid"]),
    (
        "  hosts: [a.example]\n  addresses: [192.0.2.0/24]",
        &["spec.addresses[0] unsupported"],
    ),
    (
        "  hosts: [a.example]\n  location: ELSEWHERE",
        &["spec.location invalid"],
    ),
    (
        "  hosts: [a.example]\n  resolution: STATIC\n  endpoints: [{address: 'unix:///a'}]",
        &["spec.endpoints[0].address unsupported"],
    ),
    (
        "  hosts: [a.example]\n  resolution: STATIC\n  endpoints: [{address: 192.0.2.1, weight: 5, locality: eu/west/rack1}, {address: 192.0.2.2, locality: eu}]",
        &[],
    ),
    (
        "  hosts: [a.example]\n  resolution: STATIC\n  endpoints: [{address: 192.0.2.1, locality: eu//x}, {address: 192.0.2.2, locality: 'eu/*'}, {address: 192.0.2.3, network: n}]",
        &[
            "spec.endpoints[0].locality invalid",
            "spec.endpoints[1].locality invalid",
            "spec.endpoints[2].network unsupported",
        ],
    ),
];

#[test]
fn entries_say_where_services_run_and_their_faults_are_named() {
    for (spec, expected) in ENTRIES {
        let found = findings(&document("ServiceEntry", "x", &format!("{PORT}{spec}")));
        assert_eq!(places(&found), *expected, "{spec}");
    }
}

#[test]
fn a_wildcard_host_needs_ports_that_name_hosts() {
    for (port, expected) in [
        ("{number: 443, name: tls, protocol: TLS}", &[][..]),
        (
            "{number: 80, name: http, protocol: HTTP, targetPort: 8080}",
            &["spec.ports[0].targetPort unsupported"],
        ),
        (
            "{number: 25, name: tcp, protocol: TCP}",
            &["spec.ports[0].protocol unsupported"],
        ),
    ] {
        let spec = format!("  hosts: ['*.example']\n  ports: [{port}]");
        let found = findings(&document("ServiceEntry", "x", &spec));
        assert_eq!(places(&found), expected, "{port}");
    }
}

#[test]
fn a_host_of_the_mesh_beats_a_foreign_one() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80, name: http}]}\n---\n";
    let entry = |name: &str| {
        document(
            "ServiceEntry",
            name,
            &format!("{PORT}  hosts: [a]\n  resolution: DNS"),
        )
    };
    let host: ServiceName = "a.default.svc.cluster.local".parse().unwrap();
    let both = mesh(&format!("{service}{}", entry("x")));
    assert!(both.services[&host].entry.is_none());
    assert_eq!(both.warnings.len(), 1);
    let two = mesh(&format!("{}---\n{}", entry("x"), entry("y")));
    assert!(two.services[&host].entry.is_some());
    assert_eq!(two.warnings.len(), 1);
}

#[test]
fn rules_say_how_tls_is_begun() {
    for (tls, expected) in [
        ("{mode: SIMPLE}", &[][..]),
        (
            "{mode: SIMPLE, caCertificates: /ca, sni: a.example, subjectAltNames: [b]}",
            &[],
        ),
        ("{mode: SIMPLE, caCertificates: system}", &[]),
        ("{mode: SIMPLE, credentialName: x}", &[]),
        ("{mode: MUTUAL, credentialName: x}", &[]),
        ("{mode: MUTUAL, clientCertificate: /c, privateKey: /k}", &[]),
        ("{mode: MUTUAL}", &["spec.trafficPolicy.tls missing"]),
        (
            "{mode: MUTUAL, credentialName: x, clientCertificate: /c, privateKey: /k}",
            &["spec.trafficPolicy.tls.credentialName conflict"],
        ),
        (
            "{mode: SIMPLE, clientCertificate: /c, privateKey: /k}",
            &["spec.trafficPolicy.tls.clientCertificate conflict"],
        ),
        (
            "{mode: SIMPLE, caCertificates: ca.crt}",
            &["spec.trafficPolicy.tls.caCertificates invalid"],
        ),
        (
            "{mode: SIMPLE, insecureSkipVerify: true}",
            &["spec.trafficPolicy.tls.insecureSkipVerify insecure?"],
        ),
        ("{mode: NONE}", &["spec.trafficPolicy.tls.mode invalid"]),
    ] {
        let entry = document(
            "ServiceEntry",
            "x",
            &format!("{PORT}  hosts: [a.example]\n  resolution: DNS"),
        );
        let rule = document(
            "DestinationRule",
            "x",
            &format!("  host: a.example\n  trafficPolicy:\n    tls: {tls}"),
        );
        let found = findings(&format!("{entry}---\n{rule}"));
        assert_eq!(places(&found), expected, "{tls}");
    }
}

/// Findings without their lines.
fn places(findings: &[String]) -> Vec<&str> {
    let place = |finding: &'_ String| finding.find(' ').map_or(0, |at| at + 1);
    let rest = findings.iter().map(|f| f.get(place(f)..));
    rest.map(Option::unwrap_or_default).collect()
}

#[test]
fn a_rule_for_a_pattern_holds_where_its_namespace_has_no_narrower_one() {
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80, name: http}}]}}\n---\n"
        )
    };
    let rule = |name: &str, host: &str, seconds: u64| {
        let spec = format!(
            "  host: '{host}'\n  trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {seconds}s}}}}}}"
        );
        format!("{}---\n", document("DestinationRule", name, &spec))
    };
    let text = [
        service("a"),
        service("b"),
        rule("all", "*", 1),
        rule("local", "*.default.svc.cluster.local", 2),
        rule("own", "b", 3),
        document(
            "ServiceEntry",
            "x",
            &format!("{PORT}  hosts: [c.example]\n  resolution: DNS"),
        ),
    ];
    let mesh = mesh(&text.concat());
    let shown: Vec<_> = mesh
        .rules
        .iter()
        .map(|(host, rule)| (host.as_str(), rule.traffic.connect_timeout.as_secs()))
        .collect();
    assert_eq!(
        shown,
        [
            ("a.default.svc.cluster.local", 2),
            ("b.default.svc.cluster.local", 3),
            ("c.example", 1),
        ]
    );
    let twice = rule("all", "*.org", 1) + &rule("again", "*.org", 2);
    assert_eq!(places(&findings(&twice)), ["spec.host conflict"]);
}

#[test]
fn an_entry_of_a_group_takes_what_it_does_not_say() {
    let group = document(
        "WorkloadGroup",
        "vms",
        "  metadata: {labels: {app: stock, version: v1}}\n  template: {ports: {http: 8080, tls: 8443}, serviceAccount: stock, weight: 3, locality: eu/west}",
    );
    let one = |name: &str, spec: &str| {
        let named = format!("  name: {name}\n");
        let grouped = format!("{named}  annotations: {{istio.io/autoRegistrationGroup: vms}}\n");
        document("WorkloadEntry", name, spec).replace(&named, &grouped)
    };
    let entry = document(
        "ServiceEntry",
        "stock",
        "  hosts: [stock.example]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  workloadSelector: {labels: {app: stock}}",
    );
    let all = [
        group,
        one("a", "  address: 192.0.2.1"),
        one(
            "b",
            "  address: 192.0.2.2\n  ports: {http: 9090}\n  labels: {version: v2}\n  weight: 1\n  serviceAccount: other",
        ),
        entry,
    ];
    let mesh = mesh(&all.join("---\n"));
    let host: ServiceName = "stock.example".parse().unwrap();
    let shown: Vec<_> = mesh.services[&host]
        .entry
        .as_ref()
        .unwrap()
        .endpoints
        .iter()
        .map(|e| {
            (
                e.ports["http"],
                e.labels["version"].as_str(),
                e.weight,
                e.labels["istio-locality"].as_str(),
                e.service_account.as_ref().map(ToString::to_string),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (8080, "v1", 3, "eu/west", Some("stock".to_owned())),
            (9090, "v2", 1, "eu/west", Some("other".to_owned())),
        ]
    );
}

#[test]
fn faults_of_groups_are_named() {
    for (spec, expected) in [
        ("  template: {ports: {http: 80}}", &[][..]),
        ("  metadata: {labels: {a: b}}", &["spec.template missing"]),
        (
            "  template: {address: 192.0.2.1, labels: {a: b}}",
            &[
                "spec.template.address conflict",
                "spec.template.labels conflict",
            ],
        ),
        (
            "  template: {network: n}\n  probe: {httpGet: {port: 80}}",
            &[
                "spec.template.network unsupported",
                "spec.probe unsupported",
            ],
        ),
    ] {
        let found = findings(&document("WorkloadGroup", "x", spec));
        let mut found = places(&found);
        found.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{spec}");
    }
}

#[test]
fn faults_of_a_sidecars_listeners_are_named() {
    for (listener, expected) in [
        (
            "{port: {number: 80, protocol: HTTP, name: a}, defaultEndpoint: '0.0.0.0:81'}",
            &[][..],
        ),
        (
            "{port: {number: 80, protocol: HTTP, name: a}, defaultEndpoint: '[::1]:81', captureMode: DEFAULT}",
            &[],
        ),
        ("{bind: 127.0.0.1}", &["port missing"]),
        (
            "{port: {number: 15001, protocol: SMTP}}",
            &["port.number conflict", "port.protocol invalid"],
        ),
        (
            "{port: {number: 80, protocol: HTTP}, defaultEndpoint: 'unix:///a', captureMode: NONE}",
            &["captureMode unsupported", "defaultEndpoint unsupported"],
        ),
        (
            "{port: {number: 80, protocol: HTTP}, defaultEndpoint: '192.0.2.1:80', bind: here}",
            &["bind invalid", "defaultEndpoint invalid"],
        ),
        (
            "{port: {number: 80, protocol: HTTP}, tls: {mode: SIMPLE}}",
            &["tls unsupported"],
        ),
        (
            "{port: {number: 80, protocol: HTTP}, connectionPool: {tcp: {maxConnections: -1}}}",
            &["connectionPool.tcp.maxConnections invalid"],
        ),
    ] {
        let found = findings(&document(
            "Sidecar",
            "x",
            &format!("  ingress: [{listener}]"),
        ));
        let mut found: Vec<_> = places(&found)
            .iter()
            .map(|f| f.replace("spec.ingress[0].", ""))
            .collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{listener}");
    }
}
