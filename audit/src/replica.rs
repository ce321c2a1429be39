//! Audit replicas and the mesh process: who may ship what, and how far each replica's log has come.
//!
//! A replica takes proxies' batches into a log of its own. It asks the mesh process whether an identity may ship the
//! records of a proxy, and tells it every checkpoint, which the mesh process puts on record: the mesh log holds the
//! checkpoints of all replicas, so that none of their logs can vanish or be rolled back.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reeve_core::{InstanceName, SpiffeId};
use tonic::{Code, Request, Response, Status, transport::Channel};

use crate::{
    AuditLog, EventKind, EventRecord, MayShip,
    batch::BoxError,
    ingest::{
        Authenticate,
        proto::{
            MayShipRequest, MayShipResponse, NoteRequest, NoteResponse,
            replicas_client::ReplicasClient,
            replicas_server::{Replicas, ReplicasServer},
        },
    },
    log::key,
};

/// The mesh process among the proxies of the audit log. Instances end in a number, so none has this name.
pub const MESH_PROCESS: &str = "reeve.mesh";

/// The longest checkpoint that is taken: a note with one signature is a few hundred bytes.
const MAX_CHECKPOINT_BYTES: usize = 4096;
/// Proxies whose right to ship a replica remembers; beyond them, it asks again.
const MAX_KNOWN: usize = 65_536;
/// How often a replica tells its checkpoint, if it has a new one.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the mesh process may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the mesh keeps records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// How old a record is, at most, when it is kept as columns too.
    pub columns_after: Duration,
    /// How long records are kept; `None`: for ever.
    pub retention: Option<Duration>,
}

/// A replica's log at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The replica.
    pub replica: InstanceName,
    /// Its log's name.
    pub log: String,
    /// Batches under the checkpoint.
    pub tree_size: u64,
    /// Records under it, as the replica says.
    pub records: u64,
    /// The checkpoint, a signed note.
    pub checkpoint: String,
    /// The key that signed it.
    pub verifier_key: String,
}

impl Noted {
    /// The record of it in the mesh log.
    pub fn event(&self) -> EventRecord {
        EventRecord::new(EventKind::LogCheckpoint)
            .with("replica", self.replica.to_string())
            .with("log", &self.log)
            .with("checkpoint", &self.checkpoint)
            .with("key", &self.verifier_key)
    }
}

/// The name of a replica's log, given that of the mesh log.
pub fn log_of(mesh_log: &str, replica: &InstanceName) -> String {
    format!("{mesh_log}/{replica}")
}

/// The mesh process, as replicas see it.
pub trait Overseer: fmt::Debug + Send + Sync + 'static {
    /// Whether that is the identity of the replica of that name.
    fn is_replica(&self, id: &SpiffeId, replica: &InstanceName) -> bool;

    /// Whether it is that of some replica.
    fn is_some_replica(&self, id: &SpiffeId) -> bool;

    /// Whether an identity may ship the records of a proxy.
    fn may_ship(&self, id: &SpiffeId, proxy: &InstanceName) -> bool;

    /// The name of the mesh log.
    fn mesh_log(&self) -> String;

    /// Puts on record how far a replica has come; an error says why it could not be.
    fn note(&self, noted: Noted) -> Result<Keeping, String>;
}

/// `reeve.audit.v1.Replicas`.
#[derive(Clone)]
pub struct ReplicaService {
    authenticate: Authenticate,
    overseer: Arc<dyn Overseer>,
}

impl ReplicaService {
    /// The tonic service to add to the mesh process's server.
    pub fn server(
        authenticate: Authenticate,
        overseer: Arc<dyn Overseer>,
    ) -> ReplicasServer<impl Replicas> {
        ReplicasServer::new(Self {
            authenticate,
            overseer,
        })
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<SpiffeId, Status> {
        (self.authenticate)(request.extensions())
            .ok_or_else(|| Status::unauthenticated("a mesh certificate is required"))
    }
}

impl fmt::Debug for ReplicaService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaService").finish_non_exhaustive()
    }
}

fn named(text: &str) -> Result<InstanceName, Status> {
    InstanceName::parse(text).map_err(|e| Status::invalid_argument(e.to_string()))
}

#[tonic::async_trait]
impl Replicas for ReplicaService {
    async fn may_ship(
        &self,
        request: Request<MayShipRequest>,
    ) -> Result<Response<MayShipResponse>, Status> {
        let caller = self.caller(&request)?;
        if !self.overseer.is_some_replica(&caller) {
            return Err(Status::permission_denied("only audit replicas ask that"));
        }
        let asked = request.into_inner();
        let id = SpiffeId::parse(&asked.identity);
        let id = id.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let may = self.overseer.may_ship(&id, &named(&asked.proxy)?);
        Ok(Response::new(MayShipResponse { may }))
    }

    async fn note(&self, request: Request<NoteRequest>) -> Result<Response<NoteResponse>, Status> {
        let caller = self.caller(&request)?;
        let asked = request.into_inner();
        let replica = named(&asked.replica)?;
        if !self.overseer.is_replica(&caller, &replica) {
            tracing::warn!(%caller, %replica, "is not that audit replica");
            return Err(Status::permission_denied("you are not that audit replica"));
        }
        let noted =
            checked(asked, replica, &self.overseer.mesh_log()).map_err(Status::invalid_argument)?;
        let keeping = self.overseer.note(noted).map_err(Status::unavailable)?;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Ok(Response::new(NoteResponse {
            columns_after_ms: millis(keeping.columns_after),
            retention_ms: keeping.retention.map(millis),
        }))
    }
}

