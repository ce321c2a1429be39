//! Fields that Istio's API has and this version does not support, by kind. Each is refused by name, so that nobody
//! believes that it has an effect.

use crate::source::de::Fields;

/// A kind of Kubernetes': what we do not read is tolerated.
pub(super) const LENIENT: Fields = Fields {
    strict: false,
    unsupported: &[],
};

/// A kind all of whose fields are supported.
pub(super) const STRICT: Fields = Fields {
    strict: true,
    unsupported: &[],
};

/// `VirtualService`.
pub(super) const VIRTUAL_SERVICE: Fields = Fields {
    strict: true,
    unsupported: &[
        "spec.http[].fault.delay.exponentialDelay",
        "spec.http[].fault.abort.http2Error",
        "spec.tls[].match[].sourceSubnet",
        "spec.tcp[].match[].sourceSubnet",
    ],
};

/// `DestinationRule`.
pub(super) const DESTINATION_RULE: Fields = Fields {
    strict: true,
    unsupported: &[
        "spec.workloadSelector",
        "spec.trafficPolicy.tunnel",
        "spec.trafficPolicy.proxyProtocol",
        "spec.subsets[].trafficPolicy.tunnel",
        "spec.subsets[].trafficPolicy.proxyProtocol",
    ],
};

/// `Gateway`.
pub(super) const GATEWAY: Fields = Fields {
    strict: true,
    unsupported: &[
        "spec.servers[].defaultEndpoint",
        "spec.servers[].port.targetPort",
    ],
};

/// `MeshConfig`.
pub(super) const MESH_CONFIG: Fields = Fields {
    strict: true,
    unsupported: &[
        "spec.extensionProviders[].envoyExtAuthzGrpc.clearRouteCache",
        "spec.extensionProviders[].envoyExtAuthzHttp.clearRouteCache",
        "spec.extensionProviders[].zipkin",
        "spec.extensionProviders[].datadog",
        "spec.extensionProviders[].stackdriver",
        "spec.extensionProviders[].skywalking",
        "spec.extensionProviders[].opentelemetry",
        "spec.extensionProviders[].prometheus",
        "spec.extensionProviders[].envoyFileAccessLog",
        "spec.extensionProviders[].envoyHttpAls",
        "spec.extensionProviders[].envoyTcpAls",
        "spec.extensionProviders[].envoyOtelAls",
    ],
};

/// Gateway API's `Gateway`.
pub(super) const KUBERNETES_GATEWAY: Fields = Fields {
    strict: true,
    unsupported: &[
        "spec.addresses",
        "spec.infrastructure",
        "spec.allowedListeners",
        "spec.backendTLS",
        "spec.tls",
        "spec.listeners[].tls.options",
        "spec.listeners[].tls.frontendValidation",
        "spec.listeners[].allowedRoutes.namespaces.selector",
    ],
};

/// `HTTPRoute` and `GRPCRoute`.
pub(super) const HTTP_ROUTE: Fields = Fields {
    strict: true,
    unsupported: &[
        "spec.useDefaultGateways",
        "spec.rules[].sessionPersistence",
        "spec.rules[].retry.backoff",
        "spec.rules[].filters[].extensionRef",
        "spec.rules[].filters[].cors",
        "spec.rules[].filters[].externalAuth",
        "spec.rules[].backendRefs[].filters[].extensionRef",
        "spec.rules[].backendRefs[].filters[].cors",
        "spec.rules[].backendRefs[].filters[].externalAuth",
    ],
};

/// `TLSRoute` and `TCPRoute`.
pub(super) const STREAM_ROUTE: Fields = Fields {
    strict: true,
    unsupported: &["spec.useDefaultGateways"],
};

/// `GatewayClass`.
pub(super) const GATEWAY_CLASS: Fields = Fields {
    strict: true,
    unsupported: &["spec.parametersRef"],
};

/// `RequestAuthentication`.
pub(super) const REQUEST_AUTHENTICATION: Fields = Fields {
    strict: true,
    unsupported: &[],
};

/// `ServiceEntry`.
pub(super) const SERVICE_ENTRY: Fields = Fields {
    strict: true,
    unsupported: &["spec.endpoints[].network"],
};

/// `WorkloadEntry`.
pub(super) const WORKLOAD_ENTRY: Fields = Fields {
    strict: true,
    unsupported: &["spec.network"],
};

/// `WorkloadGroup`. Nobody stands beside its workloads who could probe them.
pub(super) const WORKLOAD_GROUP: Fields = Fields {
    strict: true,
    unsupported: &[
        "spec.probe",
        "spec.template.network",
        "spec.metadata.annotations",
    ],
};

/// `Sidecar`.
pub(super) const SIDECAR: Fields = Fields {
    strict: true,
    unsupported: &[
        "spec.ingress[].tls",
        "spec.egress[].port",
        "spec.egress[].bind",
        "spec.egress[].captureMode",
        "spec.outboundTrafficPolicy.egressProxy",
    ],
};
