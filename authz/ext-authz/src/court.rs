//! One generation: the policies, and everything that can be asked for.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use reeve_core::{Namespace, ServiceName, SpiffeId, decision::ResourceRef};
use reeve_proxy::inquiry::{Rules, Subject};

/// Everything that can be asked for.
#[derive(Debug, Default)]
pub struct Subjects {
    /// By the workload's identity.
    pub workloads: HashMap<SpiffeId, Arc<Subject>>,
    /// By the service's name.
    pub services: HashMap<ServiceName, Arc<Subject>>,
}

/// One generation. Immutable; an inquiry takes one and sees no other.
#[derive(Debug)]
pub struct Court {
    /// What is judged by.
    pub rules: Rules,
    /// What can be asked for.
    pub subjects: Subjects,
    /// Where what is unknown is recorded.
    pub root_namespace: Namespace,
}

/// What is asked for, as the asking proxy names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// The service that the route's configuration names.
    pub(crate) service: Option<String>,
    /// The workload that the route's configuration names.
    pub(crate) workload: Option<String>,
    /// The asking proxy's own identity.
    pub(crate) own: Option<String>,
    /// Where the caller connected to.
    pub(crate) address: Option<SocketAddr>,
}

impl Court {
    /// What `target` names: what the route says, else the workload that the proxy itself is. SECURITY: a name that is
    /// there and means nothing is not passed over for the next.
    pub(crate) fn find(&self, target: &Target) -> Option<&Arc<Subject>> {
        if let Some(service) = &target.service {
            return self
                .subjects
                .services
                .get(&ServiceName::parse(service).ok()?);
        }
        let workload = target.workload.as_ref().or(target.own.as_ref())?;
        self.subjects
            .workloads
            .get(&SpiffeId::parse(workload).ok()?)
    }

    /// What an inquiry for nothing that is known is recorded as.
    pub(crate) fn unknown(&self, target: &Target) -> ResourceRef {
        let service = target.service.as_deref();
        let workload = target.workload.as_deref().or(target.own.as_deref());
        ResourceRef {
            address: target.address,
            namespace: self.root_namespace.clone(),
            services: service
                .and_then(|s| ServiceName::parse(s).ok())
                .into_iter()
                .collect(),
            workload: workload.and_then(|w| SpiffeId::parse(w).ok()),
        }
    }
}
