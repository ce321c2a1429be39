//! `gateway.networking.k8s.io`: `GatewayClass`, `Gateway`, the routes, `ReferenceGrant`.

use serde::Deserialize;

use super::networking::raw;

raw! {
    GatewayClassSpec {
        controller_name: String,
        #[serde(rename = "description")]
        _description: Option<String>,
    }
    KubernetesGatewaySpec {
        gateway_class_name: Option<String>,
        listeners: Vec<ListenerSpec>,
    }
    ListenerSpec {
        name: String,
        hostname: Option<String>,
        port: u16,
        protocol: String,
        tls: Option<ListenerTlsSpec>,
        allowed_routes: Option<AllowedRoutesSpec>,
    }
    ListenerTlsSpec {
        mode: Option<String>,
        certificate_refs: Vec<CertificateRefSpec>,
    }
    CertificateRefSpec {
        group: Option<String>,
        kind: Option<String>,
        namespace: Option<String>,
        name: String,
    }
    AllowedRoutesSpec {
        namespaces: Option<RouteNamespacesSpec>,
        kinds: Vec<RouteKindSpec>,
    }
    RouteNamespacesSpec {
        from: Option<String>,
    }
    RouteKindSpec {
        group: Option<String>,
        kind: String,
    }
    KubernetesHttpRouteSpec {
        parent_refs: Vec<ParentRefSpec>,
        hostnames: Vec<String>,
        rules: Vec<HttpRuleSpec>,
    }
    KubernetesGrpcRouteSpec {
        parent_refs: Vec<ParentRefSpec>,
        hostnames: Vec<String>,
        rules: Vec<GrpcRuleSpec>,
    }
    KubernetesTlsRouteSpec {
        parent_refs: Vec<ParentRefSpec>,
        hostnames: Vec<String>,
        rules: Vec<StreamRuleSpec>,
    }
    KubernetesTcpRouteSpec {
        parent_refs: Vec<ParentRefSpec>,
        rules: Vec<StreamRuleSpec>,
    }
    StreamRuleSpec {
        name: Option<String>,
        backend_refs: Vec<BackendRefSpec>,
    }
    ParentRefSpec {
        group: Option<String>,
        kind: Option<String>,
        namespace: Option<String>,
        name: String,
        section_name: Option<String>,
        port: Option<u16>,
    }
    HttpRuleSpec {
        name: Option<String>,
        matches: Vec<HttpMatchSpec>,
        filters: Vec<FilterSpec>,
        backend_refs: Vec<BackendRefSpec>,
        timeouts: Option<TimeoutsSpec>,
        retry: Option<RouteRetrySpec>,
    }
    GrpcRuleSpec {
        name: Option<String>,
        matches: Vec<GrpcMatchSpec>,
        filters: Vec<FilterSpec>,
        backend_refs: Vec<BackendRefSpec>,
    }
    HttpMatchSpec {
        path: Option<PathMatchSpec>,
        headers: Vec<NamedMatchSpec>,
        query_params: Vec<NamedMatchSpec>,
        method: Option<String>,
    }
    GrpcMatchSpec {
        method: Option<GrpcMethodSpec>,
        headers: Vec<NamedMatchSpec>,
    }
    PathMatchSpec {
        r#type: Option<String>,
        value: Option<String>,
    }
    NamedMatchSpec {
        r#type: Option<String>,
        name: String,
        value: String,
    }
    GrpcMethodSpec {
        r#type: Option<String>,
        service: Option<String>,
        method: Option<String>,
    }
    FilterSpec {
        r#type: String,
        request_header_modifier: Option<HeaderFilterSpec>,
        response_header_modifier: Option<HeaderFilterSpec>,
        request_redirect: Option<RedirectFilterSpec>,
        url_rewrite: Option<RewriteFilterSpec>,
        request_mirror: Option<MirrorFilterSpec>,
    }
    HeaderFilterSpec {
        set: Vec<NamedValueSpec>,
        add: Vec<NamedValueSpec>,
        remove: Vec<String>,
    }
    NamedValueSpec {
        name: String,
        value: String,
    }
    RedirectFilterSpec {
        scheme: Option<String>,
        hostname: Option<String>,
        path: Option<PathChangeSpec>,
        port: Option<u16>,
        status_code: Option<u16>,
    }
    RewriteFilterSpec {
        hostname: Option<String>,
        path: Option<PathChangeSpec>,
    }
    PathChangeSpec {
        r#type: String,
        replace_full_path: Option<String>,
        replace_prefix_match: Option<String>,
    }
    MirrorFilterSpec {
        backend_ref: BackendRefSpec,
        percent: Option<u32>,
        fraction: Option<FractionSpec>,
    }
    FractionSpec {
        numerator: u32,
        denominator: Option<u32>,
    }
    BackendRefSpec {
        group: Option<String>,
        kind: Option<String>,
        namespace: Option<String>,
        name: String,
        port: Option<u16>,
        weight: Option<u32>,
        filters: Vec<FilterSpec>,
    }
    TimeoutsSpec {
        request: Option<String>,
        backend_request: Option<String>,
    }
    RouteRetrySpec {
        codes: Vec<u16>,
        attempts: Option<u32>,
    }
    ReferenceGrantSpec {
        from: Vec<GrantFromSpec>,
        to: Vec<GrantToSpec>,
    }
    GrantFromSpec {
        group: String,
        kind: String,
        namespace: String,
    }
    GrantToSpec {
        group: String,
        kind: String,
        name: Option<String>,
    }
}
