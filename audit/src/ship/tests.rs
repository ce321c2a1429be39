use std::{fs, io, sync::Mutex};

use hyper_util::rt::TokioIo;
use reeve_core::{InstanceName, SpiffeId, decision::Effect};
use tempfile::TempDir;
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Server};

use super::*;
use crate::{
    IngestService, WalOptions,
    fixture::{
        ID, TestSigner, TestVerifier, clock, decision, drain, fast, log_options, name, open_wal,
        until_shipped,
    },
    ingest::told_at_once,
    verify::{VerifyOptions, verify},
};

mod matrix;
mod replicas;

fn alone(positions: Positions) -> Known {
    Known::of_only_log(true, positions, "mesh.local/audit")
}

/// A server that dies when it is dropped.
struct Running(Option<tokio::runtime::Runtime>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

/// A mesh process in memory: a server that can be killed and started again.
#[derive(Clone)]
struct Mesh {
    connections: Arc<Mutex<Option<mpsc::Sender<io::Result<DuplexStream>>>>>,
}

impl Mesh {
    fn down() -> Self {
        Self {
            connections: Arc::default(),
        }
    }

    fn start(&self, log: Arc<AuditLog>, peer: Option<&'static str>) -> Running {
        let (sender, receiver) = mpsc::channel(8);
        *self.connections.lock().unwrap() = Some(sender);
        let peer: Option<SpiffeId> = peer.map(|p| p.parse().unwrap());
        let service = IngestService::new(
            log,
            Arc::new(move |_extensions| peer.clone()),
            told_at_once(|_peer: &SpiffeId, proxy: &InstanceName| proxy.as_str() != "not-mine"),
            Arc::new(TestVerifier),
            clock(),
        );
        // A runtime of its own, so that killing it ends every connection as the death of a process does.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let server = Server::builder().add_service(service.into_server());
            let incoming = ReceiverStream::new(receiver);
            drop(server.serve_with_incoming(incoming).await);
        });
        Running(Some(runtime))
    }

    fn factory(&self) -> ChannelFactory {
        let connections = self.connections.clone();
        Arc::new(move || {
            let connections = connections.clone();
            Box::pin(async move {
                let connect = tower::service_fn(move |_uri: tonic::transport::Uri| {
                    let sender = connections.lock().unwrap().clone();
                    async move {
                        let (client, server) = tokio::io::duplex(1 << 16);
                        let gone = || io::Error::from(io::ErrorKind::ConnectionRefused);
                        let sender = sender.ok_or_else(gone)?;
                        sender.send(Ok(server)).await.map_err(|_closed| gone())?;
                        io::Result::Ok(TokioIo::new(client))
                    }
                });
                let endpoint = Endpoint::from_static("http://mesh");
                Ok(endpoint.connect_with_connector(connect).await?)
            })
        })
    }
}

