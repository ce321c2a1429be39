//! HTTP to authorities that stand for no service: passed on under `ALLOW_ANY`, answered 502 under `REGISTRY_ONLY`,
//! recorded either way.

use std::{net::SocketAddr, time::Duration};

use reeve_tests::{
    Answer, Call, Folder, Mesh, eventually, local_mesh, permit, service, sidecar, strict,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::names::NameServer;
use crate::fixture::{CLIENT, settings};

const NAME: &str = "www.shop.example";
const LIMIT: Duration = Duration::from_secs(10);

fn config(names: &NameServer, mode: &str) -> String {
    settings(json!({
        "dns": {"nameServers": [names.address.to_string()]},
        "outboundTrafficPolicy": {"mode": mode},
    }))
}

fn folder(names: &NameServer) -> Folder {
    let mut server = sidecar("server");
    server["ports"] = json!([{"port": 9080, "name": "http"}]);
    Folder::new()
        .with("mesh.yaml", config(names, "ALLOW_ANY"))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&[sidecar("client"), server]))
        .with("server.yaml", service("server", 9080, "http"))
}

/// Answers each request with its own head, and closes.
async fn outside() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let length = head.len();
                let front = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                );
                stream.write_all(front.as_bytes()).await.unwrap_or_default();
                stream.write_all(&head).await.unwrap_or_default();
            });
        }
    });
    at
}

async fn ask(mesh: &Mesh, authority: &str, id: &str) -> Answer {
    let call = Call::get(authority, "/a?b=c").header("x-request-id", id);
    let call = call.header("x-forwarded-client-cert", "URI=spiffe://forged");
    call.send(mesh.inbound("client-0", 15001))
        .await
        .expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_authority_is_passed_on_or_refused_and_recorded() {
    let names = NameServer::start().await;
    names.tell(NAME, &[[127, 0, 0, 1]]);
    names.tell("a.wild.example", &[[127, 0, 0, 1]]);
    let outside = outside().await;
    let mut mesh = Mesh::start(folder(&names)).await;
    let authority = format!("{NAME}:{}", outside.port());

    let answer = ask(&mesh, &authority, "by-name").await;
    let seen = answer.text();
    assert_eq!(answer.status, 200, "{seen}");
    assert!(seen.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains(&format!("host: {authority}\r\n")), "{seen}");
    assert!(
        !seen.contains("forged") && !seen.contains("x-reeve"),
        "{seen}"
    );
    let decided = mesh.decision_on("by-name", "client-0").await;
    assert_eq!(decided["decision"]["effect"], "allow", "{decided}");
    assert!(
        decided["request"]["principal"].to_string().contains(CLIENT),
        "{decided}"
    );
    assert_eq!(
        decided["request"]["resource"]["address"],
        outside.to_string()
    );
    assert_eq!(decided["request"]["context"]["http"]["host"], NAME);

    let answer = ask(&mesh, &outside.to_string(), "by-address").await;
    assert_eq!(answer.status, 200);
    let answer = ask(&mesh, "nobody.shop.example", "no-such-name").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    is_of_the_mesh(&mesh).await;

    mesh.apply("mesh.yaml", config(&names, "REGISTRY_ONLY"))
        .await;
    let answer = ask(&mesh, &authority, "blocked").await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    is_refused(&mesh, "blocked").await;
    explained(&mesh).await;
    a_wildcard_entry_opens_the_names_under_it(&mesh, &names, outside.port()).await;
    mesh.verify_audit().await;
    mesh.stop().await;
}

/// Workloads are called by their services; the proxy does not call itself.
async fn is_of_the_mesh(mesh: &Mesh) {
    let workload = mesh.inbound("server-0", 9080).to_string();
    let itself = mesh.inbound("client-0", 15001).to_string();
    let disguised = format!("[::ffff:{}]:15001", mesh.inbound("client-0", 15001).ip());
    let nowhere = "0.0.0.0:15001".to_owned();
    for (authority, id) in [
        (workload, "a-workload"),
        (itself, "a-loop"),
        (disguised, "a-loop-in-ipv6"),
        (nowhere, "this-machine"),
    ] {
        let answer = ask(mesh, &authority, id).await;
        assert_eq!(answer.status, 502, "{authority}: {}", answer.text());
        is_refused(mesh, id).await;
    }
}

/// It is found by the host that is called, and closed until a policy opens it.
async fn a_wildcard_entry_opens_the_names_under_it(mesh: &Mesh, names: &NameServer, port: u16) {
    let entry = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "wild", "namespace": "default"},
        "spec": {
            "hosts": ["*.wild.example"], "resolution": "DYNAMIC_DNS",
            "ports": [{"number": port, "name": "http", "protocol": "HTTP"}],
        },
    });
    mesh.apply("wild.yaml", entry.to_string()).await;
    let authority = format!("a.wild.example:{port}");
    let answer = ask(mesh, &authority, "not-permitted").await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    let cedar = r#"permit (
      principal == Workload::"spiffe://mesh.local/ns/default/sa/client", action == Action::"GET",
      resource in Service::"wild.default.entry"
    );"#;
    mesh.apply("access.yaml", permit("wild", cedar)).await;
    let answer = ask(mesh, &authority, "wild").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains(&format!("host: {authority}\r\n")));
    let decided = mesh.decision_on("wild", "client-0").await;
    let resource = &decided["request"]["resource"];
    assert_eq!(
        resource["services"],
        json!(["wild.default.entry"]),
        "{decided}"
    );
    assert_eq!(
        resource["address"],
        format!("127.0.0.1:{port}"),
        "{decided}"
    );
    let answer = ask(mesh, &format!("wild.example:{port}"), "not-under-it").await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    // Who owns a name under it could lead to where a cloud tells machines their credentials.
    names.tell("c.wild.example", &[[169, 254, 169, 254]]);
    let answer = ask(mesh, &format!("c.wild.example:{port}"), "metadata").await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    is_refused(mesh, "metadata").await;
    let nobody = ask(mesh, &format!("b.wild.example:{port}"), "no-address").await;
    assert_eq!(nobody.status, 503, "{}", nobody.text());
}

async fn is_refused(mesh: &Mesh, id: &str) {
    let decided: Value = mesh.decision_on(id, "client-0").await;
    let decision = &decided["decision"];
    assert_eq!(
        (&decision["effect"], &decision["reason"]),
        (&json!("deny"), &json!("not_in_registry")),
        "{decided}"
    );
}

async fn explained(mesh: &Mesh) {
    let folder = mesh.folder.path().display().to_string();
    let args = [
        "route",
        "explain",
        "-f",
        &folder,
        "--instance",
        "client-0",
        "--port",
        "15001",
        "--authority",
        NAME,
    ];
    eventually("the refusal is explained", LIMIT, async || {
        let said = mesh.reeve(&args).await.text();
        let all = said.contains("block_all") && said.contains("502");
        all.then_some(()).ok_or(said)
    })
    .await;
}
