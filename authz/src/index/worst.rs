//! How many policies one request can make the engine ask, whatever it says: an upper bound, for whoever applies a set.
//!
//! Each policy is counted under one of its demands only, the one that the fewest policies share. A request meets the
//! demands on one principal, its ancestors, one resource, and one value each of the rest, of headers, parameters and
//! claims up to [`MAX_COUNTED_MEMBERS`]; one that meets more is answered by the engine's own bound.

use std::collections::{BTreeMap, HashMap};

use cedar_policy::pst::Template;
use reeve_core::{Namespace, PolicyId, SpiffeId, decision::Action};

use super::{
    demand::{Demand, every_request_shape},
    fact::{About, Fact},
    lineage,
};
use crate::mesh_schema::MeshSchema;

/// Members of headers, query parameters and claims that one request is thought to have, of those that policies name.
const MAX_COUNTED_MEMBERS: usize = 64;

/// The most policies that one request can concern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crowd {
    /// How many.
    pub(crate) count: usize,
    /// Which.
    pub(crate) policies: Vec<PolicyId>,
}

/// A policy by its scope and demands.
struct Counted<'a> {
    id: &'a PolicyId,
    scope: Option<&'a Namespace>,
    shape: u16,
    /// The demand that it is counted under, if there is one.
    pivot: Option<(Side, Vec<Fact>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Side {
    Principal,
    Resource,
    Detail,
}

/// How much one principal or resource is in at once, at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Together {
    /// Services that one workload is behind.
    pub(crate) services: usize,
    /// Groups that one entity is in.
    pub(crate) groups: usize,
}

impl Together {
    /// Groups of a workload, its account, namespace and trust domain, and its services.
    fn groups(self) -> usize {
        self.groups.saturating_mul(self.services.saturating_add(4))
    }
}

/// The most candidates among `policies` for one request.
pub(crate) fn most_candidates<'a>(
    mesh: &MeshSchema,
    policies: impl Iterator<Item = (&'a PolicyId, Option<&'a Namespace>, &'a Template)>,
    services: Together,
    enough: usize,
) -> Crowd {
    let counted = counted(mesh, policies);
    let whole = of_tenants(counted.iter(), services);
    if whole.count <= enough {
        return whole;
    }
    // No request has every action at once: only when it matters, each is looked at alone.
    let shapes = every_request_shape(Action::ALL);
    let crowds = shapes.map(|shape| {
        let fitting = counted
            .iter()
            .filter(|policy| policy.shape & shape == shape);
        of_tenants(fitting, services)
    });
    crowds.max_by_key(|crowd| crowd.count).unwrap_or_default()
}

fn counted<'a>(
    mesh: &MeshSchema,
    policies: impl Iterator<Item = (&'a PolicyId, Option<&'a Namespace>, &'a Template)>,
) -> Vec<Counted<'a>> {
    let demands: Vec<_> = policies
        .map(|(id, scope, tree)| (id, scope, Demand::of(mesh, tree)))
        .collect();
    let mut shared: HashMap<(Side, Fact), usize> = HashMap::new();
    let sides = |demand: &Demand| {
        [
            (Side::Principal, demand.principals.clone()),
            (Side::Resource, demand.resources.clone()),
            (Side::Detail, demand.details.clone()),
        ]
    };
    for (_, _, demand) in &demands {
        for (side, facts) in sides(demand) {
            for fact in facts.into_iter().flatten() {
                *shared.entry((side, fact)).or_default() += 1;
            }
        }
    }
    let crowded = |side: Side, facts: &[Fact]| {
        let counts = facts.iter().map(|fact| shared.get(&(side, fact.clone())));
        counts.flatten().copied().max().unwrap_or_default()
    };
    let pivot = |demand: &Demand| {
        let stated = sides(demand).into_iter();
        let stated = stated.filter_map(|(side, facts)| Some((side, facts?)));
        stated.min_by_key(|(side, facts)| crowded(*side, facts))
    };
    let counted = demands.iter().map(|(id, scope, demand)| Counted {
        id,
        scope: *scope,
        shape: demand.shape,
        pivot: pivot(demand),
    });
    counted.collect()
}

