//! What replicas may tell and ask, and what they remember.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Server};

use super::*;
use crate::{
    LogOptions,
    fixture::{ID, log_options, name},
};

const REPLICA: &str = "spiffe://mesh.local/ns/reeve-system/sa/audit";

/// A mesh process with one replica, `audit-0`, and one proxy, `a-0`.
#[derive(Debug, Default)]
struct Desk {
    noted: Mutex<Vec<Noted>>,
    full: AtomicBool,
    closed: AtomicBool,
}

impl Overseer for Desk {
    fn is_replica(&self, id: &SpiffeId, replica: &InstanceName) -> bool {
        self.is_some_replica(id) && replica.as_str() == "audit-0"
    }

    fn is_some_replica(&self, id: &SpiffeId) -> bool {
        id.to_string() == REPLICA
    }

    fn may_ship(&self, id: &SpiffeId, proxy: &InstanceName) -> bool {
        !self.closed.load(Ordering::Relaxed) && id.to_string() == ID && proxy.as_str() == "a-0"
    }

    fn mesh_log(&self) -> String {
        "mesh.local/audit".to_owned()
    }

    fn note(&self, noted: Noted) -> Result<Keeping, String> {
        if self.full.load(Ordering::Relaxed) {
            return Err("the disk is full".to_owned());
        }
        self.noted.lock().unwrap().push(noted);
        Ok(Keeping {
            columns_after: Duration::from_secs(900),
            retention: None,
        })
    }
}

fn service(desk: &Arc<Desk>, caller: Option<&str>) -> ReplicaService {
    let caller: Option<SpiffeId> = caller.map(|id| id.parse().unwrap());
    ReplicaService {
        authenticate: Arc::new(move |_extensions| caller.clone()),
        overseer: Arc::clone(desk) as _,
    }
}

fn log(dir: &TempDir, origin: &str) -> Arc<AuditLog> {
    let options = LogOptions {
        origin: origin.to_owned(),
        ..log_options()
    };
    AuditLog::open(&dir.path().join(origin.replace('/', "_")), options).unwrap()
}

fn note_of(log: &AuditLog) -> NoteRequest {
    let status = log.status();
    NoteRequest {
        replica: "audit-0".to_owned(),
        checkpoint: status.checkpoint.into_bytes(),
        verifier_key: status.verifier_key,
        records: status.records,
    }
}

