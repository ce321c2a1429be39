//! Point 9: peers that know nothing of Reeve get their identity from it: a stock Envoy over SDS, and the SPIFFE
//! library for Python over the Workload API.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use reeve_tests::{
    Call, Load, Mesh, Protocol, Target, echo, eventually, local_mesh, permit, sidecar, test_tool,
};
use serde_json::{Value, json};

use crate::{
    custody::rotated,
    fixture::{CLIENT_TO_ECHO, client_and_echo},
};

const ENVOY: &str = "spiffe://mesh.local/ns/default/sa/envoy";

/// Long enough for three certificates of 10 s.
const RUN: Duration = Duration::from_secs(14);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_envoy_takes_its_certificate_over_sds_and_speaks_mtls_with_a_sidecar() {
    let (mesh, front) = with_envoy(json!({"certificateTtl": "10s"}), None).await;
    for path in ["/http1/", "/h2/"] {
        eventually(
            &format!("Envoy serves {path}"),
            Duration::from_secs(30),
            async || match Call::get("echo:9080", path).status(front).await {
                Ok(200) => Ok(()),
                other => Err(format!("{other:?}")),
            },
        )
        .await;
        let id = format!("envoy{}", path.replace('/', "-"));
        let answer = Call::get("echo:9080", path)
            .header("x-request-id", &id)
            .send(front)
            .await
            .expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["instance"], "echo-v1-0");
    }
    mesh.record("Envoy's identity is in the record", |record| {
        record["kind"] == "decision"
            && record["request"]["principal"] == json!({"workload": ENVOY})
            && record["authenticated_by"] == "mtls"
    })
    .await;
    assert_eq!(
        Call::get("echo:9080", "/impostor/").status(front).await,
        Ok(503),
        "the server's identity is checked"
    );

    // Rotation is pushed: it goes on past the end of its first certificates.
    let load = through_envoy(front);
    tokio::time::sleep(RUN).await;
    let report = load.stop().await;
    println!(
        "{} requests through Envoy, {} failed",
        report.ok, report.failed
    );
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
}

/// Must show 4 of issue 8: whoever cannot acknowledge follows a root rotation all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_envoy_and_the_spiffe_library_follow_a_root_rotation_live() {
    let result = std::env::temp_dir().join(format!("rv-{}-roots.json", std::process::id()));
    drop(std::fs::remove_file(&result));
    let follower = script("follower", "follow_roots.py", &result);
    let spec = json!({"certificateTtl": "10s", "rotationWait": "3s"});
    let (mesh, front) = with_envoy(spec, Some(follower)).await;
    let seen = |done: &'static str, enough: fn(&[Value]) -> bool| {
        let result = result.clone();
        eventually(done, Duration::from_secs(60), move || {
            let text = std::fs::read_to_string(&result).unwrap_or_default();
            let updates: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
            std::future::ready(match enough(&updates) {
                true => Ok(updates),
                false => Err(text),
            })
        })
    };
    seen("the library has an identity", |updates| !updates.is_empty()).await;
    let load = through_envoy(front);
    mesh.reeve_ok(&["ca", "rotate", "root"]).await;
    rotated(&mesh, 3).await;
    let updates = seen("the library trusts the new root alone", |updates| {
        let last = updates.last().map(|last| &last["roots"]);
        last.is_some_and(|last| count(last) == 1 && *last != updates[0]["roots"])
    })
    .await;
    let report = load.stop().await;
    assert!(report.ok > 0, "no request was made");
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
    assert!(
        updates.iter().any(|update| count(&update["roots"]) == 2),
        "the new root is told before the old one goes: {updates:#?}"
    );
    for update in &updates {
        assert_eq!(
            update["vouched"], true,
            "its own chain leads to a root of its bundle: {update}"
        );
    }
    let answer = Call::get("echo:9080", "/http1/").status(front).await;
    assert_eq!(
        answer,
        Ok(200),
        "a new connection of Envoy's, under the new root alone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_spiffe_library_takes_svids_and_tokens_from_the_workload_api() {
    let result = std::env::temp_dir().join(format!("rv-{}-svid.json", std::process::id()));
    drop(std::fs::remove_file(&result));
    let folder = client_and_echo(json!({"certificateTtl": "10s"}))
        .with("fetch_svid.py", include_str!("peers/fetch_svid.py"))
        .with(
            "workloads.yaml",
            local_mesh(&[script("fetcher", "fetch_svid.py", &result)]),
        )
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO));
    let _mesh = Mesh::start(folder).await;

    let got = result_of(&result).await;
    let updates = got["updates"].as_array().expect("updates");
    assert!(updates.len() >= 3, "{got}");
    for update in updates {
        assert_eq!(
            update["spiffe_id"],
            "spiffe://mesh.local/ns/default/sa/fetcher"
        );
        assert_eq!(update["p256"], true);
        assert_eq!(update["key_fits"], true);
        assert!(update["authorities"].as_u64() >= Some(1), "{update}");
    }
    let serials: BTreeSet<_> = updates
        .iter()
        .filter_map(|u| u["serial"].as_str())
        .collect();
    assert!(serials.len() >= 3, "rotation was not pushed: {got}");
    assert_eq!(got["errors"], json!([]));
    assert_eq!(got["bundles"], 1);
    let fetcher = "spiffe://mesh.local/ns/default/sa/fetcher";
    assert_eq!(got["jwt"]["by_the_library"], fetcher, "{got}");
    assert_eq!(got["jwt"]["by_the_agent"], fetcher, "{got}");
    assert_eq!(got["jwt"]["elsewhere"], "ValidateJwtSvidError", "{got}");
    assert_eq!(got["jwt"]["anothers"], "FetchJwtSvidError", "{got}");
}

