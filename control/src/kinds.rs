//! Raw objects: each kind as it is written, before it is checked against anything else.

mod gateway_api;
mod istio;
mod kubernetes;
mod legacy;
mod networking;
mod ours;
mod security;
mod tables;
mod traffic;

use std::{collections::BTreeMap, sync::Arc};

use reeve_core::Namespace;
use serde::{Deserialize, de::DeserializeOwned};

pub(crate) use gateway_api::*;
pub(crate) use kubernetes::{
    EndpointSliceSpec, PodSpec, SecretSpec, SecretText, ServiceSpec, SlicePortSpec,
};
pub(crate) use legacy::*;
pub(crate) use networking::*;
pub(crate) use ours::*;
pub(crate) use security::*;
pub(crate) use traffic::*;

use crate::{
    Code, DEFAULT_NAMESPACE, Fault,
    source::{
        Document,
        de::{self, Fields},
        path::Path,
    },
};
use istio::{KNOWN_ELSEWHERE, VERSIONS};
use tables::VIRTUAL_SERVICE;

/// Every object of a configuration, by kind.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) services: Vec<Object<ServiceSpec>>,
    pub(crate) slices: Vec<Object<EndpointSliceSpec>>,
    pub(crate) pods: Vec<Object<PodSpec>>,
    pub(crate) sidecars: Vec<Object<SidecarSpec>>,
    pub(crate) service_entries: Vec<Object<ServiceEntrySpec>>,
    pub(crate) workload_entries: Vec<Object<WorkloadEntrySpec>>,
    pub(crate) workload_groups: Vec<Object<WorkloadGroupSpec>>,
    pub(crate) secrets: Vec<Object<SecretSpec>>,
    pub(crate) service_accounts: Vec<Object<de::Anything>>,
    pub(crate) virtual_services: Vec<Object<VirtualServiceSpec>>,
    pub(crate) destination_rules: Vec<Object<DestinationRuleSpec>>,
    pub(crate) gateways: Vec<Object<GatewaySpec>>,
    pub(crate) kubernetes_gateways: Vec<Object<KubernetesGatewaySpec>>,
    pub(crate) http_routes: Vec<Object<KubernetesHttpRouteSpec>>,
    pub(crate) grpc_routes: Vec<Object<KubernetesGrpcRouteSpec>>,
    pub(crate) tls_routes: Vec<Object<KubernetesTlsRouteSpec>>,
    pub(crate) tcp_routes: Vec<Object<KubernetesTcpRouteSpec>>,
    pub(crate) gateway_classes: Vec<Object<GatewayClassSpec>>,
    pub(crate) reference_grants: Vec<Object<ReferenceGrantSpec>>,
    pub(crate) peer_authentications: Vec<Object<PeerAuthenticationSpec>>,
    pub(crate) path_normalizations: Vec<Object<PathRuleSpec>>,
    pub(crate) request_authentications: Vec<Object<RequestAuthenticationSpec>>,
    pub(crate) authorization_policies: Vec<Object<AuthorizationPolicySpec>>,
    pub(crate) access_policies: Vec<Object<AccessPolicySpec>>,
    pub(crate) access_roles: Vec<Object<AccessRoleSpec>>,
    pub(crate) access_role_bindings: Vec<Object<AccessRoleBindingSpec>>,
    pub(crate) access_schemas: Vec<Object<AccessSchemaSpec>>,
    pub(crate) access_entities: Vec<Object<AccessEntitiesSpec>>,
    pub(crate) namespaces: Vec<Object<de::Anything>>,
    pub(crate) registration_entries: Vec<Object<RegistrationEntrySpec>>,
    pub(crate) rate_limits: Vec<Object<RateLimitSpec>>,
    pub(crate) transformations: Vec<Object<TransformationSpec>>,
    pub(crate) federated: Vec<Object<FederatedTrustDomainSpec>>,
    pub(crate) mesh_configs: Vec<Object<MeshConfigSpec>>,
    pub(crate) local_meshes: Vec<Object<LocalMeshSpec>>,
}

/// Gateway API's `Gateway`, which is another kind than Istio's.
const KUBERNETES_GATEWAY: &str = "gateway.networking.k8s.io/Gateway";

/// One object.
#[derive(Debug)]
pub(crate) struct Object<S> {
    pub(crate) document: Arc<Document>,
    pub(crate) namespace: Namespace,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) spec: S,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw<S> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    #[serde(rename = "status")]
    _status: de::Anything,
    spec: S,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    #[serde(rename = "uid")]
    _uid: de::Anything,
    #[serde(rename = "resourceVersion")]
    _resource_version: de::Anything,
    #[serde(rename = "generation")]
    _generation: de::Anything,
    #[serde(rename = "creationTimestamp")]
    _creation_timestamp: de::Anything,
    #[serde(rename = "managedFields")]
    _managed_fields: de::Anything,
    #[serde(rename = "ownerReferences")]
    _owner_references: de::Anything,
    #[serde(rename = "finalizers")]
    _finalizers: de::Anything,
    #[serde(rename = "selfLink")]
    _self_link: de::Anything,
}

