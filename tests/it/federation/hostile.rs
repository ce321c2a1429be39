//! An endpoint that misbehaves: what it says is refused, with the reason told, and the last good bundle stays in force.

use std::sync::{Arc, Mutex};

use reeve_tests::Signer;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;

/// What the endpoint of third.net shows and says from now on.
#[derive(Clone)]
pub(super) struct Says {
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) document: String,
}

impl Says {
    fn tls(&self) -> Arc<ServerConfig> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let chain: Result<Vec<_>, _> = chain.collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain.expect("a chain"), key);
        Arc::new(config.expect("a configuration"))
    }
}

/// The endpoint, for as long as the test runs.
pub(super) async fn serve(at: SocketAddr, says: Arc<Mutex<Says>>) {
    let listener = TcpListener::bind(at).await.expect("the endpoint's address");
    while let Ok((stream, _)) = listener.accept().await {
        let now = says.lock().expect("what it says").clone();
        tokio::spawn(async move {
            let mut stream = TlsAcceptor::from(now.tls()).accept(stream).await?;
            let mut request = [0; 4096];
            let _read = stream.read(&mut request).await?;
            let length = now.document.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{}",
                now.document
            );
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        });
    }
}

/// The bundle of that authority as the SPIFFE standard writes it.
fn document(authority: &str, sequence: u64) -> String {
    document_with(authority, &[], sequence)
}

/// The same with keys of JWT-SVIDs.
pub(super) fn document_with(authority: &str, signers: &[&Signer], sequence: u64) -> String {
    let der = CertificateDer::from_pem_slice(authority.as_bytes()).expect("an authority");
    let key = json!({"use": "x509-svid", "kty": "EC", "x5c": [BASE64_STANDARD.encode(&der)]});
    let mut keys = vec![key];
    for signer in signers {
        let mut key = signer.jwks()["keys"][0].clone();
        key["use"] = json!("jwt-svid");
        keys.push(key);
    }
    json!({"keys": keys, "spiffe_sequence": sequence, "spiffe_refresh_hint": 1}).to_string()
}

/// Waits until the fetch of third.net's bundle has failed for that reason; the bundle in force is still of `sequence`.
async fn refused(mesh: &Mesh, reason: &str, sequence: u64) {
    eventually(&format!("refused: {reason}"), LIMIT, async || {
        let listed = mesh.reeve(&["ca", "bundle", "list", "-o", "json"]).await;
        let domain = listed.json()["federated"][0].clone();
        assert_eq!(domain["sequence"], sequence, "{domain}");
        let error = domain["error"].as_str().unwrap_or_default();
        match error.contains(reason) && listed.code == Some(1) {
            true => Ok(()),
            false => Err(domain.to_string()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_that_goes_back_or_is_anothers_and_an_expired_endpoint_are_refused() {
    let (third, other, web) = (Third::new("third.net"), Third::new("other.net"), Web::new());
    let mut mesh = Mesh::start(theirs()).await;
    let at = SocketAddr::from(([127, mesh.base, 0, 1], 8444));
    let (certificate, key) = web.certificate(at, 2100);
    let good = Says {
        certificate,
        key,
        document: document(&third.authority, 5),
    };
    let says = Arc::new(Mutex::new(good.clone()));
    let say = |now: &Says| *says.lock().expect("what it says") = now.clone();
    tokio::spawn(serve(at, Arc::clone(&says)));
    let by_web = json!({
        "bundleEndpointURL": format!("https://{at}/"), "bundleEndpointProfile": {"type": "https_web"},
    });
    mesh.folder
        .write("third.yaml", federated("third.net", &by_web));
    let how = json!({"dangerAllowInternalEndpoints": true, "caCertificates": web.authority});
    mesh.apply("mesh.yaml", settings("other.org", &how)).await;
    assert_eq!(fetched(&mesh, "third.net").await["sequence"], 5);
    let door = mesh.inbound("echo-v1-0", 9080);
    let known = third.says("spiffe://third.net/anything");
    eventually("third.net is let in", LIMIT, async || {
        match ask(&known, door).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    let anothers = document(&other.authority, 6);
    let (certificate, key) = web.certificate(at, 2020);
    let expired = Says {
        certificate,
        key,
        document: document(&third.authority, 7),
    };
    let speaks = |document: String| Says {
        document,
        ..good.clone()
    };
    for (now, reason) in [
        (
            speaks(document(&third.authority, 4)),
            "went back from 5 to 4",
        ),
        (speaks(anothers), "belongs to other.net"),
        (expired, "expired"),
    ] {
        say(&now);
        refused(&mesh, reason, 5).await;
        assert_eq!(ask(&known, door).await, Ok(200), "{reason}");
        let of_other = ask(&other.says("spiffe://third.net/anything"), door).await;
        assert!(of_other.is_err(), "{reason}: {of_other:?}");
    }

    say(&speaks(document(&third.authority, 8)));
    eventually("it is good again", LIMIT, async || {
        let sequence = fetched(&mesh, "third.net").await["sequence"].clone();
        (sequence == 8).then_some(()).ok_or(sequence.to_string())
    })
    .await;
    mesh.verify_audit().await;
    mesh.stop().await;
}
