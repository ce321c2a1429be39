//! Ingress with TLS: certificates from secrets and files, told apart by server name, reloaded under open connections;
//! clients that must show one; JWT at the edge; plaintext sent to https.

use std::{fs, net::SocketAddr, time::Duration};

use reeve_tests::{
    Call, Folder, Mesh, Signer, TlsClient, Token, echo, eventually, local_mesh, permit, service,
    strict,
};
use serde_json::{Value, json};

use super::authority::Authority;
use crate::fixture::{gateway_workload, settings};

const HTTPS: u16 = 8443;
const HTTP: u16 = 8080;
const LIMIT: Duration = Duration::from_secs(10);
type Versions = &'static [&'static rustls::SupportedProtocolVersion];
const TLS12: Versions = &[&rustls::version::TLS12];
const TLS13: Versions = &[&rustls::version::TLS13];
const ISSUER: &str = "https://issuer.example";

/// Everybody may come to the gateway; to `/admin` only alice. The gateway may call `echo`.
const ACCESS: &str = r#"
permit (principal, action in Action::"http", resource == Workload::"spiffe://mesh.local/ns/default/sa/edge")
unless { context.path like "/admin*" };
permit (principal, action in Action::"http", resource == Workload::"spiffe://mesh.local/ns/default/sa/edge")
when { context has user && context.user.subject == "alice" };
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/edge", action,
  resource in Service::"echo.default.svc.cluster.local"
);"#;

fn server(port: u16, protocol: &str, hosts: &[&str], tls: Value) -> Value {
    json!({
        "port": {"number": port, "name": format!("p{port}"), "protocol": protocol},
        "hosts": hosts, "tls": tls,
    })
}

fn folder(servers: &[Value], jwks: &Value) -> Folder {
    let edge = gateway_workload("edge");
    let gateway = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"selector": {"app": "edge"}, "servers": servers},
    });
    let routes = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {
            "hosts": ["a.shop.example", "b.shop.example", "files.shop.example"], "gateways": ["edge"],
            "http": [{
                "match": [{"scheme": {"exact": "https"}}],
                "route": [{"destination": {"host": "echo"}}],
            }],
        },
    });
    let tokens = json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "edge"}},
            "jwtRules": [{"issuer": ISSUER, "jwks": jwks.to_string()}],
        },
    });
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with(
            "workloads.yaml",
            local_mesh(&[edge, echo("echo-v1", "echo", "v1")]),
        )
        .with("services.yaml", service("echo", 9080, "http"))
        .with("gateway.yaml", gateway.to_string())
        .with("routes.yaml", routes.to_string())
        .with("tokens.yaml", tokens.to_string())
        .with("access.yaml", permit("edge", ACCESS))
}

async fn status(
    client: &TlsClient,
    to: SocketAddr,
    name: &str,
    call: &Call,
) -> Result<u16, String> {
    let text = |error: anyhow::Error| format!("{error:#}");
    let mut open = client.open(to, name).await.map_err(text)?;
    let answer = open.send(call).await.map_err(text)?;
    Ok(answer.status.as_u16())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ingress_ends_tls_by_server_name_and_takes_up_new_certificates_under_open_connections() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let signer = Signer::new("key-1");
    let files = tempfile();
    let (chain, key) = (format!("{files}/tls.crt"), format!("{files}/tls.key"));
    let first = ours.issue(&["files.shop.example"]);
    fs::write(&chain, &first.chain).expect("a file");
    fs::write(&key, &first.key).expect("a file");
    let servers = [
        server(
            HTTPS,
            "HTTPS",
            &["a.shop.example"],
            json!({"mode": "SIMPLE", "credentialName": "a"}),
        ),
        server(
            HTTPS,
            "HTTPS",
            &["b.shop.example"],
            json!({
                "mode": "MUTUAL", "credentialName": "b", "minProtocolVersion": "TLSV1_3",
                "subjectAltNames": ["spiffe://partner.example/alice"],
            }),
        ),
        server(
            HTTPS,
            "HTTPS",
            &["files.shop.example"],
            json!({
                "mode": "SIMPLE", "serverCertificate": chain, "privateKey": key,
            }),
        ),
        server(
            HTTP,
            "HTTP",
            &["a.shop.example"],
            json!({"httpsRedirect": true}),
        ),
    ];
    let folder = folder(&servers, &signer.jwks())
        .with("a.yaml", ours.issue(&["a.shop.example"]).secret("a", None))
        .with(
            "b.yaml",
            ours.issue(&["b.shop.example"]).secret("b", Some(&ours)),
        );
    let mut mesh = Mesh::start(folder).await;
    let to = mesh.inbound("edge-0", HTTPS);
    let client = TlsClient::trusting(&ours.pem());

    by_server_name(&mesh, &client, to).await;
    clients_show_certificates(&client, to, &ours, &theirs).await;
    tokens_at_the_edge(&client, to, &signer).await;
    plaintext_is_sent_to_https(&mesh).await;
    certificates_are_taken_up(&mesh, &ours, &theirs, to, &chain, &key).await;
    keys_stay_where_they_are(&mesh, &first.key).await;
    mesh.verify_audit().await;
    mesh.stop().await;
    fs::remove_dir_all(files).expect("cleaned up");
}

