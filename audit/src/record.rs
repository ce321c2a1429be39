//! What is recorded: one JSON object per decision, outcome, event or aggregate. `docs/audit-record.md` documents it.

use std::{collections::BTreeMap, sync::Arc};

use reeve_core::{
    Clock, RecordId, SpiffeId, UnixTime,
    decision::{AccessRequest, Decision},
    model::{Generation, MtlsMode, PathNormalization},
};
use serde::{Deserialize, Serialize};

mod line;
mod looked_for;
mod question;
mod redact;
mod text;

pub(crate) use self::line::write;
pub use self::{
    looked_for::LookedFor,
    redact::{CREDENTIAL_HEADERS, Redacted, Redaction},
};
use crate::canonical::{self, CanonicalError};

/// The version of the record format, the `schema` member of every record.
pub const RECORD_SCHEMA: &str = "reeve.audit/v1";

/// The longest record in bytes of canonical JSON; a longer one is refused, and so is the request it is about.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;

/// One record as it is stored, shipped and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_SCHEMA`].
    pub schema: String,
    /// Its place: proxy, epoch, worker, gapless sequence.
    pub id: RecordId,
    /// When it was written.
    pub time: UnixTime,
    /// What it says.
    #[serde(flatten)]
    pub entry: Entry,
}

impl Record {
    /// A record of `entry` made now.
    pub fn new(id: RecordId, entry: Entry, clock: &dyn Clock) -> Self {
        Self {
            schema: RECORD_SCHEMA.to_owned(),
            id,
            time: clock.now(),
            entry,
        }
    }

    /// The bytes that are stored and hashed.
    pub fn to_canonical(&self) -> Result<Vec<u8>, CanonicalError> {
        canonical::to_vec(self)
    }

    /// Reads a stored record; any JSON form is accepted here, `verify` demands the canonical one.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// An [`Entry`] that borrows what it says, so that recording costs no copy.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EntryRef<'a> {
    /// A request or connection was judged.
    Decision(DecisionRecordRef<'a>),
    /// What came of an allowed one.
    Outcome(&'a OutcomeRecord),
    /// Something else that an auditor wants to know.
    Event(&'a EventRecord),
    /// Many like events of strangers, counted.
    Aggregate(&'a AggregateRecord),
}

impl<'a> From<&'a Entry> for EntryRef<'a> {
    fn from(entry: &'a Entry) -> Self {
        match entry {
            Entry::Decision(decision) => Self::Decision(decision.as_ref().into()),
            Entry::Outcome(outcome) => Self::Outcome(outcome),
            Entry::Event(event) => Self::Event(event),
            Entry::Aggregate(aggregate) => Self::Aggregate(aggregate),
        }
    }
}

impl<'a> From<&'a DecisionRecord> for EntryRef<'a> {
    fn from(record: &'a DecisionRecord) -> Self {
        Self::Decision(record.into())
    }
}

impl<'a> From<DecisionRecordRef<'a>> for EntryRef<'a> {
    fn from(record: DecisionRecordRef<'a>) -> Self {
        Self::Decision(record)
    }
}

impl<'a> From<&'a OutcomeRecord> for EntryRef<'a> {
    fn from(record: &'a OutcomeRecord) -> Self {
        Self::Outcome(record)
    }
}

impl<'a> From<&'a EventRecord> for EntryRef<'a> {
    fn from(record: &'a EventRecord) -> Self {
        Self::Event(record)
    }
}

impl<'a> From<&'a AggregateRecord> for EntryRef<'a> {
    fn from(record: &'a AggregateRecord) -> Self {
        Self::Aggregate(record)
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A request or connection was judged.
    Decision(Box<DecisionRecord>),
    /// What came of an allowed one.
    Outcome(OutcomeRecord),
    /// Something else that an auditor wants to know.
    Event(EventRecord),
    /// Many like events of strangers, counted.
    Aggregate(AggregateRecord),
}

impl Entry {
    /// The kind as it stands in the record.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Decision(_) => "decision",
            Self::Outcome(_) => "outcome",
            Self::Event(_) => "event",
            Self::Aggregate(_) => "aggregate",
        }
    }

    /// The decision, if it is one.
    pub fn as_decision(&self) -> Option<&DecisionRecord> {
        match self {
            Self::Decision(decision) => Some(decision),
            Self::Outcome(_) | Self::Event(_) | Self::Aggregate(_) => None,
        }
    }
}

