//! `WorkloadGroup`: what the `WorkloadEntry`s of a group have in common
//! (<https://istio.io/latest/docs/reference/config/networking/workload-group/>).

use super::values::Notes;
use crate::{
    Code, Fault,
    kinds::{Object, WorkloadEntrySpec, WorkloadGroupSpec},
    source::path::Path,
};

/// By which an entry names its group, as those do that Istio makes.
const GROUP: &str = "istio.io/autoRegistrationGroup";

/// The entries with what their groups say. What an entry says itself holds.
pub(super) fn complete(
    groups: &[Object<WorkloadGroupSpec>],
    entries: &[Object<WorkloadEntrySpec>],
    faults: &mut Vec<Fault>,
) -> Vec<Object<WorkloadEntrySpec>> {
    for object in groups {
        check(&mut Notes { object, faults });
    }
    let each = entries.iter().map(|object| Object {
        document: object.document.clone(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        labels: object.labels.clone(),
        annotations: object.annotations.clone(),
        spec: with_group(&mut Notes { object, faults }, groups),
    });
    each.collect()
}

fn check(notes: &mut Notes<'_, WorkloadGroupSpec>) {
    let path = Path::of(&["spec", "template"]);
    let Some(template) = &notes.object.spec.template else {
        return notes.error(&path, Code::Missing, "the group has no template");
    };
    if !template.address.is_empty() {
        let text = "each workload of a group has an address of its own";
        notes.hint(
            &path.key("address"),
            Code::Conflict,
            text,
            "name it in the WorkloadEntry",
        );
    }
    if !template.labels.is_empty() {
        let text = "a template has no labels";
        notes.hint(
            &path.key("labels"),
            Code::Conflict,
            text,
            "write them in spec.metadata.labels",
        );
    }
}

fn with_group(
    notes: &mut Notes<'_, WorkloadEntrySpec>,
    groups: &[Object<WorkloadGroupSpec>],
) -> WorkloadEntrySpec {
    let object = notes.object;
    let mut spec = object.spec.clone();
    let Some(name) = object.annotations.get(GROUP) else {
        return spec;
    };
    let of = |g: &&Object<WorkloadGroupSpec>| g.name == *name && g.namespace == object.namespace;
    let Some(group) = groups.iter().find(of) else {
        let path = Path::of(&["metadata", "annotations"]).key(GROUP);
        let text = format!("there is no WorkloadGroup {}/{name}", object.namespace);
        notes.warn(&path, Code::UnknownReference, text, "add it");
        return spec;
    };
    for (label, value) in &group.spec.metadata.labels {
        let own = spec.labels.entry(label.clone());
        own.or_insert_with(|| value.clone());
    }
    let Some(template) = &group.spec.template else {
        return spec;
    };
    for (port, number) in &template.ports {
        spec.ports.entry(port.clone()).or_insert(*number);
    }
    spec.weight = spec.weight.or(template.weight);
    let inherit = |own: &mut String, theirs: &String| {
        if own.is_empty() {
            own.clone_from(theirs);
        }
    };
    inherit(&mut spec.locality, &template.locality);
    inherit(&mut spec.service_account, &template.service_account);
    spec
}
