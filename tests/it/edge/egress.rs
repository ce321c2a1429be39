//! Egress: an external HTTPS server (OpenSSL's) that the mesh knows by a `ServiceEntry` and finds by DNS; TLS begun by the
//! sidecar and by an egress gateway, or passed through; every call decided and recorded.

use std::{fs, net::SocketAddr, time::Duration};

use reeve_tests::{
    Call, Folder, Mesh, TlsClient, eventually, local_mesh, permit, service, sidecar, strict,
};
use serde_json::{Value, json};

use super::{
    authority::Authority,
    names::NameServer,
    openssl::{OpenSsl, free_address},
};
use crate::fixture::{gateway_workload, istio, settings};

const HOST: &str = "ext.shop.example";
const PLAIN: u16 = 8080;
const TLS: u16 = 8443;
const LIMIT: Duration = Duration::from_secs(10);
const CLIENT: &str = "spiffe://mesh.local/ns/default/sa/client";
const EGRESS: &str = "spiffe://mesh.local/ns/default/sa/egress";

const ACCESS: &str = r#"
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client", action,
  resource in Service::"ext.shop.example"
);
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/egress", action,
  resource in Service::"ext.shop.example"
);
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client", action,
  resource == Workload::"spiffe://mesh.local/ns/default/sa/egress"
);"#;

fn entry(port: u16) -> String {
    istio(
        "ServiceEntry",
        "ext",
        &json!({
            "hosts": [HOST], "location": "MESH_EXTERNAL", "resolution": "DNS",
            "ports": [
                {"number": PLAIN, "name": "http", "protocol": "HTTP", "targetPort": port},
                {"number": TLS, "name": "tls", "protocol": "TLS", "targetPort": port},
            ],
        }),
    )
}

fn begin_tls(tls: Value) -> String {
    istio(
        "DestinationRule",
        "ext",
        &json!({
            "host": HOST, "trafficPolicy": {"tls": tls},
        }),
    )
}

fn folder(names: &NameServer, port: u16) -> Folder {
    let egress = gateway_workload("egress");
    Folder::new()
        .with(
            "mesh.yaml",
            settings(json!({
                "dns": {"nameServers": [names.address.to_string()]},
                "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
            })),
        )
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&[sidecar("client"), egress]))
        .with("egress.yaml", service("egress", PLAIN, "http"))
        .with("entry.yaml", entry(port))
        .with("access.yaml", permit("egress", ACCESS))
}

fn certificates() -> (String, Authority) {
    let path = std::env::temp_dir().join(format!("reeve-egress-{}", std::process::id()));
    fs::create_dir_all(&path).expect("a folder");
    let folder = path.to_str().expect("a path in UTF-8").to_owned();
    let authority = Authority::new("outside");
    let server = authority.issue(&[HOST, "other.shop.example"]);
    let client = authority.issue(&["mesh.example"]);
    for (name, text) in [
        ("ca.crt", authority.pem()),
        ("server.crt", server.chain),
        ("server.key", server.key),
        ("client.crt", client.chain),
        ("client.key", client.key),
        ("other.crt", Authority::new("others").pem()),
    ] {
        fs::write(format!("{folder}/{name}"), text).expect("a file");
    }
    (folder, authority)
}

fn call() -> Call {
    Call::get(&format!("{HOST}:{PLAIN}"), "/")
}