/// The mesh's own policies, and those of the namespace with the most.
fn of_tenants<'a>(policies: impl Iterator<Item = &'a Counted<'a>>, services: Together) -> Crowd {
    let mut tenants: BTreeMap<Option<&Namespace>, Vec<&Counted<'_>>> = BTreeMap::new();
    for policy in policies {
        tenants.entry(policy.scope).or_default().push(policy);
    }
    let mesh = tenants.remove(&None);
    let mut crowd = mesh.map_or_else(Crowd::default, |mesh| crowd(&mesh, services));
    let others = tenants
        .values()
        .map(|policies| self::crowd(policies, services));
    if let Some(largest) = others.max_by_key(|crowd| crowd.count) {
        crowd.count += largest.count;
        crowd.policies.extend(largest.policies);
    }
    crowd
}

fn crowd(policies: &[&Counted<'_>], services: Together) -> Crowd {
    let mut counts: HashMap<(Side, &Fact), usize> = HashMap::new();
    let mut count = 0;
    for policy in policies {
        match &policy.pivot {
            None => count += 1,
            Some((side, facts)) => {
                for fact in facts {
                    *counts.entry((*side, fact)).or_default() += 1;
                }
            }
        }
    }
    let mut met: Vec<(Side, &Fact)> = Vec::new();
    for side in [Side::Principal, Side::Resource, Side::Detail] {
        let of_side = counts.iter().filter(|((of, _), _)| *of == side);
        let tally = Tally(of_side.map(|((_, fact), count)| (*fact, *count)).collect());
        let most = match side {
            Side::Principal | Side::Resource => tally.of_party(services),
            Side::Detail => tally.of_details(),
        };
        count += most.count;
        met.extend(most.facts.into_iter().map(|fact| (side, fact)));
    }
    let concerned = policies.iter().filter(|policy| match &policy.pivot {
        None => true,
        Some((side, facts)) => facts.iter().any(|fact| met.contains(&(*side, fact))),
    });
    Crowd {
        count,
        policies: concerned.map(|policy| policy.id.clone()).collect(),
    }
}

/// How many policies each fact has.
struct Tally<'a>(HashMap<&'a Fact, usize>);

/// The facts that one request can meet at once with the most policies.
#[derive(Default)]
struct Most<'a> {
    count: usize,
    facts: Vec<&'a Fact>,
}

impl<'a> Most<'a> {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.facts.extend(other.facts);
    }
}

