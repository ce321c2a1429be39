//! How paths are normalised: `MeshConfig.spec.pathNormalization`, and `PathNormalization` by workload and port.

use reeve_core::{Namespace, model::PathNormalization};

use super::{
    security::{Claims, by_port, scope},
    values::Notes,
};
use crate::{
    Code, Fault, LocalWorkload,
    kinds::{MeshConfigSpec, Object, PathRuleSpec},
    mesh::PathRule,
    source::path::Path,
};

/// Modes by their names.
const MODES: [(&str, PathNormalization); 6] = [
    ("DEFAULT", PathNormalization::RefuseAmbiguous),
    ("NONE", PathNormalization::None),
    ("BASE", PathNormalization::Base),
    ("MERGE_SLASHES", PathNormalization::MergeSlashes),
    (
        "DECODE_AND_MERGE_SLASHES",
        PathNormalization::DecodeAndMergeSlashes,
    ),
    ("REFUSE_AMBIGUOUS", PathNormalization::RefuseAmbiguous),
];

/// The mesh's own mode.
pub(super) fn mesh_wide(notes: &mut Notes<'_, MeshConfigSpec>) -> PathNormalization {
    let object = notes.object;
    let Some(spec) = &object.spec.path_normalization else {
        return PathNormalization::default();
    };
    let path = Path::of(&["spec", "pathNormalization"]);
    for unknown in &spec.unknown {
        let text = format!("{unknown:?} is no field");
        let hint = "the field is normalization; by workload and port: kind PathNormalization";
        notes.hint(&path.key(unknown), Code::UnknownField, text, hint);
    }
    let path = match spec.nested {
        true => path.key("normalization"),
        false => path,
    };
    notes.word(&path, &spec.mode, &MODES).unwrap_or_default()
}

/// What is said by workload and port.
pub(super) fn rules(
    objects: &[Object<PathRuleSpec>],
    root: &Namespace,
    workloads: &[LocalWorkload],
    faults: &mut Vec<Fault>,
) -> Vec<PathRule> {
    let mut claims = Claims::default();
    let mut resolved = Vec::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let scope = scope(&object.namespace, root, object.spec.selector.as_ref());
        let said = object.spec.normalization.as_deref();
        if said.is_none() && object.spec.port_level.is_empty() {
            let text = "it says nothing: give normalization, portLevel or both";
            notes.error(&Path::of(&["spec"]), Code::Missing, text);
        }
        let mode = mode(&mut notes, &Path::of(&["spec", "normalization"]), said);
        let path = Path::of(&["spec", "portLevel"]);
        let specs = (&path, &object.spec.port_level);
        let ports = by_port(&mut notes, specs, &scope, |notes, path, spec| {
            let said = spec.normalization.as_deref();
            if said.is_none() {
                notes.error(path, Code::Missing, "there is no normalization");
            }
            self::mode(notes, &path.key("normalization"), said)
        });
        claims.claim(&mut notes, &scope, workloads);
        resolved.push(PathRule { scope, mode, ports });
    }
    resolved
}

/// `None` = `UNSET`.
fn mode(
    notes: &mut Notes<'_, PathRuleSpec>,
    path: &Path,
    text: Option<&str>,
) -> Option<PathNormalization> {
    match text? {
        "UNSET" => None,
        text => notes.word(path, text, &MODES),
    }
}