#[tokio::test]
async fn only_a_replicas_own_checkpoint_goes_on_record_and_only_from_itself() {
    let dir = TempDir::new().unwrap();
    let (own, other) = (
        log(&dir, "mesh.local/audit/audit-0"),
        log(&dir, "mesh.local/audit/audit-1"),
    );
    let good = note_of(&own);
    let altered = |change: fn(&mut NoteRequest)| {
        let mut note = good.clone();
        change(&mut note);
        note
    };
    let cases = [
        (Some(REPLICA), good.clone(), Code::Ok),
        (None, good.clone(), Code::Unauthenticated),
        (Some(ID), good.clone(), Code::PermissionDenied),
        (
            Some(REPLICA),
            altered(|note| note.replica = "audit-9".to_owned()),
            Code::PermissionDenied,
        ),
        (
            Some(REPLICA),
            altered(|note| note.replica = "/".to_owned()),
            Code::InvalidArgument,
        ),
        (Some(REPLICA), note_of(&other), Code::InvalidArgument),
        (
            Some(REPLICA),
            NoteRequest {
                verifier_key: note_of(&other).verifier_key,
                ..good.clone()
            },
            Code::InvalidArgument,
        ),
        (
            Some(REPLICA),
            altered(|note| note.checkpoint[30] ^= 1),
            Code::InvalidArgument,
        ),
        (
            Some(REPLICA),
            altered(|note| note.checkpoint.resize(MAX_CHECKPOINT_BYTES + 1, b'\n')),
            Code::InvalidArgument,
        ),
    ];
    for (n, (caller, note, expected)) in cases.into_iter().enumerate() {
        let desk = Arc::new(Desk::default());
        let answer = service(&desk, caller).note(Request::new(note)).await;
        let code = answer.map_or_else(|status| status.code(), |_noted| Code::Ok);
        assert_eq!(code, expected, "case {n}");
        let noted = desk.noted.lock().unwrap().len();
        assert_eq!(noted, usize::from(expected == Code::Ok), "case {n}");
    }
    let desk = Arc::new(Desk::default());
    desk.full.store(true, Ordering::Relaxed);
    let refused = service(&desk, Some(REPLICA)).note(Request::new(good)).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn only_replicas_learn_who_may_ship() {
    let desk = Arc::new(Desk::default());
    let ask = async |caller: Option<&str>, identity: &str, proxy: &str| {
        let asked = MayShipRequest {
            identity: identity.to_owned(),
            proxy: proxy.to_owned(),
        };
        let answer = service(&desk, caller).may_ship(Request::new(asked)).await;
        answer.map(|may| may.into_inner().may).map_err(|e| e.code())
    };
    assert_eq!(ask(Some(REPLICA), ID, "a-0").await, Ok(true));
    assert_eq!(ask(Some(REPLICA), ID, "b-0").await, Ok(false));
    assert_eq!(ask(Some(REPLICA), REPLICA, "a-0").await, Ok(false));
    assert_eq!(ask(Some(ID), ID, "a-0").await, Err(Code::PermissionDenied));
    assert_eq!(ask(None, ID, "a-0").await, Err(Code::Unauthenticated));
    assert_eq!(
        ask(Some(REPLICA), "x", "a-0").await,
        Err(Code::InvalidArgument)
    );
}

/// A mesh process in memory, and whom it takes its callers for.
struct Office {
    door: Arc<Mutex<Option<mpsc::Sender<io::Result<DuplexStream>>>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Office {
    fn closed() -> Self {
        Self {
            door: Arc::default(),
            runtime: None,
        }
    }

    fn open(&mut self, desk: &Arc<Desk>, caller: &str) {
        let (sender, receiver) = mpsc::channel(8);
        let service = ReplicasServer::new(service(desk, Some(caller)));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let incoming = ReceiverStream::new(receiver);
            let server = Server::builder().add_service(service);
            drop(server.serve_with_incoming(incoming).await);
        });
        *self.door.lock().unwrap() = Some(sender);
        self.runtime = Some(runtime);
    }

    fn close(&mut self) {
        *self.door.lock().unwrap() = None;
        // Whoever still answered after this would be no absence.
        let runtime = self.runtime.take().unwrap();
        let ended = std::thread::spawn(|| runtime.shutdown_timeout(Duration::from_secs(60)));
        ended.join().unwrap();
    }

    fn client(&self) -> MeshClient {
        let door = Arc::clone(&self.door);
        let connect = tower::service_fn(move |_uri: tonic::transport::Uri| {
            let sender = door.lock().unwrap().clone();
            async move {
                let (client, server) = tokio::io::duplex(1 << 16);
                let gone = || io::Error::from(io::ErrorKind::ConnectionRefused);
                let sender = sender.ok_or_else(gone)?;
                sender.send(Ok(server)).await.map_err(|_closed| gone())?;
                io::Result::Ok(TokioIo::new(client))
            }
        });
        let endpoint = Endpoint::from_static("http://mesh");
        MeshClient::new(endpoint.connect_with_connector_lazy(connect))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_was_known_ships_on_while_the_mesh_process_is_away_and_no_other() {
    let desk = Arc::new(Desk::default());
    let mut office = Office::closed();
    office.open(&desk, REPLICA);
    let may_ship = office.client().may_ship();
    let ask = async |id: &str, proxy: &str| {
        let answer = may_ship(id.parse().unwrap(), name(proxy)).await;
        answer.map_err(|error| error.to_string())
    };
    assert_eq!(ask(ID, "a-0").await, Ok(true));
    assert_eq!(ask(ID, "b-0").await, Ok(false));
    office.close();
    assert_eq!(ask(ID, "a-0").await, Ok(true));
    assert!(ask(ID, "b-0").await.is_err());
    assert!(ask(REPLICA, "a-0").await.is_err());

    // An old connection may break first, which is an absence too; then it is asked again.
    let till = async |wanted: fn(&Result<bool, String>) -> bool| {
        for _ in 0..10_000 {
            if wanted(&ask(ID, "a-0").await) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{:?}", ask(ID, "a-0").await);
    };
    // It refuses this replica: that is no absence.
    office.open(&desk, ID);
    till(Result::is_err).await;
    office.close();

    // It says no: that is remembered.
    desk.closed.store(true, Ordering::Relaxed);
    office.open(&desk, REPLICA);
    till(|answer| *answer == Ok(false)).await;
    office.close();
    assert!(ask(ID, "a-0").await.is_err());
}
