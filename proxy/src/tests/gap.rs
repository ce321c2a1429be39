//! A write-ahead log that takes no more: requests are denied, or pass and are counted, as the configuration says.

use std::{path::Path, sync::Arc, time::Duration};

use reeve_audit::{
    AuditLog, BatchKey, BatchSigner, LogOptions, ShipOptions, SigningIdentity,
    batch::BoxError,
    seal::SealKey,
    ship_local,
    verify::{Report, VerifyOptions, verify},
};
use reeve_core::model::{Protocol, ProxyConfig};

use super::mesh::{ALLOW_CLIENT, Mesh, PORT, Side, caller, echo_app, eventually, fetch};

/// Room for a few dozen records.
const ROOM: u64 = 256 * 1024;

#[derive(Debug)]
struct NoSigner;

impl BatchKey for NoSigner {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(b"unverified".to_vec())
    }
}

impl BatchSigner for NoSigner {
    fn identity(&self) -> Option<SigningIdentity> {
        Some(SigningIdentity {
            chain_der: vec![b"nobody".to_vec()],
            key: Arc::new(Self),
        })
    }
}

async fn sides(mesh: &Mesh, server: &ProxyConfig) -> (Side, Side) {
    echo_app(mesh.at(2, PORT)).await;
    let sides = (mesh.side_with("server", ROOM), mesh.side("client"));
    sides.0.apply(server);
    sides.1.apply(&mesh.client(Protocol::Http));
    for side in [&sides.0, &sides.1] {
        eventually(|| side.proxy.status().ready.then_some(())).await;
    }
    sides
}

fn config(mesh: &Mesh, pass: bool) -> ProxyConfig {
    let mut config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut workload = (*config.workload).clone();
    workload.danger_pass_unrecorded = pass;
    config.workload = Arc::new(workload);
    config
}

/// Asks until something is refused or `most` requests were made; how many were answered 200, and how many were made.
async fn ask(mesh: &Mesh, most: usize) -> (usize, usize) {
    let caller = caller();
    for made in 1..=most {
        let status = fetch(&caller, mesh.url("/")).await.0;
        if status != 200 {
            assert_eq!(status, 503);
            return (made - 1, made);
        }
    }
    (most, most)
}

/// Ships what `side` has and verifies the log.
async fn verified(side: &Side, folder: &Path) -> Report {
    let key = SealKey::from_hex(&"5a".repeat(32)).unwrap();
    let log = AuditLog::open(folder, LogOptions::new("mesh.local/audit", key)).unwrap();
    let options = ShipOptions {
        interval: Duration::from_millis(5),
        ..ShipOptions::default()
    };
    let shipping = tokio::spawn(ship_local(
        side.wal.clone(),
        log,
        Arc::new(NoSigner),
        options,
    ));
    eventually(|| {
        let status = side.wal.status();
        (status.backlog == 0).then_some(())
    })
    .await;
    shipping.abort();
    drop(shipping.await);
    verify(folder, &VerifyOptions::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_its_record_a_request_is_denied() {
    let mesh = Mesh::new();
    let (_server, _client) = sides(&mesh, &config(&mesh, false)).await;
    let (passed, made) = ask(&mesh, 2000).await;
    assert!(passed > 20 && made == passed + 1, "{passed} of {made}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_that_is_configured_it_passes_and_a_signed_record_says_how_many_did() {
    let mesh = Mesh::new();
    let (server, _client) = sides(&mesh, &config(&mesh, true)).await;
    let counted = |side: &Side| {
        let metrics = side.metrics();
        let line = metrics
            .lines()
            .find_map(|l| l.strip_prefix("reeve_wal_append_failures_total{what=\"passed\"} "));
        line.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    while counted(&server) < 10 {
        assert_eq!(ask(&mesh, 20).await, (20, 20));
    }
    // With room again it is told, by the next record or the next flush.
    let folder = mesh.folder().join("audit");
    let mut report = Report::default();
    for _ in 0..100 {
        report = verified(&server, &folder).await;
        assert!(report.ok, "{:?}", report.findings);
        if report.lost > 0 && report.lost == counted(&server) {
            break;
        }
        assert_eq!(ask(&mesh, 1).await, (1, 1));
    }
    assert_eq!(report.lost, counted(&server), "{:?}", report.notes);
    let told = |n: &String| n.contains("were not recorded") && n.contains("full");
    assert!(report.notes.iter().any(told), "{:?}", report.notes);
}
