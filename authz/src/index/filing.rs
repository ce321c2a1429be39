//! What one policy is filed under: its demands as numbers, worked out once when it is compiled.

use cedar_policy::pst::Template;
use reeve_core::Namespace;

use super::{
    aspects::Aspect,
    demand::{Demand, Wanted},
    fact::{ANY, FactId, number},
};
use crate::mesh_schema::MeshSchema;

/// Most drawers that one policy is filed in; beyond it, first the details and then its resource are left out.
const MAX_DRAWERS: usize = 1024;

/// A policy's places in the index.
#[derive(Clone, Debug)]
pub(crate) struct Filing {
    /// Actions and entity types that it is for.
    pub(super) shape: u16,
    tenant: u64,
    pub(super) principals: Box<[FactId]>,
    pub(super) resources: Box<[FactId]>,
    pub(super) details: Box<[FactId]>,
    /// What the details are about.
    pub(super) aspects: Box<[Aspect]>,
}

impl Filing {
    /// Of a policy that is scoped to `tenant`.
    pub(crate) fn of(mesh: &MeshSchema, tree: &Template, tenant: Option<&Namespace>) -> Self {
        let demand = Demand::of(mesh, tree);
        let facts = demand.details.as_deref().unwrap_or_default();
        let mut filing = Self {
            shape: demand.shape,
            tenant: tenant_id(tenant),
            aspects: facts.iter().map(Aspect::of).collect(),
            principals: ids(demand.principals),
            resources: ids(demand.resources),
            details: ids(demand.details),
        };
        let sides = filing
            .principals
            .len()
            .saturating_mul(filing.resources.len());
        if sides.saturating_mul(filing.details.len()) > MAX_DRAWERS {
            filing.details = [ANY].into();
            filing.aspects = [].into();
        }
        if sides > MAX_DRAWERS {
            filing.resources = [ANY].into();
        }
        filing
    }

    /// Every pair of what is demanded of the principal and of the resource.
    pub(super) fn places(&self) -> impl Iterator<Item = u64> {
        self.principals.iter().flat_map(|principal| {
            let resources = self.resources.iter();
            resources.map(|resource| place(self.tenant, *principal, *resource))
        })
    }

    /// Whether it demands anything of the rest of a request.
    pub(super) fn is_detailed(&self) -> bool {
        *self.details != [ANY]
    }
}

/// Whose policies: a namespace's, or the mesh's.
pub(super) fn tenant_id(tenant: Option<&Namespace>) -> u64 {
    tenant.map_or(ANY, |namespace| number(namespace.as_str()))
}

/// Where policies stand that demand this of principal and resource.
pub(super) fn place(tenant: u64, principal: FactId, resource: FactId) -> u64 {
    number((tenant, principal, resource))
}

/// The drawer at `place` for what is demanded of the rest.
pub(super) fn drawer(place: u64, detail: FactId) -> u64 {
    number((place, detail))
}

/// Numbers for `wanted`, one of which must hold; [`ANY`] when nothing is demanded.
fn ids(wanted: Wanted) -> Box<[FactId]> {
    let Some(facts) = wanted else {
        return [ANY].into();
    };
    let mut ids: Vec<_> = facts.iter().map(super::fact::Fact::id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into()
}
