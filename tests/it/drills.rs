//! `reeve drill`: what is rotated, taken away or broken on a running mesh, what is lost of it, and that it is put back.

use std::{path::Path, process::Stdio, time::Duration};

use reeve_tests::{
    CLIENT_TO_ECHO, Call, Folder, Mesh, Outcome, binary, echo, eventually, local_mesh, permit, run,
    service, sidecar, strict,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::fixture::{get, settings, to_echo};

const RAW: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action,
  resource in Service::"raw.default.svc.cluster.local"
);"#;
/// Longest time for a drill, on a slow machine.
const LIMIT: Duration = Duration::from_secs(170);

/// `client` may reach `echo` by HTTP and `raw` by TCP.
fn folder(certificate_ttl: &str) -> Folder {
    let mut raw = echo("raw-v1", "raw", "v1");
    raw["ports"] = json!([{"port": 9080, "name": "tcp"}]);
    let workloads = [sidecar("client"), echo("echo-v1", "echo", "v1"), raw];
    let spec = json!({"certificateTtl": certificate_ttl, "rotationWait": "1s"});
    Folder::new()
        .with("mesh.yaml", settings(spec))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with("echo.yaml", service("echo", 9080, "http"))
        .with("raw.yaml", service("raw", 9080, "tcp"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO))
        .with("access-raw.yaml", permit("raw", RAW))
}

/// HTTP/2 and HTTP/1.1 to `echo`, and TCP to `raw`.
const CALLS: [&str; 4] = [
    "--call",
    "client-0=echo:9080/",
    "--call",
    "client-0=raw:9080/",
];

/// Runs `reeve drill run`; its report.
pub(crate) async fn drill(mesh: &Mesh, args: &[&str]) -> (Outcome, Value) {
    let state = mesh.state.display().to_string();
    let words = [&["drill", "run"], args, &CALLS, &["-o", "json"]].concat();
    let envs = [("REEVE_STATE", state.as_str())];
    let outcome = run(&binary("reeve"), &words, &envs, LIMIT).await;
    assert_ne!(outcome.code, Some(2), "{}", outcome.text());
    let report = outcome.json();
    (outcome, report)
}

fn lost_nothing(outcome: &Outcome, report: &Value) {
    assert_eq!(outcome.code, Some(0), "{}", outcome.text());
    assert_eq!(report["verdict"], "passed", "{report:#}");
    assert_eq!(report["load"]["failed"], 0, "{report:#}");
    assert!(report["load"]["ok"].as_u64() > Some(0), "{report:#}");
}