impl<'a> Tally<'a> {
    /// One principal or resource with all that it is in.
    fn of_party(&self, together: Together) -> Most<'a> {
        let several = |fact: &&&Fact| is_about(fact, About::Service) || is_group(fact);
        let bases = self.0.keys().filter(|fact| !several(fact));
        let mut most = self.most(bases.map(|fact| self.met(ancestry(fact))));
        // What an identity of another form is in is not told by its id.
        if most
            .facts
            .iter()
            .all(|fact| !is_about(fact, About::Namespace))
        {
            let namespaces = self
                .0
                .keys()
                .filter(|fact| is_about(fact, About::Namespace));
            most.add(self.most(namespaces.map(|fact| self.met(vec![(*fact).clone()]))));
        }
        most.add(self.largest(together.services, |fact| is_about(fact, About::Service)));
        most.add(self.largest(together.groups(), is_group));
        most
    }

    /// One request's circumstances.
    fn of_details(&self) -> Most<'a> {
        let mut most = self.largest(MAX_COUNTED_MEMBERS, |fact| matches!(fact, Fact::Member(..)));
        let kinds = [
            About::Subject,
            About::Issuer,
            About::Method,
            About::Host,
            About::GrpcService,
            About::GrpcMethod,
        ];
        for kind in kinds {
            most.add(self.largest(1, |fact| is_about(fact, kind)));
        }
        for place in 1..=16 {
            most.add(self.largest(
                1,
                |fact| matches!(fact, Fact::Segment(at, _) if *at == place),
            ));
        }
        most.add(self.largest(1, |fact| matches!(fact, Fact::Port(_))));
        let paths = self
            .0
            .keys()
            .filter(|fact| is_about(fact, About::Path) || is_about(fact, About::PathPrefix));
        most.add(self.most(paths.map(|fact| self.met(prefixes(fact)))));
        let networks = self
            .0
            .keys()
            .filter(|fact| matches!(fact, Fact::Network(_)));
        most.add(self.most(networks.map(|fact| self.met(wider(fact)))));
        most
    }

    fn most(&self, each: impl Iterator<Item = Most<'a>>) -> Most<'a> {
        each.max_by_key(|most| most.count).unwrap_or_default()
    }

    /// Those of `facts` that policies demand.
    fn met(&self, facts: Vec<Fact>) -> Most<'a> {
        let mut most = Most::default();
        for fact in facts {
            if let Some((fact, count)) = self.0.get_key_value(&fact) {
                most.count += count;
                most.facts.push(fact);
            }
        }
        most
    }

    /// The `number` facts of a kind that have the most.
    fn largest(&self, number: usize, kind: impl Fn(&Fact) -> bool) -> Most<'a> {
        let mut found: Vec<_> = self.0.iter().filter(|(fact, _)| kind(fact)).collect();
        found.sort_by(|a, b| (b.1, a.0).cmp(&(a.1, b.0)));
        found.truncate(number);
        Most {
            count: found.iter().map(|(_, count)| **count).sum(),
            facts: found.into_iter().map(|(fact, _)| *fact).collect(),
        }
    }
}

fn is_group(fact: &Fact) -> bool {
    matches!(fact, Fact::Text(About::Group(_), _))
}

fn is_about(fact: &Fact, about: About) -> bool {
    matches!(fact, Fact::Text(of, _) if *of == about)
}

/// An entity and what it is in, as its id says.
fn ancestry(fact: &Fact) -> Vec<Fact> {
    let Fact::Text(about, id) = fact else {
        return vec![fact.clone()];
    };
    let domain = || id.split('/').next().unwrap_or_default();
    let text = |about, id: &str| Fact::Text(about, id.into());
    match about {
        About::Workload => {
            let mut found = Vec::new();
            let id = SpiffeId::parse(id);
            if let Ok(id) = &id {
                lineage::workload(id, &mut found);
            }
            let owned = found.iter().map(|(about, id)| text(*about, id));
            owned.collect()
        }
        About::ServiceAccount => {
            let namespace = id
                .rsplit_once("/sa/")
                .map_or("", |(namespace, _)| namespace);
            vec![
                fact.clone(),
                text(About::Namespace, namespace),
                text(About::TrustDomain, domain()),
            ]
        }
        About::Namespace => vec![fact.clone(), text(About::TrustDomain, domain())],
        About::Unauthenticated
        | About::TrustDomain
        | About::Service
        | About::Group(_)
        | About::Subject
        | About::Issuer
        | About::Method
        | About::Path
        | About::PathPrefix
        | About::Host
        | About::GrpcService
        | About::GrpcMethod => vec![fact.clone()],
    }
}

/// What a path that is this, or starts so, starts with.
fn prefixes(fact: &Fact) -> Vec<Fact> {
    let Fact::Text(_, path) = fact else {
        return Vec::new();
    };
    let lengths = 1..=path.len().min(super::aspects::MAX_PREFIX_BYTES);
    let starts = lengths.filter_map(|length| path.get(..length));
    let starts = starts.map(|start| Fact::Text(About::PathPrefix, start.into()));
    let whole = Fact::Text(About::Path, path.clone());
    starts.chain([whole]).collect()
}

/// The networks that this one is in.
fn wider(fact: &Fact) -> Vec<Fact> {
    let Fact::Network(network) = fact else {
        return Vec::new();
    };
    let wider = (0..=network.length).filter_map(|length| network.widened(length));
    wider.map(Fact::Network).collect()
}

#[cfg(test)]
mod tests;
