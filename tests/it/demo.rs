//! The demo as a newcomer sees it.

use std::time::Duration;

use reeve_tests::{Call, Connection, Folder, Mesh, Protocol, binary, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_headless_demo_ends_with_a_summary_and_leaves_nothing_behind() {
    // Holds the turn of a mesh: the demo is one.
    let _turn = reeve_tests::turn().await;
    let marker = format!("rv-{}-demo", std::process::id());
    let state = std::env::temp_dir().join(&marker);
    let shown = state.display().to_string();
    let args = [
        "demo",
        "--headless",
        "--for",
        "15s",
        "-o",
        "json",
        "--state",
        &shown,
    ];
    let outcome = run(&binary("reeve"), &args, &[], Duration::from_secs(120)).await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.text());
    let last = outcome
        .stdout
        .trim()
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned();
    let summary = serde_json::from_str(&outcome.stdout)
        .or_else(|_| serde_json::from_str::<serde_json::Value>(&last));
    let summary = summary.expect("a summary in JSON");
    println!("{summary}");
    assert_eq!(summary["failed"], 0, "{summary}");
    assert_eq!(summary["verified"], true, "{summary}");
    for name in [
        "workloads",
        "requests",
        "allowed",
        "denied",
        "rotations",
        "records",
        "p50_ms",
        "p99_ms",
    ] {
        assert!(
            summary[name].is_number() || summary[name].is_array(),
            "{name} is missing: {summary}"
        );
    }
    assert!(summary["requests"].as_u64() > Some(50), "{summary}");
    assert!(
        summary["denied"].as_u64() > Some(0),
        "nothing was denied: {summary}"
    );
    let left = processes_with(&marker);
    assert!(left.is_empty(), "left behind: {left:?}");
    drop(std::fs::remove_dir_all(&state));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bookinfo_shows_jason_black_stars_and_everybody_all_versions() {
    let mesh = Mesh::start(Folder::bookinfo()).await;
    let page = Call::get("bookinfo.example", "/productpage");
    let mut connection = Connection::open(mesh.inbound("ingress-0", 8080), Protocol::Http1)
        .await
        .expect("a connection");
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..40 {
        let call = if number % 2 == 0 {
            page.clone().header("cookie", "user=jason")
        } else {
            page.clone()
        };
        let answer = connection.send(&call).await.expect("an answer");
        assert_eq!(answer.status, 200);
        let text = answer.text();
        assert!(!text.contains("unavailable"), "{text}");
        if number % 2 == 0 {
            assert!(text.contains("stars black"), "jason should see v2: {text}");
        } else {
            let versions = ["reviews-v1-0", "reviews-v2-0", "reviews-v3-0"];
            seen.extend(
                versions
                    .into_iter()
                    .filter(|version| text.contains(version)),
            );
        }
    }
    assert!(seen.len() >= 2, "{seen:?}");

    // Nobody permitted the product page to ask `ratings` itself.
    let ratings = Call::get("bookinfo.example", "/api/v1/products/0/ratings");
    assert_eq!(
        connection.send(&ratings).await.expect("an answer").status,
        403
    );
    // And the gateway itself permits only the shop's own paths.
    let admin = Call::get("bookinfo.example", "/admin").header("x-request-id", "admin-1");
    let status = connection.send(&admin).await.expect("an answer").status;
    assert!(matches!(status.as_u16(), 403 | 404), "{status}");
    mesh.verify_audit().await;
}

/// Command lines that contain `marker`, of processes other than this one.
fn processes_with(marker: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = entries.filter(|entry| entry.file_name() != own.as_str());
    others
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(marker))
        .collect()
}
