//! Keys of token issuers, fetched from a real HTTP server: rotated, away, slow, and answering nonsense.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use reeve_tests::{Call, Mesh, Signer, Token, eventually, permit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{ADMINS_ONLY, AUDIENCE};
use crate::fixture::{client_and_echo, get, istio, settings, to_echo};

/// Longer than a key set may be.
const HUGE: usize = 300 * 1024;
const LIMIT: Duration = Duration::from_secs(30);

/// An issuer's web server; ended when dropped.
struct Issuer {
    address: SocketAddr,
    keys: Arc<Mutex<Option<Value>>>,
    accepting: JoinHandle<()>,
}

impl Issuer {
    /// Serves these keys at `/keys`.
    async fn start(keys: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let keys = Arc::new(Mutex::new(Some(keys)));
        let served = keys.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, address, served.clone()));
            }
        });
        Self {
            address,
            keys,
            accepting,
        }
    }

    fn serve(&self, keys: Option<Value>) {
        *self.keys.lock().expect("the keys") = keys;
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(mut stream: TcpStream, own: SocketAddr, keys: Arc<Mutex<Option<Value>>>) {
    let mut head = vec![0; 4096];
    let read = stream.read(&mut head).await.unwrap_or_default();
    let head = String::from_utf8_lossy(&head[..read]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let keys = keys.lock().expect("the keys").clone();
    let (status, body) = match path {
        "/keys" => match keys {
            Some(keys) => ("200 OK", keys.to_string()),
            None => ("503 Service Unavailable", String::new()),
        },
        "/.well-known/openid-configuration" => {
            let url = |path: &str| format!("http://{own}{path}");
            let found = json!({"issuer": url(""), "jwks_uri": url("/keys")});
            ("200 OK", found.to_string())
        }
        "/moved" => ("302 Found", String::new()),
        "/html" => ("200 OK", "<html>sign in</html>".to_owned()),
        "/empty" => ("200 OK", "{\"keys\":[]}".to_owned()),
        "/secret" => (
            "200 OK",
            json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}).to_string(),
        ),
        "/huge" => ("200 OK", format!("{{\"keys\":[]{}}}", " ".repeat(HUGE))),
        "/slow" => return drip(stream).await,
        _ => ("404 Not Found", String::new()),
    };
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nlocation: /keys\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    drop(stream.write_all(text.as_bytes()).await);
}

