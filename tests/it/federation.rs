//! Two meshes federate: workloads of one call those of the other, each judged by the bundle of its own trust domain; a
//! root is rotated under that traffic; and what is withdrawn is refused, on open connections, too.
//!
//! What `docs/federation.md` says is done here, in its order.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use reeve_tests::{
    Call, Connection, Folder, Load, Mesh, MeshTls, Protocol, Target, echo, eventually, local_mesh,
    mesh_config, permit, service, sidecar, strict,
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{fixture::istio, hostile::ALPN_HTTP1};

mod hostile;
mod partner;
mod tokens;

/// Longest time for anything to come round, on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);
const ROTATION_LIMIT: Duration = Duration::from_secs(150);
const THEIR_ECHO: &str = "echo.other.org";
/// In the mesh other.org: our client by its name, and whoever third.net vouches for.
const PARTNERS: &str = r#"@id("partner-client")
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action,
  resource in Service::"echo.default.svc.cluster.local"
);
@id("third-net")
permit (
  principal in TrustDomain::"third.net",
  action,
  resource in Service::"echo.default.svc.cluster.local"
);"#;

/// The settings of a mesh; `federation` is what its `MeshConfig` says of it.
fn settings(domain: &str, federation: &Value) -> String {
    mesh_config(json!({
        "trustDomain": domain, "certificateTtl": "20s", "rotationWait": "4s", "federation": federation,
        "audit": {"recordedHeaders": ["x-request-id"]},
    }))
}

fn federated(domain: &str, spec: &Value) -> String {
    let mut spec = spec.clone();
    spec["trustDomain"] = json!(domain);
    let object = json!({
        "apiVersion": "spire.spiffe.io/v1alpha1", "kind": "ClusterFederatedTrustDomain",
        "metadata": {"name": domain.replace('.', "-")}, "spec": spec,
    });
    format!("---\n{object:#}\n")
}

/// Our mesh: `client` and `stranger`, which the test speaks for.
fn ours() -> Folder {
    Folder::new()
        .with("mesh.yaml", settings("mesh.local", &json!({})))
        .with("strict.yaml", strict())
        .with(
            "workloads.yaml",
            local_mesh(&[sidecar("client"), sidecar("stranger")]),
        )
}

