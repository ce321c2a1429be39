//! The index over policy scopes: the few policies that can apply to a request, found by hashing.
//!
//! Each policy is filed under what it demands of principal and resource ([`demand`]), and, within that, under one
//! thing that it demands of the rest of the request. A request looks in the drawers of its principal, the
//! principal's ancestors, its resource and the resource's ancestors, and in those for "whatever it is".
//!
//! When policies change, only those that came or went are filed or taken out; the rest is shared with the index before
//! ([`shards`]).
//!
//! INVARIANT: a policy that is not among the candidates evaluates to false, and without an error. A property test
//! compares decision, reasons and errors with plain Cedar over all policies.

mod aspects;
mod demand;
mod fact;
mod filing;
mod lineage;
mod shards;
mod sieve;
mod worst;

pub(crate) use filing::Filing;
pub(crate) use shards::Step;
pub(crate) use sieve::Sieve;
pub(crate) use worst::{Together, most_candidates};

use std::sync::Arc;

use reeve_core::decision::{AccessRequest, ResourceRef};

use self::{
    aspects::Aspects,
    fact::{ANY, FactId},
    filing::{drawer, place, tenant_id},
    lineage::{Lineage, Named},
    shards::{Sharded, Stays},
};
use crate::{compile::Compiled, entities::Ground, store::Store};

/// Finds candidates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    /// By tenant, what is demanded of principal and resource, and of the rest.
    drawers: Sharded<Vec<Arc<Compiled>>>,
    /// How many policies with demands on the rest stand at each place.
    places: Sharded<u32>,
    /// How many policies there are for each fact.
    facts: Sharded<u32>,
    aspects: Aspects,
}

/// What the index holds for one principal, action and resource.
#[derive(Debug)]
pub(crate) struct Shelf {
    shape: u16,
    /// Candidates whatever the rest of the request is, ordered by id.
    plain: Vec<Arc<Compiled>>,
    /// Places where more candidates may be, depending on the rest.
    detailed: Vec<u64>,
}

impl Index {
    /// Files a policy, or takes it out.
    pub(crate) fn change(&mut self, policy: &Arc<Compiled>, step: Step) {
        let filing = &policy.filing;
        self.aspects.count(&filing.aspects, step);
        let sides = [&filing.principals, &filing.resources, &filing.details];
        for fact in sides.into_iter().flat_map(|facts| facts.iter()) {
            self.facts.count(*fact, step);
        }
        for place in filing.places() {
            if filing.is_detailed() {
                self.places.count(place, step);
            }
            for detail in &filing.details {
                let filed = |found: &mut Vec<Arc<Compiled>>| {
                    match step {
                        Step::Comes => found.push(Arc::clone(policy)),
                        Step::Goes => found.retain(|known| !Arc::ptr_eq(known, policy)),
                    }
                    Stays::unless(found.is_empty())
                };
                self.drawers.change(drawer(place, *detail), filed);
            }
        }
    }

    /// What there is for the principal, action and resource of `request`.
    pub(crate) fn shelf(&self, request: &AccessRequest, ground: Ground<'_>) -> Shelf {
        let lineage = Lineage::of(request, ground);
        let mut shelf = Shelf {
            shape: demand::shape_of(request),
            plain: Vec::new(),
            detailed: Vec::new(),
        };
        let tenants = [ANY, tenant_id(Some(&request.resource.namespace))];
        let resources = self.known(&lineage.resource);
        for principal in self.known(&lineage.principal) {
            for (resource, tenant) in resources.iter().flat_map(|r| tenants.map(|t| (r, t))) {
                let place = place(tenant, principal, *resource);
                let drawer = self.drawers.get(drawer(place, ANY));
                let fitting = drawer.into_iter().flatten();
                let fitting = fitting.filter(|policy| shelf.fits(policy, &request.resource));
                let fitting: Vec<_> = fitting.cloned().collect();
                shelf.plain.extend(fitting);
                if self.places.get(place).is_some() {
                    shelf.detailed.push(place);
                }
            }
        }
        shelf.plain.sort_by(|a, b| a.source.id.cmp(&b.source.id));
        shelf.plain.dedup_by(|a, b| Arc::ptr_eq(a, b));
        shelf
    }

    /// The policies that can apply to `request`, or fail to evaluate on it, ordered by id; `shelf` is its own.
    pub(crate) fn candidates<'s>(
        &'s self,
        shelf: &'s Shelf,
        request: &AccessRequest,
        store: &Store,
    ) -> Vec<&'s Compiled> {
        let mut found: Vec<&Compiled> = shelf.plain.iter().map(AsRef::as_ref).collect();
        if shelf.detailed.is_empty() {
            return found;
        }
        let mut details = self.aspects.facts(request, store);
        details.retain(|fact| self.facts.get(*fact).is_some());
        let plain = found.len();
        for place in &shelf.detailed {
            let drawers = details.iter().map(|detail| drawer(*place, *detail));
            let drawers = drawers.filter_map(|at| self.drawers.get(at));
            let fitting = drawers.flatten().map(AsRef::as_ref);
            found.extend(fitting.filter(|policy| shelf.fits(policy, &request.resource)));
        }
        if found.len() > plain {
            found.sort_by(|a, b| a.source.id.cmp(&b.source.id));
            found.dedup_by(|a, b| std::ptr::eq(*a, *b));
        }
        found
    }

    /// "Whatever it is", and those entities that any policy names.
    fn known(&self, lineage: &[Named<'_>]) -> Vec<FactId> {
        let ids = lineage.iter().map(|(about, id)| fact::text_id(*about, id));
        let known = ids.filter(|fact| self.facts.get(*fact).is_some());
        let mut found: Vec<_> = [ANY].into_iter().chain(known).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// How many parts of the index are the very same as in `other`, and how many drawers there are.
    #[cfg(test)]
    pub(crate) fn shared_with(&self, other: &Self) -> (usize, usize) {
        (self.drawers.shared_with(&other.drawers), self.drawers.len())
    }
}

impl Shelf {
    fn fits(&self, policy: &Compiled, resource: &ResourceRef) -> bool {
        // SECURITY: tenancy; a namespaced policy is no candidate for another namespace's resources.
        let scope = policy.source.scope.as_ref();
        policy.filing.shape & self.shape == self.shape
            && scope.is_none_or(|namespace| *namespace == resource.namespace)
    }
}

#[cfg(test)]
mod tests;
