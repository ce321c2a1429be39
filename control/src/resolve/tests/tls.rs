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
                "8 spec.tls[0].match[0].destinationSubnets unsupported",
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

#[test]
fn gateways_pass_tls_through_and_do_nothing_else_with_it() {
    let server = |port: &str, tls: &str| {
        format!(
            "selector: {{a: b}}\nservers:\n  - port: {{number: 8443, name: a, protocol: {port}}}\n    hosts: ['*']\n{tls}"
        )
    };
    for (port, tls, expected) in [
        ("TLS", "    tls: {mode: PASSTHROUGH}", &[][..]),
        ("HTTPS", "    tls: {}", &[]),
        ("TLS", "", &["8 spec.servers[0].tls missing"]),
        (
            "HTTPS",
            "    tls: {mode: SIMPLE, credentialName: c}",
            &[
                "10 spec.servers[0].tls.credentialName unsupported",
                "10 spec.servers[0].tls.mode unsupported",
            ],
        ),
        (
            "TLS",
            "    tls: {mode: AUTO_PASSTHROUGH}",
            &["10 spec.servers[0].tls.mode unsupported"],
        ),
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
        (
            "HTTP",
            "    tls: {httpsRedirect: true}",
            &[
                "10 spec.servers[0].tls conflict",
                "10 spec.servers[0].tls.httpsRedirect unsupported",
            ],
        ),
        ("TCP", "", &["8 spec.servers[0].port.protocol unsupported"]),
        ("SSH", "", &["8 spec.servers[0].port.protocol invalid"]),
        (
            "TLS",
            "    tls: {mode: PASSTHROUGH}\n  - {port: {number: 8443, name: b, protocol: HTTP}, hosts: ['*']}",
            &["11 spec.servers[1].port conflict"],
        ),
    ] {
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
