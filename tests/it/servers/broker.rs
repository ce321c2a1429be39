//! Mosquitto, an MQTT broker: what is published reaches who subscribed, also who is away for a while.

use std::net::SocketAddr;

use reeve_tests::{Mesh, Outcome, Scratch, eventually, run, test_tools};

use super::{LIMIT, Talk, folder, kill_sidecar, server, test_tool, told_of};

const PORT: u16 = 1883;

fn broker(files: &Scratch) -> String {
    let config = "allow_anonymous true\nlistener PORT HOST\nlog_dest stderr\npersistence false\n";
    files.write("mosquitto.conf", config, 0o644);
    let (path, program) = (files.path().display(), test_tool("mosquitto"));
    format!(
        "sed \"s/PORT/$PORT/; s/HOST/$HOST/\" {path}/mosquitto.conf > {path}/own.conf && exec {} -c {path}/own.conf",
        program.display()
    )
}

/// The words of Mosquitto's clients for a broker at `to`.
fn words(to: SocketAddr, more: &[&str]) -> Vec<String> {
    let at = ["-h", &to.ip().to_string(), "-p", &to.port().to_string()].map(str::to_owned);
    at.into_iter()
        .chain(more.iter().map(|word| (*word).to_owned()))
        .collect()
}

async fn mqtt(program: &str, to: SocketAddr, more: &[&str]) -> Outcome {
    let words = words(to, more);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    run(&test_tool(program), &words, &[], LIMIT).await
}

async fn publish(to: SocketAddr, id: &str, text: &str) {
    let outcome = mqtt(
        "mosquitto_pub",
        to,
        &["-i", id, "-t", "orders/new", "-q", "2", "-m", text],
    )
    .await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_pass_through_sidecars_and_wait_for_whom_is_away() {
    test_tools();
    let files = Scratch::new("mqtt");
    let workload = server("broker", PORT, "tcp-mqtt", &broker(&files));
    let mut mesh = Mesh::start(folder(&[(workload, PORT, "tcp-mqtt")])).await;
    let shop = mesh.outbound("client-0", "broker", PORT);
    let stock = mesh.outbound("stock-0", "broker", PORT);

    wait_for_whom_is_away(shop, stock).await;
    refused(&mesh).await;
    told_of(&mesh, "broker").await;
    subscriber_through_restarts(&mesh, shop, stock).await;
    mesh.verify_audit().await;
    mesh.stop().await;
}

/// `stock` subscribes and goes; what `client` orders meanwhile, it gets when it is back, each once and in order.
async fn wait_for_whom_is_away(shop: SocketAddr, stock: SocketAddr) {
    let own = ["-i", "stock", "-c", "-t", "orders/#", "-q", "2"];
    let subscribed = mqtt("mosquitto_sub", stock, &[&own[..], &["-E"]].concat()).await;
    assert_eq!(subscribed.code, Some(0), "{}", subscribed.text());
    let orders: Vec<String> = (0..20).map(|n| format!("order {n}")).collect();
    for order in &orders {
        publish(shop, "shop", order).await;
    }
    let got = mqtt(
        "mosquitto_sub",
        stock,
        &[&own[..], &["-C", "20", "-W", "15"]].concat(),
    )
    .await;
    assert_eq!(got.code, Some(0), "{}", got.text());
    assert_eq!(got.stdout.lines().collect::<Vec<_>>(), orders);
}

async fn refused(mesh: &Mesh) {
    let other = mesh.outbound("other-0", "broker", PORT);
    let outcome = mqtt(
        "mosquitto_pub",
        other,
        &["-i", "other", "-t", "orders/new", "-m", "forged"],
    )
    .await;
    assert_ne!(outcome.code, Some(0), "{}", outcome.text());
    assert!(!mesh.log("broker-0.app.log").contains("as other"));
}

/// A subscriber that stays: its connection goes on while sidecars are replaced, and is made again when one is killed.
async fn subscriber_through_restarts(mesh: &Mesh, shop: SocketAddr, stock: SocketAddr) {
    let more = ["-i", "hall", "-c", "-t", "orders/#", "-q", "1", "-k", "5"];
    let words = words(stock, &more);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut hall = Talk::start(&test_tool("mosquitto_sub"), &words);
    seen(mesh, 1).await;
    for (text, workload) in [("first", "stock"), ("second", "broker")] {
        mesh.reeve_ok(&["proxy", "restart", workload]).await;
        publish(shop, "shop", text).await;
        assert_eq!(hall.line().await.as_deref(), Some(text));
    }
    assert_eq!(
        times_connected(mesh),
        1,
        "the same connection all the while"
    );

    kill_sidecar(mesh, "stock-0").await;
    publish(shop, "shop", "third").await;
    assert_eq!(hall.line().await.as_deref(), Some("third"));
    seen(mesh, 2).await;
}

fn times_connected(mesh: &Mesh) -> usize {
    mesh.log("broker-0.app.log").matches("as hall").count()
}

async fn seen(mesh: &Mesh, times: usize) {
    eventually("the broker has seen it connect", LIMIT, async || {
        let now = times_connected(mesh);
        (now == times).then_some(()).ok_or_else(|| now.to_string())
    })
    .await;
}
