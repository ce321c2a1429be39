//! Entities that policies name and the mesh does not have.

use cedar_policy::EntityUid;

use super::{Remark, RemarkCode, remark};
use crate::{Known, compile::Compiled};

/// Remarks on what `policy` names and `known` does not have.
pub(super) fn unknown(policy: &Compiled, known: &Known, remarks: &mut Vec<Remark>) {
    let mut literals = policy.policy.entity_literals();
    literals.sort_by_key(ToString::to_string);
    literals.dedup();
    for uid in literals {
        let Some((message, near)) = unknown_entity(&uid, known) else {
            continue;
        };
        let help = match near {
            Some(near) => format!("did you mean {near}?"),
            None => "create it first, or correct the name".to_owned(),
        };
        let needle = uid.to_string();
        remarks.push(remark(
            RemarkCode::UnknownEntity,
            policy,
            &needle,
            message,
            help,
        ));
    }
}

/// Remarks on labels that nothing has.
pub(super) fn unknown_labels(policy: &Compiled, known: &Known, remarks: &mut Vec<Remark>) {
    for label in &policy.checked.uses.labels {
        if known.labels().any(|known| known == label) {
            continue;
        }
        let help = match crate::nearest(label, known.labels()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "give it to a workload or service first, or correct the name".to_owned(),
        };
        let message = format!("nothing in the mesh has a label {label:?}");
        let needle = format!("{label:?}");
        remarks.push(remark(
            RemarkCode::UnknownEntity,
            policy,
            &needle,
            message,
            help,
        ));
    }
}

/// What is said of an entity that the mesh does not have, and which was likely meant.
fn unknown_entity(uid: &EntityUid, known: &Known) -> Option<(String, Option<String>)> {
    let kind = uid.type_name().basename();
    let id: &str = uid.id().unescaped();
    let (what, own) = match kind {
        "Service" => ("service", true),
        "Workload" => ("workload", is_own(id.strip_prefix("spiffe://")?, known)),
        "ServiceAccount" => ("service account", is_own(id, known)),
        "Namespace" => ("namespace", is_own(id, known)),
        "TrustDomain" => ("trust domain", false),
        group if known.is_group(group) => (group, true),
        _ => return None,
    };
    if known.has(kind, id) {
        return None;
    }
    let near = known.nearest(kind, id).map(str::to_owned);
    if !own {
        // Other trust domains may be partners, whose things this mesh cannot know. A slip of its own name is none.
        let domain = id.trim_start_matches("spiffe://").split('/').next()?;
        if known.has("TrustDomain", domain) {
            return None;
        }
        let meant = known.nearest("TrustDomain", domain)?;
        let near = near.unwrap_or_else(|| id.replacen(domain, meant, 1));
        return Some((format!("the mesh has no trust domain {domain}"), Some(near)));
    }
    Some((format!("the mesh has no {what} {id}"), near))
}

fn is_own(id: &str, known: &Known) -> bool {
    id.split('/').next() == Some(known.home().as_str())
}
