//! The log in a bucket: what `reeve up --audit-store` keeps there is read, verified and taken up again from there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use reeve_tests::{Mesh, Outcome, Scratch, Start, binary, eventually, request_ids, run};
use serde_json::json;

use crate::fixture::{client_and_echo, get, to_echo};

#[path = "../../audit/bucket/src/server.rs"]
#[allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "other tests use the rest of it"
)]
mod server;

use server::{Fault, S3};

const PATIENCE: Duration = Duration::from_secs(60);

/// A bucket, and how to reach it.
struct Store {
    s3: S3,
    cache: Scratch,
}

impl Store {
    fn url(&self) -> String {
        let endpoint = self.s3.endpoint();
        format!(
            "s3://{}/audit?endpoint={endpoint}&region=eu-1",
            server::BUCKET
        )
    }

    fn credentials() -> [(&'static str, &'static str); 2] {
        [
            ("AWS_ACCESS_KEY_ID", server::KEY),
            ("AWS_SECRET_ACCESS_KEY", server::SECRET),
        ]
    }

    fn start(&self) -> Start {
        let set = Self::credentials().map(|(name, value)| format!("{name}={value}"));
        Start {
            args: vec!["--audit-store".to_owned(), self.url()],
            wrapper: ["env".to_owned()].into_iter().chain(set).collect(),
        }
    }

    /// A reading verb on the log in the bucket, from a machine that has nothing else of the mesh.
    async fn audit(&self, verb: &str, more: &[&str]) -> Outcome {
        let cache = self.cache.path().display().to_string();
        let mut envs = vec![("XDG_CACHE_HOME", cache.as_str())];
        envs.extend(Self::credentials());
        let url = self.url();
        let args = [&["audit", verb, "--dir", url.as_str()], more].concat();
        run(&binary("reeve"), &args, &envs, PATIENCE).await
    }

    /// The requests that it says of.
    async fn requests(&self) -> BTreeSet<String> {
        let outcome = self
            .audit("query", &["--limit", "1000", "-o", "json"])
            .await;
        match outcome.code {
            Some(0) => request_ids(&outcome.json_lines(), "echo-v1-0"),
            // There is no log yet.
            _ => BTreeSet::new(),
        }
    }

    /// Changes a byte of the first batch that lies there.
    fn alter(&self) {
        let batches = self.s3.bucket().join("audit/batches");
        let mut files: Vec<_> = files_in(&batches);
        files.sort();
        let mut bytes = fs::read(&files[0]).expect("a batch");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&files[0], bytes).expect("the bucket's folder");
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let each = entries.flat_map(|entry| match entry.path() {
        path if path.is_dir() => files_in(&path),
        path => vec![path],
    });
    each.collect()
}

async fn ask(mesh: &Mesh, request_id: &str) {
    let call = get("/").header("x-request-id", request_id);
    assert_eq!(call.status(to_echo(mesh)).await, Ok(200), "{request_id}");
}

async fn reaches(store: &Store, request_id: &str) {
    let what = format!("{request_id} is in the bucket");
    eventually(&what, PATIENCE, async || {
        match store.requests().await.contains(request_id) {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_a_bucket_is_verified_there_survives_its_outage_and_is_taken_up_from_it() {
    let store = Store {
        s3: S3::start(),
        cache: Scratch::new("cache"),
    };
    let mut mesh = Mesh::start_with(client_and_echo(json!({})), &store.start()).await;
    ask(&mesh, "first").await;
    reaches(&store, "first").await;

    // While the bucket is away requests are answered, and what they leave is kept until it is back.
    store.s3.set(Fault::RefuseAfter(0));
    ask(&mesh, "meanwhile").await;
    let refused = store.s3.refused();
    eventually("the log tries to write", PATIENCE, async || {
        match store.s3.refused() > refused {
            true => Ok(()),
            false => Err("it does not".to_owned()),
        }
    })
    .await;
    store.s3.set(Fault::None);
    reaches(&store, "meanwhile").await;
    mesh.stop().await;
    let roots = mesh.state.join("roots.pem").display().to_string();
    let verified = store.audit("verify", &["--bundle", &roots]).await;
    assert_eq!(verified.code, Some(0), "{}", verified.text());

    // The machine is lost but for its keys: the log goes on where the bucket has it.
    lose_all_but_the_key(&mesh.state.join("audit"));
    mesh.start_again_with(&store.start()).await;
    ask(&mesh, "last").await;
    for request in ["first", "meanwhile", "last"] {
        reaches(&store, request).await;
    }
    mesh.verify_audit().await;

    // What is altered there is found there.
    mesh.stop().await;
    store.alter();
    let cache = store.cache.path().join("reeve");
    fs::remove_dir_all(cache).expect("what was fetched");
    let altered = store.audit("verify", &["--bundle", &roots]).await;
    assert_eq!(altered.code, Some(1), "{}", altered.text());
}

fn lose_all_but_the_key(audit: &Path) {
    for entry in fs::read_dir(audit).expect("the log's folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        match (name.to_string_lossy().as_ref(), path.is_dir()) {
            ("log.key", _) => {}
            (_, true) => fs::remove_dir_all(path).expect("a folder of the log"),
            (_, false) => fs::remove_file(path).expect("a file of the log"),
        }
    }
}
