//! Changes to bodies.

use reeve_core::model::{BodyChange, BodyChanges, Find, Otherwise, Replacement};

use super::TransformationNotes;
use crate::{
    Code,
    kinds::{BodyChangesSpec, ReplacementSpec},
    source::path::Path,
};

/// Replacements in one body.
const MAX_REPLACEMENTS: usize = 16;
/// Longest text that is looked for, or stands in its place.
const MAX_REPLACEMENT_BYTES: usize = 4096;
/// Operations of one JSON Patch.
const MAX_PATCH_OPERATIONS: usize = 64;
/// Longest JSON Patch, as JSON text.
const MAX_PATCH_BYTES: usize = 64 * 1024;
/// Media types that one change names.
const MAX_CONTENT_TYPES: usize = 16;

pub(super) fn changes(
    notes: &mut TransformationNotes<'_>,
    path: &Path,
    spec: &BodyChangesSpec,
) -> Option<BodyChanges> {
    let words = [("Refuse", Otherwise::Refuse), ("Pass", Otherwise::Pass)];
    let otherwise = spec.otherwise.as_deref();
    let otherwise = otherwise.and_then(|word| notes.word(&path.key("otherwise"), word, &words));
    let content_types = content_types(notes, &path.key("contentTypes"), &spec.content_types);
    let how = match (spec.replace.is_empty(), spec.json_patch.is_empty()) {
        (false, true) => replace(notes, &path.key("replace"), &spec.replace),
        (true, false) => patch(notes, &path.key("jsonPatch"), &spec.json_patch)?,
        (true, true) | (false, false) => {
            let text = "a body is changed in one way";
            notes.hint(
                path,
                Code::Invalid,
                text,
                "give one of replace and jsonPatch",
            );
            return None;
        }
    };
    Some(BodyChanges {
        how,
        content_types,
        otherwise: otherwise.unwrap_or_default(),
    })
}

fn replace(
    notes: &mut TransformationNotes<'_>,
    path: &Path,
    specs: &[ReplacementSpec],
) -> BodyChange {
    if specs.len() > MAX_REPLACEMENTS {
        let text = format!("more than {MAX_REPLACEMENTS} replacements");
        notes.error(path, Code::TooLarge, text);
    }
    let each = specs.iter().enumerate();
    let all = each.filter_map(|(n, spec)| replacement(notes, &path.index(n), spec));
    BodyChange::Replace(all.collect())
}

fn replacement(
    notes: &mut TransformationNotes<'_>,
    path: &Path,
    spec: &ReplacementSpec,
) -> Option<Replacement> {
    let parts = [&spec.text, &spec.regex].into_iter().flatten();
    if parts
        .chain([&spec.with])
        .any(|t| t.len() > MAX_REPLACEMENT_BYTES)
    {
        let text = format!("longer than {MAX_REPLACEMENT_BYTES} bytes");
        notes.error(path, Code::TooLarge, text);
        return None;
    }
    let find = match (&spec.text, &spec.regex) {
        (Some(text), None) if !text.is_empty() => Find::Text(text.clone()),
        (None, Some(regex)) if !regex.is_empty() => {
            notes.check_regex(&path.key("regex"), regex);
            notes.check_substitution(&path.key("with"), regex, &spec.with);
            Find::Regex(regex.clone())
        }
        _ => {
            let text = "a replacement looks for one thing";
            notes.hint(
                path,
                Code::Invalid,
                text,
                "give one of text and regex, not empty",
            );
            return None;
        }
    };
    Some(Replacement {
        find,
        with: spec.with.clone(),
    })
}

fn patch(
    notes: &mut TransformationNotes<'_>,
    path: &Path,
    operations: &[serde_json::Value],
) -> Option<BodyChange> {
    if operations.len() > MAX_PATCH_OPERATIONS {
        let text = format!("more than {MAX_PATCH_OPERATIONS} operations");
        notes.error(path, Code::TooLarge, text);
    }
    let mut sound = true;
    for (n, operation) in operations.iter().enumerate() {
        let read = serde_json::from_value::<json_patch::PatchOperation>(operation.clone());
        if let Err(error) = read {
            let text = format!("this is no operation: {error}");
            let hint = "RFC 6902 has add, remove, replace, move, copy and test, with path and value or from";
            notes.hint(&path.index(n), Code::Invalid, text, hint);
            sound = false;
        }
    }
    let text = serde_json::to_string(operations).ok()?;
    if text.len() > MAX_PATCH_BYTES {
        let text = format!("longer than {MAX_PATCH_BYTES} bytes");
        notes.error(path, Code::TooLarge, text);
    }
    sound.then_some(BodyChange::JsonPatch(text))
}

fn content_types(
    notes: &mut TransformationNotes<'_>,
    path: &Path,
    specs: &[String],
) -> Vec<String> {
    if specs.len() > MAX_CONTENT_TYPES {
        let text = format!("more than {MAX_CONTENT_TYPES} media types");
        notes.error(path, Code::TooLarge, text);
    }
    let mut all = Vec::new();
    for (n, spec) in specs.iter().enumerate() {
        let lower = spec.to_ascii_lowercase();
        let token = |part: &str| {
            let legal = |c: char| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c);
            !part.is_empty() && part.chars().all(legal)
        };
        let parts = lower.split_once('/');
        if !parts.is_some_and(|(kind, sub)| token(kind) && (token(sub) || sub == "*")) {
            let text = format!("{spec:?} is no media type");
            let hint = "write type/subtype without parameters, or type/*";
            notes.hint(&path.index(n), Code::Invalid, text, hint);
        } else if lower.starts_with("application/grpc") {
            let text = "the messages of gRPC are not changed";
            notes.error(&path.index(n), Code::Unsupported, text);
        }
        all.push(lower);
    }
    all
}
