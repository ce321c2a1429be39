//! Callers by the mesh's own groups, and by labels.

use reeve_authz::nearest;
use reeve_core::{SpiffeId, model::EntityName};

use super::given::{Among, Caller, Given, Role, quoted, wrong};
use crate::problem::Problem;

/// Who is in a group that the mesh's schema adds.
pub(super) fn of_group(
    given: &Given<'_>,
    kind: &str,
    id: &str,
    shown: &str,
) -> Result<Caller, Problem> {
    let Some((mesh, known)) = given.mesh else {
        return Err(
            wrong(format!("{shown} is a group, which a mesh has to declare"))
                .fix("name the mesh's folder with --folder"),
        );
    };
    let schema = mesh.schema();
    let groups = || {
        schema
            .added()
            .filter(|name| schema.can_be_in("Workload", name) || reaches(mesh, name))
    };
    if !groups().any(|name| name == kind) {
        let near = nearest(kind, groups());
        let all: Vec<_> = groups().collect();
        let fix = match (near, all.as_slice()) {
            (Some(near), _) => format!("did you mean {near}?"),
            (None, []) => "an AccessSchema adds types (docs/schema.md)".to_owned(),
            (None, all) => format!("there are: {}", all.join(", ")),
        };
        return Err(wrong(format!("workloads are in no {kind}")).fix(fix));
    }
    if !known.has(kind, id) {
        let near = known
            .nearest(kind, id)
            .map(|near| format!("did you mean {near}?"));
        let all = || known.ids(kind).collect::<Vec<_>>().join(", ");
        let fix = near.unwrap_or_else(|| format!("there are: {}", all()));
        return Err(wrong(format!("the mesh has no {kind} {id}")).fix(fix));
    }
    let group = EntityName {
        id: id.to_owned(),
        kind: kind.to_owned(),
    };
    let member = member(mesh, &group).ok_or_else(|| {
        wrong(format!("no workload is in {shown}"))
            .fix("say who is in it in an AccessEntities, or by a label")
    })?;
    Ok(Caller {
        among: Among::In(format!("{kind}::{}", quoted(id)?)),
        sample: member,
        shown: shown.to_owned(),
    })
}

/// End users who are in a group as their tokens say.
pub(super) fn of_users(given: &Given<'_>, kind: &str, id: &str) -> Result<Role, Problem> {
    let Some((mesh, _)) = given.mesh else {
        return Err(
            wrong(format!("{kind} is a group, which a mesh has to declare"))
                .fix("name the mesh's folder with --folder"),
        );
    };
    let schema = mesh.schema();
    let found = schema.claimed().find(|(name, ..)| *name == kind);
    let (_, issuer, claim) = found.ok_or_else(|| {
        let near = nearest(kind, schema.claimed().map(|(name, ..)| name));
        let fix = near.map(|near| format!("did you mean {near}?"));
        wrong(format!("no end user is in a {kind}"))
            .fix(fix.unwrap_or_else(|| "@claim and @issuer make one (docs/schema.md)".to_owned()))
    })?;
    Ok(Role {
        issuer: issuer.to_owned(),
        claim: claim.to_owned(),
        value: id.to_owned(),
        condition: format!(
            "context has user && context.user in {kind}::{}",
            quoted(id)?
        ),
    })
}

/// Whose workload has a label with a value: `app=web`.
pub(super) fn labelled(given: &Given<'_>, label: &str, shown: &str) -> Result<Caller, Problem> {
    let Some((name, value)) = label.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err(wrong(format!("{shown} is no label")).fix("write label:app=web"));
    };
    let Some((mesh, known)) = given.mesh else {
        return Err(wrong(format!(
            "{shown} is a label, which somebody in the mesh has to have"
        ))
        .fix("name the mesh's folder with --folder"));
    };
    let has = |workload: &&reeve_control::LocalWorkload| {
        workload.labels.get(name).is_some_and(|v| v == value)
    };
    let mut having = mesh.workloads.iter().filter(has);
    let sample = having.find_map(|workload| workload.identity.clone());
    let sample = sample.ok_or_else(|| {
        let near = nearest(name, known.labels());
        let values = mesh.workloads.iter().filter_map(|w| w.labels.get(name));
        let values: std::collections::BTreeSet<_> = values.map(String::as_str).collect();
        let fix = match (values.is_empty(), near) {
            (false, _) => {
                let all: Vec<_> = values.into_iter().collect();
                format!("{name} is one of: {}", all.join(", "))
            }
            (true, Some(near)) => format!("did you mean {near}?"),
            (true, None) => "`reeve policy check` says which labels there are".to_owned(),
        };
        wrong(format!("no workload has {shown}")).fix(fix)
    })?;
    quoted(name)?;
    quoted(value)?;
    Ok(Caller {
        among: Among::Labelled(name.to_owned(), value.to_owned()),
        sample,
        shown: shown.to_owned(),
    })
}

/// A workload that is in the group, over as many groups as there are between.
fn member(mesh: &reeve_control::Mesh, group: &EntityName) -> Option<SpiffeId> {
    let records = mesh.known_entities();
    let mut seen = vec![group.clone()];
    let mut at = 0;
    while let Some(group) = seen.get(at).cloned() {
        at += 1;
        for record in records.iter().filter(|r| r.parents.contains(&group)) {
            match record.uid.kind.as_str() {
                "Workload" => return SpiffeId::parse(&record.uid.id).ok(),
                "ServiceAccount" => {
                    return SpiffeId::parse(&format!("spiffe://{}", record.uid.id)).ok();
                }
                "Namespace" => {
                    let anybody = format!("spiffe://{}/sa/anybody", record.uid.id);
                    return SpiffeId::parse(&anybody).ok();
                }
                _ if !seen.contains(&record.uid) => seen.push(record.uid.clone()),
                _ => {}
            }
        }
    }
    None
}

/// Whether a workload can be in it by what it is in itself.
fn reaches(mesh: &reeve_control::Mesh, kind: &str) -> bool {
    let schema = mesh.schema();
    let own = ["ServiceAccount", "Namespace"];
    own.iter().any(|one| schema.can_be_in(one, kind))
        || schema
            .added()
            .any(|between| schema.can_be_in("Workload", between) && schema.can_be_in(between, kind))
}
