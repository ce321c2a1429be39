//! Which policies can concern a request by its principal, action and resource alone, whatever the rest of it is.
//!
//! For questions of which not everything is known: [`super::Index::candidates`] leaves out policies by what it knows.

use reeve_core::{Namespace, decision::AccessRequest};

use super::{
    demand,
    fact::{self, ANY, FactId},
    lineage::{Lineage, Named},
};
use crate::{compile::Compiled, entities::Ground};

/// Lets through the policies that can concern one request.
#[derive(Debug)]
pub(crate) struct Sieve<'a> {
    shape: u16,
    namespace: &'a Namespace,
    principal: Vec<FactId>,
    resource: Vec<FactId>,
}

impl<'a> Sieve<'a> {
    /// For `request`.
    pub(crate) fn of(request: &'a AccessRequest, ground: Ground<'a>) -> Self {
        let lineage = Lineage::of(request, ground);
        Self {
            shape: demand::shape_of(request),
            namespace: &request.resource.namespace,
            principal: facts(&lineage.principal),
            resource: facts(&lineage.resource),
        }
    }

    /// Whether `policy` can apply, or fail to evaluate.
    pub(crate) fn lets_through(&self, policy: &Compiled) -> bool {
        let filing = &policy.filing;
        let any =
            |demanded: &[FactId], there: &[FactId]| demanded.iter().any(|f| there.contains(f));
        let scope = policy.source.scope.as_ref();
        filing.shape & self.shape == self.shape
            && scope.is_none_or(|namespace| namespace == self.namespace)
            && any(&filing.principals, &self.principal)
            && any(&filing.resources, &self.resource)
    }
}

fn facts(lineage: &[Named<'_>]) -> Vec<FactId> {
    let named = lineage.iter().map(|(about, id)| fact::text_id(*about, id));
    named.chain([ANY]).collect()
}