/// The other mesh: `echo`.
fn theirs() -> Folder {
    Folder::new()
        .with("mesh.yaml", settings("other.org", &json!({})))
        .with("strict.yaml", strict())
        .with(
            "workloads.yaml",
            local_mesh(&[echo("echo-v1", "echo", "v1")]),
        )
        .with("echo.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("partners", PARTNERS))
}

/// How our sidecars find the other mesh's `echo`, and by which identity they know it.
fn their_echo(mesh: &Mesh) -> String {
    let at = mesh.inbound("echo-v1-0", 9080);
    let spec = json!({
        "hosts": [THEIR_ECHO], "location": "MESH_INTERNAL", "resolution": "STATIC",
        "ports": [{"number": 9080, "name": "http", "protocol": "HTTP"}],
        "endpoints": [{"address": at.ip(), "ports": {"http": at.port()}}],
        "subjectAltNames": ["spiffe://other.org/ns/default/sa/echo"],
    });
    istio("ServiceEntry", "their-echo", &spec)
}

fn endpoint_of(mesh: &Mesh) -> SocketAddr {
    SocketAddr::from(([127, mesh.base, 0, 1], 8443))
}

async fn bundle_of(mesh: &Mesh) -> String {
    let printed = mesh.reeve_ok(&["ca", "bundle", "--format", "spiffe"]).await;
    printed.json().to_string()
}

/// An authority of the web.
struct Web {
    authority: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Web {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "the web");
        let key = KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("an authority");
        Self {
            authority: authority.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for an address with its key, in PEM, valid until `year`.
    fn certificate(&self, address: SocketAddr, year: i32) -> (String, String) {
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::IpAddress(address.ip())];
        leaf.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = leaf.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// Both serve their bundle and fetch the other's: ours by `https_web`, theirs by `https_spiffe`.
async fn federate(ours: &Mesh, theirs: &Mesh, third: &Third) {
    let (our_endpoint, their_endpoint) = (endpoint_of(ours), endpoint_of(theirs));
    let web = Web::new();
    let (certificate, key) = web.certificate(our_endpoint, 2100);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "bundle-endpoint", "namespace": "reeve-system"},
        "stringData": {"tls.crt": certificate, "tls.key": key},
    });
    ours.folder
        .write("secret.yaml", format!("---\n{secret:#}\n"));
    let file = ours.state.join("other.json");
    std::fs::write(&file, bundle_of(theirs).await).expect("a file");
    let by_spiffe = json!({
        "bundleEndpointURL": format!("https://{their_endpoint}/"),
        "bundleEndpointProfile": {
            "type": "https_spiffe", "endpointSPIFFEID": "spiffe://other.org/ns/reeve-system/sa/control",
        },
        "trustDomainBundleFile": file,
    });
    ours.folder
        .write("other.yaml", federated("other.org", &by_spiffe));
    ours.folder.write("entry.yaml", their_echo(theirs));
    let serving = json!({
        "dangerAllowInternalEndpoints": true,
        "bundleEndpoint": {
            "address": our_endpoint, "profile": "https_web", "credentialName": "bundle-endpoint",
            "refreshHint": "1s",
        },
    });
    ours.apply("mesh.yaml", settings("mesh.local", &serving))
        .await;
    // By https_web no bundle is needed to begin with.
    let by_web = json!({
        "bundleEndpointURL": format!("https://{our_endpoint}/"),
        "bundleEndpointProfile": {"type": "https_web"},
    });
    theirs
        .folder
        .write("mesh-local.yaml", federated("mesh.local", &by_web));
    let stated = json!({"trustDomainBundle": third.authority});
    theirs
        .folder
        .write("third.yaml", federated("third.net", &stated));
    let serving = json!({
        "dangerAllowInternalEndpoints": true, "caCertificates": web.authority,
        "bundleEndpoint": {"address": their_endpoint, "refreshHint": "1s"},
    });
    theirs
        .apply("mesh.yaml", settings("other.org", &serving))
        .await;
    fetched(ours, "other.org").await;
    fetched(theirs, "mesh.local").await;
}

/// Waits until the bundle of `domain` was fetched, and says how it stands.
async fn fetched(mesh: &Mesh, domain: &str) -> Value {
    eventually(
        &format!("the bundle of {domain} is fetched"),
        LIMIT,
        async || {
            let listed = mesh
                .reeve(&["ca", "bundle", "list", "-o", "json"])
                .await
                .json();
            let all = listed["federated"].as_array().cloned().unwrap_or_default();
            let found = all.into_iter().find(|d| d["trust_domain"] == domain);
            match found.filter(|d| d["source"] == "fetched" && d["error"].is_null()) {
                Some(domain) => Ok(domain),
                None => Err(listed.to_string()),
            }
        },
    )
    .await
}

