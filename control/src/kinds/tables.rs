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
        "spec.exportTo",
        "spec.http[].fault",
        "spec.http[].retries.retryRemoteLocalities",
        "spec.http[].retries.retryIgnorePreviousHosts",
        "spec.http[].retries.backoff",
        "spec.tls[].match[].destinationSubnets",
        "spec.tls[].match[].sourceSubnet",
        "spec.tcp[].match[].destinationSubnets",
        "spec.tcp[].match[].sourceSubnet",
        "spec.tcp[].match[].sourceLabels",
        "spec.tcp[].match[].sourceNamespace",
        "spec.tcp[].match[].gateways",
    ],
};

/// `DestinationRule`.
pub(super) const DESTINATION_RULE: Fields = Fields {
    strict: true,
    unsupported: &[
        "spec.exportTo",
        "spec.workloadSelector",
        "spec.trafficPolicy.outlierDetection",
        "spec.trafficPolicy.portLevelSettings",
        "spec.trafficPolicy.tunnel",
        "spec.trafficPolicy.proxyProtocol",
        "spec.trafficPolicy.retryBudget",
        "spec.trafficPolicy.connectionPool.http.http1MaxPendingRequests",
        "spec.trafficPolicy.connectionPool.http.http2MaxRequests",
        "spec.trafficPolicy.connectionPool.http.maxRetries",
        "spec.trafficPolicy.connectionPool.http.idleTimeout",
        "spec.trafficPolicy.connectionPool.http.h2UpgradePolicy",
        "spec.trafficPolicy.connectionPool.http.useClientProtocol",
        "spec.trafficPolicy.connectionPool.http.maxConcurrentStreams",
        "spec.trafficPolicy.connectionPool.tcp.maxConnections",
        "spec.trafficPolicy.connectionPool.tcp.tcpKeepalive",
        "spec.trafficPolicy.connectionPool.tcp.maxConnectionDuration",
        "spec.trafficPolicy.connectionPool.tcp.idleTimeout",
        "spec.trafficPolicy.loadBalancer.consistentHash",
        "spec.trafficPolicy.loadBalancer.localityLbSetting",
        "spec.trafficPolicy.loadBalancer.warmupDurationSecs",
        "spec.trafficPolicy.loadBalancer.warmup",
        "spec.subsets[].trafficPolicy.outlierDetection",
        "spec.subsets[].trafficPolicy.portLevelSettings",
        "spec.subsets[].trafficPolicy.tunnel",
        "spec.subsets[].trafficPolicy.proxyProtocol",
        "spec.subsets[].trafficPolicy.retryBudget",
        "spec.subsets[].trafficPolicy.connectionPool.http.http1MaxPendingRequests",
        "spec.subsets[].trafficPolicy.connectionPool.http.http2MaxRequests",
        "spec.subsets[].trafficPolicy.connectionPool.http.maxRetries",
        "spec.subsets[].trafficPolicy.connectionPool.http.idleTimeout",
        "spec.subsets[].trafficPolicy.connectionPool.http.h2UpgradePolicy",
        "spec.subsets[].trafficPolicy.connectionPool.http.useClientProtocol",
        "spec.subsets[].trafficPolicy.connectionPool.http.maxConcurrentStreams",
        "spec.subsets[].trafficPolicy.connectionPool.tcp.maxConnections",
        "spec.subsets[].trafficPolicy.connectionPool.tcp.tcpKeepalive",
        "spec.subsets[].trafficPolicy.connectionPool.tcp.maxConnectionDuration",
        "spec.subsets[].trafficPolicy.connectionPool.tcp.idleTimeout",
        "spec.subsets[].trafficPolicy.loadBalancer.consistentHash",
        "spec.subsets[].trafficPolicy.loadBalancer.localityLbSetting",
        "spec.subsets[].trafficPolicy.loadBalancer.warmupDurationSecs",
        "spec.subsets[].trafficPolicy.loadBalancer.warmup",
    ],
};

/// `Gateway`.
pub(super) const GATEWAY: Fields = Fields {
    strict: true,
    unsupported: &[
        "spec.servers[].bind",
        "spec.servers[].defaultEndpoint",
        "spec.servers[].port.targetPort",
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

/// `RequestAuthentication`.
pub(super) const REQUEST_AUTHENTICATION: Fields = Fields {
    strict: true,
    unsupported: &[
        "spec.targetRef",
        "spec.targetRefs",
        "spec.jwtRules[].outputPayloadToHeader",
        "spec.jwtRules[].fromCookies",
        "spec.jwtRules[].spaceDelimitedClaims",
    ],
};

/// `ServiceEntry`.
pub(super) const SERVICE_ENTRY: Fields = Fields {
    strict: true,
    unsupported: &["spec.endpoints[].network", "spec.endpoints[].locality"],
};

/// `WorkloadEntry`.
pub(super) const WORKLOAD_ENTRY: Fields = Fields {
    strict: true,
    unsupported: &["spec.network", "spec.locality"],
};
