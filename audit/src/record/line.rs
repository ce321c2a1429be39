//! How a record is written: the members of its place and of what it says in one object.
//!
//! Decisions and outcomes, of which there are many, have all members in the order of canonical JSON (by name), so that
//! writing them sorts and copies nothing. A test compares them with the general way.

use std::sync::Arc;

use reeve_core::{
    RecordId, UnixTime,
    decision::{AccessRequest, Decision},
    model::{Generation, MtlsMode, PathNormalization},
};
use serde::Serialize;

use super::{
    AuthenticatedBy, DecisionRecordRef, Direction, EntryRef, LookedFor, OutcomeRecord,
    RECORD_SCHEMA, Redacted,
};
use crate::canonical::{self, CanonicalError, Scratch};

/// Adds the canonical JSON of a record to `out`.
pub(crate) fn write(
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
    id: &RecordId,
    time: UnixTime,
    entry: EntryRef<'_>,
) -> Result<(), CanonicalError> {
    match entry {
        EntryRef::Decision(decision) => {
            canonical::append(&DecisionLine::new(id, time, decision), out, scratch)
        }
        EntryRef::Outcome(outcome) => {
            canonical::append(&OutcomeLine::new(id, time, outcome), out, scratch)
        }
        EntryRef::Event(_) | EntryRef::Aggregate(_) => {
            canonical::append(&Line::new(id, time, entry), out, scratch)
        }
    }
}

/// Any record.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    schema: &'static str,
    id: &'a RecordId,
    time: UnixTime,
    #[serde(flatten)]
    entry: EntryRef<'a>,
}

impl<'a> Line<'a> {
    pub(super) fn new(id: &'a RecordId, time: UnixTime, entry: EntryRef<'a>) -> Self {
        Self {
            schema: RECORD_SCHEMA,
            id,
            time,
            entry,
        }
    }
}

#[derive(Serialize)]
struct DecisionLine<'a> {
    authenticated_by: AuthenticatedBy,
    cost_us: u64,
    decision: &'a Decision,
    direction: Direction,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<Generation>,
    id: &'a RecordId,
    kind: &'static str,
    #[serde(skip_serializing_if = "LookedFor::is_empty")]
    looked_for: &'a LookedFor,
    mtls_mode: MtlsMode,
    path_normalization: PathNormalization,
    policy_hash: &'a str,
    projection_hash: &'a str,
    #[serde(skip_serializing_if = "Redacted::is_empty")]
    redacted: &'a Redacted,
    request: &'a AccessRequest,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    schema: &'static str,
    strict_would_refuse: bool,
    time: UnixTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    transformations: &'a [Arc<str>],
}

impl<'a> DecisionLine<'a> {
    fn new(id: &'a RecordId, time: UnixTime, record: DecisionRecordRef<'a>) -> Self {
        let DecisionRecordRef {
            request,
            decision,
            authenticated_by,
            direction,
            generation,
            policy_hash,
            projection_hash,
            looked_for,
            redacted,
            mtls_mode,
            strict_would_refuse,
            path_normalization,
            trace_id,
            request_id,
            transformations,
            cost_us,
        } = record;
        Self {
            authenticated_by,
            cost_us,
            decision,
            direction,
            generation,
            id,
            kind: "decision",
            looked_for,
            mtls_mode,
            path_normalization,
            policy_hash,
            projection_hash,
            redacted,
            request,
            request_id,
            schema: RECORD_SCHEMA,
            strict_would_refuse,
            time,
            trace_id,
            transformations,
        }
    }
}

#[derive(Serialize)]
struct OutcomeLine<'a> {
    bytes_in: u64,
    bytes_out: u64,
    decision: &'a RecordId,
    duration_us: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    flags: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u16>,
    id: &'a RecordId,
    kind: &'static str,
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    time: UnixTime,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    transformations: &'a [Arc<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
}

impl<'a> OutcomeLine<'a> {
    fn new(id: &'a RecordId, time: UnixTime, record: &'a OutcomeRecord) -> Self {
        let OutcomeRecord {
            decision,
            status,
            grpc_status,
            bytes_in,
            bytes_out,
            duration_us,
            upstream,
            flags,
            transformations,
        } = record;
        Self {
            bytes_in: *bytes_in,
            bytes_out: *bytes_out,
            decision,
            duration_us: *duration_us,
            flags,
            grpc_status: *grpc_status,
            id,
            kind: "outcome",
            schema: RECORD_SCHEMA,
            status: *status,
            time,
            transformations,
            upstream: upstream.as_deref(),
        }
    }
}