fn count(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

/// A mesh with a stock Envoy as a workload, which routes to the echo service; and where Envoy listens. `more` runs beside it.
async fn with_envoy(spec: Value, more: Option<Value>) -> (Mesh, SocketAddr) {
    let envoy = test_tool("envoy");
    let cedar = CLIENT_TO_ECHO.replace("sa/client", "sa/envoy");
    let folder = client_and_echo(spec)
        .with("access.yaml", permit("echo", &cedar))
        .with("follow_roots.py", include_str!("peers/follow_roots.py"));
    let mesh = Mesh::start(folder).await;

    // Its configuration needs addresses that are known only now, and the socket, which it gets from its environment.
    let address = mesh.inbound("echo-v1-0", 9080).ip().to_string();
    let config = include_str!("peers/envoy.yaml").replace("@ECHO@", &address);
    std::fs::write(mesh.state.join("envoy.in"), config).expect("Envoy's configuration");
    let script = format!(
        "sed -e \"s|@SOCKET@|${{SPIFFE_ENDPOINT_SOCKET#unix:}}|; s|@HOST@|$HOST|\" {state}/envoy.in > {state}/envoy.yaml \
         && exec {envoy} -c {state}/envoy.yaml --concurrency 1 --disable-hot-restart -l warning",
        state = mesh.state.display(),
        envoy = envoy.display(),
    );
    let workload = json!({
        "name": "envoy", "serviceAccount": "envoy", "labels": {"app": "envoy"}, "command": ["sh", "-c", script],
    });
    let mut workloads = vec![sidecar("client"), echo("echo-v1", "echo", "v1"), workload];
    workloads.extend(more);
    mesh.apply("workloads.yaml", local_mesh(&workloads)).await;
    let front = SocketAddr::from((mesh.instance("envoy-0").app_address, 10000));
    eventually(
        "Envoy serves",
        Duration::from_secs(60),
        async || match Call::get("echo:9080", "/h2/").status(front).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
    (mesh, front)
}

fn through_envoy(front: SocketAddr) -> Load {
    let targets = ["/http1/", "/h2/"].map(|path| Target {
        address: front,
        protocol: Protocol::Http1,
        call: Call::get("echo:9080", path),
        bad_text: None,
    });
    Load::start("envoy", targets.into(), Duration::from_millis(20))
}

/// A workload that runs a Python script of the folder with the test's foreign libraries.
pub(crate) fn script(name: &str, file: &str, result: &Path) -> Value {
    json!({
        "name": name, "serviceAccount": name, "labels": {"app": name},
        "command": [test_tool("python3"), format!("${{folder}}/{file}")],
        "env": {"RESULT": result},
    })
}

/// What a script wrote.
pub(crate) async fn result_of(path: &Path) -> Value {
    let text = eventually("the script is done", Duration::from_secs(60), async || {
        std::fs::read_to_string(path).map_err(|error| error.to_string())
    })
    .await;
    drop(std::fs::remove_file(path));
    serde_json::from_str(&text).expect("JSON")
}
