use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use reeve_audit::{
    AuditLog, BatchKey, BatchSigner, EventKind, EventRecord, LogError, LogOptions, ShipOptions,
    SigningIdentity, Wal, WalOptions,
    batch::BoxError,
    seal::SealKey,
    ship_local,
    store::{FolderStore, Store, StoreError, fetch},
    verify::{Report, VerifyOptions, verify},
};
use reeve_core::{Clock, SystemClock};
use tempfile::TempDir;

use crate::server::{BUCKET, Fault, KEY, S3, SECRET};
use crate::{Bucket, BucketUrl, Credentials};

/// A bucket's own place on a server.
fn bucket(s3: &S3, prefix: &str) -> Arc<Bucket> {
    let url = format!(
        "s3://{BUCKET}/{prefix}?endpoint={}&region=eu-1",
        s3.endpoint()
    );
    let credentials = Credentials::new(KEY, SECRET, None);
    Arc::new(Bucket::new(url.parse().unwrap(), credentials).unwrap())
}

/// What every store does, whatever it is.
fn does_what_stores_do(store: &dyn Store) {
    assert_eq!(store.get("checkpoint").unwrap(), None);
    let some: Vec<_> = (0..40)
        .map(|n| (format!("tile/0/{n:03}"), vec![n; 10]))
        .collect();
    assert_eq!(store.create_all(&some).unwrap(), Vec::<String>::new());
    let again = [
        ("tile/0/007".to_owned(), vec![0; 3]),
        ("tile/1/000".to_owned(), vec![1]),
    ];
    assert_eq!(store.create_all(&again).unwrap(), ["tile/0/007"]);
    assert_eq!(store.get("tile/0/007").unwrap().unwrap().bytes, vec![7; 10]);
    let first = store.replace("checkpoint", b"one", None).unwrap();
    let changed =
        |result| matches!(result, Err(StoreError::Changed { name }) if name == "checkpoint");
    assert!(changed(store.replace("checkpoint", b"two", None)));
    let second = store.replace("checkpoint", b"two", Some(&first)).unwrap();
    assert!(changed(store.replace("checkpoint", b"three", Some(&first))));
    let there = store.get("checkpoint").unwrap().unwrap();
    assert_eq!((there.bytes.as_slice(), there.tag), (&b"two"[..], second));
    let mut names = Vec::new();
    store
        .list("tile/", &mut |o| names.push((o.name, o.bytes)))
        .unwrap();
    names.sort();
    assert_eq!(names.len(), 41);
    assert_eq!(names.last().unwrap(), &("tile/1/000".to_owned(), 1));
    let mut all = 0;
    store.list("", &mut |_| all += 1).unwrap();
    assert_eq!(all, 42);
    let gone = [
        "tile/0/000".to_owned(),
        "tile/0/001".to_owned(),
        "never/there".to_owned(),
    ];
    store.delete_all(&gone).unwrap();
    assert_eq!(store.get("tile/0/001").unwrap(), None);
    // Longer than a part, and than what is read into memory.
    let dir = TempDir::new().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let long: Vec<u8> = (0..17_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    fs::write(&from, &long).unwrap();
    store.upload("parquet/long", &from).unwrap();
    store.download("parquet/long", &to).unwrap();
    assert!(fs::read(&to).unwrap() == long);
    let refused = store.get("parquet/long");
    assert!(matches!(refused, Err(StoreError::TooLong { .. })));
    fs::write(&from, b"short").unwrap();
    store.upload("parquet/long", &from).unwrap();
    assert_eq!(store.get("parquet/long").unwrap().unwrap().bytes, b"short");
}

#[test]
fn a_folder_and_a_bucket_do_what_stores_do() {
    let dir = TempDir::new().unwrap();
    does_what_stores_do(&FolderStore::new(dir.path()).unwrap());
    let s3 = S3::start();
    does_what_stores_do(&*bucket(&s3, "mesh.local/audit"));
    // Without a prefix it is all of the bucket.
    let s3 = S3::start();
    does_what_stores_do(&*bucket(&s3, ""));
}

#[test]
fn of_writers_that_replace_one_version_at_once_one_succeeds() {
    let s3 = S3::start();
    let first = bucket(&s3, "log")
        .replace("checkpoint", b"0", None)
        .unwrap();
    let won: usize = std::thread::scope(|threads| {
        let writers: Vec<_> = (1..=6u8)
            .map(|n| {
                let (bucket, first) = (bucket(&s3, "log"), &first);
                threads.spawn(move || bucket.replace("checkpoint", &[n], Some(first)).is_ok())
            })
            .collect();
        writers
            .into_iter()
            .map(|w| usize::from(w.join().unwrap()))
            .sum()
    });
    assert_eq!(won, 1);
}

#[test]
fn wrong_credentials_and_a_server_that_is_gone_are_errors_without_the_secret() {
    let s3 = S3::start();
    let url: BucketUrl = format!("s3://{BUCKET}/log?endpoint={}", s3.endpoint())
        .parse()
        .unwrap();
    let wrong = Bucket::new(url, Credentials::new(KEY, "another secret", None)).unwrap();
    let error = reeve_core::error_chain(&wrong.get("checkpoint").unwrap_err());
    assert!(
        !error.contains("another secret") && !error.contains(SECRET),
        "{error}"
    );
    assert!(!format!("{wrong:?}").contains("another secret"));
}

#[derive(Debug)]
struct Signer(Arc<Key>);

struct Key(Ed25519KeyPair);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl BatchKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl BatchSigner for Signer {
    fn identity(&self) -> Option<SigningIdentity> {
        Some(SigningIdentity {
            chain_der: vec![self.0.0.public_key().as_ref().to_vec()],
            key: self.0.clone(),
        })
    }
}

/// A log's folder with a store, and a proxy's write-ahead log.
struct Trail {
    dir: TempDir,
    wal: Arc<Wal>,
    signer: Arc<Signer>,
}

impl Trail {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let wals = dir.path().join("wal");
        let wal = Wal::open(&wals, "a".parse().unwrap(), WalOptions::default(), clock).unwrap();
        Self {
            dir,
            wal: Arc::new(wal),
            signer: Arc::new(Signer(Arc::new(Key(Ed25519KeyPair::generate().unwrap())))),
        }
    }

    fn audit(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    fn open(&self, store: Arc<dyn Store>) -> Result<Arc<AuditLog>, LogError> {
        let key = SealKey::from_hex(&"5a".repeat(32)).unwrap();
        let options = LogOptions {
            gather: Duration::from_millis(1),
            store: Some(store),
            // The test's requests only; another folder waits four times as long.
            beat: Duration::from_secs(3600),
            ..LogOptions::new("mesh.local/audit", key)
        };
        // The blocking part of a round that was given up may still have it open.
        for _ in 0..6000 {
            match AuditLog::open(&self.audit(), options.clone()) {
                Err(LogError::InUse { .. }) => std::thread::sleep(Duration::from_millis(10)),
                opened => return opened,
            }
        }
        panic!("the log stays in use");
    }

    fn record(&self, count: usize) {
        for _ in 0..count {
            self.wal
                .append(EventRecord::new(EventKind::ConfigApplied))
                .unwrap();
        }
    }

    fn shipping(&self, log: &Arc<AuditLog>) -> impl Future<Output = ()> + use<> {
        let options = ShipOptions {
            interval: Duration::from_millis(2),
            min_backoff: Duration::from_millis(2),
            max_backoff: Duration::from_millis(20),
            max_records: 5,
            ..ShipOptions::default()
        };
        ship_local(self.wal.clone(), log.clone(), self.signer.clone(), options)
    }

    /// Ships until nothing is left.
    async fn drain(&self, log: &Arc<AuditLog>) {
        let done = self.until(|| self.wal.status().backlog == 0);
        // Cancel-safe: shipping may be dropped anywhere.
        tokio::select! {
            () = self.shipping(log) => {}
            () = done => {}
        }
    }

    async fn until(&self, state: impl Fn() -> bool) {
        for _ in 0..6000 {
            if state() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never so: {:?}", self.wal.status());
    }

    /// Fetches the log and verifies it, with what the write-ahead log holds.
    fn verify(&self, store: &dyn Store) -> Report {
        let into = TempDir::new().unwrap();
        fetch(store, into.path(), &|_| true).unwrap();
        let options = VerifyOptions {
            wals: vec![self.dir.path().join("wal")],
            ..VerifyOptions::default()
        };
        verify(into.path(), &options).unwrap()
    }
}

#[tokio::test]
async fn a_log_in_a_bucket_outlives_restarts_and_its_folder_and_shows_tampering() {
    let s3 = S3::start();
    let trail = Trail::new();
    for round in 1..=2 {
        let log = trail.open(bucket(&s3, "mesh/audit")).unwrap();
        trail.record(20);
        trail.drain(&log).await;
        assert_eq!(log.status().records, round * 20);
    }
    // Only the key is left of the folder.
    let key = fs::read(trail.audit().join("log.key")).unwrap();
    let writer = fs::read(trail.audit().join("log.writer")).unwrap();
    fs::remove_dir_all(trail.audit()).unwrap();
    fs::create_dir(trail.audit()).unwrap();
    fs::write(trail.audit().join("log.key"), key).unwrap();
    fs::write(trail.audit().join("log.writer"), writer).unwrap();
    let log = trail.open(bucket(&s3, "mesh/audit")).unwrap();
    trail.record(20);
    trail.drain(&log).await;
    drop(log);
    let store = bucket(&s3, "mesh/audit");
    let report = trail.verify(&*store);
    assert!(report.ok && report.records == 60, "{report:?}");
    // An object is altered in the bucket, and one is deleted.
    let mut batches = Vec::new();
    store
        .list("batches/", &mut |object| batches.push(object))
        .unwrap();
    let altered = store.get(&batches[0].name).unwrap().unwrap();
    let text = String::from_utf8(altered.bytes)
        .unwrap()
        .replace("config_applied", "config_refused");
    let name = &batches[0].name;
    store
        .replace(name, text.as_bytes(), Some(&altered.tag))
        .unwrap();
    store.delete_all(&[batches[1].name.clone()]).unwrap();
    let report = trail.verify(&*store);
    for batch in &batches[..2] {
        assert!(
            report
                .findings
                .iter()
                .any(|f| f.place.contains(&batch.name)),
            "{report:?}"
        );
    }
}

#[tokio::test]
async fn wherever_the_bucket_stops_answering_the_log_goes_on_when_it_is_back() {
    let trail = Trail::new();
    let s3 = S3::start();
    let mut records = 0;
    // Each round the bucket answers a few requests more before it stops; the log is opened anew where it stopped.
    for allowed in 0..24 {
        s3.set(Fault::RefuseAfter(allowed));
        trail.record(5);
        records += 5;
        if let Ok(log) = trail.open(bucket(&s3, "log")) {
            let before = s3.refused();
            let stopped = trail.until(|| s3.refused() > before || trail.wal.status().backlog == 0);
            // Cancel-safe: shipping may be dropped anywhere.
            tokio::select! {
                () = trail.shipping(&log) => {}
                () = stopped => {}
            }
        }
        s3.set(Fault::None);
        let log = trail.open(bucket(&s3, "log")).unwrap();
        trail.drain(&log).await;
        assert_eq!(log.status().records, records, "after {allowed} requests");
    }
    let report = trail.verify(&*bucket(&s3, "log"));
    assert!(report.ok && report.records == records, "{report:?}");
}

#[tokio::test]
async fn a_bucket_that_does_not_answer_holds_acknowledgements_back_and_nothing_is_lost() {
    let s3 = S3::start();
    let trail = Trail::new();
    let log = trail.open(bucket(&s3, "log")).unwrap();
    s3.set(Fault::Hold);
    trail.record(100);
    let held = trail.until(|| s3.held() > 0);
    // Cancel-safe: shipping may be dropped anywhere.
    tokio::select! {
        () = trail.shipping(&log) => panic!("it ends with the log only"),
        () = held => {}
    }
    assert_eq!((log.status().records, trail.wal.status().backlog), (0, 100));
    s3.set(Fault::None);
    trail.drain(&log).await;
    assert_eq!(log.status().records, 100);
    let report = trail.verify(&*bucket(&s3, "log"));
    assert!(report.ok && report.records == 100, "{report:?}");
}

#[tokio::test]
async fn a_bucket_that_fails_now_and_then_is_asked_again() {
    let s3 = S3::start();
    let trail = Trail::new();
    let log = trail.open(bucket(&s3, "log")).unwrap();
    s3.set(Fault::FailEvery(5));
    trail.record(60);
    trail.drain(&log).await;
    assert_eq!(log.status().records, 60);
    s3.set(Fault::None);
    assert!(trail.verify(&*bucket(&s3, "log")).ok);
}
