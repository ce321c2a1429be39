use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    AuditLog, Batch, LogError, LogOptions,
    fixture::{log_options, name, open_wal},
    log::tests::{batch, fill},
    store::{FolderStore, Listed, Object, Store, StoreError, Tag, fetch},
    verify::{VerifyOptions, verify},
};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing is done.
    Refused,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// Nothing is done, and nothing from then on.
    Gone,
}

/// A store of which one call fails.
#[derive(Debug)]
struct Faulty {
    inner: Arc<FolderStore>,
    calls: AtomicU64,
    fault: Mutex<Option<(u64, Fault)>>,
}

impl Faulty {
    fn new(inner: &Arc<FolderStore>, fault: Option<(u64, Fault)>) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            calls: AtomicU64::new(0),
            fault: Mutex::new(fault),
        })
    }

    fn call<T>(
        &self,
        name: &str,
        run: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let at = self.calls.fetch_add(1, Ordering::Relaxed);
        let failed = || StoreError::failed(name, "the test ends it here");
        match *self.fault.lock().unwrap() {
            Some((n, Fault::Refused)) if n == at => Err(failed()),
            Some((n, Fault::Gone)) if n <= at => Err(failed()),
            Some((n, Fault::AnswerLost)) if n == at => run().and_then(|_| Err(failed())),
            _ => run(),
        }
    }
}

impl Store for Faulty {
    fn get(&self, name: &str) -> Result<Option<Object>, StoreError> {
        self.call(name, || self.inner.get(name))
    }

    /// One call for each object: a crash may come between any two.
    fn create_all(&self, objects: &[(String, Vec<u8>)]) -> Result<Vec<String>, StoreError> {
        let mut there = Vec::new();
        for object in objects {
            let one = std::slice::from_ref(object);
            there.extend(self.call(&object.0, || self.inner.create_all(one))?);
        }
        Ok(there)
    }

    fn replace(&self, name: &str, bytes: &[u8], seen: Option<&Tag>) -> Result<Tag, StoreError> {
        self.call(name, || self.inner.replace(name, bytes, seen))
    }

    fn upload(&self, name: &str, from: &Path) -> Result<(), StoreError> {
        self.call(name, || self.inner.upload(name, from))
    }

    fn download(&self, name: &str, to: &Path) -> Result<(), StoreError> {
        self.call(name, || self.inner.download(name, to))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.call(prefix, || self.inner.list(prefix, each))
    }

    fn delete_all(&self, names: &[String]) -> Result<(), StoreError> {
        self.call("some", || self.inner.delete_all(names))
    }
}

fn options(store: Arc<dyn Store>) -> LogOptions {
    LogOptions {
        store: Some(store),
        // No beat comes by itself; a second writer waits for four of its own.
        beat: Duration::from_secs(3600),
        ..log_options()
    }
}

fn impatient(store: Arc<dyn Store>) -> LogOptions {
    LogOptions {
        beat: Duration::from_millis(2),
        ..options(store)
    }
}

/// Batches of one worker, each of five records.
fn batches(dir: &Path, count: u64) -> Vec<Batch> {
    let wal = open_wal(&dir.join("wal"), "a");
    fill(&wal, usize::try_from(count * 5).unwrap());
    let mut made: Vec<Batch> = Vec::new();
    for number in 1..=count {
        let previous = made.last().map_or([0; 32], Batch::hash);
        made.push(batch(&wal, number, previous, (number - 1) * 5));
    }
    made
}

/// The folder and the store's copy both verify, hold these records once, and continue the checkpoint.
fn both_hold(audit: &Path, store: &FolderStore, records: u64, earlier: Option<&str>) {
    let copy = TempDir::new().unwrap();
    fetch(store, copy.path(), &|_| true).unwrap();
    let key = fs::read_to_string(audit.join("log.vkey")).unwrap();
    for dir in [audit, copy.path()] {
        let options = VerifyOptions {
            verifier_key: Some(key.trim().to_owned()),
            earlier: (earlier.iter())
                .map(|c| ("acknowledged".to_owned(), c.as_bytes().to_vec()))
                .collect(),
            ..VerifyOptions::default()
        };
        let report = verify(dir, &options).unwrap();
        assert!(report.ok, "{}: {:?}", dir.display(), report.findings);
        assert_eq!(report.records, records, "{}", dir.display());
    }
    assert_eq!(
        fs::read(audit.join("checkpoint")).unwrap(),
        fs::read(copy.path().join("checkpoint")).unwrap()
    );
}

