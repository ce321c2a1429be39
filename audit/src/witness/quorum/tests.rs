use std::sync::atomic::AtomicBool;

use reeve_core::decision::Effect;
use tempfile::TempDir;

use super::{super::Witness, *};
use crate::{
    AuditLog, EventKind, EventRecord, LogError,
    fixture::{TestSigner, clock, decision, drain, fast, log_options, name, open_wal},
    ship_local,
};

/// The way to a witness in this process, which can be down.
#[derive(Debug)]
struct Near {
    witness: Witness,
    down: AtomicBool,
}

impl WitnessLine for Near {
    fn add_checkpoint(&self, body: Vec<u8>) -> Result<(u16, String), String> {
        if self.down.load(Ordering::Relaxed) {
            return Err("nobody answers there".to_owned());
        }
        let answer = self.witness.add_checkpoint(&body);
        Ok((answer.status, answer.body))
    }
}

struct Scene {
    dir: TempDir,
    log: Arc<AuditLog>,
    lines: Vec<Arc<Near>>,
}

impl Scene {
    fn new(witnesses: usize) -> Self {
        let dir = TempDir::new().unwrap();
        let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
        let key = [log.status().verifier_key];
        let lines = (0..witnesses).map(|n| {
            let (dir, called) = (dir.path().join(format!("w{n}")), format!("witness/w{n}"));
            let seal = log_options().seal_key;
            Arc::new(Near {
                witness: Witness::open(&dir, &called, &seal, &key, clock()).unwrap(),
                down: AtomicBool::new(false),
            })
        });
        let lines = lines.collect();
        Self { dir, log, lines }
    }

    fn quorum(&self, needed: usize, otherwise: Unwitnessed) -> Quorum {
        let peers = self.lines.iter().map(|line| {
            let key = line.witness.verifier_key().to_owned();
            Peer::new(&key, Arc::clone(line) as _)
        });
        Quorum::new(peers.collect(), needed, otherwise)
    }

    fn down(&self, n: usize, is: bool) {
        self.lines[n].down.store(is, Ordering::Relaxed);
    }

    fn tree_size(&self) -> u64 {
        self.log.status().tree_size
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_enough_witnesses_have_not_cosigned_is_not_acknowledged_until_they_have() {
    let scene = Scene::new(3);
    scene
        .log
        .set_witnesses(Some(scene.quorum(2, Unwitnessed::Refuse)));
    let wal = open_wal(&scene.dir.path().join("wal"), "a");
    wal.append(decision("/", Effect::Allow)).unwrap();
    scene.down(2, true);
    drain(&wal, &scene.log, fast()).await;
    let status = scene.log.status().witnesses;
    assert_eq!(status.cosigned_by, ["witness/w0", "witness/w1"]);
    assert_eq!(status.cosigned_size, 1);
    assert_eq!(status.missing, ["witness/w2: nobody answers there"]);

    // Two are down: the batch comes into the tree, and stays with the proxy.
    scene.down(1, true);
    wal.append(decision("/", Effect::Allow)).unwrap();
    let shipping = tokio::spawn(ship_local(
        Arc::clone(&wal),
        Arc::clone(&scene.log),
        TestSigner::new(),
        fast(),
    ));
    while scene.tree_size() < 2 || scene.log.status().witnesses.missing.len() < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(wal.status().backlog, 1);
    let refused = scene.log.acknowledged(&name("a")).await;
    assert!(
        matches!(refused, Err(LogError::Unwitnessed { .. })),
        "{refused:?}"
    );

    scene.down(1, false);
    while wal.status().backlog > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    shipping.abort();
    assert_eq!(scene.tree_size(), 2, "nothing is there twice");
    assert_eq!(scene.log.status().witnesses.cosigned_size, 2);
    let said = scene.log.status().witnesses.to_string();
    assert!(
        said.starts_with(
            "witness/w0 and witness/w1 cosigned up to tree size 2 (2 of 3 must); witness/w2: "
        ),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_a_log_that_may_go_on_counts_it() {
    let scene = Scene::new(1);
    scene
        .log
        .set_witnesses(Some(scene.quorum(1, Unwitnessed::Count)));
    scene.down(0, true);
    let wal = open_wal(&scene.dir.path().join("wal"), "a");
    wal.append(EventRecord::new(EventKind::Started)).unwrap();
    drain(&wal, &scene.log, fast()).await;
    let status = scene.log.status().witnesses;
    assert!(status.unwitnessed > 0, "{status:?}");
    assert_eq!(status.cosigned_size, 0);
    assert!(
        status
            .to_string()
            .contains("nobody has cosigned the log yet"),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_rolled_back_gets_no_cosignature_and_acknowledges_nothing() {
    let scene = Scene::new(1);
    scene
        .log
        .set_witnesses(Some(scene.quorum(1, Unwitnessed::Refuse)));
    let wal = open_wal(&scene.dir.path().join("wal"), "a");
    for _ in 0..2 {
        wal.append(EventRecord::new(EventKind::Started)).unwrap();
        drain(&wal, &scene.log, fast()).await;
    }
    // Its operator begins again with the same key, and one entry.
    let other = scene.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let key = scene.dir.path().join("audit/log.key");
    std::fs::copy(key, other.join("log.key")).unwrap();
    let log = AuditLog::open(&other, log_options()).unwrap();
    log.set_witnesses(Some(scene.quorum(1, Unwitnessed::Refuse)));
    let wal = open_wal(&scene.dir.path().join("other-wal"), "b");
    wal.append(EventRecord::new(EventKind::Started)).unwrap();
    let shipping = tokio::spawn(ship_local(
        Arc::clone(&wal),
        Arc::clone(&log),
        TestSigner::new(),
        fast(),
    ));
    while log.status().witnesses.missing.is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let said = log.status().witnesses.missing;
    assert_eq!(
        said,
        ["witness/w0: it has cosigned 2 entries, and the log has 1"]
    );
    assert_eq!(wal.status().backlog, 1);
    shipping.abort();
}

#[test]
fn a_witness_whose_key_cannot_be_used_never_counts() {
    let scene = Scene::new(1);
    let peer = Peer::new("witness/w0+nonsense", Arc::clone(&scene.lines[0]) as _);
    let quorum = Quorum::new(vec![peer], 0, Unwitnessed::Refuse);
    let refused = quorum.cosign(&scene.dir.path().join("audit"), 3);
    assert!(refused.is_err_and(|what| what.contains("its key cannot be used")));
    assert!(
        WitnessStatus::default()
            .to_string()
            .contains("the operator can rewrite")
    );
}
