//! How a record is written: the members of its place and of what it says in one object.
//!
//! Decisions and outcomes, of which there are many, are written member by member in the order of canonical JSON (by
//! name), without a serializer: a request waits for its decision's record. Tests compare them with the general way. Every
//! structure is taken apart whole, so that a member that is added to one and forgotten here does not compile.

use reeve_core::{
    PolicyId, RecordId, UnixTime,
    decision::{Decision, Effect},
    model::PathNormalization,
};
use serde::Serialize;

use super::{
    AuthenticatedBy, DecisionRecordRef, Direction, EntryRef, LookedFor, OutcomeRecord,
    RECORD_SCHEMA,
    question::question,
    text::{Text, Written},
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
        EntryRef::Decision(record) => decision(&mut Text::new(out, scratch), id, time, record),
        EntryRef::Outcome(record) => outcome(&mut Text::new(out, scratch), id, time, record),
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

fn decision(
    to: &mut Text<'_>,
    id: &RecordId,
    time: UnixTime,
    record: DecisionRecordRef<'_>,
) -> Written {
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
    to.raw("{\"authenticated_by\":\"");
    to.raw(authenticated(authenticated_by));
    to.raw("\",\"cost_us\":");
    to.number(cost_us)?;
    to.raw(",\"decision\":");
    answer(to, decision)?;
    to.raw(match direction {
        Direction::Inbound => ",\"direction\":\"inbound\"",
        Direction::Outbound => ",\"direction\":\"outbound\"",
    });
    if let Some(generation) = generation {
        to.raw(",\"generation\":");
        to.number(generation.0)?;
    }
    to.raw(",\"id\":");
    to.id(id)?;
    to.raw(",\"kind\":\"decision\"");
    if !looked_for.is_empty() {
        to.raw(",\"looked_for\":");
        searched(to, looked_for)?;
    }
    to.raw(",\"mtls_mode\":\"");
    to.raw(mtls_mode.as_str());
    to.raw("\",\"path_normalization\":\"");
    to.raw(normalization(path_normalization));
    to.raw("\",\"policy_hash\":");
    to.text(policy_hash)?;
    to.raw(",\"projection_hash\":");
    to.text(projection_hash)?;
    if !redacted.is_empty() {
        to.raw(",\"redacted\":");
        to.value(redacted)?;
    }
    to.raw(",\"request\":");
    question(to, request)?;
    to.optional(",\"request_id\":", request_id)?;
    schema(to);
    to.raw(",\"strict_would_refuse\":");
    to.flag(strict_would_refuse);
    to.raw(",\"time\":");
    to.number(time.as_millis())?;
    to.optional(",\"trace_id\":", trace_id)?;
    if !transformations.is_empty() {
        to.raw(",\"transformations\":");
        to.texts(transformations.iter().map(AsRef::as_ref))?;
    }
    to.raw("}");
    Ok(())
}

fn outcome(to: &mut Text<'_>, id: &RecordId, time: UnixTime, record: &OutcomeRecord) -> Written {
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
    to.raw("{\"bytes_in\":");
    to.number(*bytes_in)?;
    to.raw(",\"bytes_out\":");
    to.number(*bytes_out)?;
    to.raw(",\"decision\":");
    to.id(decision)?;
    to.raw(",\"duration_us\":");
    to.number(*duration_us)?;
    to.optional(",\"flags\":", (!flags.is_empty()).then_some(flags))?;
    if let Some(status) = grpc_status {
        to.raw(",\"grpc_status\":");
        to.number(*status)?;
    }
    to.raw(",\"id\":");
    to.id(id)?;
    to.raw(",\"kind\":\"outcome\"");
    schema(to);
    if let Some(status) = status {
        to.raw(",\"status\":");
        to.number(*status)?;
    }
    to.raw(",\"time\":");
    to.number(time.as_millis())?;
    if !transformations.is_empty() {
        to.raw(",\"transformations\":");
        to.texts(transformations.iter().map(AsRef::as_ref))?;
    }
    to.optional(",\"upstream\":", upstream.as_deref())?;
    to.raw("}");
    Ok(())
}

fn schema(to: &mut Text<'_>) {
    to.raw(",\"schema\":\"");
    to.raw(RECORD_SCHEMA);
    to.raw("\"");
}

fn answer(to: &mut Text<'_>, decision: &Decision) -> Written {
    let Decision {
        effect,
        errors,
        policies,
        reason,
        asked,
        shadow,
    } = decision;
    to.raw("{");
    if !asked.is_empty() {
        to.raw("\"asked\":");
        to.value(asked)?;
        to.raw(",");
    }
    to.raw(match effect {
        Effect::Allow => "\"effect\":\"allow\"",
        Effect::Deny => "\"effect\":\"deny\"",
    });
    if !errors.is_empty() {
        to.raw(",\"errors\":");
        to.value(errors)?;
    }
    if !policies.is_empty() {
        to.raw(",\"policies\":");
        to.texts(policies.iter().map(PolicyId::as_str))?;
    }
    to.raw(",\"reason\":\"");
    to.raw(reason.as_str());
    to.raw("\"");
    if let Some(shadow) = shadow {
        to.raw(",\"shadow\":");
        answer(to, shadow)?;
    }
    to.raw("}");
    Ok(())
}

fn searched(to: &mut Text<'_>, looked_for: &LookedFor) -> Written {
    let LookedFor {
        headers,
        query,
        token,
    } = looked_for;
    let mut before = "{";
    for (name, names) in [("\"headers\":", headers), ("\"query\":", query)] {
        if !names.is_empty() {
            to.raw(before);
            before = ",";
            to.raw(name);
            to.texts(names.iter().map(String::as_str))?;
        }
    }
    if *token {
        to.raw(before);
        to.raw("\"token\":true");
    }
    to.raw("}");
    Ok(())
}

fn authenticated(by: AuthenticatedBy) -> &'static str {
    match by {
        AuthenticatedBy::Mtls => "mtls",
        AuthenticatedBy::TlsPassthrough => "tls_passthrough",
        AuthenticatedBy::ExtAuthz => "ext_authz",
        AuthenticatedBy::Nothing => "nothing",
    }
}

fn normalization(normalization: PathNormalization) -> &'static str {
    match normalization {
        PathNormalization::None => "NONE",
        PathNormalization::Base => "BASE",
        PathNormalization::MergeSlashes => "MERGE_SLASHES",
        PathNormalization::DecodeAndMergeSlashes => "DECODE_AND_MERGE_SLASHES",
        PathNormalization::RefuseAmbiguous => "REFUSE_AMBIGUOUS",
    }
}