/// A trust domain whose authority the test holds.
struct Third {
    authority: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Third {
    fn new(domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
            .distinguished_name
            .push(DnType::CommonName, format!("root of {domain}"));
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
        let key = KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("an authority");
        Self {
            authority: authority.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate that says `id`, whether it is of the trust domain or not.
    fn says(&self, id: &str) -> MeshTls {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(id)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let text = |der: &[u8]| BASE64_STANDARD.encode(der);
        MeshTls::from_json(&json!({
            "key": text(&key.serialize_der()), "chain": [text(leaf.der())],
        }))
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("a URI"))
}

async fn open(identity: &MeshTls, to: SocketAddr) -> anyhow::Result<Connection> {
    let stream = identity
        .connect(TcpStream::connect(to).await?, ALPN_HTTP1)
        .await?;
    Connection::over(stream, Protocol::Http1).await
}

/// The status of one request on a connection of its own, or that there was no connection.
async fn ask(identity: &MeshTls, to: SocketAddr) -> Result<u16, String> {
    let exchange = async {
        let mut connection = open(identity, to).await?;
        anyhow::Ok(
            connection
                .send(&Call::get("echo:9080", "/"))
                .await?
                .status
                .as_u16(),
        )
    };
    exchange.await.map_err(|error| format!("{error:#}"))
}

fn to_their_echo(mesh: &Mesh, from: &str) -> SocketAddr {
    mesh.outbound_to(from, THEIR_ECHO, 9080)
}

/// Waits for a refused handshake whose reason has `text`.
async fn refused_because(mesh: &Mesh, text: &str) {
    eventually(
        &format!("a handshake is refused: {text}"),
        LIMIT,
        async || {
            let records = mesh.records(&["--kind", "event"]).await;
            let refused = records.iter().filter(|r| r["event"] == "handshake_refused");
            let reasons: Vec<String> = refused.map(|r| r["detail"]["reason"].to_string()).collect();
            match reasons.iter().any(|reason| reason.contains(text)) {
                true => Ok(()),
                false => Err(format!("{reasons:?}")),
            }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_meshes_federate_rotate_and_part() {
    let third = Third::new("third.net");
    let mut ours = Mesh::start(ours()).await;
    let mut theirs = ours.start_beside(theirs()).await;
    federate(&ours, &theirs, &third).await;
    the_partner_is_judged_and_recorded(&ours, &theirs).await;
    nobody_speaks_for_another_domain(&theirs, &third).await;
    a_root_is_rotated_under_the_traffic(&ours, &theirs).await;
    a_partners_identity_is_revoked_here(&ours, &theirs).await;
    what_is_withdrawn_is_refused(&ours, &theirs, &third).await;
    theirs.verify_audit().await;
    theirs.stop().await;
    ours.stop().await;
}

async fn the_partner_is_judged_and_recorded(ours: &Mesh, theirs: &Mesh) {
    let call = || Call::get("echo.other.org:9080", "/").header("x-request-id", "partner-1");
    let to = to_their_echo(ours, "client-0");
    eventually(
        "the partner's request is permitted",
        LIMIT,
        async || match call().status(to).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
    let record = theirs.decision_on("partner-1", "echo-v1-0").await;
    assert_eq!(
        record["request"]["principal"],
        json!({"workload": "spiffe://mesh.local/ns/default/sa/client"}),
        "{record:#}"
    );
    let to = to_their_echo(ours, "stranger-0");
    let denied = Call::get("echo.other.org:9080", "/").status(to).await;
    assert_eq!(denied, Ok(403), "known, and not permitted");
    let metrics = Call::get("mesh", "/metrics").send(theirs.api()).await;
    let metrics = metrics.expect("the mesh's metrics").text();
    let age = "reeve_federated_bundle_age_seconds{trust_domain=\"mesh.local\"}";
    assert!(metrics.contains(age), "{metrics}");
    let status = ours.reeve_ok(&["ca", "status"]).await.text();
    for said in [
        "the bundle is served at https://",
        "federated with other.org: bundle",
    ] {
        assert!(status.contains(said), "{said} in {status}");
    }
}

async fn nobody_speaks_for_another_domain(theirs: &Mesh, third: &Third) {
    let door = theirs.inbound("echo-v1-0", 9080);
    let known = third.says("spiffe://third.net/anything");
    assert_eq!(ask(&known, door).await, Ok(200));
    for id in [
        "spiffe://mesh.local/ns/default/sa/client",
        "spiffe://other.org/ns/default/sa/echo",
        "spiffe://fourth.com/x",
    ] {
        let refused = ask(&third.says(id), door).await;
        assert!(refused.is_err(), "{id}: {refused:?}");
    }
    refused_because(theirs, "no authority of the trust bundle issued the chain").await;
    let foreign = "the certificate belongs to trust domain fourth.com, the bundle to other.org";
    refused_because(theirs, foreign).await;
}

async fn a_root_is_rotated_under_the_traffic(ours: &Mesh, theirs: &Mesh) {
    let target = |protocol| Target {
        address: to_their_echo(ours, "client-0"),
        protocol,
        call: Call::get("echo.other.org:9080", "/"),
        bad_text: None,
    };
    let targets = vec![target(Protocol::Http1), target(Protocol::Http2)];
    let load = Load::start("federated", targets, Duration::from_millis(50));
    let before = theirs
        .reeve_ok(&["ca", "status", "-o", "json"])
        .await
        .json();
    theirs.reeve_ok(&["ca", "rotate", "root"]).await;
    eventually("the root is another one", ROTATION_LIMIT, async || {
        let now = theirs
            .reeve_ok(&["ca", "status", "-o", "json"])
            .await
            .json();
        let over = now["rotation"].is_null() && now["authorities"] == 1;
        match over && now["root_not_after"] != before["root_not_after"] {
            true => Ok(()),
            false => Err(now.to_string()),
        }
    })
    .await;
    eventually(
        "the retired root has left the partner's bundle",
        LIMIT,
        async || {
            let theirs = fetched(ours, "other.org").await;
            match theirs["authorities"] == 1 && theirs["sequence"].as_u64() > Some(2) {
                true => Ok(()),
                false => Err(theirs.to_string()),
            }
        },
    )
    .await;
    let (ok, _) = load.so_far();
    assert!(ok > 0, "there was traffic");
    let report = load.stop().await;
    assert!(report.failures.is_empty(), "{:?}", report.failures);
}

async fn a_partners_identity_is_revoked_here(ours: &Mesh, theirs: &Mesh) {
    let id = "spiffe://mesh.local/ns/default/sa/client";
    let to = to_their_echo(ours, "client-0");
    let becomes = async |permitted: bool| {
        eventually(&format!("permitted: {permitted}"), LIMIT, async || {
            let status = Call::get("echo.other.org:9080", "/").status(to).await;
            match (status == Ok(200)) == permitted {
                true => Ok(()),
                false => Err(format!("{status:?}")),
            }
        })
        .await;
    };
    theirs
        .reeve_ok(&["ca", "revoke", id, "--why", "stolen"])
        .await;
    becomes(false).await;
    refused_because(theirs, "is revoked").await;
    theirs.reeve_ok(&["ca", "unrevoke", id]).await;
    becomes(true).await;
}

async fn what_is_withdrawn_is_refused(ours: &Mesh, theirs: &Mesh, third: &Third) {
    let door = theirs.inbound("echo-v1-0", 9080);
    let known = third.says("spiffe://third.net/anything");
    let kept = open(&known, door).await.expect("a connection");
    theirs.folder.remove("third.yaml");
    eventually("the open connection is closed", LIMIT, async || {
        kept.is_closed()
            .then_some(())
            .ok_or("it is open".to_owned())
    })
    .await;
    let refused = ask(&known, door).await;
    assert!(refused.is_err(), "{refused:?}");
    refused_because(
        theirs,
        "belongs to trust domain third.net, the bundle to other.org",
    )
    .await;
    theirs.folder.remove("mesh-local.yaml");
    let to = to_their_echo(ours, "client-0");
    eventually("the partner is refused", LIMIT, async || {
        match Call::get("echo.other.org:9080", "/").status(to).await {
            Ok(200) => Err("it is permitted".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    refused_because(
        theirs,
        "belongs to trust domain mesh.local, the bundle to other.org",
    )
    .await;
    let records = theirs.records(&["--kind", "event"]).await;
    let withdrawn = |record: &&Value| {
        record["event"] == "federation_changed" && record["detail"]["change"] == "withdrawn"
    };
    let mut domains: Vec<_> = records.iter().filter(withdrawn).collect();
    domains.sort_by_key(|record| record["detail"]["trust_domain"].to_string());
    let domains: Vec<_> = domains
        .iter()
        .map(|r| &r["detail"]["trust_domain"])
        .collect();
    assert_eq!(domains, ["mesh.local", "third.net"]);
}
