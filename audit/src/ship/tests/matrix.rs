//! Every trouble at every step from the write-ahead log to the acknowledgement: afterwards the log verifies, everything that
//! was reported as recorded is in it, and nothing twice.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use reeve_core::{Clock as _, UnixTime, clock::ManualClock};

use super::*;
use crate::{EventKind, EventRecord, Record, fixture::START, log::step::Step, wal::Wal};

/// What goes wrong once, with the batch that is next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    None,
    /// The network splits before the batch arrives.
    NotSent,
    /// It arrives, and the acknowledgement does not.
    NotAnswered,
    /// It arrives twice.
    Twice,
    /// It arrives once more after the next one.
    Late,
    /// The log's process dies after this step, and another one opens its folder.
    LogDies(Step),
    /// The log's disk fails after this step, and its process goes on.
    LogFails(Step),
    /// The log's folder takes no more files, and then does again.
    LogFull,
    /// The proxy is killed before the batch is sent; another one goes on with what is in its files.
    ProxyDies,
    /// The same after it is sent and before it is answered.
    ProxyDiesLate,
    /// The same in the middle of a write.
    TornWrite,
    /// The proxy's clock jumps by so many seconds.
    Clock(i64),
}

const TROUBLES: [Trouble; 18] = [
    Trouble::None,
    Trouble::NotSent,
    Trouble::NotAnswered,
    Trouble::Twice,
    Trouble::Late,
    Trouble::LogDies(Step::Stored),
    Trouble::LogDies(Step::Extended),
    Trouble::LogDies(Step::Signed),
    Trouble::LogFails(Step::Stored),
    Trouble::LogFails(Step::Extended),
    Trouble::LogFails(Step::Signed),
    Trouble::LogFull,
    Trouble::ProxyDies,
    Trouble::ProxyDiesLate,
    Trouble::TornWrite,
    Trouble::Clock(86_400),
    Trouble::Clock(-86_400),
    Trouble::Clock(-1),
];

/// A proxy, a log, and what is between them.
struct World {
    dir: TempDir,
    lives: u32,
    clock: Arc<ManualClock>,
    wal: Option<Arc<Wal>>,
    log: Option<Arc<AuditLog>>,
    /// Ids that were reported as recorded.
    reported: BTreeSet<String>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            dir: TempDir::new().unwrap(),
            lives: 0,
            clock: Arc::new(ManualClock::at(START)),
            wal: None,
            log: None,
            reported: BTreeSet::new(),
        };
        world.open_wal();
        world.open_log();
        world
    }

    fn wal_dir(&self) -> PathBuf {
        self.dir.path().join(format!("wal-{}", self.lives))
    }

    fn audit(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    fn open_wal(&mut self) {
        let options = WalOptions {
            segment_bytes: 4000,
            ..WalOptions::default()
        };
        let wal = Wal::open(&self.wal_dir(), name("a"), options, self.clock.clone());
        self.wal = Some(Arc::new(wal.unwrap()));
    }

    fn open_log(&mut self) {
        self.log = None;
        self.log = Some(AuditLog::open(&self.audit(), log_options()).unwrap());
    }

    fn wal(&self) -> Arc<Wal> {
        self.wal.clone().unwrap()
    }

    fn log(&self) -> Arc<AuditLog> {
        self.log.clone().unwrap()
    }

    fn record(&mut self, count: u64) {
        let wal = self.wal();
        for worker in 0..2 {
            let writer = wal.writer(worker).unwrap();
            for n in 0..count {
                let event = EventRecord::new(EventKind::Started).with("n", n.to_string());
                self.reported
                    .insert(writer.append(&event).unwrap().to_string());
            }
        }
    }

    /// What a killed process leaves is in its files; the next one has them.
    fn kill_proxy(&mut self, tear: bool) {
        let from = self.wal_dir();
        self.lives += 1;
        copy(&from, &self.wal_dir());
        if tear {
            let dir = self.wal_dir();
            let mut segments = crate::wal::segment::list(&dir).unwrap().0;
            let last = segments.pop().unwrap();
            let mut bytes = fs::read(&last).unwrap();
            bytes.extend([200, 1, 0, 0, 55, 254, 255, 255, b'{', b'"']);
            fs::write(last, bytes).unwrap();
        }
        self.open_wal();
    }

    /// One connection: from hello until something breaks or all is shipped.
    async fn connect(&mut self, trouble: Trouble) {
        let (wal, log) = (self.wal(), self.log());
        let known = alone(log.positions(wal.proxy()));
        let mut late = None;
        let uplink = Rough {
            log,
            trouble,
            audit: self.audit(),
            late: &mut late,
        };
        let (signer, options) = (TestSigner::new(), fast());
        let options = ShipOptions {
            max_records: 7,
            ..options
        };
        // Cancel-safe: what a proxy that dies was doing does not go on.
        tokio::select! {
            error = pump(&wal, known, uplink, signer.as_ref(), &options) => drop(error),
            () = async { while wal.status().backlog > 0 { tokio::time::sleep(Duration::from_millis(1)).await; } } => {}
        }
    }

    async fn suffer(&mut self, trouble: Trouble) {
        if matches!(trouble, Trouble::ProxyDies | Trouble::TornWrite) {
            self.kill_proxy(trouble == Trouble::TornWrite);
        }
        if let Trouble::Clock(seconds) = trouble {
            let now = self.clock.now().as_secs();
            let then = now.saturating_add_signed(seconds);
            self.clock.set(UnixTime::from_secs(then));
        }
        self.connect(trouble).await;
        if matches!(trouble, Trouble::LogDies(_)) {
            self.open_log();
        }
        if trouble == Trouble::ProxyDiesLate {
            self.kill_proxy(false);
        }
    }

    /// Ships all, and holds the log against what was reported.
    async fn settle(&mut self, after: &[Trouble]) {
        for _ in 0..50 {
            if self.wal().status().backlog == 0 {
                break;
            }
            self.connect(Trouble::None).await;
        }
        let options = VerifyOptions {
            batches: Some(Arc::new(TestVerifier)),
            wals: vec![self.wal_dir()],
            ..VerifyOptions::default()
        };
        let report = verify(&self.audit(), &options).unwrap();
        assert!(report.ok, "{after:?}: {:?}", report.findings);
        let found = ids(&self.audit());
        let once: BTreeSet<_> = found.iter().cloned().collect();
        assert_eq!(once.len(), found.len(), "{after:?}: a record twice");
        let missing: Vec<_> = self.reported.difference(&once).collect();
        assert!(missing.is_empty(), "{after:?}: missing {missing:?}");
        assert_eq!(
            once.len(),
            self.reported.len(),
            "{after:?}: more than was reported"
        );
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false if path.extension().is_some_and(|e| e == "wal") => {
                fs::copy(&path, target).map(drop).unwrap();
            }
            false => {}
        }
    }
}

