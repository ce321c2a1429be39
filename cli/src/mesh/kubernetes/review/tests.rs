//! An HTTP server that answers as an API server does (Kubernetes 1.36, `authentication.k8s.io/v1`), over TLS.

use reeve_core::clock::ManualClock;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// A certificate for 127.0.0.1, and its key.
fn certified() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap()
}

fn status(status: Value) -> Vec<u8> {
    let answer = json!({
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": null},
        "spec": {"token": "t", "audiences": ["reeve"]},
        "status": status,
    });
    answer.to_string().into_bytes()
}

fn accepted() -> Value {
    json!({
        "authenticated": true,
        "user": {
            "username": "system:serviceaccount:shop:reviews",
            "uid": "b7b0f9a4-1f1d-4c3a-9a5f-2d6f0f1f5f0e",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"],
            "extra": {
                "authentication.kubernetes.io/credential-id": ["JTI=5b1d2f5e-6f5a-4a4e-9d5c-1b3a3c0b2f10"],
                "authentication.kubernetes.io/node-name": ["node-1"],
                "authentication.kubernetes.io/pod-name": ["reviews-7c9d-x2x"],
                "authentication.kubernetes.io/pod-uid": ["8e1b0e0a-6a4e-4f6e-8a51-6b5c9f6d2f01"]
            }
        },
        "audiences": ["reeve"]
    })
}

#[test]
fn only_an_accepted_token_for_our_audience_is_anybodys() {
    let pod = read(&status(accepted()), "reeve").unwrap();
    assert_eq!(
        (pod.namespace.as_str(), pod.account.as_str()),
        ("shop", "reviews")
    );
    assert_eq!(pod.name.as_deref(), Some("reviews-7c9d-x2x"));
    assert_eq!(pod.node.as_deref(), Some("node-1"));
    let refusal = json!({"user": {}, "error": "[invalid bearer token, token audiences [\"vault\"] is invalid for the target audiences [\"reeve\"]]"});
    let changed = |key: &str, value: Value| {
        let mut changed = accepted();
        changed[key] = value;
        changed
    };
    let user = json!({"username": "alice"});
    let node = json!({"username": "system:node:node-1"});
    for (name, answer) in [
        ("refused", refusal),
        ("nothing", json!({})),
        ("not authenticated", changed("authenticated", json!(false))),
        ("an error beside", changed("error", json!("late"))),
        ("another audience", changed("audiences", json!(["vault"]))),
        ("no audience", changed("audiences", json!([]))),
        ("a person", changed("user", user)),
        ("a node", changed("user", node)),
    ] {
        let read = read(&status(answer), "reeve");
        assert!(
            matches!(read, Err(AttestError::Refused(_))),
            "{name}: {read:?}"
        );
    }
    assert!(matches!(
        read(b"no", "reeve"),
        Err(AttestError::Unavailable(_))
    ));
}

/// Answers one question; what was asked comes back.
async fn serve(answer: Vec<u8>) -> (ReviewAt, tempfile::TempDir, tokio::task::JoinHandle<String>) {
    let folder = tempfile::tempdir().unwrap();
    let (ca_file, token_file) = (folder.path().join("ca.crt"), folder.path().join("token"));
    let own = certified();
    std::fs::write(&ca_file, own.cert.pem()).unwrap();
    std::fs::write(&token_file, "our-own-token\n").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = ReviewAt {
        server: format!(
            "https://127.0.0.1:{}",
            listener.local_addr().unwrap().port()
        ),
        ca_file,
        token_file,
    };
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let asked = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(stream).await else {
            return String::new();
        };
        let mut asked = Vec::new();
        while !asked.ends_with(b"}}") {
            let mut some = [0; 4096];
            let read = stream.read(&mut some).await.unwrap();
            asked.extend_from_slice(&some[..read]);
        }
        let head = format!(
            "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&answer).await.unwrap();
        stream.flush().await.unwrap();
        String::from_utf8(asked).unwrap()
    });
    (at, folder, asked)
}

#[tokio::test]
async fn the_api_server_is_asked_with_our_audience_and_our_own_token() {
    let (at, _folder, asked) = serve(status(accepted())).await;
    let pod = ask(&at, "reeve", "the-callers-token").await.unwrap();
    assert_eq!(pod.account.as_str(), "reviews");
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews HTTP/1.1\r\n"));
    assert!(
        asked.contains("authorization: Bearer our-own-token\r\n"),
        "{asked}"
    );
    let (_, body) = asked.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        body,
        json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": "the-callers-token", "audiences": ["reeve"]},
        })
    );
}

/// Somebody else at its address is told neither token.
#[tokio::test]
async fn a_server_that_is_not_the_clusters_is_not_asked() {
    let (at, folder, asked) = serve(status(accepted())).await;
    std::fs::write(folder.path().join("ca.crt"), certified().cert.pem()).unwrap();
    let answer = ask(&at, "reeve", "the-callers-token").await;
    assert!(
        matches!(answer, Err(AttestError::Unavailable(_))),
        "{answer:?}"
    );
    assert_eq!(asked.await.unwrap(), "");
}

#[tokio::test]
async fn a_server_that_is_away_is_no_yes() {
    let (at, _folder, asked) = serve(Vec::new()).await;
    asked.abort();
    drop(asked.await);
    let answer = ask(&at, "reeve", "t").await;
    assert!(
        matches!(answer, Err(AttestError::Unavailable(_))),
        "{answer:?}"
    );
}

/// Both are configured, and do not say the same.
#[tokio::test]
async fn who_verifies_must_agree() {
    let tokens: Value = serde_json::from_str(include_str!("../tokens.json")).unwrap();
    let mut settings = reeve_control::KubernetesTokens {
        audience: "reeve".to_owned(),
        keys: Some(reeve_control::ClusterKeys {
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            jwks: tokens["jwks"].to_string(),
        }),
        review: None,
    };
    let clock = ManualClock::at(reeve_core::UnixTime::from_secs(1_800_000_000));
    let token = tokens["good"].as_str().unwrap();
    for (account, accepts) in [("reviews", true), ("ratings", false)] {
        let mut answer = accepted();
        answer["user"]["username"] = json!(format!("system:serviceaccount:shop:{account}"));
        let (at, _folder, _asked) = serve(status(answer)).await;
        settings.review = Some(at);
        let judged = super::super::judge(&settings, token, &clock).await;
        assert_eq!(judged.is_ok(), accepts, "{judged:?}");
    }
}
