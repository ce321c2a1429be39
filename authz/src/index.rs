//! The index over policy scopes: the few policies that can apply to a request, found by hashing.
//!
//! Each policy is filed under what it demands of principal and resource ([`demand`]), and, within that, under one
//! thing that it demands of the rest of the request. A request looks in the drawers of its principal, the
//! principal's ancestors, its resource and the resource's ancestors, and in those for "whatever it is".
//!
//! INVARIANT: a policy that is not among the candidates evaluates to false, and without an error. A property test
//! compares decision, reasons and errors with plain Cedar over all policies.

mod demand;
mod fact;
mod lineage;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
};

use reeve_core::{
    Namespace, TrustDomain,
    decision::{AccessRequest, HttpContext},
};

use self::{
    demand::Demand,
    fact::{ANY, About, FactId, Facts, Tag},
    lineage::Lineage,
};
use crate::{compile::Compiled, entities::MAX_NAMED_SEGMENTS, mesh_schema::MeshSchema};

/// Most drawers for principal and resource together that one policy is filed in; beyond it, its resource is left out.
const MAX_DRAWERS: usize = 1024;

/// Where a policy stands in the engine's list, which is ordered by id.
pub(crate) type Position = u32;

/// Finds candidates.
#[derive(Debug, Default)]
pub(crate) struct Index {
    facts: Facts,
    tenants: HashMap<Namespace, u32>,
    /// By what is demanded of principal and resource.
    drawers: HashMap<(FactId, FactId), Drawer>,
}

#[derive(Debug, Default)]
struct Drawer {
    /// Policies that demand nothing else that can be looked up.
    plain: Vec<Entry>,
    /// Policies that also demand something of the context or the user.
    detailed: HashMap<FactId, Vec<Entry>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    policy: Position,
    /// Actions and entity types that it is for ([`demand`]).
    shape: u16,
    /// The namespace that it is scoped to; 0 = none.
    tenant: u32,
}

/// What the index holds for one principal, action and resource.
#[derive(Debug)]
pub(crate) struct Shelf {
    shape: u16,
    tenant: u32,
    /// Candidates whatever the rest of the request is, in order.
    plain: Vec<Position>,
    /// Drawers in which more candidates may be, depending on the rest.
    detailed: Vec<(FactId, FactId)>,
}