/// A byte now and then, without end.
async fn drip(mut stream: TcpStream) {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
    drop(stream.write_all(head.as_bytes()).await);
    while stream.write_all(b" ").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A rule for each (issuer, where its keys are).
fn rules(rules: &[(&str, Option<String>)]) -> String {
    let rules = rules.iter().map(|(issuer, uri)| {
        let mut rule = json!({"issuer": issuer, "audiences": [AUDIENCE], "timeout": "1s"});
        if let Some(uri) = uri {
            rule["jwksUri"] = json!(uri);
        }
        rule
    });
    let spec = json!({
        "selector": {"matchLabels": {"app": "echo"}}, "jwtRules": rules.collect::<Vec<_>>(),
    });
    istio("RequestAuthentication", "echo", &spec)
}

async fn mesh(allow_internal: bool, rules: String) -> Mesh {
    let spec = json!({"dangerAllowInternalJwks": allow_internal});
    let anybody = ADMINS_ONLY.replace("context.user.issuer == \"https://issuer.example\" &&", "");
    let folder = client_and_echo(spec)
        .with("access.yaml", permit("echo", &anybody))
        .with("jwt.yaml", rules);
    Mesh::start(folder).await
}

fn token(signer: &Signer, issuer: &str) -> Call {
    let token = Token::new(issuer, "alice", AUDIENCE, 600).claim("groups", json!(["admins"]));
    get("/").header("authorization", &format!("Bearer {}", signer.sign(&token)))
}

async fn answered(call: &Call, mesh: &Mesh, status: u16) {
    let what = format!("a token is answered {status}");
    eventually(&what, LIMIT, async || {
        match call.status(to_echo(mesh)).await {
            Ok(found) if found == status => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// The mesh's own words on the keys at a URL, once `is_so` of them.
async fn key_status(mesh: &Mesh, uri: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("{uri} {what}"), LIMIT, async || {
        let status = mesh.status().await?;
        let all = status["token_keys"].as_array().cloned().unwrap_or_default();
        let found = all.into_iter().find(|keys| keys["uri"] == uri);
        found
            .filter(|keys| is_so(keys))
            .ok_or_else(|| status["token_keys"].to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_found_rotated_and_outlast_an_outage_and_a_restart() {
    let (first, second) = (Signer::new("key-1"), Signer::new("key-2"));
    let issuer = Issuer::start(first.jwks()).await;
    let own = issuer.url("");
    let named = "https://issuer.example";
    let (uri, found) = (
        issuer.url("/keys"),
        issuer.url("/.well-known/openid-configuration"),
    );
    let mut mesh = mesh(true, rules(&[(named, Some(uri.clone())), (&own, None)])).await;
    answered(&token(&first, named), &mesh, 200).await;
    answered(&token(&first, &own), &mesh, 200).await;
    let status = key_status(&mesh, &found, "has keys", |keys| keys["keys"] == 1).await;
    assert_eq!(status["issuers"], json!([own]));

    // A token that names a new key has its issuer asked at once; the old key is no key any more.
    assert_eq!(token(&second, named).status(to_echo(&mesh)).await, Ok(401));
    key_status(&mesh, &uri, "was asked for an unknown key", |keys| {
        keys["failures"] == 0
    })
    .await;
    issuer.serve(Some(second.jwks()));
    answered(&token(&second, named), &mesh, 200).await;
    answered(&token(&first, named), &mesh, 401).await;

    // The issuer is away, and the mesh process starts again meanwhile: nobody loses a key.
    issuer.serve(None);
    let before = mesh.mesh_pid().expect("a mesh process");
    mesh.kill_process(before);
    mesh.wait_ready(LIMIT).await;
    let failing = |keys: &Value| keys["failures"].as_u64() > Some(0);
    let status = key_status(&mesh, &uri, "cannot be fetched", failing).await;
    assert_eq!(status["keys"], 1, "{status}");
    assert!(
        status["error"]
            .as_str()
            .is_some_and(|why| why.contains("503")),
        "{status}"
    );
    assert_ne!(mesh.mesh_pid(), Some(before));
    assert_eq!(token(&second, named).status(to_echo(&mesh)).await, Ok(200));
    let said = mesh.reeve_ok(&["status"]).await.text();
    assert!(
        said.contains("TOKEN KEYS") && said.contains("stale"),
        "{said}"
    );
    let metrics = Call::get("mesh", "/metrics")
        .send(mesh.api())
        .await
        .expect("metrics");
    let counted = |line: &str| metrics.text().lines().any(|found| found == line);
    assert!(
        counted("reeve_jwks_sources 2") && counted("reeve_jwks_missing 0"),
        "{}",
        metrics.text()
    );

    // It is back.
    issuer.serve(Some(second.jwks()));
    key_status(&mesh, &uri, "is fetched again", |keys| {
        keys["failures"] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_key_set_is_not_taken_for_one_and_harms_no_other_issuer() {
    let signer = Signer::new("key-1");
    let issuer = Issuer::start(signer.jwks()).await;
    let bad = [
        ("/moved", "302"),
        ("/html", "not JSON"),
        ("/empty", "no usable key"),
        ("/secret", "no usable key"),
        ("/huge", "bytes"),
        ("/slow", "within 1s"),
        ("/nothing", "404"),
    ];
    let down = "http://127.0.0.1:1/keys".to_owned();
    let mut all: Vec<_> = bad
        .iter()
        .map(|(path, _)| (*path, Some(issuer.url(path))))
        .collect();
    all.push(("down", Some(down.clone())));
    all.push(("good", Some(issuer.url("/keys"))));
    let mesh = mesh(true, rules(&all)).await;
    answered(&token(&signer, "good"), &mesh, 200).await;
    for (path, why) in bad {
        let failed = |keys: &Value| {
            keys["error"]
                .as_str()
                .is_some_and(|said| said.contains(why))
        };
        let status = key_status(&mesh, &issuer.url(path), "fails", failed).await;
        assert_eq!(
            (&status["keys"], &status["fetched_at"]),
            (&json!(0), &Value::Null)
        );
        assert_eq!(
            token(&signer, path).status(to_echo(&mesh)).await,
            Ok(401),
            "{path}"
        );
    }
    key_status(&mesh, &down, "fails", |keys| {
        keys["failures"].as_u64() > Some(0)
    })
    .await;
    assert_eq!(token(&signer, "down").status(to_echo(&mesh)).await, Ok(401));
    assert_eq!(token(&signer, "good").status(to_echo(&mesh)).await, Ok(200));
    let said = mesh.reeve_ok(&["status"]).await.text();
    assert!(said.contains("none: tokens are refused"), "{said}");

    // Without leave nothing internal is asked, and what is known stays.
    mesh.apply("mesh.yaml", settings(json!({}))).await;
    let other = ("other", Some(issuer.url("/keys?other")));
    mesh.apply("jwt.yaml", rules(&[all[8].clone(), other]))
        .await;
    let guarded = |keys: &Value| {
        keys["error"]
            .as_str()
            .is_some_and(|why| why.contains("internal"))
    };
    key_status(&mesh, &issuer.url("/keys?other"), "is internal", guarded).await;
    assert_eq!(
        token(&signer, "other").status(to_echo(&mesh)).await,
        Ok(401)
    );
    assert_eq!(token(&signer, "good").status(to_echo(&mesh)).await, Ok(200));
}
