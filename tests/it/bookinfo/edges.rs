//! Bookinfo's edges: visitors come by HTTPS and with tokens, and what the shop asks of the outside leaves by one gateway.

use std::{fs, net::SocketAddr};

use reeve_tests::{Call, Folder, Mesh, Signer, TlsClient, Token, permit, service, test_tools};
use serde_json::{Value, json};

use super::INGRESS;
use crate::{
    edge::{
        authority::Authority,
        openssl::{OpenSsl, free_address},
    },
    fixture::{gateway_workload, istio},
};

const HTTPS: u16 = 8443;
const SHOP: &str = "shop.example";
const BOOKS: &str = "books.example";
const ISSUER: &str = "https://login.shop.example";
const EGRESS: &str = "spiffe://mesh.local/ns/default/sa/egress";

/// Who is signed in may look at the page. Everybody may be sent to HTTPS: nothing else is on that port.
const MEMBERS: &str = r#"
@id("sent-to-https")
permit (
  principal, action == Action::"GET",
  resource == Workload::"spiffe://mesh.local/ns/default/sa/ingress"
) when { context.port == 8080 };
@id("members")
permit (
  principal, action == Action::"GET",
  resource == Workload::"spiffe://mesh.local/ns/default/sa/ingress"
) when {
  context.path == "/productpage" && context has user && context.user.issuer == "https://login.shop.example"
};"#;

/// The book service is asked by details, through the egress gateway, and for books alone.
const OUTWARD: &str = r#"
@id("details-to-books")
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/bookinfo-details",
  action == Action::"GET",
  resource == Workload::"spiffe://mesh.local/ns/default/sa/egress"
) when { context.host == "books.example" };
@id("egress-to-books")
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/egress",
  action == Action::"GET",
  resource in Service::"books.example"
) when { context.path like "/books/v1/*" };"#;

/// What the library says of the book, its certificate, and the shop's authority, in a folder.
fn files(authority: &Authority) -> String {
    let path = std::env::temp_dir().join(format!("reeve-books-{}", std::process::id()));
    fs::create_dir_all(path.join("books/v1/volumes")).expect("a folder");
    let folder = path.to_str().expect("a path in UTF-8").to_owned();
    let volume = json!({"volumeInfo": {
        "title": "The Comedy of Errors", "authors": ["William Shakespeare"], "pageCount": 48,
        "publisher": "Courier Corporation", "language": "en", "printType": "BOOK",
        "industryIdentifiers": [
            {"type": "ISBN_10", "identifier": "0486424618"},
            {"type": "ISBN_13", "identifier": "9780486424613"},
        ],
    }});
    let library = authority.issue(&[BOOKS]);
    for (name, text) in [
        ("books/v1/volumes/0486424618", volume.to_string()),
        ("server.crt", library.chain),
        ("server.key", library.key),
        ("ca.crt", authority.pem()),
    ] {
        fs::write(format!("{folder}/{name}"), text).expect("a file");
    }
    folder
}

fn servers() -> Value {
    let hosts = json!([SHOP]);
    json!([
        {
            "port": {"number": HTTPS, "name": "https", "protocol": "HTTPS"}, "hosts": hosts,
            "tls": {"mode": "SIMPLE", "credentialName": "shop"},
        },
        {
            "port": {"number": INGRESS, "name": "http", "protocol": "HTTP"}, "hosts": hosts,
            "tls": {"httpsRedirect": true},
        },
    ])
}

/// `books.example` is known, goes by the egress gateway, and that begins TLS.
fn outward(port: u16, files: &str) -> String {
    let entry = json!({
        "hosts": [BOOKS], "location": "MESH_EXTERNAL", "resolution": "STATIC",
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": port}],
        "endpoints": [{"address": "127.0.0.1"}],
    });
    let gateway = json!({"selector": {"app": "egress"}, "servers": [{
        "port": {"number": INGRESS, "name": "http", "protocol": "HTTP"}, "hosts": [BOOKS],
    }]});
    let inside = json!([{"destination": {"host": "egress", "port": {"number": INGRESS}}}]);
    let outside = json!([{"destination": {"host": BOOKS, "port": {"number": 80}}}]);
    let routes = json!({"hosts": [BOOKS], "gateways": ["mesh", "egress"], "http": [
        {"match": [{"gateways": ["mesh"]}], "route": inside},
        {"match": [{"gateways": ["egress"]}], "route": outside},
    ]});
    let tls = json!({"mode": "SIMPLE", "caCertificates": format!("{files}/ca.crt")});
    istio("ServiceEntry", "books", &entry)
        + &istio("Gateway", "egress", &gateway)
        + &istio("VirtualService", "books", &routes)
        + &istio(
            "DestinationRule",
            "books",
            &json!({"host": BOOKS, "trafficPolicy": {"tls": tls}}),
        )
}

