//! JWT-SVIDs in requests: those of a trust domain are verified by the keys of its own bundle alone, as that is fetched.

use std::sync::{Arc, Mutex};

use reeve_tests::{Signer, Token};

use super::{
    hostile::{Says, document_with, serve},
    *,
};
use crate::ext_authz::{joined, local, port};

const LEDGER: &str = "spiffe://third.net/ns/pay/sa/ledger";
const FOURTHS: &str = "spiffe://fourth.com/ledger";
const AUDIENCE: &str = "echo";
/// Whoever calls, the ledger of third.net must have sent it.
const FROM_LEDGER: &str = r#"@id("ledger")
permit (principal, action, resource in Service::"echo.default.svc.cluster.local")
when {
  context has user && context.user.issuer == "spiffe://third.net" &&
  context.user.subject == "spiffe://third.net/ns/pay/sa/ledger"
};"#;

fn rules() -> String {
    let rule =
        |domain: &str| json!({"issuer": format!("spiffe://{domain}"), "audiences": [AUDIENCE]});
    let spec = json!({
        "selector": {"matchLabels": {"app": "echo"}},
        "jwtRules": [rule("third.net"), rule("fourth.com"), rule("other.org")],
    });
    istio("RequestAuthentication", "svids", &spec)
}

/// Who calls, and where.
struct Caller<'a> {
    identity: MeshTls,
    mesh: &'a Mesh,
}

