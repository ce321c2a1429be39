//! Several logs: a proxy goes from one to another, and together they hold everything once.

use tempfile::TempDir;

use super::*;
use crate::{
    Noted, Reader,
    query::Filter,
    replica::{MESH_PROCESS, log_of},
    verify::Report,
};

/// A log with a server that can be killed.
struct Replica {
    name: String,
    dir: std::path::PathBuf,
    log: Arc<AuditLog>,
    mesh: Mesh,
    server: Option<Running>,
}

impl Replica {
    fn start(place: &std::path::Path, name: &str) -> Self {
        let dir = place.join("replicas").join(name).join("audit");
        let options = crate::LogOptions {
            origin: log_of("mesh.local/audit", &super::name(name)),
            ..log_options()
        };
        let log = AuditLog::open(&dir, options).unwrap();
        let mesh = Mesh::down();
        let server = Some(mesh.start(log.clone(), Some(ID)));
        Self {
            name: name.to_owned(),
            dir,
            log,
            mesh,
            server,
        }
    }

    fn kill(&mut self) {
        *self.mesh.connections.lock().unwrap() = None;
        self.server = None;
    }

    fn revive(&mut self) {
        self.server = Some(self.mesh.start(self.log.clone(), Some(ID)));
    }

    fn target(&self) -> Target {
        Target {
            name: self.name.clone(),
            connect: self.mesh.factory(),
        }
    }

    fn noted(&self) -> Noted {
        let status = self.log.status();
        Noted {
            replica: name(&self.name),
            log: self.log.origin().to_owned(),
            tree_size: status.tree_size,
            records: status.records,
            checkpoint: status.checkpoint,
            verifier_key: status.verifier_key,
        }
    }
}

/// A mesh log, two replicas and a proxy.
struct World {
    dir: TempDir,
    mesh: Arc<AuditLog>,
    control: Arc<Wal>,
    replicas: Vec<Replica>,
    wal: Option<Arc<Wal>>,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let replicas = ["audit-0", "audit-1"].map(|name| Replica::start(dir.path(), name));
        Self {
            mesh: AuditLog::open(&dir.path().join("audit"), log_options()).unwrap(),
            control: open_wal(&dir.path().join("wal/control"), MESH_PROCESS),
            wal: Some(open_wal(&dir.path().join("wal/a"), "a")),
            replicas: replicas.into(),
            dir,
        }
    }

    fn wal(&self) -> Arc<Wal> {
        self.wal.clone().unwrap()
    }

    fn reopen(&mut self) {
        self.wal = None;
        self.wal = Some(open_wal(&self.dir.path().join("wal/a"), "a"));
    }

    fn options() -> ShipOptions {
        ShipOptions {
            answer_timeout: Duration::from_millis(500),
            home_after: Duration::from_millis(20),
            max_records: 7,
            ..fast()
        }
    }

    /// Ships what there is, to the replicas in their order.
    async fn ship(&self) {
        let all: Vec<_> = self.replicas.iter().map(Replica::target).collect();
        let targets: Targets = Arc::new(move || all.clone());
        let shipping = ship(self.wal(), targets, TestSigner::new(), Self::options());
        until_shipped(&self.wal(), shipping).await;
    }

    /// Puts on record how far the replicas have come.
    async fn note(&self) {
        for replica in &self.replicas {
            self.control.append(replica.noted().event()).unwrap();
        }
        drain(&self.control, &self.mesh, fast()).await;
    }

    fn options_of_verify(&self) -> VerifyOptions {
        VerifyOptions {
            replicas: self.replicas.iter().map(|r| r.dir.clone()).collect(),
            wals: vec![
                self.dir.path().join("wal/a"),
                self.dir.path().join("wal/control"),
            ],
            batches: Some(Arc::new(TestVerifier)),
            ..VerifyOptions::default()
        }
    }

    fn verify_with(&self, options: &VerifyOptions) -> Report {
        verify(&self.dir.path().join("audit"), options).unwrap()
    }

    fn verify(&self) -> Report {
        self.verify_with(&self.options_of_verify())
    }

    fn decisions(&self) -> usize {
        let open = |dir: &std::path::Path| Reader::open(dir).unwrap();
        let replicas = self.replicas.iter().map(|r| open(&r.dir)).collect();
        let reader = open(&self.dir.path().join("audit")).with_replicas(replicas);
        let filter = Filter {
            kind: Some("decision".to_owned()),
            ..Filter::default()
        };
        let found = reader.query(&filter).unwrap().len();
        let scanned = reader.scan(None).unwrap();
        let mut count = 0;
        for part in 0..scanned.parts() {
            let mut each = |record: &[u8]| {
                count += usize::from(!record.windows(14).any(|w| w == b"log_checkpoint"));
                Ok(())
            };
            scanned.read(part, &mut Vec::new(), &mut each).unwrap();
        }
        assert_eq!(found, count, "a scan finds what a search does");
        found
    }
}

fn found(report: &Report, place: &str, what: &str) {
    let named = |f: &crate::verify::Finding| f.place.contains(place) && f.what.contains(what);
    assert!(
        !report.ok && report.findings.iter().any(named),
        "{place}: {what}: {report:#?}"
    );
}

