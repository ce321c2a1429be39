//! Must show 4 of the identity plane: a workload with the stock go-spiffe library, which knows nothing of Reeve but its
//! socket, follows a rotation of the root live. It calls a sidecar through all of it, on new connections and on a kept one.

use std::{net::SocketAddr, time::Duration};

use reeve_tests::{
    Call, Load, Mesh, Protocol, Target, echo, eventually, local_mesh, permit, sidecar, test_tool,
};
use serde_json::{Value, json};

use crate::{
    custody::rotated,
    fixture::{CLIENT_TO_ECHO, client_and_echo},
};

/// Longest time for anything, on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_spiffe_follows_a_root_rotation_live() {
    let settings = json!({"certificateTtl": "20s", "rotationWait": "4s"});
    let cedar = CLIENT_TO_ECHO.replace("sa/client", "sa/gopher");
    let folder = client_and_echo(settings).with("access.yaml", permit("echo", &cedar));
    let mut mesh = Mesh::start(folder).await;
    let gopher = gopher(mesh.inbound("echo-v1-0", 9080));
    let workloads = [sidecar("client"), echo("echo-v1", "echo", "v1"), gopher];
    mesh.apply("workloads.yaml", local_mesh(&workloads)).await;
    let front = SocketAddr::from((mesh.instance("gopher-0").app_address, 10000));
    let call = |path| Call::get("echo:9080", path);
    for path in ["/fresh", "/kept"] {
        eventually(&format!("{path} is served"), LIMIT, async || {
            match call(path).status(front).await {
                Ok(200) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    let first = seen(front).await;
    assert_eq!(first["roots"].as_array().map(Vec::len), Some(1), "{first}");

    let targets = ["/fresh", "/kept"].map(|path| Target {
        address: front,
        protocol: Protocol::Http1,
        call: call(path),
        bad_text: None,
    });
    let load = Load::start("go-spiffe", targets.into(), Duration::from_millis(50));
    mesh.reeve_ok(&["ca", "rotate", "root"]).await;
    rotated(&mesh, 3).await;
    let last = eventually("go-spiffe trusts the new root alone", LIMIT, async || {
        let now = seen(front).await;
        let alone = now["roots"].as_array().map(Vec::len) == Some(1);
        match alone && now["roots"] != first["roots"] {
            true => Ok(now),
            false => Err(now.to_string()),
        }
    })
    .await;
    let ever = last["roots_ever"].as_array().map(Vec::len);
    assert_eq!(ever, Some(2), "the old root and the new one: {last}");
    let serials = last["serials"].as_array().map(Vec::len);
    assert!(serials >= Some(2), "it has another certificate: {last}");
    assert_eq!(last["errors"], json!([]), "{last}");
    // The sidecar trusts the new root alone: who is let in has followed.
    for path in ["/fresh", "/kept"] {
        assert_eq!(call(path).status(front).await, Ok(200), "{path}");
    }
    let report = load.stop().await;
    assert!(report.ok > 0, "there was traffic");
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
    mesh.stop().await;
}

/// A workload `gopher` of the stock library, which calls `to`.
fn gopher(to: SocketAddr) -> Value {
    let script = format!(
        "exec {} $HOST:10000 {to} spiffe://mesh.local/ns/default/sa/echo",
        test_tool("go-spiffe").display()
    );
    json!({
        "name": "gopher", "serviceAccount": "gopher", "labels": {"app": "gopher"}, "command": ["sh", "-c", script],
    })
}

/// What go-spiffe holds and has held.
async fn seen(gopher: SocketAddr) -> Value {
    let answer = Call::get("gopher", "/seen").send(gopher).await;
    answer.expect("an answer").json()
}
