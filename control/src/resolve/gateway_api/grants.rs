//! `ReferenceGrant`: what objects of one namespace may refer to in another
//! (<https://gateway-api.sigs.k8s.io/reference/spec/#referencegrant>).

use reeve_core::Namespace;

use super::GROUP;
use crate::kinds::{Object, ReferenceGrantSpec};

/// What refers: a kind of Gateway API's group, and its namespace.
#[derive(Clone, Copy)]
pub(super) struct From<'a> {
    pub(super) kind: &'a str,
    pub(super) namespace: &'a Namespace,
}

/// What is referred to: an object of a kind of the core group.
#[derive(Clone, Copy)]
pub(super) struct To<'a> {
    pub(super) kind: &'a str,
    pub(super) namespace: &'a Namespace,
    pub(super) name: &'a str,
}

/// Whether it may: within a namespace always, else by a grant of the namespace that is referred to.
pub(super) fn is_granted(
    grants: &[Object<ReferenceGrantSpec>],
    from: From<'_>,
    to: To<'_>,
) -> bool {
    if from.namespace == to.namespace {
        return true;
    }
    let mut there = grants.iter().filter(|g| g.namespace == *to.namespace);
    there.any(|grant| {
        let own = |f: &crate::kinds::GrantFromSpec| {
            f.group == GROUP && f.kind == from.kind && f.namespace == from.namespace.as_str()
        };
        let theirs = |t: &crate::kinds::GrantToSpec| {
            let any = t.name.as_deref().unwrap_or_default().is_empty();
            t.group.is_empty() && t.kind == to.kind && (any || t.name.as_deref() == Some(to.name))
        };
        grant.spec.from.iter().any(own) && grant.spec.to.iter().any(theirs)
    })
}