fn fill(wal: &Wal, count: usize) {
    for n in 0..count {
        wal.append(decision(&format!("/{n}"), Effect::Allow))
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_arrive_over_grpc_and_verify() {
    let dir = TempDir::new().unwrap();
    let (wal, audit) = (
        open_wal(&dir.path().join("wal"), "a"),
        dir.path().join("audit"),
    );
    let log = AuditLog::open(&audit, log_options()).unwrap();
    let mesh = Mesh::down();
    let _server = mesh.start(log.clone(), Some(ID));
    fill(&wal, 100);
    until_shipped(
        &wal,
        ship(wal.clone(), only(mesh.factory()), TestSigner::new(), fast()),
    )
    .await;
    let options = VerifyOptions {
        batches: Some(Arc::new(TestVerifier)),
        wals: vec![dir.path().join("wal")],
        ..VerifyOptions::default()
    };
    let report = verify(&audit, &options).unwrap();
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!(report.records, 100);
    assert_eq!(report.signatures_verified, report.batches);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_process_that_dies_and_returns_misses_nothing() {
    let dir = TempDir::new().unwrap();
    let (wal, audit) = (
        open_wal(&dir.path().join("wal"), "a"),
        dir.path().join("audit"),
    );
    let mesh = Mesh::down();
    let shipping = tokio::spawn(ship(
        wal.clone(),
        only(mesh.factory()),
        TestSigner::new(),
        fast(),
    ));
    let mut earlier = None;
    for round in 1..=3 {
        // Down: records are appended all the same.
        fill(&wal, 50);
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(wal.status().backlog >= 50, "round {round}");
        let log = AuditLog::open(&audit, log_options()).unwrap();
        let server = mesh.start(log.clone(), Some(ID));
        fill(&wal, 50);
        until_shipped(&wal, std::future::pending()).await;
        *mesh.connections.lock().unwrap() = None;
        drop(server);
        let options = VerifyOptions {
            earlier: earlier
                .map(|bytes| ("kept".to_owned(), bytes))
                .into_iter()
                .collect(),
            ..VerifyOptions::default()
        };
        let report = verify(&audit, &options).unwrap();
        assert!(report.ok, "round {round}: {:?}", report.findings);
        assert_eq!(report.records, round * 100);
        earlier = Some(fs::read(audit.join("checkpoint")).unwrap());
        while Arc::strong_count(&log) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    shipping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_after_a_killed_sidecar_link_up_in_the_log() {
    let dir = TempDir::new().unwrap();
    let audit = dir.path().join("audit");
    let log = AuditLog::open(&audit, log_options()).unwrap();
    for _ in 0..4 {
        let wal = open_wal(&dir.path().join("wal"), "a");
        fill(&wal, 20);
        // The second half of each epoch is shipped by the next one.
        if wal.status().epoch.is_multiple_of(2) {
            drain(&wal, &log, fast()).await;
        }
    }
    let report = verify(&audit, &VerifyOptions::default()).unwrap();
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!((report.records, report.proxies), (80, 1));
}

async fn refusal(peer: Option<&'static str>, proxy: &str) -> ShipError {
    let dir = TempDir::new().unwrap();
    let wal = open_wal(&dir.path().join("wal"), proxy);
    let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
    let mesh = Mesh::down();
    let _server = mesh.start(log.clone(), peer);
    fill(&wal, 1);
    let timeout = Duration::from_secs(5);
    let error = match grpc::connect(&mesh.factory(), &name(proxy), timeout).await {
        Ok((held, uplink)) => {
            let known = alone(held.positions);
            let signer = TestSigner::new();
            pump(&wal, known, uplink, signer.as_ref(), &fast()).await.0
        }
        Err(error) => error,
    };
    assert_eq!(log.status().tree_size, 0);
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_impostors_cannot_ship() {
    let code = |error: ShipError| {
        let ShipError::Rpc(status) = error else {
            panic!("{error}");
        };
        status.code()
    };
    assert_eq!(code(refusal(None, "a").await), tonic::Code::Unauthenticated);
    assert_eq!(
        code(refusal(Some(ID), "not-mine").await),
        tonic::Code::PermissionDenied
    );
    let other = refusal(Some("spiffe://mesh.local/ns/default/sa/other"), "a").await;
    assert!(
        matches!(&other, ShipError::Refused(r) if r.contains("signed by")),
        "{other}"
    );
}

#[tokio::test]
async fn a_log_that_knows_more_than_the_proxy_is_not_taken_for_an_acknowledgement() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
    let first = open_wal(&dir.path().join("wal"), "a");
    fill(&first, 10);
    drain(&first, &log, fast()).await;
    let replaced = open_wal(&dir.path().join("another"), "a");
    fill(&replaced, 3);
    let uplink = Local(log.clone());
    let (error, _) = pump(
        &replaced,
        alone(log.positions(&name("a"))),
        uplink,
        TestSigner::new().as_ref(),
        &fast(),
    )
    .await;
    assert!(matches!(error, ShipError::Ahead(1, 0, 10)), "{error}");
    assert_eq!(replaced.status().backlog, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_taken_away_repeats_no_id_and_the_gap_is_found() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(&dir.path().join("audit"), log_options()).unwrap();
    let open = |first_epoch| {
        let options = WalOptions {
            first_epoch,
            ..WalOptions::default()
        };
        Arc::new(Wal::open(&dir.path().join("wal"), name("a"), options, clock()).unwrap())
    };
    let first = open(1_795_000_000_000);
    fill(&first, 10);
    drain(&first, &log, fast()).await;
    drop(first);
    let second = open(1_795_000_000_500);
    assert_eq!(
        second.status().epoch,
        1_795_000_000_001,
        "it goes on from what is there"
    );
    drop(second);
    fs::remove_dir_all(dir.path().join("wal")).unwrap();
    let replaced = open(1_795_000_001_000);
    fill(&replaced, 3);
    drain(&replaced, &log, fast()).await;
    let report = verify(&dir.path().join("audit"), &VerifyOptions::default()).unwrap();
    assert_eq!(report.records, 13, "no record was taken for another");
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.what.contains("does not link")),
        "{:?}",
        report.findings
    );
}