#[tokio::test]
async fn whichever_call_to_the_store_fails_nothing_acknowledged_is_lost_or_doubled() {
    let dir = TempDir::new().unwrap();
    let made = batches(dir.path(), 3);
    for fault in [Fault::Refused, Fault::AnswerLost, Fault::Gone] {
        let mut reached_the_end = false;
        for at in 0..200 {
            let run = TempDir::new().unwrap();
            let audit = run.path().join("audit");
            let inner = Arc::new(FolderStore::new(&run.path().join("store")).unwrap());
            let store = Faulty::new(&inner, Some((at, fault)));
            let mut acknowledged = None;
            if let Ok(log) = AuditLog::open(&audit, options(store.clone())) {
                // As a proxy does: the same batch again until it is acknowledged, here twice at most.
                for batch in &made[..2] {
                    let first = log.submit(batch.clone()).await;
                    if first.is_err() && log.submit(batch.clone()).await.is_err() {
                        break;
                    }
                    acknowledged = Some((log.status().records, log.status().checkpoint));
                }
            }
            reached_the_end = store.calls.load(Ordering::Relaxed) <= at;
            // Begun again with a store that works: the proxy sends everything once more.
            let log = AuditLog::open(&audit, options(inner.clone())).unwrap();
            let held = log.position(&name("a")).sequence;
            let kept = acknowledged.as_ref().map_or(0, |(records, _)| *records);
            assert!(held >= kept, "{fault:?} at {at}: {held} of {kept}");
            for batch in &made {
                log.submit(batch.clone()).await.unwrap();
            }
            drop(log);
            let earlier = acknowledged.as_ref().map(|(_, c)| c.as_str());
            both_hold(&audit, &inner, 15, earlier);
            if reached_the_end {
                break;
            }
        }
        assert!(
            reached_the_end,
            "{fault:?}: there are more calls than were tried"
        );
    }
}

#[tokio::test]
async fn a_folder_that_is_lost_comes_back_from_the_store() {
    let dir = TempDir::new().unwrap();
    let made = batches(dir.path(), 300);
    let store = Arc::new(FolderStore::new(&dir.path().join("store")).unwrap());
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let log = AuditLog::open(&old, options(store.clone())).unwrap();
    let hash = log.put_blob(b"a policy set").unwrap();
    let mut together = tokio::task::JoinSet::new();
    for batch in &made[..270] {
        let (log, batch) = (Arc::clone(&log), batch.clone());
        together.spawn(async move { log.submit(batch).await.unwrap() });
    }
    together.join_all().await;
    log.rotate_key().await.unwrap();
    log.submit(made[270].clone()).await.unwrap();
    let checkpoint = log.status().checkpoint;
    drop(log);
    // Without the key nobody goes on.
    let refused = AuditLog::open(&new, options(store.clone()));
    assert!(
        matches!(refused, Err(LogError::KeyLost { .. })),
        "{refused:?}"
    );
    fs::copy(old.join("log.key"), new.join("log.key")).unwrap();
    let log = AuditLog::open(&new, options(store.clone())).unwrap();
    assert_eq!(log.status().records, 271 * 5);
    for batch in &made[271..] {
        log.submit(batch.clone()).await.unwrap();
    }
    assert!(crate::log::layout::blob_path(&new, &hash).exists());
    drop(log);
    both_hold(&new, &store, 1500, Some(&checkpoint));
    // And the old folder, left behind, takes up what was written elsewhere.
    let log = AuditLog::open(&old, options(store.clone())).unwrap();
    assert_eq!(log.status().records, 1500);
    drop(log);
    both_hold(&old, &store, 1500, Some(&checkpoint));
}

#[tokio::test]
async fn a_folder_that_had_no_store_is_copied_there_whole() {
    let dir = TempDir::new().unwrap();
    let made = batches(dir.path(), 4);
    let audit = dir.path().join("audit");
    let log = AuditLog::open(&audit, log_options()).unwrap();
    log.submit(made[0].clone()).await.unwrap();
    let checkpoint = log.status().checkpoint;
    drop(log);
    let store = Arc::new(FolderStore::new(&dir.path().join("store")).unwrap());
    let log = AuditLog::open(&audit, options(store.clone())).unwrap();
    for batch in &made {
        log.submit(batch.clone()).await.unwrap();
    }
    drop(log);
    both_hold(&audit, &store, 20, Some(&checkpoint));
}

#[tokio::test]
async fn a_second_writer_is_refused_while_the_first_is_there() {
    let dir = TempDir::new().unwrap();
    let made = batches(dir.path(), 2);
    let store = Arc::new(FolderStore::new(&dir.path().join("store")).unwrap());
    let first = AuditLog::open(
        &dir.path().join("first"),
        LogOptions {
            beat: Duration::from_millis(1),
            ..options(store.clone())
        },
    )
    .unwrap();
    first.submit(made[0].clone()).await.unwrap();
    let second = dir.path().join("second");
    fs::create_dir_all(&second).unwrap();
    fs::copy(dir.path().join("first/log.key"), second.join("log.key")).unwrap();
    // It sees the first one's turn renewed: it looks for two seconds, and that renews every millisecond.
    let patient = LogOptions {
        beat: Duration::from_millis(500),
        ..options(store.clone())
    };
    let refused = AuditLog::open(&second, patient);
    assert!(matches!(refused, Err(LogError::OtherWriter)), "{refused:?}");
    first.submit(made[1].clone()).await.unwrap();
    drop(first);
    // Given back in good order: the next one takes it at once.
    let log = AuditLog::open(&second, options(store.clone())).unwrap();
    assert_eq!(log.status().records, 10);
}

