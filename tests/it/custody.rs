//! Where the authority's keys are (docs/custody.md), on a mesh with traffic: sealed with a key from the environment, in a
//! token, under an authority of the operator's. The mesh process is killed, the root rotated, and no request fails.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use reeve_tests::{Folder, Load, Mesh, Protocol, Scratch, Start, Target, binary, eventually, run};
use serde_json::{Value, json};

use crate::{
    fixture::{client_and_echo, get, to_echo},
    keys_on_disk::{scan, scanner::Scanner},
    tamper::files_below,
};

/// Longest time for a rotation, on a slow machine.
const LIMIT: Duration = Duration::from_secs(150);
const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

fn folder() -> Folder {
    client_and_echo(json!({"certificateTtl": "10s", "rotationWait": "1s"}))
}

fn load(mesh: &Mesh, name: &str) -> Load {
    let target = Target {
        address: to_echo(mesh),
        protocol: Protocol::Http2,
        call: get("/"),
        bad_text: None,
    };
    Load::start(name, vec![target], Duration::from_millis(20))
}

async fn ca_status(mesh: &Mesh) -> Result<Value, String> {
    let outcome = mesh.reeve(&["ca", "status", "-o", "json"]).await;
    match outcome.code {
        Some(0) => Ok(outcome.json()),
        _ => Err(outcome.text()),
    }
}

/// Kills the mesh process and waits for the next one.
async fn restart(mesh: &mut Mesh) {
    mesh.kill_process(mesh.mesh_pid().expect("a mesh process"));
    mesh.wait_ready(LIMIT).await;
}

/// Waits until a rotation that has begun is over.
pub(crate) async fn rotated(mesh: &Mesh, sequence: u64) -> Value {
    eventually("the rotation is over", LIMIT, async || {
        let status = ca_status(mesh).await?;
        match (
            status["rotation"].is_null(),
            status["bundle_sequence"].as_u64(),
        ) {
            (true, Some(now)) if now >= sequence => Ok(status),
            _ => Err(status.to_string()),
        }
    })
    .await
}

