//! Registration entries: a process that `reeve up` did not start gets its identities at the machine's socket, several of
//! them with their hints, and loses what is taken away; nobody else gets them, and who tried is on record.

use std::{path::PathBuf, time::Duration};

use reeve_tests::{Mesh, Outcome, Signer, Token, binary, eventually, run};
use serde_json::{Value, json};

use crate::fixture::{ECHO, client_and_echo};

const NIGHTLY: &str = "spiffe://mesh.local/ns/batch/sa/nightly";
const REPORT: &str = "spiffe://mesh.local/ns/batch/sa/report";

/// How long a change may take to arrive; generous, for slow machines.
const PATIENCE: Duration = Duration::from_secs(60);

fn entry(name: &str, spec: Value) -> String {
    json!({
        "apiVersion": "reeve.dev/v1alpha1",
        "kind": "RegistrationEntry",
        "metadata": {"name": name, "namespace": "batch"},
        "spec": spec,
    })
    .to_string()
}

/// This user's; the test process and all that it starts are strangers to the mesh.
fn uid() -> String {
    format!("unix:uid:{}", rustix::process::geteuid().as_raw())
}

fn reeve_path() -> String {
    let path = std::fs::canonicalize(binary("reeve")).expect("the program");
    format!("unix:path:{}", path.display())
}

fn socket(mesh: &Mesh) -> String {
    let path: PathBuf = mesh.state.join("workload.sock");
    path.display().to_string()
}

async fn fetch(mesh: &Mesh, more: &[&str]) -> Outcome {
    let socket = socket(mesh);
    let args = [
        &["identity", "fetch", "--socket", &socket, "-o", "json"],
        more,
    ]
    .concat();
    let program = binary("reeve");
    run(&program, &args, &[], Duration::from_secs(30)).await
}

