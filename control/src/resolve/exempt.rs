//! Plaintext that is allowed on purpose: a `PeerAuthentication` says by annotations who answers for it and until when.

use std::collections::BTreeMap;

use reeve_core::{Clock as _, SystemClock, UnixTime};

use super::{transformations::end_of, values::Notes};
use crate::{
    Code, kinds::PeerAuthenticationSpec, mesh::TransformationState, migration::Exemption,
    source::path::Path,
};

/// Who answers for it.
const OWNER: &str = "reeve.dev/exempt-owner";
/// When it ends.
const UNTIL: &str = "reeve.dev/exempt-until";
/// What for.
const REASON: &str = "reeve.dev/exempt-reason";
/// Longest owner, and longest reason.
const MAX_EXEMPTION_TEXT: usize = 256;

/// What an object's annotations say, if they are whole.
pub(crate) fn exemption(annotations: &BTreeMap<String, String>) -> Option<Exemption> {
    let text = |name: &str| annotations.get(name).map(|text| text.trim().to_owned());
    Some(Exemption {
        owner: text(OWNER).filter(|owner| !owner.is_empty())?,
        until: end_of(&text(UNTIL)?)?,
        reason: text(REASON).unwrap_or_default(),
    })
}

/// Checks an object's annotations.
pub(super) fn check(notes: &mut Notes<'_, PeerAuthenticationSpec>) {
    let annotations = &notes.object.annotations;
    let path = |name| Path::of(&["metadata", "annotations"]).key(name);
    if ![OWNER, UNTIL, REASON]
        .iter()
        .any(|name| annotations.contains_key(*name))
    {
        return;
    }
    for name in [OWNER, REASON] {
        let text = annotations.get(name).map_or("", |text| text.trim());
        if text.len() > MAX_EXEMPTION_TEXT || text.chars().any(char::is_control) {
            let said = format!("at most {MAX_EXEMPTION_TEXT} bytes on one line");
            notes.error(&path(name), Code::Invalid, said);
        } else if text.is_empty() && name == OWNER {
            let hint = "name a team or person: reeve.dev/exempt-owner: team-payments";
            notes.hint(
                &path(OWNER),
                Code::Missing,
                "nobody answers for the exemption",
                hint,
            );
        }
    }
    let hint = "write a date or a time as RFC 3339 has them: reeve.dev/exempt-until: 2026-12-31 (that day is its last, by UTC)";
    let Some(text) = annotations.get(UNTIL) else {
        return notes.hint(
            &path(UNTIL),
            Code::Missing,
            "the exemption says no end",
            hint,
        );
    };
    match end_of(text) {
        None => {
            let said = format!("{text:?} is neither a date nor a time");
            notes.hint(&path(UNTIL), Code::Invalid, said, hint);
        }
        Some(end) => ends(notes, end, text),
    }
}

fn ends(notes: &mut Notes<'_, PeerAuthenticationSpec>, end: UnixTime, text: &str) {
    let path = Path::of(&["metadata", "annotations"]).key(UNTIL);
    let hint = "let its callers speak mTLS and `reeve mtls plan` take it, or give it another end";
    match TransformationState::at(SystemClock.now(), end) {
        TransformationState::Active => {}
        TransformationState::ExpiresSoon => {
            let said = format!("the exemption ends soon ({text})");
            notes.warn(&path, Code::Expiring, said, hint);
        }
        TransformationState::Expired => {
            let said = format!("the exemption has ended ({text}), and plaintext is still let in");
            notes.warn(&path, Code::Expired, said, hint);
        }
    }
}