async fn nothing_failed(load: Load) {
    let report = load.stop().await;
    assert!(report.ok > 0, "no request was made");
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealing_key_from_the_environment_is_nowhere_else() {
    let key = "5eaf00d5".repeat(8);
    let how = Start {
        args: ["--seal-key-env", "MESH_SEAL_KEY"]
            .map(str::to_owned)
            .to_vec(),
        wrapper: ["env", &format!("MESH_SEAL_KEY={key}")]
            .map(str::to_owned)
            .to_vec(),
    };
    let mut mesh = Mesh::start_with(folder(), &how).await;
    let load = load(&mesh, "environment");
    let before = ca_status(&mesh).await.expect("a status");
    assert_eq!(before["custody"]["keys"], "sealed", "{before}");
    restart(&mut mesh).await;
    let after = ca_status(&mesh).await.expect("a status");
    assert_eq!(
        after["root_not_after"], before["root_not_after"],
        "the same authority"
    );
    nothing_failed(load).await;
    assert!(!mesh.state.join("seal.key").exists(), "no key file is made");
    for (name, pid) in mesh.pids() {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let has_it = String::from_utf8_lossy(&environment).contains(&key);
        let may = name == "mesh" || name == "supervisor";
        assert!(may || !has_it, "{name} has the key");
    }
    mesh.stop().await;
    // Another key opens nothing, and nothing is begun anew.
    let (state, other) = (mesh.state.display().to_string(), "ab".repeat(32));
    let configuration = mesh.folder.path().display().to_string();
    let args = [
        "control",
        "run",
        "--state",
        &state,
        "-f",
        &configuration,
        "--seal-key-env",
        "OTHER",
    ];
    let refused = run(&binary("reeve"), &args, &[("OTHER", &other)], LIMIT).await;
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    assert!(
        refused.text().contains("sealed with another key"),
        "{}",
        refused.text()
    );
    assert!(!refused.text().contains(&other) && !refused.text().contains(&key));
}

/// A token of SoftHSM's with a PIN of its own.
struct Token(Scratch);

impl Token {
    const PIN: &str = "314159265";

    fn new() -> Self {
        assert!(
            Path::new(SOFTHSM).exists(),
            "SoftHSM is missing; tests/tools/install.sh installs it"
        );
        let token = Self(Scratch::new("token"));
        fs::create_dir(token.objects()).expect("a folder");
        let conf = format!(
            "directories.tokendir = {}\nlog.level = ERROR\n",
            token.objects().display()
        );
        token.0.write("conf", &conf, 0o600);
        token.0.write("pin", Self::PIN, 0o600);
        let made = Command::new("softhsm2-util")
            .args([
                "--init-token",
                "--free",
                "--label",
                "mesh keys",
                "--so-pin",
                "27182818",
                "--pin",
                Self::PIN,
            ])
            .env("SOFTHSM2_CONF", token.0.path().join("conf"))
            .output()
            .expect("softhsm2-util");
        assert!(made.status.success(), "{made:?}");
        token
    }

    fn objects(&self) -> PathBuf {
        self.0.path().join("objects")
    }

    fn start(&self) -> Start {
        let pin = self.0.path().join("pin");
        let uri = format!(
            "pkcs11:token=mesh%20keys?module-path={SOFTHSM}&pin-source=file:{}",
            pin.display()
        );
        let conf = self.0.path().join("conf");
        Start {
            args: vec!["--authority-keys".to_owned(), uri],
            wrapper: vec![
                "env".to_owned(),
                format!("SOFTHSM2_CONF={}", conf.display()),
            ],
        }
    }

    /// How many objects it holds; a key pair is two.
    fn count(&self) -> usize {
        let tokens = fs::read_dir(self.objects()).expect("the tokens").flatten();
        let files =
            tokens.flat_map(|token| fs::read_dir(token.path()).into_iter().flatten().flatten());
        files
            .filter(|f| {
                f.path().extension().is_some_and(|e| e == "object")
                    && f.file_name() != "token.object"
            })
            .count()
    }

    fn hide(&self) {
        fs::rename(self.objects(), self.0.path().join("away")).expect("to hide it");
    }

    fn bring_back(&self) {
        fs::rename(self.0.path().join("away"), self.objects()).expect("to bring it back");
    }
}

/// Root, intermediate and the key of JWT-SVIDs; a pair each.
const OBJECTS_AT_REST: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_stay_in_a_token_and_what_it_holds_is_rotated_and_ended() {
    let token = Token::new();
    let mut mesh = Mesh::start_with(folder(), &token.start()).await;
    assert_eq!(token.count(), OBJECTS_AT_REST);
    let load = load(&mesh, "token");
    let before = ca_status(&mesh).await.expect("a status");
    let custody = &before["custody"];
    assert_eq!(
        (&custody["keys"], &custody["away"]),
        (&json!("pkcs11"), &Value::Null),
        "{before}"
    );
    assert!(
        custody["place"].to_string().contains("mesh keys"),
        "{custody}"
    );

    restart(&mut mesh).await;
    let after = ca_status(&mesh).await.expect("a status");
    assert_eq!(
        after["root_not_after"], before["root_not_after"],
        "a restart goes on with the token's keys"
    );

    mesh.reeve_ok(&["ca", "rotate", "root"]).await;
    assert!(
        token.count() > OBJECTS_AT_REST,
        "the prepared root's key is made there"
    );
    restart(&mut mesh).await;
    let status = rotated(&mesh, 3).await;
    assert_ne!(status["root_not_after"], before["root_not_after"]);
    eventually(
        "the keys of the old authorities are ended",
        LIMIT,
        async || match token.count() {
            OBJECTS_AT_REST => Ok(()),
            more => Err(format!("{more} objects; {:?}", ca_status(&mesh).await)),
        },
    )
    .await;
    nothing_failed(load).await;
    no_key_is_in(&mesh.state);
    mesh.stop().await;
    no_key_is_in(&mesh.state);
    pin_is_nowhere(&mesh.state);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_away_is_named_and_issuing_heals_when_it_is_back() {
    let token = Token::new();
    let mut mesh = Mesh::start_with(folder(), &token.start()).await;
    token.hide();
    eventually("it is said that the keys are away", LIMIT, async || {
        let status = ca_status(&mesh).await?;
        match status["custody"]["away"].as_str() {
            Some(why) if why.contains("mesh keys") => Ok(()),
            _ => Err(status.to_string()),
        }
    })
    .await;
    let said = mesh.reeve_ok(&["ca", "status"]).await.text();
    assert!(said.contains("keys cannot be used"), "{said}");
    // A restart while it is away: the mesh process begins, and says the same.
    mesh.kill_process(mesh.mesh_pid().expect("a mesh process"));
    eventually("the next mesh process says so too", LIMIT, async || {
        let status = ca_status(&mesh).await?;
        match status["custody"]["away"].is_string() {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    })
    .await;
    token.bring_back();
    eventually("certificates are issued again", LIMIT, async || {
        let status = ca_status(&mesh).await?;
        match (
            status["custody"]["away"].is_null(),
            status["issued"].as_u64(),
        ) {
            (true, Some(1..)) => Ok(()),
            _ => Err(status.to_string()),
        }
    })
    .await;
    mesh.wait_ready(LIMIT).await;
    eventually("traffic flows", LIMIT, async || {
        match get("/").status(to_echo(&mesh)).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    mesh.stop().await;
}

/// No private key lies in the folder in the clear; sealed files are opened by nobody here, but where keys are in a token
/// the journal holds names (reeve-ca's own tests read it).
fn no_key_is_in(folder: &Path) {
    let (found, count) = scan(&Scanner::new(Vec::new()), &[folder], &[]);
    assert!(found.is_empty(), "{found:#?}");
    assert!(count > 10, "only {count} files were searched");
}

fn pin_is_nowhere(folder: &Path) {
    for path in files_below(folder) {
        let bytes = fs::read(&path).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&bytes).contains(Token::PIN),
            "{}",
            path.display()
        );
    }
}

/// An operator's root, and the authorities below it that are put where the mesh looks.
struct Operator {
    root: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Operator {
    fn new(name: &str) -> Self {
        let (key, params) = (KeyPair::generate().expect("a key"), signing(name));
        Self {
            root: params.self_signed(&key).expect("a root").pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn put(&self, folder: &Path, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let certificate = signing(name)
            .signed_by(&key, &self.issuer)
            .expect("a certificate");
        let write = |name: &str, text: &str| {
            let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
            fs::write(&new, text).expect("a file");
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("its mode");
            fs::rename(new, path).expect("a file");
        };
        write("tls.crt", &certificate.pem());
        write("tls.key", &key.serialize_pem());
        write("ca.crt", &self.root);
    }
}

fn signing(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_of_the_operators_is_followed_while_traffic_flows() {
    let files = Scratch::new("upstream");
    let (old, new) = (Operator::new("old root"), Operator::new("new root"));
    old.put(files.path(), "first of the old");
    let how = Start {
        args: vec![
            "--upstream-authority".to_owned(),
            files.path().display().to_string(),
        ],
        ..Start::default()
    };
    let mut mesh = Mesh::start_with(folder(), &how).await;
    let load = load(&mesh, "upstream");
    let bundle = || fs::read_to_string(mesh.state.join("bundle.pem")).unwrap_or_default();
    let same = |pem: &str, other: &str| pem.split_whitespace().eq(other.split_whitespace());
    assert!(
        same(&bundle(), &old.root),
        "the operator's root is the mesh's"
    );
    let refused = mesh.reeve(&["ca", "rotate", "root", "--yes"]).await;
    assert!(
        refused.text().contains("upstream authority's"),
        "{}",
        refused.text()
    );

    fs::write(files.path().join("tls.key"), "no key").expect("a file");
    eventually("the bad replacement is refused", LIMIT, async || {
        let status = ca_status(&mesh).await?;
        match status["custody"]["upstream"]["refused"].as_str() {
            Some(why) if why.contains("tls.key holds no private key") => Ok(()),
            _ => Err(status.to_string()),
        }
    })
    .await;
    let renewals = ca_status(&mesh).await.expect("a status")["renewal"].as_u64();
    old.put(files.path(), "second of the old");
    eventually(
        "another authority under the root signs",
        LIMIT,
        async || {
            let status = ca_status(&mesh).await?;
            match status["custody"]["upstream"]["refused"].is_null()
                && status["renewal"].as_u64() > renewals
            {
                true => Ok(()),
                false => Err(status.to_string()),
            }
        },
    )
    .await;
    new.put(files.path(), "of the new");
    eventually("the new root is spread", LIMIT, async || {
        let pem = fs::read_to_string(mesh.state.join("bundle.pem")).unwrap_or_default();
        match pem.matches("BEGIN").count() {
            2 => Ok(()),
            _ => Err(pem),
        }
    })
    .await;
    restart(&mut mesh).await;
    rotated(&mesh, 3).await;
    nothing_failed(load).await;
    let bundle = fs::read_to_string(mesh.state.join("bundle.pem")).unwrap_or_default();
    assert!(same(&bundle, &new.root), "only the new root is trusted");
    mesh.verify_audit().await;
    mesh.stop().await;
}