/// Bookinfo with an HTTPS gateway, details v2 that asks the library, and an egress gateway.
fn folder(authority: &Authority, signer: &Signer, port: u16, files: &str) -> Folder {
    let folder = super::folder();
    let egress = gateway_workload("egress");
    let workloads = folder.read("workloads.yaml");
    let workloads = workloads.replace(
        r#"command: ["${bookinfo}", details]"#,
        &format!(
            "command: [\"${{bookinfo}}\", details, --version, v2]\n      env: {{BOOKS: {BOOKS}}}"
        ),
    );
    let gateway = json!({"selector": {"istio": "ingressgateway"}, "servers": servers()});
    let tokens = json!({
        "selector": {"matchLabels": {"istio": "ingressgateway"}},
        "jwtRules": [{"issuer": ISSUER, "jwks": signer.jwks().to_string()}],
    });
    // Whoever is nobody looks at nothing any more.
    let access = folder.read("access.yaml");
    let access = access.replace(r#"context.path == "/productpage" ||"#, "");
    folder
        .with("workloads.yaml", format!("{workloads}\n    - {egress}\n"))
        .with(
            "Gateway-bookinfo-gateway.yaml",
            istio("Gateway", "bookinfo-gateway", &gateway),
        )
        .with("secret.yaml", authority.issue(&[SHOP]).secret("shop", None))
        .with(
            "tokens.yaml",
            istio("RequestAuthentication", "visitors", &tokens),
        )
        .with("access.yaml", access)
        .with("members.yaml", permit("members", MEMBERS))
        .with(
            "outward.yaml",
            outward(port, files) + &permit("outward", OUTWARD),
        )
        .with("egress.yaml", service("egress", INGRESS, "http"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_come_by_https_with_tokens_and_the_shop_asks_outside_through_the_egress_gateway() {
    test_tools();
    let (authority, signer) = (Authority::new("outside"), Signer::new("key-1"));
    let files = files(&authority);
    let at = free_address().await;
    let library = OpenSsl::start(&files, at, &["-WWW"]).await;
    let mut mesh = Mesh::start(folder(&authority, &signer, at.port(), &files)).await;
    let client = TlsClient::trusting(&authority.pem()).offering(&["h2", "http/1.1"]);
    let to = mesh.inbound("ingress-0", HTTPS);

    sent_to_https(&mesh, &files).await;
    by_token(&mesh, &client, &signer, to).await;
    by_the_egress_gateway(&mesh, &client, &signer, to).await;
    drop(library);
    let answer = ask(&client, to, &details(&signer)).await;
    assert_eq!(answer.0, 503, "{}", answer.1);
    mesh.verify_audit().await;
    mesh.stop().await;
    fs::remove_dir_all(files).expect("cleaned up");
}

fn bearer(signer: &Signer, valid_s: i64) -> String {
    format!(
        "Bearer {}",
        signer.sign(&Token::new(ISSUER, "ann", "shop", valid_s))
    )
}

fn details(signer: &Signer) -> Call {
    Call::get(SHOP, "/api/v1/products/0").header("authorization", &bearer(signer, 600))
}

/// The status, and the text.
async fn ask(client: &TlsClient, to: SocketAddr, call: &Call) -> (u16, String) {
    let mut open = client.open(to, SHOP).await.expect("a handshake");
    let answer = open.send(call).await.expect("an answer");
    (answer.status.as_u16(), answer.text())
}

/// As a person at a terminal: curl is told by plaintext where to go, and goes there.
async fn sent_to_https(mesh: &Mesh, files: &str) {
    let plain = mesh.inbound("ingress-0", INGRESS);
    let answer = Call::get(SHOP, "/productpage?x=1")
        .send(plain)
        .await
        .expect("an answer");
    assert_eq!(answer.status, 301);
    let location = "https://shop.example/productpage?x=1";
    assert_eq!(answer.header("location"), Some(location));

    let address = plain.ip();
    // What stands before the gateway gives it the ports that the world knows.
    let maps = [
        format!("{SHOP}:80:{address}:{INGRESS}"),
        format!("{SHOP}:443:{address}:{HTTPS}"),
    ];
    let ca = format!("{files}/ca.crt");
    let output = tokio::process::Command::new("curl")
        .args([
            "-sS",
            "-L",
            "--cacert",
            &ca,
            "--connect-to",
            &maps[0],
            "--connect-to",
            &maps[1],
        ])
        .args([
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{num_redirects} %{url_effective}",
        ])
        .arg(format!("http://{SHOP}/static/style.css"))
        .output();
    let output = output.await.expect("curl is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        said,
        format!("200 1 https://{SHOP}/static/style.css"),
        "{output:?}"
    );
}

async fn by_token(mesh: &Mesh, client: &TlsClient, signer: &Signer, to: SocketAddr) {
    let stranger = Signer::new("key-1");
    let page = Call::get(SHOP, "/productpage");
    for (id, token, expected, reason) in [
        ("none", None, 403, "no_permit"),
        ("good", Some(bearer(signer, 600)), 200, "permitted"),
        ("late", Some(bearer(signer, -600)), 401, "invalid_token"),
        ("forged", Some(bearer(&stranger, 600)), 401, "invalid_token"),
        (
            "garbage",
            Some("Bearer x.y.z".to_owned()),
            401,
            "invalid_token",
        ),
    ] {
        let mut call = page.clone().header("x-request-id", id);
        if let Some(token) = token {
            call = call.header("authorization", &token);
        }
        let (status, text) = ask(client, to, &call).await;
        assert_eq!(status, expected, "{id}: {text}");
        assert_eq!(text.contains("BookInfo"), expected == 200, "{id}: {text}");
        let decided = mesh.decision_on(id, "ingress-0").await;
        assert_eq!(decided["decision"]["reason"], reason, "{id}: {decided}");
    }
    let elsewhere = client.connect(to, "elsewhere.example").await;
    assert!(elsewhere.is_err(), "no server has that name");
}

async fn by_the_egress_gateway(mesh: &Mesh, client: &TlsClient, signer: &Signer, to: SocketAddr) {
    let call = details(signer).header("x-request-id", "outward");
    let (status, text) = ask(client, to, &call).await;
    assert_eq!(status, 200, "{text}");
    let book: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (&book["publisher"], &book["pages"]),
        (&json!("Courier Corporation"), &json!(48))
    );

    // The gateway decided twice: on who asks for it, and on its own call to the outside.
    let is = |record: &Value, principal: &str, part: &str| {
        record["kind"] == "decision"
            && record["request_id"] == "outward"
            && record["id"]
                .as_str()
                .is_some_and(|id| id.starts_with("egress-0/"))
            && record["request"]["principal"]
                .to_string()
                .contains(principal)
            && record["decision"]["effect"] == "allow"
            && record["decision"]["policies"].to_string().contains(part)
    };
    mesh.record("who asks the gateway", |r| {
        is(r, "sa/bookinfo-details", "details-to-books")
    })
    .await;
    let own = mesh.record("what the gateway asks", |r| {
        is(r, EGRESS, "egress-to-books")
    });
    assert_eq!(own.await["request"]["resource"]["services"], json!([BOOKS]));

    // Others do not get out, and details gets nothing else; both are on record at the gateway.
    for (instance, path, id, at) in [
        (
            "ratings-v1-0",
            "/books/v1/volumes/1",
            "not-details",
            "no_permit",
        ),
        ("details-v1-0", "/private", "not-books", "no_permit"),
    ] {
        let from = mesh.outbound_to(instance, BOOKS, 80);
        let call = Call::get(BOOKS, path).header("x-request-id", id);
        assert_eq!(call.status(from).await, Ok(403), "{id}");
        let refused = mesh.record("the gateway refused", |record| {
            record["request_id"] == id && record["decision"]["effect"] == "deny"
        });
        let refused = refused.await;
        assert_eq!(refused["decision"]["reason"], at, "{refused}");
        assert!(
            refused["id"]
                .as_str()
                .is_some_and(|id| id.starts_with("egress-0/")),
            "{refused}"
        );
    }
}