impl From<DecisionRecord> for Entry {
    fn from(record: DecisionRecord) -> Self {
        Self::Decision(Box::new(record))
    }
}

impl From<OutcomeRecord> for Entry {
    fn from(record: OutcomeRecord) -> Self {
        Self::Outcome(record)
    }
}

impl From<EventRecord> for Entry {
    fn from(record: EventRecord) -> Self {
        Self::Event(record)
    }
}

impl From<AggregateRecord> for Entry {
    fn from(record: AggregateRecord) -> Self {
        Self::Aggregate(record)
    }
}

/// A decision and everything that it rested on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// The question.
    pub request: AccessRequest,
    /// The answer.
    pub decision: Decision,
    /// How the principal was established.
    pub authenticated_by: AuthenticatedBy,
    /// Whose proxy decided: the one in front of the resource, or the one beside the caller.
    pub direction: Direction,
    /// The configuration generation in force; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Hash of the mesh's policy set (`PolicySlice::mesh_hash`); empty before the first.
    pub policy_hash: String,
    /// SHA-256 in hex of the slice of it that this proxy holds; empty before the first.
    pub projection_hash: String,
    /// What the request was searched for; what is among it and not in `request` was not there.
    #[serde(default, skip_serializing_if = "LookedFor::is_empty")]
    pub looked_for: LookedFor,
    /// What the request had and the record does not keep.
    #[serde(default, skip_serializing_if = "Redacted::is_empty")]
    pub redacted: Redacted,
    /// The mTLS mode of the listener.
    pub mtls_mode: MtlsMode,
    /// Whether STRICT would have refused this peer.
    pub strict_would_refuse: bool,
    /// How the path was normalised.
    pub path_normalization: PathNormalization,
    /// Trace id (W3C or B3), when the request carries or was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// `x-request-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Transformations that changed the request's head: it was permitted both as it was received and as it stands here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transformations: Vec<Arc<str>>,
    /// What deciding cost, in microseconds.
    pub cost_us: u64,
}

/// A [`DecisionRecord`] that borrows its parts; the fields are those of the same names there.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "documented at DecisionRecord")]
pub struct DecisionRecordRef<'a> {
    pub request: &'a AccessRequest,
    pub decision: &'a Decision,
    pub authenticated_by: AuthenticatedBy,
    pub direction: Direction,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    pub policy_hash: &'a str,
    pub projection_hash: &'a str,
    #[serde(skip_serializing_if = "LookedFor::is_empty")]
    pub looked_for: &'a LookedFor,
    #[serde(skip_serializing_if = "Redacted::is_empty")]
    pub redacted: &'a Redacted,
    pub mtls_mode: MtlsMode,
    pub strict_would_refuse: bool,
    pub path_normalization: PathNormalization,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub transformations: &'a [Arc<str>],
    pub cost_us: u64,
}

impl<'a> From<&'a DecisionRecord> for DecisionRecordRef<'a> {
    fn from(record: &'a DecisionRecord) -> Self {
        Self {
            request: &record.request,
            decision: &record.decision,
            authenticated_by: record.authenticated_by,
            direction: record.direction,
            generation: record.generation,
            policy_hash: &record.policy_hash,
            projection_hash: &record.projection_hash,
            looked_for: &record.looked_for,
            redacted: &record.redacted,
            mtls_mode: record.mtls_mode,
            strict_would_refuse: record.strict_would_refuse,
            path_normalization: record.path_normalization,
            trace_id: record.trace_id.as_deref(),
            request_id: record.request_id.as_deref(),
            transformations: &record.transformations,
            cost_us: record.cost_us,
        }
    }
}

/// How a principal was established.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthenticatedBy {
    /// A mesh certificate, in mutual TLS.
    Mtls,
    /// TLS of the application's own, passed through unread.
    TlsPassthrough,
    /// What another proxy says that it verified: the one that asked by Envoy's `ext_authz`.
    ExtAuthz,
    /// Nothing: plaintext.
    Nothing,
}

/// Which side of the proxy traffic came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the workload.
    Inbound,
    /// From the workload, or from outside through a gateway.
    Outbound,
}

/// What came of an allowed request or connection. Nothing waits for this record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeRecord {
    /// The decision that let it pass.
    pub decision: RecordId,
    /// HTTP status sent to the caller; absent for TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// gRPC status, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u16>,
    /// Body bytes from the caller.
    pub bytes_in: u64,
    /// Body bytes to the caller.
    pub bytes_out: u64,
    /// From the first byte of the request to the last of the response, in microseconds.
    pub duration_us: u64,
    /// The endpoint that served it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Envoy's response flags (`UH`, `UF`, `UT`, …); empty when nothing was amiss.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flags: String,
    /// Transformations that changed a body or the response.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transformations: Vec<Arc<str>>,
}

