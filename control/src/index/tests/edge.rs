//! Gateways that end TLS: their servers, and who is given which key.

use reeve_core::model::{AuthoritySource, CertificateSource, PublicTls, SecretName, ServerTlsMode};

use super::*;

const SECRET: &str = "apiVersion: v1
kind: Secret
metadata: {name: NAME, namespace: NAMESPACE}
type: kubernetes.io/tls
stringData:
  tls.crt: '-----BEGIN CERTIFICATE-----'
  tls.key: '-----BEGIN PRIVATE KEY----- of NAME'
  ca.crt: '-----BEGIN CERTIFICATE----- authority'
---
";

fn secret(namespace: &str, name: &str) -> String {
    SECRET.replace("NAMESPACE", namespace).replace("NAME", name)
}

const GATEWAY: &str = "  selector: {istio: edge}
  servers:
    - port: {number: 8443, name: a, protocol: HTTPS}
      hosts: [a.example.org]
      tls: {mode: SIMPLE, credentialName: one}
    - port: {number: 8443, name: b, protocol: HTTPS}
      hosts: ['*.example.org']
      tls: {mode: MUTUAL, credentialName: two, subjectAltNames: [x]}
    - port: {number: 8443, name: c, protocol: HTTPS}
      hosts: ['*']
      tls: {mode: ISTIO_MUTUAL}
    - port: {number: 8443, name: d, protocol: TLS}
      hosts: ['p.example.org']
      tls: {mode: PASSTHROUGH}
    - port: {number: 8080, name: e, protocol: HTTP}
      hosts: [a.example.org, 'default/b.example.org']
      tls: {httpsRedirect: true}";

fn edge() -> String {
    let routes = "  hosts: [a.example.org, b.example.org, c.test]
  gateways: [edge]
  http: [{route: [{destination: {host: reviews}}]}]";
    [
        secret("default", "one"),
        secret("default", "two"),
        secret("default", "two-cacert"),
        secret("default", "another"),
        secret("other", "one"),
        document("Gateway", "edge", GATEWAY),
        "---\n".to_owned(),
        document("VirtualService", "v", routes),
    ]
    .concat()
}

fn hosts(config: &ProxyConfig, table: &RouteTableName) -> Vec<String> {
    let table = config.routes.get(table).expect("a table");
    let hosts = table.virtual_hosts.values();
    hosts.filter_map(|h| h.domains.first().cloned()).collect()
}

fn public(mode: &ServerTlsMode) -> &PublicTls {
    match mode {
        ServerTlsMode::Public(public) => public,
        ServerTlsMode::Mesh => panic!("a certificate of its own was expected"),
    }
}

#[test]
fn each_tls_server_has_its_certificate_and_its_hosts() {
    let config = config(&edge(), "edge-0");
    let outbound = &config.workload.outbound;
    let tls = outbound.iter().find(|l| l.bind.port() == 8443).unwrap();
    let [one, two, mesh] = tls.tls.as_slice() else {
        panic!("three servers were expected: {:?}", tls.tls);
    };
    assert_eq!(hosts(&config, &one.routes), ["a.example.org"]);
    assert_eq!(
        hosts(&config, &two.routes),
        ["a.example.org", "b.example.org"]
    );
    assert_eq!(
        hosts(&config, &mesh.routes),
        ["a.example.org", "b.example.org", "c.test"]
    );
    assert_eq!(mesh.mode, ServerTlsMode::Mesh);
    let name = |n: &str| SecretName(n.to_owned());
    assert_eq!(
        public(&one.mode).certificates,
        [CertificateSource::Secret(name("default/one"))]
    );
    assert_eq!(public(&one.mode).client, None);
    let client = public(&two.mode).client.as_ref().unwrap();
    assert!(client.required);
    let authorities = vec![name("default/two-cacert"), name("default/two")];
    assert_eq!(client.authorities, AuthoritySource::Secrets(authorities));

    let plain = outbound.iter().find(|l| l.bind.port() == 8080).unwrap();
    assert_eq!(plain.https_redirect, ["a.example.org", "b.example.org"]);
}