impl Caller<'_> {
    /// The status of a request with this token.
    async fn status(&self, token: &str) -> Result<u16, String> {
        let to = self.mesh.inbound("echo-v1-0", 9080);
        let exchange = async {
            let mut connection = open(&self.identity, to).await?;
            let call =
                Call::get("echo:9080", "/").header("authorization", &format!("Bearer {token}"));
            anyhow::Ok(connection.send(&call).await?.status.as_u16())
        };
        exchange.await.map_err(|error| format!("{error:#}"))
    }

    async fn becomes(&self, what: &str, token: &str, status: u16) {
        eventually(&format!("{what}: {status}"), LIMIT, async || {
            match self.status(token).await {
                Ok(found) if found == status => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

/// Where third.net serves its bundle, and what it says there.
fn thirds_endpoint(mesh: &Mesh, web: &Web, document: String) -> Arc<Mutex<Says>> {
    let at = SocketAddr::from(([127, mesh.base, 0, 1], 8444));
    let (certificate, key) = web.certificate(at, 2100);
    let says = Arc::new(Mutex::new(Says {
        certificate,
        key,
        document,
    }));
    tokio::spawn(serve(at, Arc::clone(&says)));
    let by_web = json!({
        "bundleEndpointURL": format!("https://{at}/"), "bundleEndpointProfile": {"type": "https_web"},
    });
    mesh.folder
        .write("third.yaml", federated("third.net", &by_web));
    says
}

/// Tokens that are none of the ledger's, in whatever way.
fn bad_ones(third: &Signer, fourth: &Signer) -> [(&'static str, String); 6] {
    let ledgers = Token::svid(LEDGER, AUDIENCE, 3_600);
    let other = Token::svid(FOURTHS, AUDIENCE, 3_600);
    let ours = Token::svid("spiffe://other.org/ns/default/sa/echo", AUDIENCE, 3_600);
    let lie = other.clone().claim("iss", json!("spiffe://third.net"));
    let elsewhere = Token::svid(LEDGER, "shop", 3_600);
    [
        ("another domain's key", fourth.sign(&ledgers)),
        ("another domain's workload", third.sign(&other)),
        ("our workload", third.sign(&ours)),
        ("another's, in this domain's name", third.sign(&lie)),
        ("another audience", third.sign(&elsewhere)),
        ("over", third.sign(&Token::svid(LEDGER, AUDIENCE, -600))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partners_tokens_are_verified_by_its_own_bundle_as_that_is_fetched() {
    let (third, fourth, web) = (
        Third::new("third.net"),
        Third::new("fourth.com"),
        Web::new(),
    );
    // All of the same name: only the bundle says whose they are.
    let [first, second, fourths] = [(); 3].map(|()| Signer::new("key-1"));
    let folder = theirs()
        .with("access.yaml", permit("ledger", FROM_LEDGER))
        .with("svids.yaml", rules());
    let mut mesh = Mesh::start(folder).await;
    let says = thirds_endpoint(&mesh, &web, document_with(&third.authority, &[&first], 1));
    let file = mesh.state.join("fourth.json");
    let write = |key: &Signer| {
        let document = document_with(&fourth.authority, &[key], 1);
        std::fs::write(&file, document).expect("a file");
    };
    write(&first);
    let stated = json!({"trustDomainBundleFile": file});
    mesh.folder
        .write("fourth.yaml", federated("fourth.com", &stated));
    let how = json!({"dangerAllowInternalEndpoints": true, "caCertificates": web.authority});
    mesh.apply("mesh.yaml", settings("other.org", &how)).await;
    fetched(&mesh, "third.net").await;

    let caller = Caller {
        identity: third.says("spiffe://third.net/ns/web/sa/front"),
        mesh: &mesh,
    };
    let ledgers = Token::svid(LEDGER, AUDIENCE, 3_600);
    let token = first.sign(&ledgers);
    caller.becomes("the ledger's token", &token, 200).await;
    let said = Token::svid(LEDGER, AUDIENCE, 3_600).claim("iss", json!("spiffe://third.net"));
    assert_eq!(caller.status(&first.sign(&said)).await, Ok(200));
    // Another domain's bundle, in a file, has another key from now on; its workload is known, and not the ledger.
    let other = Token::svid(FOURTHS, AUDIENCE, 3_600);
    assert_eq!(caller.status(&fourths.sign(&other)).await, Ok(401));
    write(&fourths);
    caller.becomes("its key", &fourths.sign(&other), 403).await;
    for (what, token) in bad_ones(&first, &fourths) {
        assert_eq!(caller.status(&token).await, Ok(401), "{what}");
    }

    // The next bundle has another key, under the same name.
    let document = document_with(&third.authority, &[&second], 2);
    says.lock().expect("what it says").document = document;
    caller.becomes("the old key", &token, 401).await;
    let token = second.sign(&ledgers);
    assert_eq!(caller.status(&token).await, Ok(200));

    mesh.reeve_ok(&["ca", "revoke", LEDGER, "--why", "stolen"])
        .await;
    caller.becomes("what is revoked", &token, 401).await;
    mesh.reeve_ok(&["ca", "unrevoke", LEDGER]).await;
    caller.becomes("what is no longer", &token, 200).await;

    // Without federation there is no key; the caller's own certificate is refused, too.
    let ours = fourth.says("spiffe://fourth.com/front");
    let caller = Caller {
        identity: ours,
        mesh: &mesh,
    };
    mesh.folder.remove("third.yaml");
    caller.becomes("what is withdrawn", &token, 401).await;
    mesh.verify_audit().await;
    mesh.stop().await;
}

/// A server that decides for other proxies has joined the mesh, and takes what the mesh's bundle vouches for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_decides_beside_a_mesh_takes_a_partners_tokens_by_the_meshs_bundle() {
    let (third, signer, stranger) = (Third::new("third.net"), Signer::new("k"), Signer::new("k"));
    let stated = json!({"trustDomainBundle": document_with(&third.authority, &[&signer], 1)});
    let folder = theirs()
        .with("access.yaml", permit("ledger", FROM_LEDGER))
        .with("svids.yaml", rules())
        .with("third.yaml", federated("third.net", &stated));
    let mut mesh = Mesh::start(folder).await;
    let work = Folder::new();
    let http = local(port());
    let _server = joined(&mesh, "other.org", work.path(), http).await;
    let ledgers = Token::svid(LEDGER, AUDIENCE, 3_600);
    let answers = async |signer: &Signer, status: u16| {
        let token = format!("Bearer {}", signer.sign(&ledgers));
        let check = "/check/echo.default.svc.cluster.local/";
        let call = Call::get("reeve", check).header("authorization", &token);
        eventually(
            &format!("it answers {status}"),
            LIMIT,
            async || match call.status(http).await {
                Ok(found) if found == status => Ok(()),
                other => Err(format!("{other:?}")),
            },
        )
        .await;
    };
    answers(&signer, 200).await;
    answers(&stranger, 401).await;
    mesh.folder.remove("third.yaml");
    answers(&signer, 401).await;
    mesh.stop().await;
}