/// Something that happened beside requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// What happened.
    pub event: EventKind,
    /// Whom or what it concerns, when that has an identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<SpiffeId>,
    /// Particulars, by name; the names of each kind are in `docs/audit-record.md`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, String>,
}

impl EventRecord {
    /// An event without particulars.
    pub fn new(event: EventKind) -> Self {
        Self {
            event,
            subject: None,
            detail: BTreeMap::new(),
        }
    }

    /// Names whom it concerns.
    #[must_use]
    pub fn about(mut self, subject: SpiffeId) -> Self {
        self.subject = Some(subject);
        self
    }

    /// Adds a particular, shortened to 4 KiB.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        let mut value = value.into();
        if let Some((end, _)) = value.char_indices().find(|(at, _)| *at >= 4096) {
            value.truncate(end);
        }
        self.detail.insert(name.to_owned(), value);
        self
    }
}

/// The kinds of [`EventRecord`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A configuration generation came into force.
    ConfigApplied,
    /// A configuration was refused; the last good one stays.
    ConfigRefused,
    /// A certificate was issued.
    IdentityIssued,
    /// A certificate or a secret was asked for and refused.
    IdentityRefused,
    /// A root, an intermediate or all certificates are rotated: a step of it.
    AuthorityRotated,
    /// A join token was made.
    JoinTokenCreated,
    /// STRICT, and a peer spoke plaintext.
    PlaintextRefused,
    /// A TLS handshake failed or the peer's certificate did not verify.
    HandshakeRefused,
    /// A connection named no server that is known at its port.
    NoRoute,
    /// Callers without an identity were refused more requests than are recorded one by one.
    RequestRefused,
    /// An open connection or stream lost its permit and was ended.
    ConnectionClosed,
    /// A proxy or the mesh process started.
    Started,
    /// It stopped in good order.
    Stopped,
    /// Decisions went on that could not be recorded: the event says since when, the aggregate how many they were.
    RecordsLost,
    /// A write-ahead log ended before the last record that its proxy had said was written.
    RecordsMissing,
    /// A batch of records was refused by the log.
    BatchRefused,
    /// Somebody began to watch live traffic.
    TapStarted,
    /// They ceased to.
    TapEnded,
    /// Somebody may not watch live traffic, or not what they asked for.
    TapRefused,
    /// A break-glass grant came into force.
    BreakGlassStarted,
    /// It is in force no longer.
    BreakGlassEnded,
    /// One was refused.
    BreakGlassRefused,
    /// A fault on purpose went into traffic.
    FaultBegan,
    /// It went out.
    FaultEnded,
    /// A drill began, took a step, put a fault into the authority, or ended.
    Drill,
    /// An identity or a certificate is refused from now on.
    IdentityRevoked,
    /// It is refused no longer.
    RevocationEnded,
    /// Another trust domain has another bundle here, or is federated no longer.
    FederationChanged,
    /// A segment of columns was written beside the tree.
    SegmentWritten,
    /// Records older than the log keeps them are about to be deleted.
    RecordsExpired,
    /// Somebody read the trail, or was refused to.
    LogRead,
    /// The log signs with another key.
    LogKeyRotated,
    /// Another policy set came into force.
    PolicyApplied,
    /// Ports went from one mTLS mode to another.
    MtlsModeChanged,
    /// A copy of a workload has an address from now on, or had it when the mesh process started.
    AddressAssigned,
    /// It has it no longer.
    AddressReleased,
    /// A migration to STRICT took a step, or took one back.
    MtlsMigration,
    /// A namespace that is strict was locked.
    MtlsLocked,
    /// It was opened again, with an approver's signature; or that was refused.
    MtlsUnlocked,
    /// The log of an audit replica has come to a checkpoint.
    LogCheckpoint,
}

/// Refusals before any identity is known, counted; they have a quota of their own and take no decision's room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AggregateRecord {
    /// What was counted.
    pub event: EventKind,
    /// How often.
    pub count: u64,
    /// Start of the span counted.
    pub since: UnixTime,
    /// Its end.
    pub until: UnixTime,
    /// Particulars they share.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests;