fn tempfile() -> String {
    let path = std::env::temp_dir().join(format!("reeve-edge-{}", std::process::id()));
    fs::create_dir_all(&path).expect("a folder");
    path.to_str().expect("a path in UTF-8").to_owned()
}

async fn by_server_name(mesh: &Mesh, client: &TlsClient, to: SocketAddr) {
    let at_a = |path: &str| Call::get("a.shop.example", path);
    for (alpn, versions) in [
        (&["h2", "http/1.1"][..], rustls::ALL_VERSIONS),
        (&["http/1.1"], rustls::ALL_VERSIONS),
        (&["http/1.1"], TLS12),
        (&[], TLS13),
    ] {
        let client = client.clone().offering(alpn).speaking(versions);
        let answer = status(&client, to, "a.shop.example", &at_a("/")).await;
        assert_eq!(answer, Ok(200), "{alpn:?} {versions:?}");
    }
    // The server is told by the name in the ClientHello, and serves no other's hosts.
    let elsewhere = Call::get("b.shop.example", "/");
    assert_eq!(
        status(client, to, "a.shop.example", &elsewhere).await,
        Ok(404)
    );
    assert!(client.connect(to, "c.shop.example").await.is_err());
    assert!(client.connect(to, "shop.example").await.is_err());
    // Plaintext on the port of TLS, and TLS on the port of plaintext.
    assert!(at_a("/").send(to).await.is_err());
    let plain = mesh.inbound("edge-0", HTTP);
    assert!(client.connect(plain, "a.shop.example").await.is_err());
}

async fn clients_show_certificates(
    client: &TlsClient,
    to: SocketAddr,
    ours: &Authority,
    theirs: &Authority,
) {
    let call = Call::get("b.shop.example", "/");
    let alice = ours.issue(&["alice.example", "spiffe://partner.example/alice"]);
    let bob = ours.issue(&["bob.example", "spiffe://partner.example/bob"]);
    let forged = theirs.issue(&["alice.example", "spiffe://partner.example/alice"]);
    let showing =
        |issued: &super::authority::Issued| client.clone().showing(&issued.chain, &issued.key);
    let name = "b.shop.example";
    assert_eq!(status(&showing(&alice), to, name, &call).await, Ok(200));
    for (who, turned_away) in [
        ("bob", showing(&bob)),
        ("forged", showing(&forged)),
        ("nobody", client.clone()),
    ] {
        let answer = status(&turned_away, to, name, &call).await;
        assert!(answer.is_err(), "{who} was let in: {answer:?}");
    }
    let old = showing(&alice).speaking(TLS12);
    assert!(old.connect(to, name).await.is_err(), "TLS 1.2 was spoken");
}