impl Index {
    /// Files `policies`.
    pub(crate) fn build<'a>(
        mesh: &MeshSchema,
        policies: impl IntoIterator<Item = &'a Compiled>,
    ) -> Self {
        let mut index = Self::default();
        for (policy, position) in policies.into_iter().zip(0..) {
            index.file(position, policy, Demand::of(mesh, &policy.checked.tree));
        }
        index
    }

    fn file(&mut self, policy: Position, compiled: &Compiled, demand: Demand) {
        let tenants = self.tenants.len();
        let tenant = compiled.source.scope.clone().map_or(0, |namespace| {
            let next = u32::try_from(tenants + 1).unwrap_or(u32::MAX);
            *self.tenants.entry(namespace).or_insert(next)
        });
        let entry = Entry {
            policy,
            shape: demand.shape,
            tenant,
        };
        let mut ids = |wanted| self.facts.file(wanted);
        let principals = ids(demand.principals);
        let mut resources = ids(demand.resources);
        let details = ids(demand.details);
        if principals.len().saturating_mul(resources.len()) > MAX_DRAWERS {
            resources = vec![ANY];
        }
        for principal in principals {
            for resource in &resources {
                let drawer = self.drawers.entry((principal, *resource)).or_default();
                for detail in &details {
                    match *detail {
                        ANY => drawer.plain.push(entry),
                        detail => drawer.detailed.entry(detail).or_default().push(entry),
                    }
                }
            }
        }
    }

    /// What there is for the principal, action and resource of `request`. `home` is the mesh's trust domain.
    pub(crate) fn shelf(&self, request: &AccessRequest, home: Option<&TrustDomain>) -> Shelf {
        let lineage = Lineage::of(request, home);
        let tenant = self.tenants.get(&request.resource.namespace);
        let mut shelf = Shelf {
            shape: demand::shape_of(request),
            tenant: tenant.copied().unwrap_or_default(),
            plain: Vec::new(),
            detailed: Vec::new(),
        };
        let resources = self.facts.of_entities(&lineage.resource);
        for principal in self.facts.of_entities(&lineage.principal) {
            for resource in &resources {
                let place = (principal, *resource);
                let Some(drawer) = self.drawers.get(&place) else {
                    continue;
                };
                let fitting = drawer.plain.iter().filter(|e| e.fits(&shelf));
                let fitting: Vec<_> = fitting.map(|e| e.policy).collect();
                shelf.plain.extend(fitting);
                if !drawer.detailed.is_empty() {
                    shelf.detailed.push(place);
                }
            }
        }
        shelf.plain.sort_unstable();
        shelf.plain.dedup();
        shelf
    }

    /// The policies that can apply to `request`, or fail to evaluate on it, in order; `shelf` is its own.
    pub(crate) fn candidates<'s>(
        &self,
        shelf: &'s Shelf,
        request: &AccessRequest,
    ) -> Cow<'s, [Position]> {
        if shelf.detailed.is_empty() {
            return Cow::Borrowed(&shelf.plain);
        }
        let details = self.details(request);
        let mut found = shelf.plain.clone();
        for drawer in shelf.detailed.iter().filter_map(|at| self.drawers.get(at)) {
            let entries = details.iter().filter_map(|fact| drawer.detailed.get(fact));
            let fitting = entries.flatten().filter(|e| e.fits(shelf));
            found.extend(fitting.map(|e| e.policy));
        }
        found.sort_unstable();
        found.dedup();
        Cow::Owned(found)
    }

    /// What is known of the context and the user, as far as any policy asks.
    fn details(&self, request: &AccessRequest) -> Vec<FactId> {
        let mut found = Vec::new();
        let Some(http) = &request.context.http else {
            return found;
        };
        let facts = &self.facts;
        found.extend(facts.of_text(About::Path, &http.path));
        if facts.any_about(About::PathPrefix) {
            let prefixes = path_prefixes(&http.path);
            found.extend(prefixes.filter_map(|prefix| facts.of_text(About::PathPrefix, prefix)));
        }
        found.extend(facts.of_text(About::Host, &http.host));
        if let Some(grpc) = &http.grpc {
            found.extend(facts.of_text(About::GrpcService, &grpc.service));
        }
        if let Some(user) = &request.user {
            found.extend(facts.of_text(About::Subject, &user.subject));
        }
        let values = |tag, name: &str| tag_values(request, http, tag, name);
        facts.of_tags(values, &mut found);
        found
    }
}

fn tag_values<'a>(
    request: &'a AccessRequest,
    http: &'a HttpContext,
    tag: Tag,
    name: &str,
) -> Option<&'a BTreeSet<String>> {
    match tag {
        Tag::Claim => request.user.as_ref()?.claims.get(name),
        Tag::Header => http.headers.get(name),
        Tag::Query => http.query.get(name),
    }
}

/// The beginnings of a path that end in a slash, the shortest first; as many as segments have names.
fn path_prefixes(path: &str) -> impl Iterator<Item = &str> {
    let slashes = path.match_indices('/').take(MAX_NAMED_SEGMENTS);
    slashes.filter_map(|(at, _)| path.get(..=at))
}

impl Entry {
    fn fits(self, asked: &Shelf) -> bool {
        // SECURITY: tenancy; a namespaced policy is no candidate for another namespace's resources.
        self.shape & asked.shape == asked.shape && (self.tenant == 0 || self.tenant == asked.tenant)
    }
}

#[cfg(test)]
mod tests;
