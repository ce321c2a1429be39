//! Changing one body: text in the place of text, or a JSON Patch.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use json_patch::PatchOperation;
use reeve_core::model::{BodyChange, BodyChanges, Find, Otherwise, Replacement};
use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value;

use super::Room;
use crate::{
    answer::Answer,
    limits::{MAX_TRANSFORM_BODY_BYTES, MAX_TRANSFORM_INLINE_BYTES},
    route::{MAX_REGEX_BYTES, RouteError, translate},
};

/// Decimal digits that a double keeps, whatever they are.
const EXACT_DIGITS: usize = 15;

/// A body's changes, compiled.
#[derive(Clone, Debug)]
pub(super) struct BodyEdit {
    how: Arc<How>,
    content_types: Arc<[String]>,
    pub(super) otherwise: Otherwise,
}

#[derive(Debug)]
enum How {
    Replace(Vec<Replace>),
    Patch(Vec<PatchOperation>),
}

#[derive(Debug)]
struct Replace {
    find: Regex,
    /// In the syntax of the library.
    with: Vec<u8>,
    /// Whether it names groups.
    expands: bool,
}

/// Why a body cannot be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It is, or would become, too long.
    TooLong,
    /// It did not come in time.
    Late,
    /// All the room is taken.
    NoRoom,
    /// All that the caller may have of it is.
    NoShare,
    /// It is compressed.
    Encoded,
    /// It is a part of something.
    Partial,
    /// It is no JSON.
    NotJson,
    /// It has numbers that would not stay what they are.
    Inexact,
    /// The patch asks for what is not there.
    NoPatch,
    /// What changes it failed.
    Failed,
}

impl Unfit {
    /// In metrics.
    pub(super) fn refused(self) -> &'static str {
        match self {
            Self::TooLong => "refused_too_long",
            Self::Late => "refused_late",
            Self::NoRoom => "refused_no_room",
            Self::NoShare => "refused_no_share",
            Self::Encoded => "refused_encoded",
            Self::Partial => "refused_partial",
            Self::NotJson => "refused_not_json",
            Self::Inexact => "refused_inexact_number",
            Self::NoPatch => "refused_patch",
            Self::Failed => "refused_failed",
        }
    }

    /// In metrics.
    pub(super) fn passed(self) -> &'static str {
        match self {
            Self::TooLong => "passed_too_long",
            Self::Late => "passed_late",
            Self::NoRoom => "passed_no_room",
            Self::NoShare => "passed_no_share",
            Self::Encoded => "passed_encoded",
            Self::Partial => "passed_partial",
            Self::NotJson => "passed_not_json",
            Self::Inexact => "passed_inexact_number",
            Self::NoPatch => "passed_patch",
            Self::Failed => "passed_failed",
        }
    }

    /// The answer to a request with such a body (RFC 9110 section 15.5).
    pub(crate) fn of_request(self) -> Answer {
        let status = match self {
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::NoRoom => return Answer::overloaded("max_transform_bytes"),
            Self::NoShare => return Answer::too_many_requests("max_transform_bytes_per_caller"),
            Self::Encoded | Self::Partial => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotJson | Self::Inexact | Self::NoPatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Answer::request_not_transformed(status)
    }

    /// The answer in the place of a response with such a body.
    pub(super) fn of_response(self) -> Answer {
        Answer::response_not_transformed()
    }
}

impl BodyEdit {
    pub(super) fn compile(changes: &BodyChanges, name: &str) -> Result<Self, RouteError> {
        let how = match &changes.how {
            BodyChange::Replace(all) => {
                let each = all.iter().map(|one| Replace::compile(one, name));
                How::Replace(each.collect::<Result<_, _>>()?)
            }
            BodyChange::JsonPatch(text) => {
                let patch = serde_json::from_str(text);
                How::Patch(patch.map_err(|source| RouteError::Patch {
                    name: name.to_owned(),
                    source,
                })?)
            }
        };
        Ok(Self {
            how: Arc::new(how),
            content_types: changes.content_types.as_slice().into(),
            otherwise: changes.otherwise,
        })
    }

    /// Whether a body with these headers is meant. One that does not say what it is, or says several things, is.
    pub(super) fn means(&self, headers: &HeaderMap) -> bool {
        let mut types = headers.get_all(header::CONTENT_TYPE).iter();
        let (first, more) = (types.next(), types.next());
        let Some(text) = first
            .and_then(|v| v.to_str().ok())
            .filter(|_| more.is_none())
        else {
            return true;
        };
        let media = text.split(';').next().unwrap_or_default().trim();
        let media = media.to_ascii_lowercase();
        if media.starts_with("application/grpc") {
            return false;
        }
        if !self.content_types.is_empty() {
            return self.content_types.iter().any(|meant| {
                let kind = meant.strip_suffix('*');
                kind.map_or(*meant == media, |kind| media.starts_with(kind))
            });
        }
        let json = media == "application/json" || media.ends_with("+json");
        match &*self.how {
            How::Patch(_) => json,
            How::Replace(_) => json || is_text(&media),
        }
    }

    /// Whether a body with these headers can be changed, as far as they tell.
    pub(super) fn fits(&self, headers: &HeaderMap) -> Result<(), Unfit> {
        let encoded = headers.get_all(header::CONTENT_ENCODING).iter();
        let identity =
            |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
        if !encoded.into_iter().all(identity) {
            return Err(Unfit::Encoded);
        }
        if headers.contains_key(header::CONTENT_RANGE) {
            return Err(Unfit::Partial);
        }
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        match length.is_some_and(|length| length > MAX_TRANSFORM_BODY_BYTES as u64) {
            true => Err(Unfit::TooLong),
            false => Ok(()),
        }
    }