/// Waits for an answer with this status.
async fn answers(to: SocketAddr, status: u16) -> String {
    eventually("the external server answers", LIMIT, async || {
        let answer = call()
            .send(to)
            .await
            .map_err(|error| format!("{error:#}"))?;
        match answer.status.as_u16() == status {
            true => Ok(answer.text()),
            false => Err(format!("{} {}", answer.status, answer.text())),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_service_is_reached_by_tls_that_the_mesh_begins_or_passes_on() {
    let (files, authority) = certificates();
    let names = NameServer::start().await;
    names.tell(HOST, &[[127, 0, 0, 1]]);
    let at = free_address().await;
    let (server, port) = (OpenSsl::start(&files, at, &["-www"]).await, at.port());
    let mut mesh = Mesh::start(folder(&names, port)).await;
    let to = mesh.outbound_to("client-0", HOST, PLAIN);

    passed_through(&mesh, &authority).await;
    begun_by_the_sidecar(&mesh, to, &files).await;
    begun_by_the_egress_gateway(&mesh, to, &files, &authority).await;
    drop(server);
    found_by_dns(&mesh, to, &files, &names, port).await;
    mesh.verify_audit().await;
    mesh.stop().await;
    fs::remove_dir_all(files).expect("cleaned up");
}

/// The application's own TLS.
async fn passed_through(mesh: &Mesh, authority: &Authority) {
    let to = mesh.outbound_to("client-0", HOST, TLS);
    let client = TlsClient::trusting(&authority.pem()).offering(&[]);
    let mut open = client
        .open(to, HOST)
        .await
        .expect("a handshake with openssl");
    let answer = open.send(&Call::get(HOST, "/")).await.expect("an answer");
    assert!(answer.text().contains("s_server"), "{}", answer.text());
    let decided = mesh.record(
        "the sidecar decided on a connection to the outside",
        |record| {
            record["request"]["action"] == "connect" && record["decision"]["effect"] == "allow"
        },
    );
    let decided = decided.await;
    assert_eq!(
        decided["request"]["resource"]["services"],
        json!([HOST]),
        "{decided}"
    );
}

async fn begun_by_the_sidecar(mesh: &Mesh, to: SocketAddr, files: &str) {
    let ca = format!("{files}/ca.crt");
    mesh.apply(
        "rule.yaml",
        begin_tls(json!({"mode": "SIMPLE", "caCertificates": ca})),
    )
    .await;
    let page = answers(to, 200).await;
    assert!(page.contains("TLSv1.3"), "{page}");
    assert!(page.contains("no client certificate available"), "{page}");
    let decided = mesh.record(
        "the sidecar decided on a request to the outside",
        |record| {
            record["request"]["action"] == "GET"
                && record["request"]["resource"]["services"] == json!([HOST])
        },
    );
    let decided = decided.await;
    assert!(
        decided["request"]["principal"].to_string().contains(CLIENT),
        "{decided}"
    );

    let (cert, key) = (format!("{files}/client.crt"), format!("{files}/client.key"));
    let mutual = json!({
        "mode": "MUTUAL", "caCertificates": ca, "clientCertificate": cert, "privateKey": key,
    });
    mesh.apply("rule.yaml", begin_tls(mutual)).await;
    answers(to, 200).await;

    // A server that cannot prove who it is gets nothing.
    for tls in [
        json!({"mode": "SIMPLE", "caCertificates": format!("{files}/other.crt")}),
        json!({"mode": "SIMPLE", "caCertificates": ca, "sni": "wrong.shop.example"}),
        json!({"mode": "SIMPLE", "caCertificates": ca, "subjectAltNames": ["wrong.shop.example"]}),
        json!({"mode": "SIMPLE"}),
        json!({"mode": "SIMPLE", "caCertificates": "/nowhere/ca.crt"}),
    ] {
        mesh.apply("rule.yaml", begin_tls(tls.clone())).await;
        let answer = call().send(to).await.expect("an answer");
        assert_eq!(answer.status, 503, "{tls}");
    }
    for tls in [
        json!({"mode": "SIMPLE", "caCertificates": ca, "sni": "other.shop.example"}),
        json!({"mode": "SIMPLE", "caCertificates": ca, "sni": "x.example", "subjectAltNames": [HOST]}),
        json!({"mode": "SIMPLE", "insecureSkipVerify": true, "sni": "wrong.shop.example"}),
    ] {
        mesh.apply("rule.yaml", begin_tls(tls.clone())).await;
        let answer = call().send(to).await.expect("an answer");
        assert_eq!(answer.status, 200, "{tls}");
    }
}

/// As in Istio's task: mesh → egress gateway → outside, where the gateway holds the client's certificate.
async fn begun_by_the_egress_gateway(
    mesh: &Mesh,
    to: SocketAddr,
    files: &str,
    authority: &Authority,
) {
    let gateway = istio(
        "Gateway",
        "egress",
        &json!({
            "selector": {"app": "egress"},
            "servers": [{
                "port": {"number": PLAIN, "name": "http", "protocol": "HTTP"}, "hosts": [HOST],
            }],
        }),
    );
    let to_gateway = json!([{"destination": {"host": "egress", "port": {"number": PLAIN}}}]);
    let to_outside = json!([{"destination": {"host": HOST, "port": {"number": PLAIN}}}]);
    let routes = istio(
        "VirtualService",
        "ext",
        &json!({
            "hosts": [HOST], "gateways": ["mesh", "egress"],
            "http": [
                {"match": [{"gateways": ["mesh"], "port": PLAIN}], "route": to_gateway},
                {"match": [{"gateways": ["egress"], "port": PLAIN}], "route": to_outside},
            ],
        }),
    );
    let text = |name: &str| fs::read_to_string(format!("{files}/{name}")).expect("a file");
    let shown = super::authority::Issued {
        chain: text("client.crt"),
        key: text("client.key"),
    };
    let rule = begin_tls(json!({"mode": "MUTUAL", "credentialName": "client"}));
    mesh.apply("rule.yaml", rule + &shown.secret("client", Some(authority)))
        .await;
    mesh.apply("gateway.yaml", gateway + &routes).await;
    let mut through = call().header("x-request-id", "through-the-gateway");
    through = through.header("x-forwarded-client-cert", "URI=spiffe://forged");
    let answer = through.send(to).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let decided = mesh.decision_on("through-the-gateway", "egress-0").await;
    assert!(decided.to_string().contains(CLIENT), "{decided}");
    let who = mesh.record(
        "the gateway decided on its own call to the outside",
        |record| {
            record["request"]["principal"].to_string().contains(EGRESS)
                && record["request"]["resource"]["services"] == json!([HOST])
        },
    );
    assert_eq!(who.await["decision"]["effect"], "allow");
    mesh.withdraw("gateway.yaml").await;
    let simple = json!({"mode": "SIMPLE", "caCertificates": format!("{files}/ca.crt")});
    mesh.apply("rule.yaml", begin_tls(simple)).await;
}

/// The name's address changes, and then nobody answers for it.
async fn found_by_dns(mesh: &Mesh, to: SocketAddr, files: &str, names: &NameServer, port: u16) {
    assert_eq!(call().send(to).await.expect("an answer").status, 503);
    let moved = OpenSsl::start(files, ([127, 0, 0, 9], port).into(), &["-www"]).await;
    names.tell(HOST, &[[127, 0, 0, 9]]);
    answers(to, 200).await;
    names.fall_silent();
    let asked = names.asked();
    eventually("the silent server is asked again", LIMIT, async || {
        let more = names.asked() > asked + 2;
        more.then_some(()).ok_or_else(|| names.asked().to_string())
    })
    .await;
    answers(to, 200).await;
    eventually("the sidecar says so", LIMIT * 2, async || {
        let log = mesh.log("client-0.sidecar.log");
        let told = log.contains("cannot be looked up");
        told.then_some(()).ok_or("nothing yet".to_owned())
    })
    .await;
    answers(to, 200).await;
    drop(moved);
}