/// What the audit log has of drills: phase and verdict.
async fn recorded(mesh: &Mesh) -> Vec<Value> {
    let records = mesh.records(&["--kind", "event"]).await;
    let drills = records.into_iter().filter(|r| r["event"] == "drill");
    drills.map(|record| record["detail"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_is_planned_run_recorded_and_reported() {
    let mut mesh = Mesh::start(folder("30s")).await;
    let plan = ["drill", "run", "rotate-workloads", "--dry-run"];
    let plan = mesh.reeve_ok(&[&plan[..], &CALLS].concat()).await.stdout;
    for word in ["everybody renews", "echo-v1-0", "raw-v1-0", "answered 200"] {
        assert!(plan.contains(word), "{word} is missing: {plan}");
    }
    assert_eq!(recorded(&mesh).await, Vec::<Value>::new(), "a plan only");

    let (outcome, report) = drill(&mesh, &["rotate-workloads"]).await;
    lost_nothing(&outcome, &report);
    let renewed = report["renewals"].as_array().expect("renewals");
    for instance in ["client-0", "echo-v1-0", "raw-v1-0"] {
        let of = renewed.iter().any(|r| r["instance"] == instance);
        assert!(of, "{instance} has not renewed: {report:#}");
    }
    eventually("the drill is in the audit log", LIMIT, async || {
        let details = recorded(&mesh).await;
        let phases: Vec<_> = details.iter().filter_map(|d| d["phase"].as_str()).collect();
        match phases.as_slice() {
            ["began", "step", "ended"] => Ok(()),
            _ => Err(format!("{details:#?}")),
        }
    })
    .await;
    let shown = mesh.reeve_ok(&["drill", "report"]).await.stdout;
    assert!(shown.starts_with("PASSED  rotate-workloads"), "{shown}");
    let page = mesh.reeve_ok(&["drill", "report", "--html"]).await.stdout;
    assert!(page.contains("<svg") && page.contains("echo-v1-0 has renewed"));
    assert!(
        !page.contains("<script") && !page.contains("src="),
        "{page}"
    );
    let (outcome, report) = drill(&mesh, &["rotate-intermediate"]).await;
    lost_nothing(&outcome, &report);
    mesh.verify_audit().await;
    mesh.stop().await;
}

/// Nobody can renew until every certificate has ended: closed. Then they can: open again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_every_certificate_has_ended_nothing_passes_and_the_mesh_heals() {
    let mut mesh = Mesh::start(folder("10s")).await;
    let refused = [&["drill", "run", "expire"][..], &CALLS].concat();
    let refused = mesh.reeve(&refused).await;
    assert_eq!(refused.code, Some(2), "nobody said yes: {}", refused.text());
    let scraped = std::net::SocketAddr::new(mesh.instance("echo-v1-0").address.into(), 15020);
    let alarm = eventually("the sidecar's metrics are an alarm", LIMIT, async || {
        let page = Call::get("echo-v1-0", "/stats/prometheus")
            .send(scraped)
            .await;
        let page = page.map_err(|error| format!("{error:#}"))?.text();
        let alarm = page
            .lines()
            .find(|l| l.starts_with("reeve_certificate_alarm"));
        match alarm {
            Some("reeve_certificate_alarm 2") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let ((outcome, report), ()) = tokio::join!(drill(&mesh, &["expire", "--yes"]), alarm);
    lost_nothing(&outcome, &report);
    assert!(
        report["load"]["failed_as_expected"].as_u64() > Some(0),
        "{report:#}"
    );
    let texts = report["timeline"].to_string();
    for word in ["every request is refused: closed", "answered as before"] {
        assert!(texts.contains(word), "{word} is missing: {report:#}");
    }
    assert!(
        logs(&mesh).contains("a drill has the authority no-renewal"),
        "the sidecar's log does not say why there is no certificate"
    );
    assert!(
        logs(&mesh).contains("the certificate has ended"),
        "the sidecar's log does not say that it is closed"
    );
    mesh.verify_audit().await;
    mesh.stop().await;
}

/// The authority is away for half of a certificate's life, and nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_authority_is_away_for_half_of_a_life() {
    let mut mesh = Mesh::start(folder("24s")).await;
    let (outcome, report) = drill(&mesh, &["rotate-workloads"]).await;
    lost_nothing(&outcome, &report);
    let (outcome, report) = drill(&mesh, &["ca-outage"]).await;
    lost_nothing(&outcome, &report);
    assert!(
        report["plan"][0].to_string().contains("12.0 s"),
        "{report:#}"
    );
    mesh.stop().await;
}

fn logs(mesh: &Mesh) -> String {
    let entries = std::fs::read_dir(mesh.state.join("logs"));
    let entries = entries.into_iter().flatten().flatten();
    let texts = entries.map(|e| std::fs::read(e.path()).unwrap_or_default());
    texts
        .map(|t| String::from_utf8_lossy(&t).into_owned())
        .collect()
}

/// Every command of the guide, in its order; the load is what `client` was permitted to ask before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_leads_from_plan_to_report() {
    let mut mesh = Mesh::start(folder("12s")).await;
    assert_eq!(get("/").status(to_echo(&mesh)).await.ok(), Some(200));
    eventually("it is in the audit log", LIMIT, async || {
        match mesh.records(&["--kind", "decision"]).await.is_empty() {
            true => Err("no decision".to_owned()),
            false => Ok(()),
        }
    })
    .await;
    let guide = include_str!("../../docs/drills.md");
    let commands = guide
        .lines()
        .filter_map(|line| line.strip_prefix("$ reeve "));
    let state = mesh.state.display().to_string();
    let mut ran = Vec::new();
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        let envs = [("REEVE_STATE", state.as_str())];
        let outcome = run(&binary("reeve"), &words, &envs, LIMIT).await;
        assert_eq!(outcome.code, Some(0), "{command}: {}", outcome.text());
        ran.push((command, outcome.stdout));
    }
    assert_eq!(ran.len(), 7, "{ran:?}");
    let said = |command: &str| {
        let of = ran.iter().find(|(ran, _)| *ran == command);
        of.map_or("", |(_, said)| said.as_str())
    };
    assert!(said("drill run rotate-root --dry-run").contains("client-0 -> echo"));
    assert!(said("drill report").starts_with("PASSED  rotate-root"));
    let events = said("audit query --kind event --since 1h");
    assert!(events.contains("drill"), "{events}");
    mesh.stop().await;
}

/// Too much is lost, or somebody has enough of it: what the drill has done is undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_that_is_broken_off_puts_everything_back() {
    let mut mesh = Mesh::start(folder("5m")).await;
    let outage = ["ca-outage", "--for", "10m", "--stop-at", "1"];
    let denied = async {
        eventually("the fault is in", LIMIT, async || {
            let details = recorded(&mesh).await;
            match details.iter().any(|d| d["phase"] == "fault_began") {
                true => Ok(()),
                false => Err(format!("{details:#?}")),
            }
        })
        .await;
        let nobody = r#"forbid (principal, action, resource);"#;
        mesh.folder.write("access.yaml", permit("echo", nobody));
    };
    let ((outcome, report), ()) = tokio::join!(drill(&mesh, &outage), denied);
    assert_eq!(outcome.code, Some(3), "{}", outcome.text());
    assert_eq!(report["verdict"], "rolled_back", "{report:#}");
    let text = report["failures"].to_string();
    assert!(
        text.contains("answered 403, before the drill 200"),
        "{text}"
    );
    eventually("the fault is out", LIMIT, async || {
        let details = recorded(&mesh).await;
        let ended = details.iter().find(|d| d["phase"] == "fault_ended");
        match ended.is_some_and(|d| d["cause"].is_null()) {
            true => Ok(()),
            false => Err(format!("{details:#?}")),
        }
    })
    .await;
    mesh.apply("access.yaml", permit("echo", CLIENT_TO_ECHO))
        .await;

    let mut words = vec!["drill", "run", "rotate-root"];
    words.extend(CALLS);
    let mut rotating = start(&mesh, &words);
    let step = async || {
        let status = mesh.reeve_ok(&["ca", "status", "-o", "json"]).await.json();
        status["rotation"].clone()
    };
    eventually(
        "the new root signs",
        LIMIT,
        async || match step().await["step"].as_str() {
            Some("renew") => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
    let pid = i32::try_from(rotating.id().expect("a process")).expect("a process id");
    let pid = Pid::from_raw(pid).expect("a process id");
    kill_process(pid, Signal::INT).expect("the signal");
    let ended = rotating.wait().await.expect("its end");
    assert_eq!(ended.code(), Some(3));
    assert_eq!(step().await["cause"], "back", "the old root signs again");
    assert_eq!(get("/").status(to_echo(&mesh)).await.ok(), Some(200));
    mesh.verify_audit().await;
    mesh.stop().await;
}

/// Starts `reeve` on a mesh.
fn start(mesh: &Mesh, words: &[&str]) -> Child {
    Command::new(Path::new(&binary("reeve")))
        .args(words)
        .env("REEVE_STATE", &mesh.state)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the drill")
}

/// The authority is away; the drill is killed, and cannot take that back. It ends by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_ends_by_itself_when_its_drill_is_killed() {
    let mut mesh = Mesh::start(folder("2m")).await;
    let mut words = vec!["drill", "run", "ca-outage", "--for", "10m"];
    words.extend(CALLS);
    let mut drill = start(&mesh, &words);
    let members_follow = async || {
        let members = mesh.reeve_ok(&["ca", "members", "-o", "json"]).await.json();
        let members = members.as_array().cloned().unwrap_or_default();
        let echo = members.iter().find(|m| m["instance"] == "echo-v1-0");
        echo.is_some_and(|echo| echo["connected"] == true)
    };
    eventually(
        "nobody follows the authority",
        LIMIT,
        async || match members_follow().await {
            true => Err("echo-v1-0 does".to_owned()),
            false => Ok(()),
        },
    )
    .await;
    drill.kill().await.expect("the drill's end");
    assert_eq!(get("/").status(to_echo(&mesh)).await.ok(), Some(200));
    eventually(
        "everybody follows it again",
        LIMIT,
        async || match members_follow().await {
            true => Ok(()),
            false => Err("echo-v1-0 does not".to_owned()),
        },
    )
    .await;
    let details = recorded(&mesh).await;
    let ended = details.iter().find(|d| d["phase"] == "fault_ended");
    assert_eq!(ended.expect("its end")["cause"], "lease over");
    mesh.stop().await;
}

/// In handshakes and on open connections, across a restart of the mesh process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_identity_is_refused_everywhere_until_that_is_taken_back() {
    let mut mesh = Mesh::start(folder("2m")).await;
    let client = "spiffe://mesh.local/ns/default/sa/client";
    assert_eq!(get("/").status(to_echo(&mesh)).await.ok(), Some(200));
    let refused = mesh.reeve(&["ca", "revoke", "spiffe://other.org/x"]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    mesh.reeve_ok(&["ca", "revoke", client, "--why", "a test"])
        .await;
    let answers = async |wanted: bool| {
        let status = get("/").status(to_echo(&mesh)).await;
        match matches!(status, Ok(200)) == wanted {
            true => Ok(()),
            false => Err(format!("{status:?}")),
        }
    };
    eventually("it is refused", LIMIT, async || answers(false).await).await;
    let again = mesh.reeve(&["ca", "revoke", client]).await;
    assert!(again.text().contains("already"), "{}", again.text());

    // It is so after a restart of the mesh process, and other traffic flows.
    let pid = mesh.mesh_pid().expect("a mesh process");
    mesh.kill_process(pid);
    eventually("the list is there again", LIMIT, async || {
        let list = mesh.reeve(&["ca", "revoked", "-o", "json"]).await;
        match list.code == Some(0) && list.json()[0]["id"] == client {
            true => Ok(()),
            false => Err(list.text()),
        }
    })
    .await;
    eventually("the refusal is recorded", LIMIT, async || {
        let records = mesh.records(&["--kind", "event"]).await;
        let refused = records.iter().filter(|r| r["event"] == "handshake_refused");
        let reasons: Vec<_> = refused.map(|r| r["detail"]["reason"].to_string()).collect();
        let revoked = records.iter().any(|r| r["event"] == "identity_revoked");
        match revoked && reasons.iter().any(|r| r.contains("is revoked")) {
            true => Ok(()),
            false => Err(format!("{reasons:?}")),
        }
    })
    .await;
    mesh.reeve_ok(&["ca", "unrevoke", client]).await;
    eventually("it is let in again", LIMIT, async || answers(true).await).await;
    mesh.verify_audit().await;
    mesh.stop().await;
}
