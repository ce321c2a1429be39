//! Reading the trail over the mesh's TLS port: policies say who sees whose records and which values in them, and each reading
//! is on record, the operator's own from the command line too.

use std::{fs, time::Duration};

use bytes::Bytes;
use http::Request;
use reeve_tests::{
    Folder, Mesh, MeshTls, Signer, Token, echo, eventually, local_mesh, permit, service, sidecar,
    strict,
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{
    fixture::{CLIENT_TO_ECHO, get, settings, to_echo},
    interop::{result_of, script},
};

const LIMIT: Duration = Duration::from_secs(60);
const HOLDER: &str = "spiffe://mesh.local/ns/default/sa/holder";

fn may_read(paths: &[&str]) -> String {
    let paths: Vec<_> = paths
        .iter()
        .map(|path| format!("context.path == \"{path}\""))
        .collect();
    let cedar = format!(
        "permit (principal == Workload::\"{HOLDER}\", action == Action::\"GET\", resource == \
         Workload::\"spiffe://mesh.local/ns/reeve-system/sa/control\") when {{ {} }};",
        paths.join(" || ")
    );
    let object = json!({
        "apiVersion": "reeve.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"name": "auditors", "namespace": "reeve-system"}, "spec": {"cedar": cedar},
    });
    format!("{object:#}\n")
}

/// The status and the body of a reading by mTLS.
async fn read(mesh: &Mesh, tls: &MeshTls, query: &str) -> Result<(u16, String), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(mesh.grpc())
        .await
        .map_err(|e| text(&e))?;
    let stream = tls
        .connect(stream, b"h2")
        .await
        .map_err(|e| format!("{e:#}"))?;
    let (sender, connection) = h2::client::handshake(stream).await.map_err(|e| text(&e))?;
    let connection = tokio::spawn(connection);
    let mut sender = sender.ready().await.map_err(|e| text(&e))?;
    let uri = format!("http://audit/audit/records?{query}");
    let request = Request::get(uri).body(()).map_err(|e| text(&e))?;
    let (answer, _) = sender.send_request(request, true).map_err(|e| text(&e))?;
    let answer = answer.await.map_err(|e| text(&e))?;
    let status = answer.status().as_u16();
    let mut body = answer.into_body();
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        let part: Bytes = part.map_err(|e| text(&e))?;
        all.extend_from_slice(&part);
        let _kept = body.flow_control().release_capacity(part.len());
    }
    connection.abort();
    Ok((status, String::from_utf8(all).map_err(|e| text(&e))?))
}