impl Objects {
    /// Sorts every document into its kind, with all faults.
    pub(crate) fn read(documents: &[Arc<Document>]) -> (Self, Vec<Fault>) {
        let mut objects = Self::default();
        let mut faults = Vec::new();
        for document in documents {
            objects.add(document, &mut faults);
        }
        (objects, faults)
    }

    fn add(&mut self, document: &Arc<Document>, faults: &mut Vec<Fault>) {
        let Some(kind) = kind_of(document, faults) else {
            return;
        };
        let d = document;
        match kind {
            "Service" => push(&mut self.services, d, tables::LENIENT, faults),
            "Sidecar" => push(&mut self.sidecars, d, tables::SIDECAR, faults),
            "ServiceEntry" => push(&mut self.service_entries, d, tables::SERVICE_ENTRY, faults),
            "WorkloadEntry" => push(
                &mut self.workload_entries,
                d,
                tables::WORKLOAD_ENTRY,
                faults,
            ),
            "WorkloadGroup" => push(&mut self.workload_groups, d, tables::WORKLOAD_GROUP, faults),
            "Secret" => push_flat(&mut self.secrets, d, faults),
            "EndpointSlice" => push_flat(&mut self.slices, d, faults),
            "Pod" => push_flat(&mut self.pods, d, faults),
            "ServiceAccount" => push(&mut self.service_accounts, d, tables::LENIENT, faults),
            "VirtualService" => push(&mut self.virtual_services, d, VIRTUAL_SERVICE, faults),
            "DestinationRule" => {
                push(
                    &mut self.destination_rules,
                    d,
                    tables::DESTINATION_RULE,
                    faults,
                );
            }
            KUBERNETES_GATEWAY => push(
                &mut self.kubernetes_gateways,
                d,
                tables::KUBERNETES_GATEWAY,
                faults,
            ),
            "HTTPRoute" => push(&mut self.http_routes, d, tables::HTTP_ROUTE, faults),
            "GRPCRoute" => push(&mut self.grpc_routes, d, tables::HTTP_ROUTE, faults),
            "TLSRoute" => push(&mut self.tls_routes, d, tables::STREAM_ROUTE, faults),
            "TCPRoute" => push(&mut self.tcp_routes, d, tables::STREAM_ROUTE, faults),
            "GatewayClass" => push(&mut self.gateway_classes, d, tables::GATEWAY_CLASS, faults),
            "ReferenceGrant" => push(&mut self.reference_grants, d, tables::STRICT, faults),
            "Gateway" => push(&mut self.gateways, d, tables::GATEWAY, faults),
            "PeerAuthentication" => {
                push(&mut self.peer_authentications, d, tables::STRICT, faults);
            }
            "PathNormalization" => push(&mut self.path_normalizations, d, tables::STRICT, faults),
            "RequestAuthentication" => push(
                &mut self.request_authentications,
                d,
                tables::REQUEST_AUTHENTICATION,
                faults,
            ),
            "AuthorizationPolicy" => {
                push(&mut self.authorization_policies, d, tables::STRICT, faults);
            }
            "Transformation" => push(&mut self.transformations, d, tables::STRICT, faults),
            "RegistrationEntry" => {
                push(&mut self.registration_entries, d, tables::STRICT, faults);
            }
            "RateLimit" => push(&mut self.rate_limits, d, tables::STRICT, faults),
            kind if kind.starts_with("Access") => self.add_access(kind, d, faults),
            "Namespace" => push(&mut self.namespaces, d, tables::LENIENT, faults),
            "MeshConfig" => push(&mut self.mesh_configs, d, tables::MESH_CONFIG, faults),
            "ClusterFederatedTrustDomain" => push(&mut self.federated, d, tables::STRICT, faults),
            "LocalMesh" => push(&mut self.local_meshes, d, tables::STRICT, faults),
            _ => {
                let mut tolerated: Vec<Object<de::Anything>> = Vec::new();
                push(&mut tolerated, d, tables::LENIENT, faults);
            }
        }
    }