/// SECURITY: what goes on record is a checkpoint of that replica's own log, under the key that is recorded with it.
fn checked(asked: NoteRequest, replica: InstanceName, mesh_log: &str) -> Result<Noted, String> {
    if asked.checkpoint.len() > MAX_CHECKPOINT_BYTES
        || asked.verifier_key.len() > MAX_CHECKPOINT_BYTES
    {
        return Err("the checkpoint is too long".to_owned());
    }
    let checkpoint = key::open_checkpoint(&asked.checkpoint, &asked.verifier_key)
        .map_err(|what| format!("the checkpoint: {what}"))?;
    let log = log_of(mesh_log, &replica);
    if checkpoint.origin() != log {
        return Err(format!(
            "the checkpoint is of {:?}, not {log:?}",
            checkpoint.origin()
        ));
    }
    Ok(Noted {
        replica,
        log,
        tree_size: checkpoint.size(),
        records: asked.records,
        checkpoint: String::from_utf8_lossy(&asked.checkpoint).into_owned(),
        verifier_key: asked.verifier_key,
    })
}

/// The mesh process, seen from a replica.
#[derive(Clone, Debug)]
pub struct MeshClient {
    channel: Channel,
    known: Arc<Mutex<BTreeMap<InstanceName, SpiffeId>>>,
}

impl MeshClient {
    /// Over a channel that connects by itself.
    pub fn new(channel: Channel) -> Self {
        Self {
            channel,
            known: Arc::default(),
        }
    }

    /// Asks the mesh process who may ship what, and remembers to whom it said yes: such a proxy may ship on while the mesh
    /// process is away.
    pub fn may_ship(&self) -> MayShip {
        let client = self.clone();
        Arc::new(move |id, proxy| {
            let client = client.clone();
            Box::pin(async move { client.ask(id, proxy).await })
        })
    }

    async fn ask(&self, id: SpiffeId, proxy: InstanceName) -> Result<bool, BoxError> {
        let asked = MayShipRequest {
            identity: id.to_string(),
            proxy: proxy.to_string(),
        };
        let mut client = ReplicasClient::new(self.channel.clone());
        let answer = tokio::time::timeout(PATIENCE, client.may_ship(asked)).await;
        let answer = answer.unwrap_or_else(|_elapsed| Err(unanswered()));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(answer) => {
                let may = answer.into_inner().may;
                known.remove(&proxy);
                if may && known.len() < MAX_KNOWN {
                    known.insert(proxy, id);
                }
                Ok(may)
            }
            // SECURITY: an answer that refuses is no absence.
            Err(status) if !is_absence(&status) => Err(status.into()),
            Err(status) => match known.get(&proxy) == Some(&id) {
                true => Ok(true),
                false => Err(status.into()),
            },
        }
    }

    /// Tells the mesh process every checkpoint of `log`, for ever, and hands on how it wants records kept.
    pub async fn tell(
        &self,
        log: &AuditLog,
        replica: &InstanceName,
        keeping: &(dyn Fn(Keeping) + Send + Sync),
    ) {
        let mut told = String::new();
        loop {
            let status = log.status();
            if told != status.checkpoint {
                match self.tell_now(log, replica).await {
                    Ok(wanted) => {
                        told = status.checkpoint;
                        keeping(wanted);
                    }
                    Err(status) => {
                        tracing::warn!(
                            error = status.message(),
                            "the mesh log does not hold this log's checkpoint yet"
                        );
                    }
                }
            }
            tokio::time::sleep(NOTE_INTERVAL).await;
        }
    }

    /// Tells it the checkpoint of now.
    pub async fn tell_now(
        &self,
        log: &AuditLog,
        replica: &InstanceName,
    ) -> Result<Keeping, Status> {
        let status = log.status();
        let note = NoteRequest {
            replica: replica.to_string(),
            checkpoint: status.checkpoint.into_bytes(),
            verifier_key: status.verifier_key,
            records: status.records,
        };
        let mut client = ReplicasClient::new(self.channel.clone());
        let answer = tokio::time::timeout(PATIENCE, client.note(note)).await;
        let answer = answer.unwrap_or_else(|_elapsed| Err(unanswered()))?;
        Ok(answer.into_inner().into())
    }
}

/// Whether nobody answered: the connection could not be made, or broke.
fn is_absence(status: &Status) -> bool {
    let source = std::error::Error::source(status);
    let broke = source.is_some_and(|source| source.is::<tonic::transport::Error>());
    status.code() == Code::Unavailable || broke
}

fn unanswered() -> Status {
    Status::unavailable("the mesh process does not answer")
}

impl From<NoteResponse> for Keeping {
    fn from(answer: NoteResponse) -> Self {
        Self {
            columns_after: Duration::from_millis(answer.columns_after_ms),
            retention: answer.retention_ms.map(Duration::from_millis),
        }
    }
}

#[cfg(test)]
mod tests;
