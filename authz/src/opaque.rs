//! What a connection that could not be read as HTTP must not slip past: every `forbid` that looks at HTTP.
//!
//! A `forbid` of an HTTP action, or with a condition on HTTP parts of the context, says nothing about `connect`. On a
//! port where HTTP is expected that would be a way around it: whoever sends bytes that are no HTTP would be judged by
//! the permits alone. Here such a policy is weakened to the parts of it that hold for any connection (who, whom, and
//! conditions on the connection), and what it might forbid is denied.

use cedar_policy::pst::{ActionConstraint, Clause, EntityUID, PstConstructionError, Template};
use reeve_core::decision::Action;

use crate::uses::Uses;

/// What policy sees of any connection; the rest of the context is HTTP's.
const CONNECTION: [&str; 8] = [
    "source_ip",
    "remote_ip",
    "destination_ip",
    "sni",
    "port",
    "mtls",
    "principal_id",
    "time",
];

/// The policy without what only HTTP can tell; `None` = it looks at nothing of HTTP, and `connect` is judged by it as it
/// stands.
pub(crate) fn weakened(tree: &Template) -> Result<Option<Template>, PstConstructionError> {
    let mut weak = Template::new(
        tree.id.clone(),
        tree.effect,
        tree.principal.clone(),
        ActionConstraint::Any,
        tree.resource.clone(),
    );
    let mut lost = !may_connect(&tree.action);
    for clause in tree.clauses() {
        if looks_at_http(clause) {
            lost = true;
        } else {
            weak.try_add_clause(clause.clone())?;
        }
    }
    Ok(lost.then_some(weak))
}

fn may_connect(action: &ActionConstraint) -> bool {
    let connect = |uid: &EntityUID| uid.eid.as_str() == Action::Connect.as_str();
    match action {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => connect(uid),
        ActionConstraint::In(uids) => uids.iter().any(connect),
    }
}

fn looks_at_http(clause: &Clause) -> bool {
    let uses = Uses::of_clause(clause);
    let known = |attribute: &String| CONNECTION.contains(&attribute.as_str());
    uses.whole_context || uses.action || !uses.attributes.iter().all(known)
}

#[cfg(test)]
mod tests;