async fn tokens_at_the_edge(client: &TlsClient, to: SocketAddr, signer: &Signer) {
    let token = |who: &str, valid_s| signer.sign(&Token::new(ISSUER, who, "shop", valid_s));
    let call = |bearer: Option<String>| {
        let call = Call::get("a.shop.example", "/admin");
        match bearer {
            Some(token) => call.header("authorization", &format!("Bearer {token}")),
            None => call,
        }
    };
    for (bearer, expected) in [
        (Some(token("alice", 600)), 200),
        (Some(token("bob", 600)), 403),
        (Some(token("alice", -600)), 401),
        (None, 403),
    ] {
        let answer = status(client, to, "a.shop.example", &call(bearer)).await;
        assert_eq!(answer, Ok(expected));
    }
}

async fn plaintext_is_sent_to_https(mesh: &Mesh) {
    let to = mesh.inbound("edge-0", HTTP);
    let answer = Call::get("a.shop.example", "/books?page=2").send(to).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 301);
    assert_eq!(
        answer.header("location"),
        Some("https://a.shop.example/books?page=2")
    );
    let other = Call::get("x.shop.example", "/")
        .send(to)
        .await
        .expect("an answer");
    assert_eq!(other.status, 404);
}

async fn certificates_are_taken_up(
    mesh: &Mesh,
    ours: &Authority,
    theirs: &Authority,
    to: SocketAddr,
    chain: &str,
    key: &str,
) {
    let (before, after) = (
        TlsClient::trusting(&ours.pem()),
        TlsClient::trusting(&theirs.pem()),
    );
    let h2 = before.clone().offering(&["h2"]);
    let mut kept = h2.open(to, "a.shop.example").await.expect("a connection");
    let mut kept_1 = before
        .open(to, "files.shop.example")
        .await
        .expect("a connection");
    let call = Call::get("a.shop.example", "/");
    let of_files = Call::get("files.shop.example", "/");
    assert_eq!(kept.send(&call).await.expect("an answer").status, 200);
    assert_eq!(kept_1.send(&of_files).await.expect("an answer").status, 200);
    assert!(after.connect(to, "a.shop.example").await.is_err());

    mesh.apply(
        "a.yaml",
        theirs.issue(&["a.shop.example"]).secret("a", None),
    )
    .await;
    let renewed = theirs.issue(&["files.shop.example"]);
    fs::write(key, &renewed.key).expect("a file");
    fs::write(chain, &renewed.chain).expect("a file");
    for name in ["a.shop.example", "files.shop.example"] {
        eventually("the new certificate is shown", LIMIT, async || {
            let shown = after.connect(to, name).await;
            shown.map(drop).map_err(|error| error.to_string())
        })
        .await;
        assert!(before.connect(to, name).await.is_err(), "{name}");
    }
    // Those that were open have noticed nothing.
    for _ in 0..3 {
        assert_eq!(
            kept.send(&call).await.expect("the same connection").status,
            200
        );
        assert_eq!(
            kept_1
                .send(&of_files)
                .await
                .expect("the same connection")
                .status,
            200
        );
    }
    mesh.withdraw("a.yaml").await;
    assert!(after.connect(to, "a.shop.example").await.is_err());
    assert!(after.connect(to, "files.shop.example").await.is_ok());
}

/// No private key is in a dump, in `proxy-config`, in a log, or with a sidecar that does not serve by it.
async fn keys_stay_where_they_are(mesh: &Mesh, key: &str) {
    let secret = mesh.folder.read("b.yaml");
    let line = |pem: &str| pem.lines().nth(1).unwrap_or_default().to_owned();
    let inner: Value = serde_json::from_str(secret.trim_start_matches("---\n")).expect("JSON");
    let of_secret = line(inner["stringData"]["tls.key"].as_str().expect("a key"));
    for wanted in [line(key), of_secret] {
        assert!(wanted.len() > 40, "{wanted}");
        for instance in ["edge-0", "echo-v1-0"] {
            let told = mesh
                .reeve_ok(&["proxy-config", "all", instance, "-o", "json"])
                .await;
            assert!(!told.stdout.contains(&wanted), "{instance} tells its key");
            let log = mesh.log(&format!("{instance}.sidecar.log"));
            assert!(!log.contains(&wanted), "{instance} logs its key");
        }
        for name in ["mesh.log", "supervisor.log"] {
            assert!(!mesh.log(name).contains(&wanted), "{name} has a key");
        }
    }
}
