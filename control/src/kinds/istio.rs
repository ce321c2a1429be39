//! Which kinds there are, under which versions.

const NETWORKING: &[&str] = &[
    "networking.istio.io/v1",
    "networking.istio.io/v1beta1",
    "networking.istio.io/v1alpha3",
];
const SECURITY: &[&str] = &["security.istio.io/v1", "security.istio.io/v1beta1"];
const GATEWAY_API: &[&str] = &[
    "gateway.networking.k8s.io/v1",
    "gateway.networking.k8s.io/v1beta1",
    "gateway.networking.k8s.io/v1alpha2",
];
const STREAM_ROUTES: &[&str] = &[
    "gateway.networking.k8s.io/v1",
    "gateway.networking.k8s.io/v1alpha3",
    "gateway.networking.k8s.io/v1alpha2",
];
const OURS: &[&str] = &["reeve.dev/v1alpha1"];
/// SPIRE's controller manager has this kind; it stands for a mesh as well.
const FEDERATION: &[&str] = &["spire.spiffe.io/v1alpha1", "reeve.dev/v1alpha1"];
const CORE: &[&str] = &["v1"];

/// Kinds that are read, with their versions.
pub(super) const VERSIONS: &[(&str, &[&str])] = &[
    ("VirtualService", NETWORKING),
    ("DestinationRule", NETWORKING),
    ("Gateway", NETWORKING),
    ("Gateway", GATEWAY_API),
    ("HTTPRoute", GATEWAY_API),
    ("GRPCRoute", GATEWAY_API),
    ("TLSRoute", STREAM_ROUTES),
    ("TCPRoute", STREAM_ROUTES),
    ("GatewayClass", GATEWAY_API),
    ("ReferenceGrant", GATEWAY_API),
    ("ServiceEntry", NETWORKING),
    ("Sidecar", NETWORKING),
    ("WorkloadEntry", NETWORKING),
    ("WorkloadGroup", NETWORKING),
    ("PeerAuthentication", SECURITY),
    ("RequestAuthentication", SECURITY),
    ("AuthorizationPolicy", SECURITY),
    ("AccessPolicy", OURS),
    ("AccessRole", OURS),
    ("AccessRoleBinding", OURS),
    ("PathNormalization", OURS),
    ("AccessSchema", OURS),
    ("AccessEntities", OURS),
    ("RegistrationEntry", OURS),
    ("RateLimit", OURS),
    ("Transformation", OURS),
    ("MeshConfig", OURS),
    ("LocalMesh", OURS),
    ("ClusterFederatedTrustDomain", FEDERATION),
    ("Service", CORE),
    ("ServiceAccount", CORE),
    ("Namespace", CORE),
    ("ConfigMap", CORE),
    ("Secret", CORE),
    ("Pod", CORE),
    ("EndpointSlice", &["discovery.k8s.io/v1"]),
];

/// Kinds that exist, but not here yet: (API group, kind).
pub(super) const KNOWN_ELSEWHERE: &[(&str, &str)] = &[
    ("networking.istio.io", "EnvoyFilter"),
    ("networking.istio.io", "ProxyConfig"),
    ("telemetry.istio.io", "Telemetry"),
    ("extensions.istio.io", "WasmPlugin"),
    ("gateway.networking.k8s.io", "UDPRoute"),
    ("gateway.networking.k8s.io", "BackendTLSPolicy"),
    ("gateway.networking.k8s.io", "ListenerSet"),
    ("apps", "Deployment"),
    ("apps", "StatefulSet"),
    ("apps", "DaemonSet"),
    ("", "Endpoints"),
    ("", "List"),
];