    /// What policies are made of.
    fn add_access(&mut self, kind: &str, d: &Arc<Document>, faults: &mut Vec<Fault>) {
        let fields = tables::STRICT;
        match kind {
            "AccessPolicy" => push(&mut self.access_policies, d, fields, faults),
            "AccessRole" => push(&mut self.access_roles, d, fields, faults),
            "AccessRoleBinding" => push(&mut self.access_role_bindings, d, fields, faults),
            "AccessSchema" => push(&mut self.access_schemas, d, fields, faults),
            _ => push(&mut self.access_entities, d, fields, faults),
        }
    }
}

/// The document's kind, if we know it under its `apiVersion`.
fn kind_of(document: &Document, faults: &mut Vec<Fault>) -> Option<&'static str> {
    let at = |key: &str| Path::of(&[key]);
    let (Some(kind), Some(version)) = (&document.kind, &document.api_version) else {
        for (key, value) in [
            ("kind", &document.kind),
            ("apiVersion", &document.api_version),
        ] {
            if value.is_none() {
                let text = format!("the document has no {key}");
                let fault = document.error(&at(key), Code::Missing, text);
                faults.push(fault.with_hint("every document begins with apiVersion and kind"));
            }
        }
        return None;
    };
    let known = VERSIONS
        .iter()
        .find(|(name, versions)| name == kind && versions.iter().any(|v| v == version));
    match known {
        Some(("Gateway", _)) if group(version) == "gateway.networking.k8s.io" => {
            return Some(KUBERNETES_GATEWAY);
        }
        Some((name, _)) => return Some(name),
        None => {}
    }
    let fault = if KNOWN_ELSEWHERE.contains(&(group(version), kind)) {
        let text = format!("{kind} is known, but not supported in this version");
        document.error(&at("kind"), Code::Unsupported, text)
    } else if let Some((_, versions)) = VERSIONS.iter().find(|(name, _)| name == kind) {
        let text = format!("there is no {kind} in apiVersion {version}");
        let hint = format!("use {}", versions.join(" or "));
        document
            .error(&at("apiVersion"), Code::UnknownVersion, text)
            .with_hint(hint)
    } else {
        let names: Vec<_> = VERSIONS.iter().map(|(name, _)| *name).collect();
        let hint = format!("known kinds: {}", names.join(", "));
        let text = format!("the kind {kind} of {version} is unknown");
        document
            .error(&at("kind"), Code::UnknownKind, text)
            .with_hint(hint)
    };
    faults.push(fault);
    None
}

fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// A kind of Kubernetes' whose content stands beside `metadata`, not in `spec`.
fn push_flat<S: DeserializeOwned + Default>(
    list: &mut Vec<Object<S>>,
    document: &Arc<Document>,
    faults: &mut Vec<Fault>,
) {
    let mut named: Vec<Object<de::Anything>> = Vec::new();
    push(&mut named, document, tables::LENIENT, faults);
    let (spec, placed) = de::read::<S>(&document.root, tables::LENIENT);
    faults.extend(document.place(placed));
    if let Some(object) = named.pop() {
        list.push(Object {
            document: object.document,
            namespace: object.namespace,
            name: object.name,
            labels: object.labels,
            annotations: object.annotations,
            spec,
        });
    }
}

fn push<S: DeserializeOwned + Default>(
    list: &mut Vec<Object<S>>,
    document: &Arc<Document>,
    fields: Fields,
    faults: &mut Vec<Fault>,
) {
    let (raw, placed) = de::read::<Raw<S>>(&document.root, fields);
    faults.extend(document.place(placed));
    let name_path = Path::of(&["metadata", "name"]);
    if raw.metadata.name.is_empty() {
        faults.push(document.error(&name_path, Code::Missing, "the object has no name"));
    } else if let Err(error) = reeve_core::WorkloadName::parse(&raw.metadata.name) {
        let text = error.to_string().replace("a workload", "a name");
        faults.push(document.error(&name_path, Code::Invalid, text));
    }
    let namespace = raw
        .metadata
        .namespace
        .as_deref()
        .unwrap_or(DEFAULT_NAMESPACE);
    match Namespace::parse(namespace) {
        Ok(namespace) => list.push(Object {
            document: document.clone(),
            namespace,
            name: raw.metadata.name,
            labels: raw.metadata.labels,
            annotations: raw.metadata.annotations,
            spec: raw.spec,
        }),
        Err(error) => {
            let path = Path::of(&["metadata", "namespace"]);
            faults.push(document.error(&path, Code::Invalid, error.to_string()));
        }
    }
}

impl<S> Object<S> {
    /// An error within the object.
    pub(crate) fn error(&self, path: &Path, code: Code, text: impl Into<String>) -> Fault {
        self.document.error(path, code, text)
    }

    /// A warning within the object.
    pub(crate) fn warning(&self, path: &Path, code: Code, text: impl Into<String>) -> Fault {
        self.document.warning(path, code, text)
    }
}
