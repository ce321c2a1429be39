//! Places of judgement: everything that a request may be for, as whoever decides on behalf of other proxies needs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use reeve_core::{
    ServiceName, SpiffeId,
    decision::ResourceRef,
    model::{JwtRule, PathNormalization, PolicySlice, ServiceState},
};

use super::{TokenKeys, doors, paths, tokens::jwt_rules};
use crate::{
    LocalWorkload, Mesh, Service,
    mesh::{NO_PORT, RequestAuthentication},
};

/// What a request may be for, and the rules there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The workload or service.
    pub resource: ResourceRef,
    /// Whether its policies bind.
    pub state: ServiceState,
    /// Who vouches for its end users.
    pub jwt_rules: Vec<JwtRule>,
    /// How paths are normalised there.
    pub path_normalization: PathNormalization,
    /// The same by port, where it differs.
    pub port_normalization: BTreeMap<u16, PathNormalization>,
}

/// All of a mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// By the workload's identity.
    pub workloads: BTreeMap<SpiffeId, Place>,
    /// By the service's name.
    pub services: BTreeMap<ServiceName, Place>,
}

impl Mesh {
    /// Every workload and service that can be asked for.
    pub fn places(&self, keys: &TokenKeys) -> Places {
        let mut workloads: BTreeMap<SpiffeId, Place> = BTreeMap::new();
        for workload in &self.workloads {
            let Some(identity) = &workload.identity else {
                continue;
            };
            let place = self.place_of(identity, workload, keys);
            match workloads.get_mut(identity) {
                Some(known) => known.join(place),
                None => drop(workloads.insert(identity.clone(), place)),
            }
        }
        let service = |service: &Service| self.place_of_service(service, keys);
        let services = self.services.values();
        let services = services.map(|s| (s.host.clone(), service(s))).collect();
        Places {
            workloads,
            services,
        }
    }

    /// The token rules of what runs in the root namespace without labels: the mesh process.
    pub(crate) fn token_rules(&self, keys: &TokenKeys) -> Vec<JwtRule> {
        let (root, labels) = (&self.settings.root_namespace, BTreeMap::new());
        jwt_rules(self, keys, |rules| rules.covers_labels(root, &labels))
    }

    /// All policies, for whoever judges for the whole mesh.
    pub fn all_policies(&self) -> PolicySlice {
        PolicySlice {
            mesh_hash: self.policy_hash.clone(),
            policies: self.policies.clone(),
            schema: self.policy_schema.clone(),
            entities: Arc::clone(&self.entities),
        }
    }

    fn place_of(&self, identity: &SpiffeId, workload: &LocalWorkload, keys: &TokenKeys) -> Place {
        let selecting = self.services.values().filter(|s| s.selects(workload));
        let selecting: Vec<&Service> = selecting.map(AsRef::as_ref).collect();
        Place {
            resource: ResourceRef {
                workload: Some(identity.clone()),
                namespace: workload.namespace.clone(),
                services: selecting.iter().map(|s| s.host.clone()).collect(),
                address: None,
            },
            state: doors::state(
                &self.settings.authorization,
                &workload.namespace,
                &selecting,
            ),
            jwt_rules: jwt_rules(self, keys, |r| r.covers(workload)),
            path_normalization: paths::mode(self, workload, NO_PORT),
            port_normalization: paths::by_port(self, workload),
        }
    }

    /// The workload behind a service, if that is one and the same everywhere; else the service alone.
    fn place_of_service(&self, service: &Service, keys: &TokenKeys) -> Place {
        let behind: Vec<_> = self
            .workloads
            .iter()
            .filter(|w| service.selects(w))
            .collect();
        let identities: BTreeSet<_> = behind.iter().map(|w| w.identity.as_ref()).collect();
        if let (1, Some(Some(only))) = (identities.len(), identities.first()) {
            // SECURITY: others of the same identity are not behind it, and take nothing away.
            let places = behind.iter().map(|w| self.place_of(only, w, keys));
            let joined = places.reduce(|mut joined, other| {
                joined.join(other);
                joined
            });
            if let Some(place) = joined {
                return place;
            }
        }
        // What a selector picks is told by the labels that whatever stands behind it must have.
        let covers = |rules: &RequestAuthentication| {
            rules.covers_labels(&service.namespace, &service.selector)
        };
        Place {
            resource: ResourceRef {
                workload: None,
                namespace: service.namespace.clone(),
                services: vec![service.host.clone()],
                address: None,
            },
            state: doors::state(&self.settings.authorization, &service.namespace, &[service]),
            jwt_rules: jwt_rules(self, keys, covers),
            path_normalization: self.settings.path_normalization,
            port_normalization: service
                .ports
                .iter()
                .filter_map(|port| Some((port.port, paths::of_service(self, service, port)?)))
                .collect(),
        }
    }
}

impl Place {
    /// Another workload of the same identity: which of them is meant is not known, so what holds for both remains.
    fn join(&mut self, other: Self) {
        let services = &mut self.resource.services;
        services.retain(|service| other.resource.services.contains(service));
        self.jwt_rules.retain(|rule| other.jwt_rules.contains(rule));
        let stricter = |state: &ServiceState| match state {
            ServiceState::Open => 0,
            ServiceState::Shadow => 1,
            ServiceState::Enforced => 2,
        };
        if stricter(&other.state) > stricter(&self.state) {
            self.state = other.state;
        }
        let same = self.path_normalization == other.path_normalization
            && self.port_normalization == other.port_normalization;
        if !same {
            // What refuses most.
            self.path_normalization = PathNormalization::RefuseAmbiguous;
            self.port_normalization.clear();
        }
    }
}
