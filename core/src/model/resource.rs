//! A proxy's configuration as a set of named resources, the unit that travels and is acknowledged.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    ServiceName,
    model::{
        EndpointSet, Generation, JoinKey, PolicySlice, RouteTable, RouteTableName, SecretName,
        ServiceConfig, TlsSecret, VirtualHost, WorkloadConfig,
    },
};

/// Everything one proxy needs of one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Which generation of the mesh this is.
    pub generation: Generation,
    /// The proxy's own workload.
    pub workload: Arc<WorkloadConfig>,
    /// Services it may reach.
    pub services: BTreeMap<ServiceName, Arc<ServiceConfig>>,
    /// Where they run.
    pub endpoints: BTreeMap<ServiceName, Arc<EndpointSet>>,
    /// How requests are routed; no table is empty.
    pub routes: BTreeMap<RouteTableName, Arc<RouteTable>>,
    /// Policies that can concern it.
    pub policies: Arc<PolicySlice>,
    /// Key material that it serves or calls by.
    pub secrets: BTreeMap<SecretName, Arc<TlsSecret>>,
}

/// One named part of a [`ProxyConfig`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// The proxy's own workload.
    Workload(Arc<WorkloadConfig>),
    /// A service.
    Service(Arc<ServiceConfig>),
    /// A service's endpoints.
    Endpoints(Arc<EndpointSet>),
    /// A virtual host of a route table. A table is what its virtual hosts are, so that a change of one route moves
    /// no other.
    VirtualHost(RouteTableName, Arc<VirtualHost>),
    /// The policy slice.
    Policies(Arc<PolicySlice>),
    /// Key material.
    Secret(Arc<TlsSecret>),
    /// Sent last: the generation that the resources now held make up.
    Generation(Generation),
}

/// The kind of a [`Resource`]; its name is the last part of the ADS type URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    /// [`Resource::Workload`].
    Workload,
    /// [`Resource::Service`].
    Service,
    /// [`Resource::Endpoints`].
    Endpoints,
    /// [`Resource::VirtualHost`].
    VirtualHost,
    /// [`Resource::Policies`].
    Policies,
    /// [`Resource::Secret`].
    Secret,
    /// [`Resource::Generation`].
    Generation,
}

impl ResourceKind {
    /// Every kind, in the order in which a change is sent: what is referred to before what refers, the generation last.
    pub const ALL: [Self; 7] = [
        Self::Secret,
        Self::Service,
        Self::Endpoints,
        Self::VirtualHost,
        Self::Policies,
        Self::Workload,
        Self::Generation,
    ];

    /// The kind's name as it stands in type URLs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workload => "Workload",
            Self::Service => "Service",
            Self::Endpoints => "Endpoints",
            Self::VirtualHost => "VirtualHost",
            Self::Policies => "Policies",
            Self::Secret => "Secret",
            Self::Generation => "Generation",
        }
    }
}

impl Resource {
    /// Its kind.
    pub fn kind(&self) -> ResourceKind {
        match self {
            Self::Workload(_) => ResourceKind::Workload,
            Self::Service(_) => ResourceKind::Service,
            Self::Endpoints(_) => ResourceKind::Endpoints,
            Self::VirtualHost(..) => ResourceKind::VirtualHost,
            Self::Policies(_) => ResourceKind::Policies,
            Self::Secret(_) => ResourceKind::Secret,
            Self::Generation(_) => ResourceKind::Generation,
        }
    }

    /// Its name, unique within its kind.
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Workload(w) => w.instance.as_str().into(),
            Self::Service(s) => s.name.as_str().into(),
            Self::Endpoints(e) => e.service.as_str().into(),
            Self::VirtualHost(table, host) => format!("{table}/{}", host.name).into(),
            Self::Policies(_) => "policies".into(),
            Self::Secret(s) => s.name.0.as_str().into(),
            Self::Generation(_) => "generation".into(),
        }
    }
}

