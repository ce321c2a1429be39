//! `mirror` and `mirrors`, and what the `VirtualService`'s annotations say of them, which Istio's API has no field for:
//! `reeve.dev/mirror-match-headers`, which requests are copied, and `reeve.dev/mirror-remove-headers`, what copies go
//! without.

use std::collections::BTreeMap;

use reeve_core::model::{HeaderMatch, StringMatch};

use super::{Known, VsNotes, destination, resilience::annotation};
use crate::{
    Code,
    kinds::{DestinationSpec, HttpRouteSpec},
    mesh::MirrorTo,
    source::path::Path,
};

const MATCH_HEADERS: &str = "reeve.dev/mirror-match-headers";
const REMOVE_HEADERS: &str = "reeve.dev/mirror-remove-headers";
/// Headers that one of these annotations names.
const MAX_MIRROR_HEADERS: usize = 16;
/// Most destinations that get copies of one request.
const MAX_MIRRORS_PER_ROUTE: usize = 8;

/// `None` = nothing is said of mirrors.
pub(super) fn all(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &HttpRouteSpec,
    known: &Known<'_>,
) -> Option<Vec<MirrorTo>> {
    let share = spec.mirror_percentage.as_ref();
    if spec.mirror.is_none() && (share.is_some() || spec.mirror_percent.is_some()) {
        let text = "a percentage without mirror has no effect";
        let path = path.key("mirrorPercentage");
        notes.hint(
            &path,
            Code::Missing,
            text,
            "mirrors have percentages of their own",
        );
    }
    if spec.mirror.is_none() && spec.mirrors.is_empty() {
        return None;
    }
    if spec.mirror.is_some() && !spec.mirrors.is_empty() {
        let text = "give one of mirror and mirrors";
        notes.error(&path.key("mirrors"), Code::Conflict, text);
    }
    let mirrors_path = path.key("mirrors");
    if spec.mirrors.len() > MAX_MIRRORS_PER_ROUTE {
        let text = format!("more than {MAX_MIRRORS_PER_ROUTE} mirrors");
        notes.error(&mirrors_path, Code::TooLarge, text);
    }
    let mut all = Vec::new();
    if let Some(to) = &spec.mirror {
        let percent = match (share, spec.mirror_percent) {
            (Some(share), _) => share.value,
            (None, Some(percent)) => f64::from(percent),
            (None, None) => 100.0,
        };
        let percent = per_million(notes, &path.key("mirrorPercentage"), percent);
        all.extend(one(notes, &path.key("mirror"), to, percent, known));
    }
    for (n, mirror) in spec.mirrors.iter().enumerate() {
        let path = mirrors_path.index(n);
        let Some(to) = &mirror.destination else {
            let text = "the mirror has no destination";
            notes.error(&path.key("destination"), Code::Missing, text);
            continue;
        };
        let percent = mirror.percentage.as_ref().map_or(100.0, |p| p.value);
        let percent = per_million(notes, &path.key("percentage"), percent);
        all.extend(one(notes, &path.key("destination"), to, percent, known));
    }
    let (headers, remove) = (match_headers(notes), remove_headers(notes));
    for mirror in &mut all {
        mirror.headers.clone_from(&headers);
        mirror.remove_headers.clone_from(&remove);
    }
    Some(all)
}

/// `NAME=VALUE` (has that value) and `NAME` (is there), with commas between; all must hold.
fn match_headers(notes: &mut VsNotes<'_>) -> BTreeMap<String, HeaderMatch> {
    let mut headers = BTreeMap::new();
    let Some((path, text)) = annotation(notes, MATCH_HEADERS) else {
        return headers;
    };
    for part in listed(notes, &path, text) {
        let (name, condition) = match part.split_once('=') {
            Some((name, value)) => {
                let value = StringMatch::Exact(value.trim().to_owned());
                (name.trim(), HeaderMatch::Value(value))
            }
            None => (part, HeaderMatch::Present),
        };
        notes.header_name(&path, name);
        headers.insert(name.to_ascii_lowercase(), condition);
    }
    headers
}

fn remove_headers(notes: &mut VsNotes<'_>) -> Vec<String> {
    let Some((path, text)) = annotation(notes, REMOVE_HEADERS) else {
        return Vec::new();
    };
    let names = listed(notes, &path, text);
    for name in &names {
        notes.header_name(&path, name);
    }
    names.into_iter().map(str::to_ascii_lowercase).collect()
}

fn listed<'t>(notes: &mut VsNotes<'_>, path: &Path, text: &'t str) -> Vec<&'t str> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    if parts.len() > MAX_MIRROR_HEADERS {
        let text = format!("more than {MAX_MIRROR_HEADERS} headers");
        notes.error(path, Code::TooLarge, text);
    }
    parts
}

/// Zero percent is no mirror, as in Istio.
fn one(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &DestinationSpec,
    per_million: u32,
    known: &Known<'_>,
) -> Option<MirrorTo> {
    let to = destination(notes, path, spec, 1, known)?;
    (per_million > 0).then_some(MirrorTo {
        to,
        per_million,
        headers: BTreeMap::new(),
        remove_headers: Vec::new(),
    })
}

fn per_million(notes: &mut VsNotes<'_>, path: &Path, percent: f64) -> u32 {
    if !(0.0..=100.0).contains(&percent) {
        let text = format!("{percent} is no percentage");
        notes.error(&path.key("value"), Code::Invalid, text);
        return 0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 1,000,000; Istio truncates as well"
    )]
    let share = (percent * 10_000.0) as u32;
    share
}
