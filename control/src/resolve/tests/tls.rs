//! `tls` routes of a `VirtualService`, and gateways that pass TLS through.

use super::*;

fn of(kind: &str, spec: &str) -> Vec<String> {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    findings(&format!("{}{REVIEWS}", document(kind, "x", &indented)))
}

#[test]
fn tls_routes_are_read_and_their_faults_named() {
    let route = "    route: [{destination: {host: reviews}}]";
    for (spec, expected) in [
        (
            "hosts: [reviews, '*.example.org']\ntls:\n  - match:\n      - {sniHosts: ['a.example.org', '*.b.example.org'], port: 9080, sourceLabels: {app: a}, sourceNamespace: other}\n      - {sniHosts: [reviews.default.svc.cluster.local], gateways: [mesh]}",
            &[][..],
        ),
        (
            "hosts: [reviews]\ntls:\n  - match: [{sniHosts: [reviews, REVIEWS.default.svc.cluster.local]}]",
            &[],
        ),
        ("hosts: ['*']\ntls:\n  - match: [{sniHosts: ['*']}]", &[]),
        (
            "hosts: [reviews]\ntls:\n  - match: []",
            &["8 spec.tls[0].match missing"],
        ),
        (
            "hosts: [reviews]\ntls:\n  - match: [{port: 443}]",
            &["8 spec.tls[0].match[0].sniHosts missing"],
        ),
        (
            "hosts: [reviews]\ntls:\n  - match: [{sniHosts: [other.org, 'a*b', reviews]}]",
            &[
                "8 spec.tls[0].match[0].sniHosts[0] invalid",
                "8 spec.tls[0].match[0].sniHosts[1] invalid",
            ],
        ),
        (
            "hosts: [a.example.org]\ntls:\n  - match: [{sniHosts: ['*.example.org']}]",
            &["8 spec.tls[0].match[0].sniHosts[0] invalid"],
        ),
        (
            "hosts: [reviews]\ntls:\n  - match: [{sniHosts: [reviews], destinationSubnets: [10.0.0.0/8], gateways: [none], uri: x}]",
            &[
                "8 spec.tls[0].match[0].gateways[0] unknown-reference?",
                "8 spec.tls[0].match[0].uri unknown-field",
            ],
        ),
    ] {
        assert_eq!(
            of("VirtualService", &format!("{spec}\n{route}")),
            expected,
            "{spec}"
        );
    }
    let without = "hosts: [reviews]\ntls:\n  - match: [{sniHosts: [reviews]}]";
    assert_eq!(
        of("VirtualService", without),
        ["8 spec.tls[0].route missing"]
    );
}

/// Protocol, `tls`, and what is said of it.
const SERVERS: &[(&str, &str, &[&str])] = &[
    ("TLS", "    tls: {mode: PASSTHROUGH}", &[]),
    ("HTTPS", "    tls: {}", &[]),
    ("TLS", "", &["8 spec.servers[0].tls missing"]),
    ("HTTPS", "    tls: {mode: SIMPLE, credentialName: c}", &[]),
    (
        "TLS",
        "    tls: {mode: SIMPLE, credentialName: 'kubernetes-gateway://x/c'}",
        &[],
    ),
    (
        "HTTPS",
        "    tls: {mode: MUTUAL, credentialName: c, subjectAltNames: [a]}",
        &[],
    ),
    (
        "HTTPS",
        "    tls: {mode: OPTIONAL_MUTUAL, credentialNames: [a, b]}",
        &[],
    ),
    ("HTTPS", "    tls: {mode: ISTIO_MUTUAL}", &[]),
    (
        "HTTPS",
        "    tls: {mode: MUTUAL, serverCertificate: /a, privateKey: /b, caCertificates: /c, caCrl: /d}",
        &[],
    ),
    (
        "HTTPS",
        "    tls: {mode: SIMPLE}",
        &["10 spec.servers[0].tls missing"],
    ),
    (
        "HTTPS",
        "    tls: {mode: SIMPLE, credentialName: c, serverCertificate: /a, privateKey: /b}",
        &["10 spec.servers[0].tls.serverCertificate conflict"],
    ),
    (
        "HTTPS",
        "    tls: {mode: SIMPLE, serverCertificate: a, privateKey: /b}",
        &["10 spec.servers[0].tls.serverCertificate invalid"],
    ),
    (
        "HTTPS",
        "    tls: {mode: SIMPLE, credentialName: c, subjectAltNames: [a]}",
        &["10 spec.servers[0].tls.subjectAltNames conflict"],
    ),
    (
        "HTTPS",
        "    tls: {mode: MUTUAL, serverCertificate: /a, privateKey: /b}",
        &["10 spec.servers[0].tls.caCertificates missing"],
    ),
    (
        "HTTPS",
        "    tls: {mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_0}",
        &["10 spec.servers[0].tls.minProtocolVersion unsupported"],
    ),
    (
        "HTTPS",
        "    tls: {mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2}",
        &["10 spec.servers[0].tls.minProtocolVersion conflict"],
    ),
    (
        "HTTPS",
        "    tls: {mode: SIMPLE, credentialName: c, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256, AES128-SHA]}",
        &["10 spec.servers[0].tls.cipherSuites[1] unsupported"],
    ),
    (
        "HTTPS",
        "    tls: {mode: ISTIO_MUTUAL, credentialName: c}",
        &["10 spec.servers[0].tls.mode conflict"],
    ),
    (
        "HTTPS",
        "    tls: {mode: SIMPLE, credentialName: 'a b'}",
        &["10 spec.servers[0].tls.credentialName invalid"],
    ),
    ("TLS", "    tls: {mode: AUTO_PASSTHROUGH}", &[]),
    (
        "TLS",
        "    tls: {mode: passthrough}",
        &["10 spec.servers[0].tls.mode invalid"],
    ),
    (
        "HTTP",
        "    tls: {mode: PASSTHROUGH}",
        &["10 spec.servers[0].tls conflict"],
    ),
    ("HTTP", "    tls: {httpsRedirect: true}", &[]),
    (
        "HTTPS",
        "    tls: {mode: PASSTHROUGH, httpsRedirect: true}",
        &["10 spec.servers[0].tls.httpsRedirect conflict?"],
    ),
    ("TCP", "", &[]),
    ("SSH", "", &["8 spec.servers[0].port.protocol invalid"]),
    (
        "TLS",
        "    tls: {mode: PASSTHROUGH}\n  - {port: {number: 8443, name: b, protocol: HTTP}, hosts: ['*']}",
        &["11 spec.servers[1].port conflict"],
    ),
];

#[test]
fn a_gateways_servers_say_how_tls_is_ended_or_passed_on() {
    let server = |port: &str, tls: &str| {
        format!(
            "selector: {{a: b}}\nservers:\n  - port: {{number: 8443, name: a, protocol: {port}}}\n    hosts: ['*']\n{tls}"
        )
    };
    for (port, tls, expected) in SERVERS.iter().copied() {
        assert_eq!(of("Gateway", &server(port, tls)), expected, "{port} {tls}");
    }
    let gateway = |name: &str, protocol: &str| {
        document(
            "Gateway",
            name,
            &format!(
                "  selector: {{a: b}}\n  servers: [{{port: {{number: 8443, name: a, protocol: {protocol}}}, hosts: ['*']}}]"
            ),
        )
    };
    let both = format!("{}---\n{}", gateway("a", "HTTP"), gateway("b", "TLS"));
    let both = both.replace("protocol: TLS}", "protocol: TLS}, tls: {mode: PASSTHROUGH}");
    assert_eq!(findings(&both), ["15 spec.servers[0].port conflict"]);
}