/// Sends the next records to a log whose acknowledgement never arrives.
async fn send_unacknowledged(wal: &Arc<Wal>, log: &Arc<AuditLog>) {
    struct Silent(Arc<AuditLog>);
    impl Uplink for Silent {
        async fn send(&mut self, batch: Batch) -> Result<Position, ShipError> {
            self.0.submit(batch).await.map_err(ShipError::Log)?;
            Err(ShipError::Gone)
        }
    }
    let known = Known::of_only_log(true, log.positions(wal.proxy()), log.origin());
    let signer = TestSigner::new();
    let options = World::options();
    let (error, acknowledged) =
        pump(wal, known, Silent(log.clone()), signer.as_ref(), &options).await;
    assert!(
        matches!(error, ShipError::Gone) && acknowledged == 0,
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_goes_on_in_another_log_and_back() {
    let mut world = World::new();
    fill(&world.wal(), 20);
    world.ship().await;
    world.replicas[0].kill();
    fill(&world.wal(), 20);
    world.ship().await;
    // A proxy that begins anew knows how far the log got that it cannot ask.
    world.reopen();
    fill(&world.wal(), 20);
    world.ship().await;
    world.replicas[0].revive();
    fill(&world.wal(), 20);
    world.ship().await;
    world.note().await;
    let sizes = [0, 1].map(|n| world.replicas[n].log.status().records);
    assert!(sizes[0] >= 40 && sizes[1] >= 40, "{sizes:?}");
    let report = world.verify();
    assert!(report.ok, "{:#?}", report.findings);
    assert_eq!((report.records, report.repeated), (82, 0));
    assert_eq!(report.signatures_verified, report.batches);
    assert_eq!(world.decisions(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_logs_have_counts_once_and_must_be_the_same() {
    let mut world = World::new();
    fill(&world.wal(), 3);
    world.ship().await;
    fill(&world.wal(), 4);
    send_unacknowledged(&world.wal(), &world.replicas[0].log).await;
    world.replicas[0].kill();
    fill(&world.wal(), 6);
    world.ship().await;
    world.replicas[0].revive();
    fill(&world.wal(), 5);
    world.ship().await;
    world.note().await;
    let report = world.verify();
    assert!(report.ok, "{:#?}", report.findings);
    assert_eq!((report.records, report.repeated), (20, 4));
    assert_eq!(world.decisions(), 18);
    // From what was verified it goes on.
    fill(&world.wal(), 5);
    world.ship().await;
    let since = VerifyOptions {
        since: report.verified,
        ..world.options_of_verify()
    };
    let report = world.verify_with(&since);
    assert!(report.ok, "{:#?}", report.findings);
    assert_eq!((report.records, report.repeated), (25, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_forgot_how_far_it_was_sends_twice_and_not_never() {
    let mut world = World::new();
    fill(&world.wal(), 10);
    world.ship().await;
    world.replicas[0].kill();
    fs::remove_file(world.dir.path().join("wal/a/shipped")).unwrap();
    fill(&world.wal(), 10);
    world.ship().await;
    world.note().await;
    let report = world.verify();
    assert!(report.ok, "{:#?}", report.findings);
    assert_eq!((report.records, report.repeated), (22, 10));
    assert_eq!(world.decisions(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_dropped_rolled_back_or_swapped_is_named() {
    let mut world = World::new();
    fill(&world.wal(), 14);
    world.ship().await;
    let (kept, log) = (world.dir.path().join("kept"), world.replicas[0].dir.clone());
    crate::verify::copied(&log, &kept);
    fill(&world.wal(), 14);
    world.ship().await;
    world.note().await;
    world.replicas[0].kill();
    fill(&world.wal(), 7);
    world.ship().await;
    assert!(world.verify().ok);
    let whole = world.verify().verified;

    // Dropped: the folder, and what is known of it.
    let dropped = VerifyOptions {
        replicas: vec![world.replicas[1].dir.clone()],
        ..world.options_of_verify()
    };
    let report = world.verify_with(&dropped);
    found(
        &report,
        "replicas/audit-0",
        "is missing; record reeve.mesh/",
    );
    found(&report, "(a)", "what came before is not in this log");
    let since = VerifyOptions {
        since: whole,
        ..dropped
    };
    found(&world.verify_with(&since), "replicas/audit-0", "is missing");

    // Rolled back to what it was.
    fs::remove_dir_all(&log).unwrap();
    crate::verify::copied(&kept, &log);
    let report = world.verify();
    found(
        &report,
        "replicas/audit-0/audit/checkpoint",
        "says that it had",
    );

    // Swapped: the other's log in its place.
    fs::remove_dir_all(&log).unwrap();
    crate::verify::copied(&world.replicas[1].dir, &log);
    let report = world.verify();
    found(&report, "replicas/audit-0", "is missing; record");
    found(
        &report,
        "replicas/audit-0/audit/checkpoint",
        "is of log mesh.local/audit/audit-1",
    );

    // Swapped: a new log of that name, with another key.
    fs::remove_dir_all(&log).unwrap();
    let options = crate::LogOptions {
        origin: "mesh.local/audit/audit-0".to_owned(),
        ..log_options()
    };
    drop(AuditLog::open(&log, options).unwrap());
    let report = world.verify();
    found(
        &report,
        "replicas/audit-0/audit/checkpoint",
        "that this log did not sign",
    );
}