    /// The body afterwards; `None` = it stays as it is. A long one is changed elsewhere, so that others need not wait.
    pub(super) async fn apply(&self, body: Bytes, room: &Room) -> Result<Option<Bytes>, Unfit> {
        if body.is_empty() {
            return Ok(None);
        }
        if body.len() <= MAX_TRANSFORM_INLINE_BYTES {
            return self.how.apply(&body);
        }
        let _thread = room.thread().await?;
        let how = self.how.clone();
        let changed = tokio::task::spawn_blocking(move || how.apply(&body)).await;
        changed.unwrap_or(Err(Unfit::Failed))
    }
}

fn is_text(media: &str) -> bool {
    let known = [
        "application/xml",
        "application/javascript",
        "application/x-www-form-urlencoded",
    ];
    (media.starts_with("text/") && media != "text/event-stream")
        || media.ends_with("+xml")
        || known.contains(&media)
}

impl Replace {
    fn compile(rule: &Replacement, name: &str) -> Result<Self, RouteError> {
        let (pattern, with, expands) = match &rule.find {
            Find::Text(text) => (regex::escape(text), rule.with.clone(), false),
            Find::Regex(regex) => (regex.clone(), translate(&rule.with), true),
        };
        let find = RegexBuilder::new(&pattern)
            .size_limit(MAX_REGEX_BYTES)
            .build();
        let find = find.map_err(|source| RouteError::Regex {
            route: name.to_owned(),
            pattern,
            source: Box::new(source),
        })?;
        Ok(Self {
            find,
            with: with.into_bytes(),
            expands,
        })
    }

    /// The text afterwards; `None` = nothing was found.
    fn apply(&self, text: &[u8]) -> Result<Option<Vec<u8>>, Unfit> {
        let mut out = Vec::new();
        let mut end = 0;
        let mut found = false;
        for groups in self.find.captures_iter(text) {
            let Some(whole) = groups.get(0) else { continue };
            found = true;
            out.extend_from_slice(text.get(end..whole.start()).unwrap_or_default());
            match self.expands {
                true => groups.expand(&self.with, &mut out),
                false => out.extend_from_slice(&self.with),
            }
            end = whole.end();
            if out.len() > MAX_TRANSFORM_BODY_BYTES {
                return Err(Unfit::TooLong);
            }
        }
        out.extend_from_slice(text.get(end..).unwrap_or_default());
        match out.len() > MAX_TRANSFORM_BODY_BYTES {
            true => Err(Unfit::TooLong),
            false => Ok(found.then_some(out)),
        }
    }
}

impl How {
    fn apply(&self, body: &[u8]) -> Result<Option<Bytes>, Unfit> {
        match self {
            Self::Replace(all) => {
                let mut changed: Option<Vec<u8>> = None;
                for one in all {
                    let before = changed.as_deref().unwrap_or(body);
                    changed = one.apply(before)?.or(changed);
                }
                Ok(changed.filter(|after| after != body).map(Bytes::from))
            }
            Self::Patch(operations) => patch(body, operations),
        }
    }
}

/// SECURITY: what an operation copies is counted, since copies of copies grow without bound.
fn patch(body: &[u8], operations: &[PatchOperation]) -> Result<Option<Bytes>, Unfit> {
    let before: Value = serde_json::from_slice(body).map_err(|_| Unfit::NotJson)?;
    if !numbers_are_exact(body) {
        return Err(Unfit::Inexact);
    }
    let mut after = before.clone();
    for operation in operations {
        json_patch::patch(&mut after, std::slice::from_ref(operation))
            .map_err(|_| Unfit::NoPatch)?;
        if matches!(operation, PatchOperation::Copy(_)) {
            write(&after)?;
        }
    }
    if after == before {
        return Ok(None);
    }
    write(&after).map(|bytes| Some(bytes.into()))
}

fn write(value: &Value) -> Result<Vec<u8>, Unfit> {
    let bytes = serde_json::to_vec(value).map_err(|_| Unfit::Failed)?;
    match bytes.len() > MAX_TRANSFORM_BODY_BYTES {
        true => Err(Unfit::TooLong),
        false => Ok(bytes),
    }
}

/// Whether every number of a JSON text is one that reading and writing it leaves as it is: whole numbers of 64 bits, and
/// those of so few digits that a double keeps them.
fn numbers_are_exact(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some((byte, tail)) = rest.split_first() {
        rest = match byte {
            b'"' => after_string(tail),
            b'-' | b'0'..=b'9' => {
                let part = |b: &u8| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
                let end = rest.iter().position(|b| !part(b)).unwrap_or(rest.len());
                let (number, tail) = rest.split_at(end);
                if !is_exact(number) {
                    return false;
                }
                tail
            }
            _ => tail,
        };
    }
    true
}

fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some((byte, tail)) = rest.split_first() {
        match byte {
            b'"' => return tail,
            b'\\' => rest = tail.get(1..).unwrap_or_default(),
            _ => rest = tail,
        }
    }
    rest
}

fn is_exact(number: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(number) else {
        return false;
    };
    if text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok() {
        return true;
    }
    let digits = text.split(['e', 'E']).next().unwrap_or_default();
    let digits = digits.bytes().filter(u8::is_ascii_digit);
    let significant = digits.skip_while(|digit| *digit == b'0').count();
    let value = text.parse::<f64>();
    let kept = value.is_ok_and(|v| v.is_normal() || (v == 0.0 && significant == 0));
    significant <= EXACT_DIGITS && kept
}

#[cfg(test)]
mod tests;
