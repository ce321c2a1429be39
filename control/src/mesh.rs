//! The resolved mesh: typed, complete and checked against itself. Made by [`crate::load`] from a folder.

mod entities;
mod place;
mod routing;
mod scope;
mod security;
mod service;
mod settings;
mod subnet;
mod transformation;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use reeve_authz::AskedOf;
use reeve_core::{
    InstanceName, Namespace, RegistrationEntry, ServiceName, SpiffeId,
    model::{
        EntityRecord, FederatedDomain, Federation, GlobalRateLimit, PolicySource, RateLimit,
        SecretName, TlsSecret,
    },
};

pub(crate) use entities::with_labels;
pub use place::PlaceRules;
pub(crate) use routing::{
    At, Credential, DestinationRule, Gateway, GatewayCertificates, GatewayClients, GatewayServer,
    GatewayTls, Headers, HttpRoute, Match, MirrorTo, Precedence, RouteTo, TcpRoute, TlsMatch,
    TlsRoute, To, VirtualService,
};
pub(crate) use scope::{EgressHost, IngressListener, SidecarScope, ViewKey};
pub use security::KeyPlace;
pub(crate) use security::{
    Jwks, KeySource, ModeRule, NO_PORT, PathRule, PeerAuthentication, RequestAuthentication,
    RequestRule, Scope,
};
pub(crate) use service::is_subset;
pub use service::{
    Entry, EntryAddress, EntryEndpoint, EntryLocation, EntryResolution, Service, TargetPort,
    TargetedPort,
};
pub use settings::{
    AuditLevel, AuthorizationSettings, ClusterKeys, KubernetesTokens, MeshSettings, ReviewAt,
    TapSettings, WitnessAt, Witnesses,
};
pub(crate) use subnet::Subnet;
pub use transformation::{ListedTransformation, TransformationState};
pub(crate) use transformation::{Target, TargetedTransformation};
pub use workload::{
    Health, LocalWorkload, MetricsPage, Probe, RestartPolicy, WorkloadPort, WorkloadRole,
};

use crate::{Fault, resolve::external::CustomPolicy};

/// Everything that a folder of configuration says, valid as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// Mesh-wide settings.
    pub settings: MeshSettings,
    /// What runs, in order of namespace and name.
    pub workloads: Vec<LocalWorkload>,
    /// Every policy, ordered by id.
    pub policies: Vec<PolicySource>,
    /// What extends the built-in schema: Cedar schema texts.
    pub policy_schema: Vec<String>,
    /// What is known of entities, as far as the policies ask about it, ordered by uid.
    pub entities: Arc<Vec<EntityRecord>>,
    /// The same with every label.
    pub(crate) all_entities: Arc<Vec<EntityRecord>>,
    /// What the policies of each scope can learn of entities.
    pub(crate) asked_of: BTreeMap<Option<Namespace>, AskedOf>,
    /// Hash of `policies`, and of what they rest on.
    pub policy_hash: String,
    /// Warnings; they do not keep the mesh from being applied.
    pub warnings: Vec<Fault>,
    /// Services.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// Other trust domains whose workloads are known here, ordered by name.
    pub federated: Vec<FederatedDomain>,
    /// Rate limits, with the service whose workloads keep them.
    pub(crate) rate_limits: Vec<(ServiceName, RateLimit)>,
    /// Transformations, with whose they are, in the order in which they act.
    pub(crate) transformations: Vec<TargetedTransformation>,
    /// What their workloads ask rate limit servers.
    pub(crate) global_rate_limits: Vec<GlobalRateLimit>,
    pub(crate) virtual_services: Vec<VirtualService>,
    pub(crate) rules: BTreeMap<ServiceName, DestinationRule>,
    /// Every rule, in order of host and namespace; `rules` has those that hold where nothing is scoped.
    pub(crate) all_rules: Vec<(ServiceName, DestinationRule)>,
    pub(crate) sidecars: Vec<SidecarScope>,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) secrets: BTreeMap<SecretName, Arc<TlsSecret>>,
    pub(crate) peer_authentications: Vec<PeerAuthentication>,
    pub(crate) path_normalizations: Vec<PathRule>,
    /// Which requests providers are asked about.
    pub(crate) custom: Vec<CustomPolicy>,
    pub(crate) request_authentications: Vec<RequestAuthentication>,
    /// Who gets identities besides the workloads, in the order in which a workload gets several.
    pub registrations: Arc<Vec<RegistrationEntry>>,
}

impl Mesh {
    /// Identities that gateways have and nobody else, ordered: what they say of their clients is believed.
    pub(crate) fn gateways(&self) -> Vec<SpiffeId> {
        let those = |is: fn(&LocalWorkload) -> bool| {
            let all = self.workloads.iter().filter(move |w| is(w));
            all.filter_map(|w| w.identity.as_ref())
        };
        let gateways: BTreeSet<&SpiffeId> = those(|w| w.role == WorkloadRole::Gateway).collect();
        if gateways.is_empty() {
            return Vec::new();
        }
        let others: BTreeSet<&SpiffeId> = those(|w| w.role != WorkloadRole::Gateway)
            .filter(|id| gateways.contains(id))
            .collect();
        gateways.difference(&others).copied().cloned().collect()
    }

    /// Whether it says the same as `other`. Warnings do not count: their lines move with every comment.
    pub(crate) fn means(&self, other: &Self) -> bool {
        // Named one by one, so that a new one is not forgotten.
        let Self {
            settings,
            workloads,
            policies,
            policy_schema,
            entities,
            // Labels that no policy names say nothing.
            all_entities: _,
            // It follows from the policies.
            asked_of: _,
            policy_hash,
            warnings: _,
            services,
            federated,
            rate_limits,
            transformations,
            global_rate_limits,
            virtual_services,
            rules,
            all_rules,
            sidecars,
            gateways,
            secrets,
            peer_authentications,
            path_normalizations,
            custom,
            request_authentications,
            registrations,
        } = self;
        *settings == other.settings
            && *workloads == other.workloads
            && *policies == other.policies
            && *policy_schema == other.policy_schema
            && *entities == other.entities
            && *policy_hash == other.policy_hash
            && *services == other.services
            && *federated == other.federated
            && *rate_limits == other.rate_limits
            && *transformations == other.transformations
            && *global_rate_limits == other.global_rate_limits
            && *virtual_services == other.virtual_services
            && *rules == other.rules
            && *all_rules == other.all_rules
            && *sidecars == other.sidecars
            && *gateways == other.gateways
            && *secrets == other.secrets
            && *peer_authentications == other.peer_authentications
            && *path_normalizations == other.path_normalizations
            && *custom == other.custom
            && *request_authentications == other.request_authentications
            && *registrations == other.registrations
    }

    /// What federation with other trust domains is to be.
    pub fn federation(&self) -> Federation {
        let settings = self.settings.federation.clone();
        let serving = settings.serving.as_ref();
        let certificate = serving.and_then(|s| self.secrets.get(s.certificate.as_ref()?));
        Federation {
            certificate: certificate.cloned(),
            domains: self.federated.clone(),
            settings,
        }
    }

    /// The workload that `instance` is a copy of.
    pub fn workload_of(&self, instance: &InstanceName) -> Option<&LocalWorkload> {
        self.workloads
            .iter()
            .find(|w| w.instances.contains(instance))
    }
}
