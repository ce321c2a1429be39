//! What there is in a mesh, so that a policy that names something else can be told.

use std::collections::{BTreeMap, BTreeSet};

use reeve_core::{Namespace, ServiceName, SpiffeId, TrustDomain, model::EntityRecord};

use crate::PolicySchema;

/// The identities, namespaces, services and groups of a mesh, as the ids of entities that policies name, and their labels.
#[derive(Clone, Debug)]
pub struct Known {
    home: TrustDomain,
    ids: BTreeMap<String, BTreeSet<String>>,
    /// The types that the mesh adds, and all of whose entities are known.
    groups: BTreeSet<String>,
    labels: BTreeSet<String>,
    /// Service → the id of its namespace.
    namespaces: BTreeMap<String, String>,
}

impl Known {
    /// A mesh with nothing in it.
    pub fn new(home: TrustDomain) -> Self {
        let mut known = Self {
            ids: BTreeMap::new(),
            groups: BTreeSet::new(),
            labels: BTreeSet::new(),
            namespaces: BTreeMap::new(),
            home,
        };
        known.add("TrustDomain", known.home.to_string());
        known
    }

    /// Its trust domain.
    pub fn home(&self) -> &TrustDomain {
        &self.home
    }

    /// Adds a workload, with its service account and namespace.
    pub fn add_workload(&mut self, id: &SpiffeId) {
        let domain = id.trust_domain();
        self.add("Workload", id.to_string());
        self.add("TrustDomain", domain.to_string());
        if let Some((namespace, account)) = id.namespace_and_account() {
            self.add(
                "ServiceAccount",
                format!("{domain}/ns/{namespace}/sa/{account}"),
            );
            self.add("Namespace", format!("{domain}/ns/{namespace}"));
        }
    }

    /// Adds a namespace of the mesh's trust domain.
    pub fn add_namespace(&mut self, namespace: &Namespace) {
        self.add("Namespace", format!("{}/ns/{namespace}", self.home));
    }

    /// Adds a service.
    pub fn add_service(&mut self, host: &ServiceName, namespace: &Namespace) {
        self.add("Service", host.to_string());
        self.add_namespace(namespace);
        let namespace = format!("{}/ns/{namespace}", self.home);
        self.namespaces.insert(host.to_string(), namespace);
    }

    /// Adds what is known of entities, with every label.
    pub fn add_entities(&mut self, schema: &PolicySchema, records: &[EntityRecord]) {
        let claimed: BTreeSet<_> = schema.claimed().map(|(kind, ..)| kind).collect();
        let groups = schema.added().filter(|kind| !claimed.contains(kind));
        self.groups.extend(groups.map(str::to_owned));
        for record in records {
            for name in record.parents.iter().chain([&record.uid]) {
                if self.groups.contains(&name.kind) {
                    self.add(&name.kind, name.id.clone());
                }
            }
            if matches!(record.uid.kind.as_str(), "Workload" | "Service") {
                self.labels.extend(record.tags.keys().cloned());
            }
        }
    }

    /// Whether all entities of this type that the mesh adds are known.
    pub fn is_group(&self, kind: &str) -> bool {
        self.groups.contains(kind)
    }

    /// Every label of workloads and services.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().map(String::as_str)
    }

    /// The ids of an entity type, such as `Service`.
    pub fn ids(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.ids.get(kind).into_iter().flatten().map(String::as_str)
    }

    /// Whether there is such an entity.
    pub fn has(&self, kind: &str, id: &str) -> bool {
        self.ids.get(kind).is_some_and(|ids| ids.contains(id))
    }

    /// What was likely meant by an `id` that is not there: the one that is misspelt least, or of the same name elsewhere.
    pub fn nearest(&self, kind: &str, id: &str) -> Option<&str> {
        nearest(id, self.ids(kind))
    }

    /// The id of the namespace that a service of the mesh is in.
    pub fn namespace_of(&self, service: &str) -> Option<&str> {
        self.namespaces.get(service).map(String::as_str)
    }

    fn add(&mut self, kind: &str, id: String) {
        self.ids.entry(kind.to_owned()).or_default().insert(id);
    }
}

/// The one of `known` that `text` was likely meant to be.
pub fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (own, _) = named(text);
    let best = known.filter_map(|candidate| {
        let (name, _) = named(candidate);
        let distance = distance(text, candidate);
        // A third of a name may be wrong, or all that stands around it.
        let slip = distance <= 1 + own.chars().count().min(name.chars().count()) / 4;
        (slip || name == own).then_some((!slip, distance, candidate))
    });
    best.min().map(|(_, _, candidate)| candidate)
}

/// The part of an id that names the thing, and the rest: a path's last segment, a host's first label.
fn named(id: &str) -> (&str, &str) {
    match id.rsplit_once('/') {
        Some((rest, name)) => (name, rest),
        None => id.split_once('.').unwrap_or((id, "")),
    }
}

/// How many single characters were mistyped, left out, added or swapped with the next (optimal string alignment).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    let mut last = None;
    for (i, a) in one.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let replaced = at(&row, j) + usize::from(a != *b);
            let mut best = replaced.min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            let swapped = j > 0 && last == Some(*b) && other.get(j - 1) == Some(&a);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
        last = Some(a);
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_slips() {
        for (one, other, slips) in [
            ("reviews", "reviews", 0),
            ("reveiws", "reviews", 1),
            ("review", "reviews", 1),
            ("rewiewss", "reviews", 2),
            ("", "abc", 3),
            ("abc", "", 3),
        ] {
            assert_eq!(distance(one, other), slips, "{one} {other}");
        }
    }

    #[test]
    fn the_nearest_is_a_slip_or_the_same_name_elsewhere() {
        let mut known = Known::new(TrustDomain::parse("mesh.local").unwrap());
        for name in ["reviews.default", "ratings.default", "web.shop"] {
            let namespace = Namespace::parse(name.split_once('.').unwrap().1).unwrap();
            let host = ServiceName::parse(&format!("{name}.svc.cluster.local")).unwrap();
            known.add_service(&host, &namespace);
        }
        known.add_workload(&SpiffeId::parse("spiffe://mesh.local/ns/shop/sa/web").unwrap());
        let service = |id: &str| known.nearest("Service", &format!("{id}.svc.cluster.local"));
        assert_eq!(
            service("reveiws.default"),
            Some("reviews.default.svc.cluster.local")
        );
        assert_eq!(
            service("reviews.prod"),
            Some("reviews.default.svc.cluster.local")
        );
        assert_eq!(service("payments.default"), None);
        assert_eq!(
            known.nearest("ServiceAccount", "mesh.local/ns/default/sa/web"),
            Some("mesh.local/ns/shop/sa/web")
        );
        assert_eq!(
            known.nearest("Namespace", "mesh.local/ns/shpo"),
            Some("mesh.local/ns/shop")
        );
        assert_eq!(
            known.nearest("TrustDomain", "mesh.locla"),
            Some("mesh.local")
        );
        assert!(known.has("Namespace", "mesh.local/ns/default"));
    }
}
