//! `AccessRole` and `AccessRoleBinding`: Cedar templates, and who has them for what.
//!
//! A binding becomes the text of an `AccessPolicy` of its own namespace: a role gives nobody a way around tenancy.

use reeve_authz::{PolicyFault, PolicySchema, Role};
use reeve_core::Namespace;

use super::policies;
use crate::{
    Code, Fault,
    kinds::{AccessRoleBindingSpec, AccessRoleSpec, Object},
    source::path::Path,
};

/// What a binding comes to.
pub(super) struct Bound<'a> {
    pub(super) object: &'a Object<AccessRoleBindingSpec>,
    pub(super) cedar: String,
}

/// The Cedar text of every binding that is sound.
pub(super) fn bind<'a>(
    schema: &PolicySchema,
    (roles, bindings): (
        &[Object<AccessRoleSpec>],
        &'a [Object<AccessRoleBindingSpec>],
    ),
    root: &Namespace,
    faults: &mut Vec<Fault>,
) -> Vec<Bound<'a>> {
    let mut known = Vec::new();
    for object in roles {
        match Role::parse(schema, &object.namespace, &object.name, &object.spec.cedar) {
            Ok(role) => known.push((object, Some(role))),
            Err(found) => {
                known.push((object, None));
                faults.extend(found.iter().map(|fault| placed(object, fault)));
            }
        }
    }
    let mut all = Vec::new();
    for binding in bindings {
        match find(&known, binding, root) {
            // What is wrong with the role is said there.
            Ok(None) => {}
            Ok(Some(role)) => match role.bind(&binding.spec.principals, &binding.spec.resources) {
                Ok(cedar) => all.push(Bound {
                    object: binding,
                    cedar,
                }),
                Err(error) => {
                    let path = Path::of(&["spec"]);
                    faults.push(binding.error(&path, Code::Policy, error.to_string()));
                }
            },
            Err(fault) => faults.push(*fault),
        }
    }
    all
}

/// The role that a binding names: of its own namespace, or of the root namespace.
fn find<'r>(
    known: &'r [(&Object<AccessRoleSpec>, Option<Role>)],
    binding: &Object<AccessRoleBindingSpec>,
    root: &Namespace,
) -> Result<Option<&'r Role>, Box<Fault>> {
    let path = Path::of(&["spec", "role"]);
    let written = binding.spec.role.as_str();
    let (namespace, name) = match written.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, written),
    };
    let visible = |object: &Object<AccessRoleSpec>| {
        (object.namespace == binding.namespace || object.namespace == *root)
            && namespace.is_none_or(|wanted| wanted == object.namespace.as_str())
    };
    let named = |(object, _): &&(&Object<AccessRoleSpec>, Option<Role>)| object.name == name;
    let mut found: Vec<_> = known
        .iter()
        .filter(named)
        .filter(|(object, _)| visible(object))
        .collect();
    // Its own namespace's wins.
    found.sort_by_key(|(object, _)| object.namespace != binding.namespace);
    if let Some((_, role)) = found.first() {
        return Ok(role.as_ref());
    }
    let elsewhere = known.iter().find(named);
    let fault = binding.error(
        &path,
        Code::UnknownReference,
        format!("there is no role {written:?}"),
    );
    Err(Box::new(match elsewhere {
        Some((object, _)) => fault.with_hint(format!(
            "{}/{name} is visible in its own namespace alone; write roles for all into {root}",
            object.namespace
        )),
        None => fault.with_hint("write an AccessRole of that name, or name another"),
    }))
}

fn placed(object: &Object<AccessRoleSpec>, fault: &PolicyFault) -> Fault {
    let path = Path::of(&["spec", "cedar"]);
    let text = format!("role: {}", fault.message);
    let mut placed = policies::in_text(&object.document, &path, text, fault.line);
    placed.hint = fault.help.clone();
    placed
}
