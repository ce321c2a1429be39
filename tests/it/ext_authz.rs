//! A stock Envoy asks Reeve (`ext_authz`, gRPC and HTTP): allow, deny, silence and absence, and the records of it.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use reeve_tests::{
    Call, Folder, Mesh, Outcome, Signer, StrictBackend, TlsClient, Token, binary, echo, eventually,
    local_mesh, permit, run, service, sidecar, test_tool,
};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::{
    edge::authority::Authority,
    fixture::{CLIENT, istio, settings},
};

const LIMIT: Duration = Duration::from_secs(30);

/// Anybody may read what is public, the client may do anything, and whoever has a token may write.
const POLICIES: &str = r#"
@id("public")
permit (principal, action in [Action::"read"], resource in Service::"echo.default.svc.cluster.local")
when { context.path like "/public/*" };

@id("client")
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action,
  resource in Service::"echo.default.svc.cluster.local"
);

@id("users")
permit (principal, action, resource in Service::"echo.default.svc.cluster.local")
when { context has user && context.path == "/mine" };

@id("not-banned")
forbid (principal, action in [Action::"http"], resource)
when { context.headers.hasTag("x-role") && context.headers.getTag("x-role").contains("banned") };
"#;

pub(crate) fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Starts a program; the arguments have no spaces in them.
fn start(program: &Path, args: &str) -> Child {
    Command::new(program)
        .args(args.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// A root and a server's certificate, in the folder of Envoy's files; and the client with its own.
fn certificates(dir: &Path) -> TlsClient {
    let root = Authority::new("test");
    let (server, client) = (root.issue(&["envoy.test"]), root.issue(&[CLIENT]));
    let put = |name: &str, text: &str| fs::write(dir.join(name), text).expect("a file");
    put("root.pem", &root.pem());
    put("server.pem", &server.chain);
    put("server.key", &server.key);
    TlsClient::trusting(&root.pem()).showing(&client.chain, &client.key)
}

struct Fixture {
    folder: Folder,
    work: Folder,
    app: StrictBackend,
    signer: Signer,
    client: TlsClient,
    server: Child,
    outside: SocketAddr,
    mtls: SocketAddr,
    slow: SocketAddr,
    by_http: SocketAddr,
    metrics: SocketAddr,
    _envoy: Child,
    /// Accepts and never answers.
    _silent: TcpListener,
}

/// The mesh's folder: one service, its policies, and who vouches for its users.
fn shop(signer: &Signer) -> Folder {
    let authentication = istio(
        "RequestAuthentication",
        "users",
        &json!({"jwtRules": [{
            "issuer": "https://users.test", "jwks": signer.jwks().to_string(),
            "outputClaimToHeaders": [{"header": "x-user", "claim": "sub"}],
        }]}),
    );
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with(
            "workloads.yaml",
            local_mesh(&[sidecar("client"), echo("echo-v1", "echo", "v1")]),
        )
        .with("services.yaml", service("echo", 9080, "http"))
        .with("users.yaml", authentication)
        .with("access.yaml", permit("echo", POLICIES))
}

impl Fixture {
    async fn start() -> Self {
        let signer = Signer::new("k1");
        let folder = shop(&signer);
        let work = Folder::new();
        let client = certificates(work.path());
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let [outside, mtls, slow, by_http, ask, ask_http, metrics, app] =
            std::array::from_fn(|_| port());
        let mut config = include_str!("peers/ext_authz.yaml")
            .replace("@DIR@", &work.path().display().to_string());
        for (name, port) in [
            ("@PORT@", outside),
            ("@MTLS@", mtls),
            ("@SLOW@", slow),
            ("@HTTP@", by_http),
            ("@ASK@", ask),
            ("@ASK_HTTP@", ask_http),
            ("@APP@", app),
            ("@SILENT@", silent.local_addr().expect("its address").port()),
        ] {
            config = config.replace(name, &port.to_string());
        }
        let app = StrictBackend::start(local(app)).await;
        fs::write(work.path().join("envoy.yaml"), config).expect("Envoy's configuration");
        let serve = format!(
            "authz serve -f {} --state {}/state --grpc {} --http {} --metrics {} --set-header x-checked=yes \
             --remove-header x-internal",
            folder.path().display(),
            work.path().display(),
            local(ask),
            local(ask_http),
            local(metrics),
        );
        let envoy = format!(
            "-c {}/envoy.yaml --concurrency 1 --disable-hot-restart -l error",
            work.path().display()
        );
        let server = start(&binary("reeve"), &serve);
        let envoy = start(&test_tool("envoy"), &envoy);
        let it = Self {
            folder,
            work,
            app,
            signer,
            client,
            server,
            outside: local(outside),
            mtls: local(mtls),
            slow: local(slow),
            by_http: local(by_http),
            metrics: local(metrics),
            _envoy: envoy,
            _silent: silent,
        };
        let ready = Call::get("echo", "/public/ready");
        eventually("Envoy reaches Reeve", LIMIT, async || {
            for door in [it.outside, it.by_http] {
                match ready.status(door).await {
                    Ok(200) => {}
                    other => return Err(format!("{door}: {other:?}")),
                }
            }
            Ok(())
        })
        .await;
        it
    }

    fn token(&self) -> String {
        let token = Token::new("https://users.test", "ada", "any", 600);
        format!("Bearer {}", self.signer.sign(&token))
    }

    async fn audit(&self, args: &[&str]) -> Outcome {
        let state = self.work.path().join("state").display().to_string();
        let args = [&["audit"], args, &["--state", &state]].concat();
        run(&binary("reeve"), &args, &[], LIMIT).await
    }

    /// A header of the application's last request.
    fn seen(&self, name: &str) -> Vec<String> {
        let requests = self.app.requests();
        let last = requests.last().expect("a request at the application");
        let named = last.headers.iter().filter(|(n, _)| n == name);
        named.map(|(_, value)| value.clone()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_envoy_asks_and_obeys_and_every_answer_is_on_record() {
    let mut it = Fixture::start().await;
    allowed_and_denied(&it).await;
    tokens(&it).await;
    the_caller_by_its_certificate(&it).await;
    the_http_form(&it).await;
    assert_eq!(it.app.faults(), Vec::<String>::new());

    // Silence is a refusal.
    let before = it.app.count();
    assert_eq!(
        Call::get("echo", "/public/a").status(it.slow).await,
        Ok(403)
    );
    assert_eq!(it.app.count(), before);

    break_glass(&it).await;
    another_folder(&it).await;
    assert_eq!(
        it.app.targets("/private"),
        ["/private"],
        "the client's alone"
    );
    assert_eq!(it.app.targets("/unknown"), Vec::<String>::new());

    let figures = Call::get("any", "/metrics")
        .send(it.metrics)
        .await
        .expect("figures");
    let text = figures.text().to_owned();
    assert!(
        text.contains(r#"reeve_ext_authz_checks_total{answer="denied",form="grpc"}"#),
        "{text}"
    );
    assert_eq!(
        Call::get("any", "/healthz").status(it.metrics).await,
        Ok(200)
    );

    // Absence is a refusal.
    let pid = it.server.id().expect("a process");
    let pid = rustix::process::Pid::from_raw(pid.try_into().expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    let ended = it.server.wait().await.expect("its end");
    assert!(ended.success(), "{ended:?}");
    assert_eq!(
        Call::get("echo", "/open/a").status(it.outside).await,
        Ok(403)
    );
    assert_eq!(
        Call::get("echo", "/open/a").status(it.by_http).await,
        Ok(403)
    );

    the_records(&it).await;
}

async fn another_folder(it: &Fixture) {
    // Another folder, another answer; a faulty one changes nothing.
    it.folder.write(
        "access.yaml",
        permit("echo", "permit (principal, actn, resource);"),
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        Call::get("echo", "/public/a").status(it.outside).await,
        Ok(200)
    );
    it.folder.write(
        "access.yaml",
        permit("echo", &POLICIES.replace("/public/", "/open/")),
    );
    eventually(
        "the new policies are judged by",
        LIMIT,
        async || match Call::get("echo", "/public/a").status(it.outside).await {
            Ok(403) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
    assert_eq!(
        Call::get("echo", "/open/a").status(it.outside).await,
        Ok(200)
    );
}

/// A signed grant opens what is denied, and ends.
async fn break_glass(it: &Fixture) {
    let work = it.work.path().display().to_string();
    let (key, grant, policy) = (
        format!("{work}/signer.key"),
        format!("{work}/echo.grant"),
        format!("{work}/open.cedar"),
    );
    let state = format!("{work}/state");
    let reeve = async |line: &str, more: &[&str]| {
        let args: Vec<&str> = line.split(' ').chain(more.iter().copied()).collect();
        run(&binary("reeve"), &args, &[], LIMIT).await
    };
    let public = reeve("break-glass keygen --out", &[&key]).await;
    assert_eq!(public.code, Some(0), "{}", public.text());
    let opened = "permit (principal, action == Action::\"GET\", resource) when { context.path == \"/glass\" };";
    fs::write(&policy, opened).expect("a file");
    let paths = ["--key", &key, "--policy", &policy, "--out", &grant];
    let sign = "break-glass sign --id echo-glass --namespace default --issuer lead --reason test";
    let signed = reeve(sign, &paths).await;
    assert_eq!(signed.code, Some(0), "{}", signed.text());
    let wanted = "break-glass use --for 5m --reason INC-4711 --authz";
    let early = reeve(wanted, &[&state, &grant]).await;
    assert_eq!(early.code, Some(1), "{}", early.text());
    assert!(early.text().contains("names no signer"), "{}", early.text());

    let trust = settings(json!({"breakGlass": {"publicKeys": [public.stdout]}}));
    it.folder.write("mesh.yaml", trust);
    let call = Call::get("echo", "/glass");
    assert_eq!(call.status(it.outside).await, Ok(403));
    eventually("the grant is taken", LIMIT, async || {
        let used = reeve(wanted, &[&state, &grant]).await;
        match used.code {
            Some(0) => Ok(()),
            _ => Err(used.text()),
        }
    })
    .await;
    assert_eq!(call.status(it.outside).await, Ok(200));
    let listed = reeve("break-glass list --authz", &[&state]).await;
    assert!(listed.stdout.contains("echo-glass"), "{}", listed.text());
    let ended = reeve("break-glass end echo-glass --authz", &[&state]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.text());
    assert_eq!(call.status(it.outside).await, Ok(403));
}

async fn the_records(it: &Fixture) {
    let verified = it.audit(&["verify"]).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let all = it.audit(&["query", "-o", "json"]).await.json_lines();
    let found = |what: &str, test: &dyn Fn(&Value) -> bool| {
        assert!(all.iter().any(test), "no record of {what}");
    };
    found("a public request", &|r| {
        r["request"]["context"]["http"]["path"] == "/public/first"
            && r["decision"]["policies"] == json!(["default/echo#public"])
            && r["request"]["principal"] == "unauthenticated"
            && r["authenticated_by"] == "nothing"
            && r["request"]["resource"]["workload"] == "spiffe://mesh.local/ns/default/sa/echo"
    });
    found("the client's", &|r| {
        r["request"]["principal"] == json!({"workload": CLIENT})
            && r["authenticated_by"] == "ext_authz"
            && r["decision"]["policies"] == json!(["default/echo#client"])
    });
    found("a user's", &|r| r["request"]["user"]["subject"] == "ada");
    found("a bad token", &|r| {
        r["decision"]["reason"] == "invalid_token"
    });
    found("what break-glass permitted", &|r| {
        r["decision"]["policies"] == json!(["break-glass/echo-glass"])
    });
    found("break-glass", &|r| {
        r["event"] == "break_glass_started" && r["detail"]["reason"] == "INC-4711"
    });
    found("an unknown service", &|r| {
        r["decision"]["reason"] == "not_in_registry"
            && r["request"]["resource"]["services"] == json!(["nobody.default.svc.cluster.local"])
    });
}

async fn allowed_and_denied(it: &Fixture) {
    let call = Call::get("echo", "/public/first")
        .header("x-internal", "1")
        .header("x-user", "root")
        .header("x-reeve-peer", "w=a")
        .header("x-envoy-downstream-service-cluster", "client");
    assert_eq!(call.status(it.outside).await, Ok(200));
    assert_eq!(it.seen("x-checked"), ["yes"]);
    for gone in ["x-internal", "x-user", "x-reeve-peer"] {
        assert_eq!(it.seen(gone), Vec::<String>::new(), "{gone}");
    }
    // A header does not make anybody somebody, and not one of several lines hides another.
    let spoof = format!("URI={CLIENT}");
    for call in [
        Call::get("echo", "/private"),
        Call::get("echo", "/private").header("x-forwarded-client-cert", &spoof),
        Call::get("echo", "/public/a").method("POST"),
        Call::get("echo", "/public/../private"),
        Call::get("echo", "/unknown"),
        Call::get("echo", "/public/a")
            .header("x-role", "user")
            .header("x-role", "banned"),
    ] {
        let answer = call.send(it.outside).await.expect("an answer");
        assert_eq!(answer.status, 403, "{call:?}");
        let body = answer.json();
        assert_eq!(body["error"], "denied");
        assert_eq!(
            body["decision_id"].as_str(),
            answer.header("x-reeve-decision-id")
        );
        assert_eq!(
            body.as_object().map(serde_json::Map::len),
            Some(2),
            "nothing else"
        );
        assert_eq!(answer.header("x-checked"), None);
    }
    // What Envoy would forward as it is, and another reader would take for something else.
    let ambiguous = Call::get("echo", "/public%2fa")
        .send(it.outside)
        .await
        .expect("an answer");
    assert_eq!(ambiguous.status, 400);
}

async fn tokens(it: &Fixture) {
    let mine = Call::get("echo", "/mine").method("POST");
    assert_eq!(mine.status(it.outside).await, Ok(403));
    let with = mine
        .clone()
        .header("authorization", &it.token())
        .header("x-user", "root");
    assert_eq!(with.status(it.outside).await, Ok(200));
    assert_eq!(it.seen("x-user"), ["ada"]);
    assert_eq!(
        it.seen("authorization"),
        Vec::<String>::new(),
        "the token is not forwarded"
    );
    let bad = mine
        .header("authorization", "Bearer a.b.c")
        .send(it.outside)
        .await;
    let bad = bad.expect("an answer");
    assert_eq!(bad.status, 401);
    assert_eq!(
        bad.header("www-authenticate"),
        Some("Bearer error=\"invalid_token\"")
    );
}

async fn the_caller_by_its_certificate(it: &Fixture) {
    let mut connection = it.client.open(it.mtls, "envoy.test").await.expect("mTLS");
    let answer = connection
        .send(&Call::get("echo", "/private").method("DELETE"))
        .await;
    assert_eq!(answer.expect("an answer").status, 200);
}

async fn the_http_form(it: &Fixture) {
    let public = Call::get("echo", "/public/http").header("x-user", "root");
    assert_eq!(public.status(it.by_http).await, Ok(200));
    assert_eq!(
        it.seen("x-user"),
        [""],
        "what a claim would say is replaced"
    );
    let spoof = format!("URI={CLIENT}");
    for call in [
        Call::get("echo", "/private").header("x-forwarded-client-cert", &spoof),
        Call::get("echo", "/private").header("x-reeve-service", "other"),
        Call::get("echo", "/../nobody.default.svc.cluster.local/public/x"),
    ] {
        let denied = call.send(it.by_http).await.expect("an answer");
        assert_eq!(denied.status, 403, "{call:?}");
        assert!(denied.header("x-reeve-decision-id").is_some());
    }
    let mine = Call::get("echo", "/mine").header("authorization", &it.token());
    assert_eq!(mine.status(it.by_http).await, Ok(200));
    assert_eq!(it.seen("x-user"), ["ada"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_this_machine_only_those_with_a_certificate_may_ask() {
    let folder = shop(&Signer::new("k1"));
    let work = Folder::new();
    let client = certificates(work.path());
    let dir = work.path().display();
    let serve = format!(
        "authz serve -f {} --state {dir}/state",
        folder.path().display()
    );
    let tls = format!("--tls-cert {dir}/server.pem --tls-key {dir}/server.key");
    // Any address, and nobody proves who they are: refused at the start.
    for more in [
        "--grpc 0.0.0.0:0".to_owned(),
        format!("--http 0.0.0.0:0 {tls}"),
    ] {
        let args = format!("{serve} {more}");
        let args: Vec<&str> = args.split_whitespace().collect();
        let outcome = run(&binary("reeve"), &args, &[], LIMIT).await;
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        let told = outcome.stderr.contains("--danger-plaintext");
        assert!(told, "{}", outcome.stderr);
    }
    let (grpc, http) = (local(port()), local(port()));
    let doors = format!("--grpc {grpc} --http {http} {tls} --client-ca {dir}/root.pem");
    let _server = start(&binary("reeve"), &format!("{serve} {doors}"));
    let check = Call::get("echo", "/check/echo.default.svc.cluster.local/public/a");
    let ask = async |client: &TlsClient| {
        let mut connection = client
            .open(http, "envoy.test")
            .await
            .map_err(|e| e.to_string())?;
        let answer = connection.send(&check).await.map_err(|e| e.to_string())?;
        Ok::<_, String>(answer.status.as_u16())
    };
    eventually("the server answers", LIMIT, async || {
        match ask(&client).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let root = fs::read_to_string(work.path().join("root.pem")).expect("the root");
    let nobody = ask(&TlsClient::trusting(&root)).await;
    assert!(nobody.is_err(), "{nobody:?}");
    assert!(
        check.status(http).await.is_err(),
        "plaintext is not answered"
    );
}

/// Asks the server over HTTP whether a stranger may read `path` of `echo`.
async fn may(door: SocketAddr, path: &str) -> Result<u16, String> {
    Call::get(
        "reeve",
        &format!("/check/echo.default.svc.cluster.local{path}"),
    )
    .status(door)
    .await
}

/// A server that decides for other proxies and has joined the mesh of `domain`, whose folder it reads. What it keeps is in
/// `work`; it is asked at `http`.
pub(crate) async fn joined(mesh: &Mesh, domain: &str, work: &Path, http: SocketAddr) -> Child {
    let grpc = local(port());
    let identity = format!("spiffe://{domain}/ns/reeve-system/sa/ext-authz");
    let token = mesh
        .reeve_ok(&["ca", "token", "create", "--identity", &identity])
        .await;
    fs::write(work.join("token"), token.stdout).expect("a file");
    let bundle = mesh.reeve_ok(&["ca", "bundle"]).await;
    fs::write(work.join("bundle.pem"), bundle.stdout).expect("a file");
    let dir = work.display();
    let serve = format!(
        "authz serve -f {} --state {dir}/state --grpc {grpc} --http {http} --mesh-address {} --join-token-file {dir}/token \
         --bundle {dir}/bundle.pem",
        mesh.folder.path().display(),
        mesh.grpc(),
    );
    start(&binary("reeve"), &serve)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_mesh_its_records_are_in_the_meshs_log() {
    let mesh = Mesh::start(shop(&Signer::new("k1"))).await;
    let work = Folder::new();
    let http = local(port());
    let _server = joined(&mesh, "mesh.local", work.path(), http).await;
    eventually("the server answers", LIMIT, async || {
        match may(http, "/public/first").await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(may(http, "/private/second").await, Ok(403));
    for (path, effect) in [("/public/first", "allow"), ("/private/second", "deny")] {
        let record = mesh
            .record(path, |r| r["request"]["context"]["http"]["path"] == path)
            .await;
        assert_eq!(record["decision"]["effect"], effect, "{record}");
        assert!(record.to_string().contains("reeve.ext-authz/"), "{record}");
    }
    assert!(
        !work.path().join("state/audit").exists(),
        "no log of its own"
    );
    mesh.verify_audit().await;
}