/// `(identity, hint)` of everything that the process is given.
fn identities(outcome: &Outcome) -> Vec<(String, String)> {
    if outcome.code != Some(0) {
        return Vec::new();
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = outcome.json();
    let all = all.as_array().cloned().unwrap_or_default();
    all.iter()
        .map(|one| (text(&one["spiffe_id"]), text(&one["hint"])))
        .collect()
}

async fn gets(mesh: &Mesh, expected: &[(&str, &str)]) {
    let what = format!("the process gets {expected:?}");
    eventually(&what, PATIENCE, async || {
        let outcome = fetch(mesh, &[]).await;
        let found = identities(&outcome);
        let same = found
            .iter()
            .map(|(id, hint)| (id.as_str(), hint.as_str()))
            .eq(expected.iter().copied());
        match same {
            true => Ok(()),
            false => Err(format!("{found:?}: {}", outcome.text())),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_process_gets_the_identities_of_its_entries_and_loses_what_is_taken_away() {
    let nightly = json!({
        "spiffeID": NIGHTLY, "selectors": [uid(), reeve_path()], "hint": "jobs",
        "x509SVIDTTL": "10m", "dnsNames": ["nightly.batch.svc"], "jwtAudiences": ["ledger"],
    });
    let report = json!({"spiffeID": REPORT, "selectors": [uid()], "hint": "reports"});
    let foreign = json!({
        "spiffeID": "spiffe://mesh.local/ns/batch/sa/foreign", "selectors": [uid(), "unix:path:/bin/false"],
    });
    let folder = client_and_echo(json!({}))
        .with("nightly.yaml", entry("nightly", nightly))
        .with("foreign.yaml", entry("foreign", foreign));
    let mesh = Mesh::start(folder).await;

    // The entry that asks most comes first, and is the default; it is there at once when it is written.
    gets(&mesh, &[(NIGHTLY, "jobs")]).await;
    mesh.apply("report.yaml", entry("report", report)).await;
    gets(&mesh, &[(NIGHTLY, "jobs"), (REPORT, "reports")]).await;
    mesh.record("what was issued is recorded", |record| {
        record["event"] == "identity_issued" && record.to_string().contains(NIGHTLY)
    })
    .await;

    // A token of the one that is named, for the audiences of its entry.
    let token = fetch(&mesh, &["--audience", "ledger", "--spiffe-id", NIGHTLY]).await;
    assert_eq!(
        identities(&token),
        [(NIGHTLY.to_owned(), "jobs".to_owned())],
        "{}",
        token.text()
    );
    let refused = fetch(&mesh, &["--audience", "pay", "--spiffe-id", NIGHTLY]).await;
    assert_eq!(refused.code, Some(1), "{}", refused.text());
    let stolen = fetch(&mesh, &["--audience", "ledger", "--spiffe-id", ECHO]).await;
    assert_eq!(stolen.code, Some(1), "{}", stolen.text());
    for (what, reason) in [("pay", "audience_not_allowed"), ("echo", "not_entitled")] {
        mesh.record(&format!("{what} is recorded"), |record| {
            record["event"] == "identity_refused" && record.to_string().contains(reason)
        })
        .await;
    }
    let entries = mesh.reeve_ok(&["ca", "entries", "-o", "json"]).await.json();
    let names: Vec<_> = entries
        .as_array()
        .expect("entries")
        .iter()
        .map(|e| e["name"]["name"].clone())
        .collect();
    assert_eq!(names, ["foreign", "nightly", "report"], "{entries}");
    assert!(
        mesh.reeve_ok(&["ca", "entries"])
            .await
            .text()
            .contains(REPORT)
    );

    mesh.withdraw("nightly.yaml").await;
    gets(&mesh, &[(REPORT, "reports")]).await;
    mesh.withdraw("report.yaml").await;
    gets(&mesh, &[]).await;
    mesh.record(
        "a process without an entry is recorded, with what is known of it",
        |record| {
            let text = record.to_string();
            record["event"] == "identity_refused"
                && text.contains("no registration entry")
                && text.contains(&uid())
        },
    )
    .await;
    mesh.verify_audit().await;
}

/// An agent that runs until this is dropped.
struct Agent {
    socket: String,
    log: PathBuf,
    _process: tokio::process::Child,
}

/// How an agent is known.
enum Known<'a> {
    JoinToken(&'a str),
    ServiceAccount(&'a str),
}

fn agent(mesh: &Mesh, name: &str, identity: &str, known: &Known<'_>) -> Agent {
    let file = |end: &str| mesh.state.join(format!("{name}.{end}"));
    let (flag, token) = match known {
        Known::JoinToken(token) => ("--join-token-file", token),
        Known::ServiceAccount(token) => ("--kubernetes-token-file", token),
    };
    std::fs::write(file("token"), token).expect("a token file");
    let log = std::fs::File::create(file("log")).expect("a log");
    let process = tokio::process::Command::new(binary("reeve"))
        .args(["agent", "run", "--identity", identity, "--mesh-address"])
        .arg(mesh.grpc().to_string())
        .arg("--bundle")
        .arg(mesh.state.join("bundle.pem"))
        .arg(flag)
        .arg(file("token"))
        .arg("--socket")
        .arg(file("sock"))
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("the agent starts");
    Agent {
        socket: file("sock").display().to_string(),
        log: file("log"),
        _process: process,
    }
}

impl Agent {
    async fn serves(&self, expected: &str) {
        let args = ["identity", "fetch", "--socket", &self.socket, "-o", "json"];
        eventually(
            &format!("the agent serves {expected}"),
            PATIENCE,
            async || {
                let program = binary("reeve");
                let outcome = run(&program, &args, &[], Duration::from_secs(30)).await;
                match identities(&outcome).as_slice() {
                    [(id, _)] if id == expected => Ok(()),
                    found => Err(format!("{found:?}: {}", outcome.text())),
                }
            },
        )
        .await;
    }

    /// The agent has nothing for this process.
    async fn refuses(&self) {
        let args = ["identity", "fetch", "--socket", &self.socket, "-o", "json"];
        eventually("the agent refuses", PATIENCE, async || {
            let program = binary("reeve");
            let outcome = run(&program, &args, &[], Duration::from_secs(30)).await;
            match identities(&outcome).is_empty() {
                true => Ok(()),
                false => Err(outcome.text()),
            }
        })
        .await;
    }

    /// The authority refuses the agent itself.
    async fn is_refused(&self) {
        eventually("the agent is refused", PATIENCE, async || {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            match log.contains("no identity for this caller") {
                true => Ok(()),
                false => Err(log),
            }
        })
        .await;
    }
}

async fn token(mesh: &Mesh, identity: &str) -> String {
    let args = [
        "ca",
        "token",
        "create",
        "--identity",
        identity,
        "-o",
        "json",
    ];
    let created = mesh.reeve_ok(&args).await.json();
    created["token"].as_str().expect("a token").to_owned()
}

/// On record, with this reason, after being asked for `identity`.
async fn refusal(mesh: &Mesh, identity: &str, text: &str) {
    mesh.record(&format!("{text} is recorded"), |record| {
        let all = record.to_string();
        record["event"] == "identity_refused" && all.contains(identity) && all.contains(text)
    })
    .await;
}

const AGENT_A: &str = "spiffe://mesh.local/agent/a";
const AGENT_B: &str = "spiffe://mesh.local/agent/b";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_serves_its_own_entries_and_cannot_join_by_anothers_or_a_used_token() {
    let of_a = json!({"spiffeID": NIGHTLY, "parentID": AGENT_A, "selectors": [uid()]});
    let of_b = json!({"spiffeID": REPORT, "parentID": AGENT_B, "selectors": [uid()]});
    let folder = client_and_echo(json!({}))
        .with("nightly.yaml", entry("nightly", of_a))
        .with("report.yaml", entry("report", of_b));
    let mesh = Mesh::start(folder).await;
    let used = token(&mesh, AGENT_A).await;
    let a = agent(&mesh, "a", AGENT_A, &Known::JoinToken(&used));
    a.serves(NIGHTLY).await;
    let entries = mesh.reeve_ok(&["ca", "entries", "-o", "json"]).await.json();
    let connected: Vec<_> = entries
        .as_array()
        .expect("entries")
        .iter()
        .map(|e| e["agent_connected"].clone())
        .collect();
    assert_eq!(connected, [true, false], "{entries}");

    let again = agent(&mesh, "again", AGENT_A, &Known::JoinToken(&used));
    again.is_refused().await;
    refusal(&mesh, AGENT_A, "used before").await;
    let anothers = token(&mesh, AGENT_B).await;
    let thief = agent(&mesh, "thief", AGENT_A, &Known::JoinToken(&anothers));
    thief.is_refused().await;
    refusal(&mesh, AGENT_A, "another identity").await;
    let b = agent(&mesh, "b", AGENT_B, &Known::JoinToken(&anothers));
    b.serves(REPORT).await;

    // B's entry becomes A's: B's process loses it, and A's gets it.
    let moved = json!({"spiffeID": NIGHTLY, "parentID": AGENT_B, "selectors": [uid(), "unix:path:/bin/false"]});
    mesh.apply("nightly.yaml", entry("nightly", moved)).await;
    let of_a = json!({"spiffeID": REPORT, "parentID": AGENT_A, "selectors": [uid()]});
    mesh.apply("report.yaml", entry("report", of_a)).await;
    a.serves(REPORT).await;
    b.refuses().await;

    // Whom an agent refuses is on the mesh's record, as that agent's word.
    mesh.record("what B refused is recorded", |record| {
        record["event"] == "identity_refused"
            && record["detail"]["agent"] == AGENT_B
            && record["detail"]["reason"] == "not_attested"
            && record.to_string().contains("no registration entry")
            && record.to_string().contains(&uid())
    })
    .await;
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_is_known_by_its_projected_token_for_the_meshs_audience() {
    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
    const SUBJECT: &str = "system:serviceaccount:ops:agent";
    const IDENTITY: &str = "spiffe://mesh.local/ns/ops/sa/agent";
    let cluster = Signer::new("cluster");
    let spec = json!({"kubernetesTokens": {
        "audience": "reeve", "issuer": ISSUER, "jwks": cluster.jwks().to_string(),
    }});
    let nightly = json!({"spiffeID": NIGHTLY, "parentID": IDENTITY, "selectors": [uid()]});
    let folder = client_and_echo(spec).with("nightly.yaml", entry("nightly", nightly));
    let mesh = Mesh::start(folder).await;
    let of = json!({"namespace": "ops", "serviceaccount": {"name": "agent", "uid": "1"}});
    let made = |audience: &str, valid_s: i64| {
        let token = Token::new(ISSUER, SUBJECT, audience, valid_s);
        cluster.sign(&token.claim("kubernetes.io", of.clone()))
    };
    let good = made("reeve", 600);
    let known = agent(&mesh, "pod", IDENTITY, &Known::ServiceAccount(&good));
    known.serves(NIGHTLY).await;
    for (name, token, text) in [
        ("audience", made("vault", 600), "audience"),
        ("expired", made("reeve", -600), "expired"),
        (
            "forged",
            Signer::new("cluster").sign(&Token::new(ISSUER, SUBJECT, "reeve", 600)),
            "signature",
        ),
    ] {
        let cheat = agent(&mesh, name, IDENTITY, &Known::ServiceAccount(&token));
        cheat.is_refused().await;
        refusal(&mesh, IDENTITY, text).await;
    }
    // Another's token is good for its own identity alone.
    let control = "spiffe://mesh.local/ns/reeve-system/sa/control";
    let thief = agent(&mesh, "thief", control, &Known::ServiceAccount(&good));
    thief.is_refused().await;
    refusal(&mesh, control, "not entitled").await;
    mesh.verify_audit().await;
}