/// Why a set of resources does not make a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// A part that must be there once is not.
    #[error("the configuration has no {} resource", .0.as_str())]
    Missing(ResourceKind),
    /// Two resources of one name, or two of a kind that stands alone.
    #[error("the configuration has {} {name} twice", .kind.as_str())]
    Duplicate {
        /// The kind.
        kind: ResourceKind,
        /// The doubled name.
        name: String,
    },
}

impl ProxyConfig {
    /// The resources that make it up, in sending order.
    pub fn resources(&self) -> Vec<Resource> {
        let secrets = self.secrets.values().cloned().map(Resource::Secret);
        secrets
            .chain(self.all_but_secrets(self.workload.clone()))
            .collect()
    }

    /// The same without key material, for people to look at.
    pub fn shown(&self) -> Vec<Resource> {
        let mut workload = self.workload.clone();
        if !workload.field_classes.join_key.is_empty() {
            Arc::make_mut(&mut workload).field_classes.join_key = JoinKey::default();
        }
        self.all_but_secrets(workload)
    }

    fn all_but_secrets(&self, workload: Arc<WorkloadConfig>) -> Vec<Resource> {
        let services = self.services.values().cloned().map(Resource::Service);
        let endpoints = self.endpoints.values().cloned().map(Resource::Endpoints);
        let hosts = self.routes.values().flat_map(|table| {
            let hosts = table.virtual_hosts.values().cloned();
            hosts.map(|host| Resource::VirtualHost(table.name.clone(), host))
        });
        let single = [
            Resource::Policies(self.policies.clone()),
            Resource::Workload(workload),
            Resource::Generation(self.generation),
        ];
        services
            .chain(endpoints)
            .chain(hosts)
            .chain(single)
            .collect()
    }

    /// Puts a configuration together again.
    pub fn from_resources(
        resources: impl IntoIterator<Item = Resource>,
    ) -> Result<Self, ResourceError> {
        let mut parts = Parts::default();
        for resource in resources {
            parts.add(resource)?;
        }
        parts.build()
    }
}

#[derive(Default)]
struct Parts {
    generation: Option<Generation>,
    workload: Option<Arc<WorkloadConfig>>,
    policies: Option<Arc<PolicySlice>>,
    services: BTreeMap<ServiceName, Arc<ServiceConfig>>,
    endpoints: BTreeMap<ServiceName, Arc<EndpointSet>>,
    hosts: BTreeMap<RouteTableName, BTreeMap<String, Arc<VirtualHost>>>,
    secrets: BTreeMap<SecretName, Arc<TlsSecret>>,
}

impl Parts {
    fn add(&mut self, resource: Resource) -> Result<(), ResourceError> {
        let (kind, name) = (resource.kind(), resource.name().into_owned());
        let replaced = match resource {
            Resource::Workload(w) => self.workload.replace(w).is_some(),
            Resource::Service(s) => self.services.insert(s.name.clone(), s).is_some(),
            Resource::Endpoints(e) => self.endpoints.insert(e.service.clone(), e).is_some(),
            Resource::VirtualHost(table, host) => {
                let hosts = self.hosts.entry(table).or_default();
                hosts.insert(host.name.clone(), host).is_some()
            }
            Resource::Policies(p) => self.policies.replace(p).is_some(),
            Resource::Secret(s) => self.secrets.insert(s.name.clone(), s).is_some(),
            Resource::Generation(g) => self.generation.replace(g).is_some(),
        };
        if replaced {
            return Err(ResourceError::Duplicate { kind, name });
        }
        Ok(())
    }

    fn build(self) -> Result<ProxyConfig, ResourceError> {
        let missing = ResourceError::Missing;
        let table = |(name, virtual_hosts): (RouteTableName, _)| {
            let table = RouteTable {
                name: name.clone(),
                virtual_hosts,
            };
            (name, Arc::new(table))
        };
        Ok(ProxyConfig {
            generation: self.generation.ok_or(missing(ResourceKind::Generation))?,
            workload: self.workload.ok_or(missing(ResourceKind::Workload))?,
            policies: self.policies.ok_or(missing(ResourceKind::Policies))?,
            services: self.services,
            endpoints: self.endpoints,
            routes: self.hosts.into_iter().map(table).collect(),
            secrets: self.secrets,
        })
    }
}