#[tokio::test]
async fn a_writer_that_was_taken_for_gone_cannot_extend_the_log_any_more() {
    let dir = TempDir::new().unwrap();
    let made = batches(dir.path(), 3);
    let store = Arc::new(FolderStore::new(&dir.path().join("store")).unwrap());
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    // It does not renew its turn, as if it were suspended.
    let first = AuditLog::open(&one, options(store.clone())).unwrap();
    first.submit(made[0].clone()).await.unwrap();
    fs::create_dir_all(&two).unwrap();
    fs::copy(one.join("log.key"), two.join("log.key")).unwrap();
    let second = AuditLog::open(&two, impatient(store.clone())).unwrap();
    second.submit(made[1].clone()).await.unwrap();
    for batch in [&made[1], &made[2]] {
        let refused = first.submit(batch.clone()).await;
        assert!(
            matches!(refused, Err(LogError::NotSequenced { .. })),
            "{refused:?}"
        );
    }
    assert!(first.put_blob(b"late").is_err());
    second.submit(made[2].clone()).await.unwrap();
    drop(second);
    both_hold(&two, &store, 15, None);
}

#[tokio::test]
async fn a_store_that_was_set_back_or_is_another_log_is_refused() {
    let dir = TempDir::new().unwrap();
    let made = batches(dir.path(), 2);
    let place = dir.path().join("store");
    let store = Arc::new(FolderStore::new(&place).unwrap());
    let audit = dir.path().join("audit");
    let log = AuditLog::open(&audit, options(store.clone())).unwrap();
    log.submit(made[0].clone()).await.unwrap();
    let early = fs::read(place.join("checkpoint")).unwrap();
    log.submit(made[1].clone()).await.unwrap();
    drop(log);
    let late = fs::read(place.join("checkpoint")).unwrap();
    fs::write(place.join("checkpoint"), early).unwrap();
    let refused = AuditLog::open(&audit, options(store.clone())).unwrap_err();
    assert!(refused.to_string().contains("set back"), "{refused}");
    fs::write(place.join("checkpoint"), late).unwrap();
    drop(AuditLog::open(&audit, options(store.clone())).unwrap());
    let other = Arc::new(FolderStore::new(&dir.path().join("other")).unwrap());
    drop(AuditLog::open(&dir.path().join("stranger"), options(other.clone())).unwrap());
    let refused = AuditLog::open(&audit, impatient(other));
    assert!(
        matches!(refused, Err(LogError::Damaged { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn fetching_again_takes_only_what_is_new_and_a_changed_object_again() {
    let dir = TempDir::new().unwrap();
    let made = batches(dir.path(), 3);
    let place = dir.path().join("store");
    let store = Arc::new(FolderStore::new(&place).unwrap());
    let log = AuditLog::open(&dir.path().join("audit"), options(store.clone())).unwrap();
    log.submit(made[0].clone()).await.unwrap();
    let into = dir.path().join("into");
    let first = fetch(&*store, &into, &|_| true).unwrap();
    assert_eq!(
        (first.objects, first.kept),
        (4, 0),
        "batch, bundle, tile, key"
    );
    log.submit(made[1].clone()).await.unwrap();
    let second = fetch(&*store, &into, &|_| true).unwrap();
    assert_eq!((second.objects, second.kept), (3, 2));
    let wanted = |name: &str| !name.starts_with("batches/");
    assert_eq!(fetch(&*store, &into, &wanted).unwrap().kept, 3);
    fetch(&*store, &into, &|_| true).unwrap();
    assert!(verify(&into, &VerifyOptions::default()).unwrap().ok);
    // What is altered in the store shows in the copy.
    let hash = hex::encode(made[0].hash());
    let object = crate::log::layout::batch_path(&place, &made[0].hash());
    let altered = String::from_utf8(fs::read(&object).unwrap()).unwrap();
    fs::write(&object, altered.replacen("allow", "bllow", 1)).unwrap();
    fetch(&*store, &into, &|_| true).unwrap();
    let report = verify(&into, &VerifyOptions::default()).unwrap();
    assert!(
        !report.ok && report.findings.iter().any(|f| f.place.contains(&hash)),
        "{report:?}"
    );
}