/// The ids of all records in a log.
fn ids(audit: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for (_, path) in crate::log::store::walk(audit, "batches").unwrap() {
        let batch = Batch::from_object(&fs::read(path).unwrap()).unwrap();
        let records = batch.records.iter();
        found.extend(records.map(|r| Record::from_slice(r).unwrap().id.to_string()));
    }
    found
}

/// The way to the log, with one trouble on it.
struct Rough<'a> {
    log: Arc<AuditLog>,
    trouble: Trouble,
    audit: PathBuf,
    late: &'a mut Option<Batch>,
}

impl Uplink for Rough<'_> {
    async fn send(&mut self, batch: Batch) -> Result<Position, ShipError> {
        let log = self.log.clone();
        let submit = async |batch| log.submit(batch).await.map_err(ShipError::Log);
        if let Some(late) = self.late.take() {
            let answer = submit(batch).await?;
            submit(late).await?;
            return Ok(answer);
        }
        match std::mem::replace(&mut self.trouble, Trouble::None) {
            Trouble::NotSent => Err(ShipError::Gone),
            Trouble::NotAnswered | Trouble::ProxyDiesLate => {
                submit(batch).await?;
                Err(ShipError::Gone)
            }
            Trouble::Twice => {
                submit(batch.clone()).await?;
                submit(batch).await
            }
            Trouble::Late => {
                *self.late = Some(batch.clone());
                submit(batch).await
            }
            Trouble::LogDies(step) | Trouble::LogFails(step) => {
                self.log.end_at(step);
                submit(batch).await
            }
            Trouble::LogFull => {
                let (batches, aside) = (self.audit.join("batches"), self.audit.join("aside"));
                let there = fs::rename(&batches, &aside).is_ok();
                fs::write(&batches, "").unwrap();
                let refused = submit(batch).await;
                fs::remove_file(&batches).unwrap();
                if there {
                    fs::rename(&aside, &batches).unwrap();
                }
                refused
            }
            Trouble::None | Trouble::ProxyDies | Trouble::TornWrite | Trouble::Clock(_) => {
                submit(batch).await
            }
        }
    }
}

#[tokio::test]
async fn after_any_trouble_the_log_verifies_and_has_everything_once() {
    for trouble in TROUBLES {
        let mut world = World::new();
        world.record(10);
        world.connect(Trouble::None).await;
        world.record(20);
        world.suffer(trouble).await;
        world.record(10);
        world.settle(&[trouble]).await;
        world.open_log();
        world.record(3);
        world.settle(&[trouble]).await;
    }
}

#[tokio::test]
async fn and_so_it_does_after_one_upon_the_other() {
    for (at, first) in TROUBLES.into_iter().enumerate() {
        let mut world = World::new();
        for further in [0, 5] {
            let second = TROUBLES[(at + further) % TROUBLES.len()];
            world.record(8);
            world.suffer(first).await;
            world.record(8);
            world.suffer(second).await;
            world.settle(&[first, second]).await;
        }
    }
}
