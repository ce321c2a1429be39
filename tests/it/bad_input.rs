//! Bad input gets a clear error and loses nothing.

use std::{fs, os::unix::net::UnixListener, time::Duration};

use reeve_tests::{
    Folder, Load, Mesh, Protocol, Scratch, Target, binary, echo, eventually, local_mesh, permit,
    run, sidecar,
};
use serde_json::{Value, json};

use crate::fixture::{CLIENT, client_and_echo, get, to_echo};

const LIMIT: Duration = Duration::from_secs(20);

/// A bad file: its name, its text, where the fault is, and words that must name it.
struct Bad {
    file: &'static str,
    text: String,
    line: Option<u64>,
    words: &'static [&'static str],
}

fn bad_files() -> Vec<Bad> {
    let mut twice = echo("twice", "twice", "v1");
    twice["ports"] = json!([{"port": 9080, "name": "http"}, {"port": 9080, "name": "again"}]);
    vec![
        Bad {
            file: "broken.yaml",
            text: "kind: MeshConfig\n  spec: [\n".to_owned(),
            line: Some(2),
            words: &["broken.yaml"],
        },
        Bad {
            file: "unknown.yaml",
            text: "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\nspec:\n  hosts: [x]\n  \
                   htpt:\n  - route:\n    - destination: {host: echo}\n"
                .to_owned(),
            line: Some(6),
            words: &["unknown.yaml", "htpt"],
        },
        Bad {
            file: "policy.yaml",
            text: permit("bad", "permit (principal, action == Action::\"GET\", resource)\nwhen { context.pth == \"/\" };"),
            line: None,
            words: &["policy.yaml", "pth"],
        },
        Bad {
            file: "twice.yaml",
            text: local_mesh(&[twice]),
            line: None,
            words: &["twice.yaml", "9080"],
        },
        Bad {
            file: "same-name.yaml",
            text: local_mesh(&[echo("echo-v1", "echo", "v1")]),
            line: None,
            words: &["same-name.yaml", "echo-v1"],
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_edit_is_refused_with_its_place_and_the_last_good_configuration_stays() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let target = Target {
        address: to_echo(&mesh),
        protocol: Protocol::Http1,
        call: get("/"),
        bad_text: None,
    };
    let load = Load::start("bad-input", vec![target; 2], Duration::from_millis(5));
    for bad in bad_files() {
        let before = mesh.generation().await;
        mesh.folder.write(bad.file, &bad.text);
        let faults = eventually(&format!("{} is refused", bad.file), LIMIT, async || {
            let faults = mesh.status().await?["config"]["faults"].clone();
            let named = faults.to_string().contains(bad.file);
            if named {
                Ok(faults)
            } else {
                Err(faults.to_string())
            }
        })
        .await;
        assert_fault(&bad, &faults);
        assert_eq!(
            mesh.generation().await,
            before,
            "{} changed the configuration",
            bad.file
        );
        let checked = mesh
            .reeve(&[
                "config",
                "check",
                "-f",
                &mesh.folder.path().display().to_string(),
                "-o",
                "json",
            ])
            .await;
        assert_eq!(checked.code, Some(1), "{}", checked.text());
        for word in bad.words {
            assert!(
                checked.stdout.contains(word),
                "{word} is not in {}",
                checked.stdout
            );
        }
        mesh.folder.remove(bad.file);
        eventually("the fault is gone", LIMIT, async || {
            let faults = mesh.status().await?["config"]["faults"].clone();
            if faults.as_array().is_none_or(Vec::is_empty) {
                Ok(())
            } else {
                Err(faults.to_string())
            }
        })
        .await;
    }
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
    // A good edit afterwards binds.
    mesh.withdraw("access.yaml").await;
    assert_eq!(get("/").status(to_echo(&mesh)).await, Ok(403));
}

fn assert_fault(bad: &Bad, faults: &Value) {
    let text = faults.to_string();
    for word in bad.words {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    if let Some(line) = bad.line {
        let lines: Vec<_> = faults
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|f| f["line"].as_u64())
            .collect();
        assert!(lines.contains(&line), "line {line} is not named in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_folder_does_not_start_and_says_why() {
    for bad in bad_files() {
        let folder = client_and_echo(json!({})).with(bad.file, &bad.text);
        let outcome = up(&folder, None).await;
        assert_eq!(outcome.code, Some(1), "{}: {}", bad.file, outcome.text());
        for word in bad.words {
            assert!(
                outcome.stderr.contains(word),
                "{word} is not in {}",
                outcome.stderr
            );
        }
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_path_that_is_taken_or_too_long_is_named() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    // A second mesh on the same state directory.
    let state = mesh.state.display().to_string();
    let outcome = up(&mesh.folder, Some(&state)).await;
    assert_eq!(outcome.code, Some(2), "{}", outcome.text());
    assert!(outcome.stderr.contains(&state), "{}", outcome.stderr);
    assert_eq!(
        get("/").status(to_echo(&mesh)).await,
        Ok(200),
        "the first mesh goes on"
    );

    // A socket that another process listens on, where a new instance's agent socket belongs.
    let taken = mesh.state.join("run/late-0.sock");
    let listener = UnixListener::bind(&taken).expect("a socket of our own");
    let workloads = [
        sidecar("client"),
        echo("echo-v1", "echo", "v1"),
        sidecar("late"),
    ];
    mesh.folder.write("workloads.yaml", local_mesh(&workloads));
    eventually("the taken socket is named", LIMIT, async || {
        let log = mesh.log("late-0.sidecar.log") + &mesh.log("mesh.log");
        let out = fs::read_to_string(mesh.state.join("supervisor.out")).unwrap_or_default();
        if (log + &out).contains("late-0.sock") {
            Ok(())
        } else {
            Err("not named yet".to_owned())
        }
    })
    .await;
    assert_eq!(
        get("/").status(to_echo(&mesh)).await,
        Ok(200),
        "the others go on"
    );
    drop(listener);
    fs::remove_file(&taken).expect("the socket");
    eventually(
        "the instance starts once the path is free",
        LIMIT,
        async || {
            let late = mesh
                .instances()?
                .into_iter()
                .find(|i| i.name == "late-0")
                .ok_or("no instance")?;
            if late.healthy {
                Ok(())
            } else {
                Err("not healthy".to_owned())
            }
        },
    )
    .await;
    drop(mesh);

    let long = std::env::temp_dir()
        .join("x".repeat(100))
        .display()
        .to_string();
    let outcome = up(&client_and_echo(json!({})), Some(&long)).await;
    assert_eq!(outcome.code, Some(2), "{}", outcome.text());
    assert!(outcome.stderr.contains("socket"), "{}", outcome.stderr);
    drop(fs::remove_dir_all(&long));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_another_trust_domain_is_refused() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let state = mesh.state.display().to_string();
    let (address, foreign) = (
        mesh.grpc().to_string(),
        CLIENT.replace("mesh.local", "other.example"),
    );
    let (socket, wal) = (format!("{state}/mesh.sock"), format!("{state}/foreign-wal"));
    let reeve = binary("reeve").display().to_string();
    let args = [
        "--signal=TERM",
        "--kill-after=5",
        "8",
        &reeve,
        "proxy",
        "run",
        "--instance",
        "client-0",
        "--identity",
        &foreign,
        "--trust-domain",
        "other.example",
        "--mesh-address",
        &address,
        "--mesh-socket",
        &socket,
        "--wal-dir",
        &wal,
    ];
    let outcome = run("timeout".as_ref(), &args, &[], Duration::from_secs(20)).await;
    assert_ne!(outcome.code, Some(0), "{}", outcome.text());
    let text = outcome.text();
    let named = ["refused", "trust domain", "denied"]
        .iter()
        .any(|word| text.contains(word));
    assert!(
        named && !text.contains("panicked"),
        "no clear refusal: {text}"
    );
    // The mesh's own client goes on.
    assert_eq!(get("/").status(to_echo(&mesh)).await, Ok(200));
}

/// A mesh process alone, without a supervisor.
struct Alone(tokio::process::Child);

impl Alone {
    fn start(folder: &Folder, state: &str) -> Self {
        let folder = folder.path().display().to_string();
        let anywhere = "127.0.0.1:0";
        let child = tokio::process::Command::new(binary("reeve"))
            .args(["control", "run", "--state", state, "--folder", &folder])
            .args(["--grpc", anywhere, "--api", anywhere])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn();
        Self(child.expect("a mesh process"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_process_without_a_valid_folder_says_what_it_waits_for() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let mesh = |replicas: u16| {
        let workload = |name: &str| json!({"name": name, "replicas": replicas});
        local_mesh(&[workload("a"), workload("b")])
    };
    let folder = Folder::new().with("mesh.yaml", mesh(250));
    let scratch = Scratch::new("waiting");
    let state = scratch.path().display().to_string();
    let mut process = Alone::start(&folder, &state);
    let args = [
        "ca",
        "token",
        "create",
        "--state",
        &state,
        "--identity",
        "spiffe://mesh.local/ns/a/sa/b",
    ];
    let ask = async || run(&binary("reeve"), &args, &[], PATIENCE).await;
    eventually("it says what is in its way", PATIENCE, async || {
        let outcome = ask().await;
        let told = outcome.text().contains("room for 254");
        match outcome.code == Some(2) && told && outcome.text().contains("mesh.yaml") {
            true => Ok(()),
            false => Err(outcome.text()),
        }
    })
    .await;
    folder.write("mesh.yaml", mesh(2));
    eventually("it goes on when that is mended", PATIENCE, async || {
        let outcome = ask().await;
        match outcome.code {
            Some(0) => Ok(()),
            _ => Err(outcome.text()),
        }
    })
    .await;
    assert!(matches!(process.0.try_wait(), Ok(None)), "the same process");
}

/// `reeve up` that is expected to end by itself.
async fn up(folder: &Folder, state: Option<&str>) -> reeve_tests::Outcome {
    let own = std::env::temp_dir().join(format!("rv-{}-up", std::process::id()));
    drop(fs::remove_dir_all(&own));
    let state = state.map_or_else(|| own.display().to_string(), str::to_owned);
    let path = folder.path().display().to_string();
    let reeve = binary("reeve").display().to_string();
    let args = [
        "--signal=TERM",
        "--kill-after=10",
        "20",
        &reeve,
        "up",
        "-f",
        &path,
        "--state",
        &state,
        "--base",
        "99",
    ];
    let outcome = run("timeout".as_ref(), &args, &[], Duration::from_secs(40)).await;
    drop(fs::remove_dir_all(&own));
    outcome
}