#[test]
fn a_key_goes_to_the_gateway_that_serves_by_it_and_to_nobody_else() {
    let named = |instance: &str| {
        let config = config(&edge(), instance);
        let names: Vec<_> = config.secrets.keys().map(ToString::to_string).collect();
        let shown = serde_json::to_string(&config.shown()).unwrap();
        assert!(!shown.contains("PRIVATE KEY"), "{instance}");
        names
    };
    assert_eq!(
        named("edge-0"),
        ["default/one", "default/two", "default/two-cacert"]
    );
    assert_eq!(named("page-0"), Vec::<String>::new());
    assert_eq!(named("reviews-v1-0"), Vec::<String>::new());
}

/// A rule of one namespace, and gateways of two: each calls by its own namespace's secret, as in Istio.
#[test]
fn a_rule_names_the_secret_of_the_gateways_own_namespace() {
    let gateways = "apiVersion: reeve.dev/v1alpha1
kind: LocalMesh
metadata: {name: gateways}
spec:
  workloads:
    - {name: out, role: gateway, labels: {app: out}}
    - {name: far-out, namespace: other, role: gateway, labels: {app: out}}
---
";
    let entry = "  hosts: [ext.example]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: DNS";
    let rule = "  host: ext.example\n  trafficPolicy: {tls: {mode: MUTUAL, credentialName: one}}";
    let all = [
        gateways.to_owned(),
        secret("default", "one"),
        secret("other", "one"),
        document("ServiceEntry", "ext", entry),
        "---\n".to_owned(),
        document("DestinationRule", "ext", rule),
    ]
    .concat();
    let secrets = |instance: &str| {
        let config = config(&all, instance);
        let names: Vec<_> = config.secrets.keys().map(ToString::to_string).collect();
        names.join(" ")
    };
    assert_eq!(secrets("out-0"), "default/one");
    assert_eq!(secrets("far-out-0.other"), "other/one");
    assert_eq!(secrets("page-0"), "", "a sidecar is given none");
}

#[test]
fn a_server_listens_at_the_address_it_says() {
    let servers = "  selector: {istio: edge}
  servers:
    - {port: {number: 8080, name: a, protocol: HTTP}, bind: 127.9.9.9, hosts: [a.example.org]}
    - {port: {number: 8080, name: b, protocol: TCP}, hosts: ['*']}";
    let config = config(&document("Gateway", "edge", servers), "edge-0");
    let shown: Vec<_> = config
        .workload
        .outbound
        .iter()
        .map(|l| (l.bind.ip().to_string(), l.protocol, l.routes.0.as_str()))
        .collect();
    let [(own, Protocol::Tcp, _), bound] = shown.as_slice() else {
        panic!("{shown:?}")
    };
    assert_ne!(own, "127.9.9.9");
    assert_eq!(
        *bound,
        (
            "127.9.9.9".to_owned(),
            Protocol::Http,
            "gateway/edge:127.9.9.9:8080"
        )
    );
}

#[test]
fn auto_passthrough_has_a_name_for_each_port_and_subset_of_the_mesh() {
    let rule = "  host: reviews\n  subsets: [{name: v1, labels: {version: v1}}]";
    let of = |hosts: &str| {
        let server = format!(
            "  selector: {{istio: edge}}\n  servers: [{{port: {{number: 15443, name: tls, protocol: TLS}}, tls: {{mode: AUTO_PASSTHROUGH}}, hosts: [{hosts}]}}]"
        );
        let entry = "  hosts: [ext.local]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: DNS";
        let all = [
            document("Gateway", "edge", &server),
            "---\n".to_owned(),
            document("ServiceEntry", "ext", entry),
            "---\n".to_owned(),
            document("DestinationRule", "r", rule),
        ];
        let config = config(&all.concat(), "edge-0");
        let [listener] = config.workload.outbound.as_slice() else {
            panic!("{:?}", config.workload.outbound)
        };
        assert!(listener.sni.iter().all(|route| route.to_mesh));
        let names: Vec<_> = listener
            .sni
            .iter()
            .map(|route| route.hosts.join(" "))
            .collect();
        names
            .into_iter()
            .filter(|name| name.contains("reviews"))
            .collect::<Vec<_>>()
    };
    let all = of("'*.local'");
    for subset in ["v1", ""] {
        let name = format!("outbound_.80_.{subset}_.reviews.default.svc.cluster.local");
        assert!(all.contains(&name), "{all:?}");
    }
    assert!(!all.iter().any(|name| name.contains("ext.local")));
    assert_eq!(
        of("other/*.local"),
        Vec::<String>::new(),
        "another namespace's"
    );
    assert_eq!(of("'*.example'"), Vec::<String>::new());
}
