//! A request's principal and resource with all their ancestors, as the entities of a question have them.

use std::borrow::Cow;

use reeve_core::{
    SpiffeId, TrustDomain,
    decision::{AccessRequest, Principal},
};

use super::fact::About;
use crate::{entities::Ground, store::Store};

/// An entity by type and id.
pub(super) type Named<'a> = (About, Cow<'a, str>);

/// Who asks and what is asked for, each with its ancestors.
#[derive(Debug)]
pub(super) struct Lineage<'a> {
    pub(super) principal: Vec<Named<'a>>,
    pub(super) resource: Vec<Named<'a>>,
}

impl<'a> Lineage<'a> {
    pub(super) fn of(request: &'a AccessRequest, ground: Ground<'a>) -> Self {
        let mut resource = resource(request, ground.home);
        groups(&mut resource, ground.store);
        let mut principal = Vec::with_capacity(8);
        match &request.principal {
            Principal::Unauthenticated => {
                principal.push((About::Unauthenticated, "unauthenticated".into()));
            }
            Principal::Workload(id) => {
                workload(id, &mut principal);
                groups(&mut principal, ground.store);
                // A workload that asks itself is one entity, with its services as parents.
                if request.resource.workload.as_ref() == Some(id) {
                    principal.extend(resource.iter().cloned());
                }
            }
        }
        Self {
            principal,
            resource,
        }
    }
}

fn resource<'a>(request: &'a AccessRequest, home: Option<&TrustDomain>) -> Vec<Named<'a>> {
    let mut found = Vec::with_capacity(8);
    let resource = &request.resource;
    if let Some(id) = &resource.workload {
        workload(id, &mut found);
    }
    if let Some(domain) = crate::entities::resource_domain(request, home) {
        let namespace = format!("{domain}/ns/{}", resource.namespace);
        found.push((About::Namespace, namespace.into()));
        found.push((About::TrustDomain, domain.as_str().to_owned().into()));
    }
    let services = resource.services.iter();
    found.extend(services.map(|s| (About::Service, s.as_str().into())));
    found
}

/// Adds what these are in, beside what their names say.
fn groups<'a>(named: &mut Vec<Named<'a>>, store: &'a Store) {
    let of = |(about, id): &Named<'_>| store.node(about.entity_type()?, id);
    let nodes = named.iter().filter_map(of);
    let groups: Vec<Named<'a>> = nodes
        .flat_map(|node| &node.ancestors)
        .map(|uid| {
            let kind: &str = uid.entity_type().name().basename_as_ref().as_ref();
            let id: &str = uid.eid().as_ref();
            (About::entity(kind), id.into())
        })
        .collect();
    named.extend(groups);
}

/// A workload, its service account, namespace and trust domain; their ids are parts of its own.
pub(super) fn workload<'a>(id: &'a SpiffeId, found: &mut Vec<Named<'a>>) {
    let uri = id.as_str();
    found.push((About::Workload, uri.into()));
    let Some(name) = uri.strip_prefix("spiffe://") else {
        return;
    };
    let domain = name.split_once('/').map_or(name, |(domain, _)| domain);
    found.push((About::TrustDomain, domain.into()));
    if id.namespace_and_account().is_some() {
        found.push((About::ServiceAccount, name.into()));
        if let Some((namespace, _)) = name.rsplit_once("/sa/") {
            found.push((About::Namespace, namespace.into()));
        }
    }
}
