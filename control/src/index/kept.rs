//! What is derived anew with each generation and mostly comes out as it was: kept, so that equal parts are the same objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use reeve_authz::AskedOf;
use reeve_core::{
    Namespace, ServiceName,
    model::{
        EndpointSet, EntityRecord, PolicySlice, ProxyConfig, RouteTable, RouteTableName,
        ServiceConfig,
    },
};

use super::{
    Index,
    tables::{CallerClass, Callers},
};
use crate::mesh::ViewKey;

/// What was derived last, by who sees what.
#[derive(Debug, Default)]
pub(crate) struct Kept(BTreeMap<Option<ViewKey>, Shared>);

/// What proxies with one view of the mesh have in common.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(super) services: BTreeMap<ServiceName, Arc<ServiceConfig>>,
    pub(super) endpoints: BTreeMap<ServiceName, Arc<EndpointSet>>,
    pub(super) callers: BTreeMap<CallerClass, Arc<Callers>>,
    pub(super) policies: BTreeMap<Namespace, Arc<PolicySlice>>,
    /// Of the index that it was kept of.
    pub(super) plain_namespaces: BTreeSet<Namespace>,
    /// What of the entities is left for who asks for so much; it is not kept.
    pub(super) entities: Vec<(AskedOf, Arc<Vec<EntityRecord>>)>,
}

impl Kept {
    pub(super) fn of(&self, view: &Option<ViewKey>) -> Option<&Shared> {
        self.0.get(view)
    }

    pub(super) fn keep(&mut self, view: Option<ViewKey>, index: Index<'_>) {
        let shared = Shared {
            services: index.services,
            endpoints: index.endpoints,
            plain_namespaces: index.plain_namespaces,
            entities: Vec::new(),
            ..index.shared.into_inner()
        };
        self.0.insert(view, shared);
    }
}

impl Shared {
    /// Puts what is kept in the place of what is equal to it.
    pub(super) fn keep(
        &self,
        services: &mut BTreeMap<ServiceName, Arc<ServiceConfig>>,
        endpoints: &mut BTreeMap<ServiceName, Arc<EndpointSet>>,
    ) {
        keep_equal(services, &self.services);
        keep_equal(endpoints, &self.endpoints);
    }
}

/// Keeps what only this proxy has: its own workload, and tables with the addresses beside it.
pub(crate) fn keep_own(config: &mut ProxyConfig, before: &ProxyConfig) {
    keep_equal(&mut config.secrets, &before.secrets);
    keep_equal(&mut config.services, &before.services);
    keep_tables(&mut config.routes, &before.routes);
    if config.workload == before.workload {
        config.workload = before.workload.clone();
    }
}

/// Puts tables of `before` in the place of equal ones, and its virtual hosts into those that changed.
pub(super) fn keep_tables(
    now: &mut BTreeMap<RouteTableName, Arc<RouteTable>>,
    before: &BTreeMap<RouteTableName, Arc<RouteTable>>,
) {
    keep_equal(now, before);
    for (name, table) in now {
        let known = before.get(name);
        if let Some(known) = known.filter(|known| !Arc::ptr_eq(known, table)) {
            keep_equal(
                &mut Arc::make_mut(table).virtual_hosts,
                &known.virtual_hosts,
            );
        }
    }
}

/// Puts what is in `before` in the place of what is equal to it.
fn keep_equal<K: Ord, V: PartialEq>(now: &mut BTreeMap<K, Arc<V>>, before: &BTreeMap<K, Arc<V>>) {
    // Both are in order: one walk over each.
    let mut known = before.iter().peekable();
    for (name, value) in now {
        while known.next_if(|(key, _)| *key < name).is_some() {}
        if let Some((_, same)) = known.next_if(|(key, known)| *key == name && *known == value) {
            *value = same.clone();
        }
    }
}