fn lines(body: &str) -> Vec<Value> {
    body.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

async fn a_reading(mesh: &Mesh, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
    mesh.record(what, |record| {
        record["event"] == "log_read" && matches(record)
    })
    .await
}

/// The mesh, and who may read the shop's records at first.
async fn start() -> (Mesh, MeshTls) {
    let result = std::env::temp_dir().join(format!("rv-{}-reader-svid.json", std::process::id()));
    drop(fs::remove_file(&result));
    let workloads = [
        sidecar("client"),
        echo("echo-v1", "echo", "v1"),
        script("holder", "hold_svid.py", &result),
    ];
    let folder = Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("hold_svid.py", include_str!("peers/hold_svid.py"))
        .with("workloads.yaml", local_mesh(&workloads))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO))
        .with("auditors.yaml", may_read(&["/audit/records/shop"]));
    let mesh = Mesh::start(folder).await;
    let reader = MeshTls::from_json(&result_of(&result).await);
    (mesh, reader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_say_who_reads_whose_records_and_every_reading_is_on_record() {
    let (mesh, reader) = start().await;
    let call = get("/").header("x-request-id", "seen");
    assert_eq!(call.status(to_echo(&mesh)).await, Ok(200));
    mesh.decision_on("seen", "echo-v1-0").await;

    // Who proves nothing, and who may read another namespace only.
    let nobody = read(&mesh, &MeshTls::nobody(), "kind=decision").await;
    assert!(!matches!(nobody, Ok((200, _))), "{nobody:?}");
    let other = read(&mesh, &reader, "kind=decision").await;
    assert_eq!(other.map(|(status, _)| status), Ok(403));
    let denied = a_reading(&mesh, "a refused reading", |r| {
        r["detail"]["outcome"] == "denied"
    })
    .await;
    assert_eq!(denied["subject"], HOLDER, "{denied}");

    // The records of its namespace, without values, and none of the mesh's own.
    mesh.apply("auditors.yaml", may_read(&["/audit/records/default"]))
        .await;
    let (status, body) = read(&mesh, &reader, "limit=500").await.expect("an answer");
    assert_eq!(status, 200, "{body}");
    let seen = lines(&body);
    let decision = seen.iter().find(|record| record["request_id"] == "seen");
    let decision = decision.unwrap_or_else(|| panic!("no decision in {body}"));
    assert_eq!(
        decision["request"]["principal"]["workload"],
        crate::fixture::CLIENT
    );
    let http = &decision["request"]["context"]["http"];
    assert!(http["headers"].is_null(), "values are withheld: {decision}");
    assert_eq!(decision["request"]["context"]["source_ip"], "0.0.0.0");
    assert!(
        !seen
            .iter()
            .any(|record| record["event"] == "config_applied"),
        "{body}"
    );
    let (status, body) = read(&mesh, &reader, "event=config_applied")
        .await
        .expect("an answer");
    assert_eq!(
        (status, body.as_str()),
        (200, ""),
        "what there is beyond is not told"
    );
    let answered = a_reading(&mesh, "a reading", |r| {
        r["subject"] == HOLDER && r["detail"]["outcome"] == "answered"
    })
    .await;
    assert_eq!(answered["detail"]["filter"], "limit=500", "{answered}");
    assert_eq!(answered["detail"]["namespaces"], "default", "{answered}");
    assert_eq!(
        answered["detail"]["shown"],
        seen.len().to_string(),
        "{answered}"
    );

    values_are_for_whoever_may_see_them(&mesh, &reader).await;
    the_operators_reading_is_on_record(&mesh).await;
}

async fn values_are_for_whoever_may_see_them(mesh: &Mesh, reader: &MeshTls) {
    let both = may_read(&["/audit/records/default", "/audit/values/default"]);
    mesh.apply("auditors.yaml", both).await;
    let (_, body) = read(mesh, reader, "kind=decision&namespace=default")
        .await
        .expect("an answer");
    let seen = lines(&body);
    let decision = seen.iter().find(|record| record["request_id"] == "seen");
    let decision = decision.unwrap_or_else(|| panic!("no decision in {body}"));
    let http = &decision["request"]["context"]["http"];
    assert_eq!(
        http["headers"]["x-request-id"],
        json!(["seen"]),
        "{decision}"
    );
    let (status, _) = read(mesh, reader, "nonsense=1").await.expect("an answer");
    assert_eq!(status, 400);
}

/// Who reads by right of the machine.
async fn the_operators_reading_is_on_record(mesh: &Mesh) {
    mesh.reeve_ok(&["audit", "query", "--kind", "decision", "--limit", "7"])
        .await;
    let own = a_reading(mesh, "the operator's reading", |r| {
        r["detail"]["filter"]
            .as_str()
            .is_some_and(|f| f.ends_with("--limit 7"))
    })
    .await;
    assert!(
        own["detail"]["uid"].is_string() && own["detail"]["shown"].is_string(),
        "{own}"
    );
    eventually("the log verifies", LIMIT, async || {
        let verified = mesh.reeve(&["audit", "verify"]).await;
        (verified.code == Some(0))
            .then_some(())
            .ok_or_else(|| verified.text())
    })
    .await;
}

const ISSUER: &str = "https://staff.example";

/// People of the auditors' group may read the records of namespace `default`, by a token; the mesh trusts its issuer.
fn people_may_read(signer: &Signer) -> [(&'static str, String); 2] {
    let cedar = format!(
        "permit (principal, action == Action::\"GET\", resource == \
         Workload::\"spiffe://mesh.local/ns/reeve-system/sa/control\") when {{ \
         context.path == \"/audit/records/default\" && context has user && context.user.issuer == \"{ISSUER}\" && \
         context.user.hasTag(\"groups\") && context.user.getTag(\"groups\").contains(\"auditors\") }};"
    );
    let policy = json!({
        "apiVersion": "reeve.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"name": "people", "namespace": "reeve-system"}, "spec": {"cedar": cedar},
    });
    let issuer = json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "staff", "namespace": "reeve-system"},
        "spec": {"jwtRules": [{"issuer": ISSUER, "audiences": ["audit"], "jwks": signer.jwks().to_string()}]},
    });
    [
        ("people.yaml", policy.to_string()),
        ("issuer.yaml", issuer.to_string()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_reads_from_afar_by_a_token_that_is_never_on_record() {
    let (signer, stranger) = (Signer::new("staff"), Signer::new("staff"));
    let mut folder = Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with(
            "workloads.yaml",
            local_mesh(&[sidecar("client"), echo("echo-v1", "echo", "v1")]),
        )
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO));
    for (name, text) in people_may_read(&signer) {
        folder = folder.with(name, text);
    }
    let mesh = Mesh::start(folder).await;
    let call = get("/").header("x-request-id", "seen");
    assert_eq!(call.status(to_echo(&mesh)).await, Ok(200));
    mesh.decision_on("seen", "echo-v1-0").await;

    let (address, bundle) = (mesh.grpc().to_string(), mesh.state.join("bundle.pem"));
    let file = mesh.state.join("token");
    let ask = async |token: String| {
        fs::write(&file, token).expect("a file");
        let (bundle, file) = (bundle.to_string_lossy(), file.to_string_lossy());
        mesh.reeve(&[
            "audit",
            "query",
            "--mesh-address",
            &address,
            "--bundle",
            &bundle,
            "--token-file",
            &file,
            "--kind",
            "decision",
            "-o",
            "json",
        ])
        .await
    };
    let group =
        |group: &str| Token::new(ISSUER, "vera", "audit", 600).claim("groups", json!([group]));
    let read = ask(signer.sign(&group("auditors"))).await;
    assert_eq!(read.code, Some(0), "{}", read.text());
    let seen = lines(&read.stdout);
    let decision = seen.iter().find(|record| record["request_id"] == "seen");
    let decision = decision.unwrap_or_else(|| panic!("no decision in {}", read.text()));
    assert_eq!(decision["request"]["context"]["source_ip"], "0.0.0.0");
    let reading = a_reading(&mesh, "a person's reading", |r| {
        r["detail"]["user"] == "vera"
    })
    .await;
    assert_eq!(reading["detail"]["issuer"], ISSUER, "{reading}");
    assert!(reading["subject"].is_null(), "{reading}");

    // Who is not of the group, whose token another has signed, and who has none that counts.
    let other = ask(signer.sign(&group("staff"))).await;
    assert_eq!(other.code, Some(1), "{}", other.text());
    assert!(
        other.text().contains("no policy permits"),
        "{}",
        other.text()
    );
    let forged = ask(stranger.sign(&group("auditors"))).await;
    assert_eq!(forged.code, Some(1), "{}", forged.text());
    assert!(forged.text().contains("bad_signature"), "{}", forged.text());
    let refused = mesh
        .record("strangers, counted", |record| {
            record["event"] == "log_read" && record["count"].is_u64()
        })
        .await;
    assert_eq!(refused["detail"]["bad_signature"], "1", "{refused}");
}
