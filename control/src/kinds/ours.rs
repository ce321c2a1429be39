//! `reeve.dev`: `AccessPolicy`, `AccessRole`, `AccessRoleBinding`, `AccessSchema`, `AccessEntities`, `RegistrationEntry`, `RateLimit`, `Transformation`, `MeshConfig`, `LocalMesh`;
//! and SPIRE's `ClusterFederatedTrustDomain`.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{HeaderOpsSpec, MtlsSpec, SelectorSpec, StringMatchSpec, raw};

raw! {
    AccessPolicySpec { cedar: String, }
    AccessRoleSpec { cedar: String, }
    AccessSchemaSpec { cedar: String, }
    AccessEntitiesSpec { entities: Vec<EntitySpec>, }
    EntitySpec {
        uid: serde_json::Value,
        attrs: BTreeMap<String, serde_json::Value>,
        parents: Vec<serde_json::Value>,
        tags: BTreeMap<String, serde_json::Value>,
    }
    AccessRoleBindingSpec {
        role: String,
        principals: Vec<String>,
        resources: Vec<String>,
    }
    RegistrationEntrySpec {
        #[serde(rename = "spiffeID")]
        spiffe_id: String,
        #[serde(rename = "parentID")]
        parent_id: Option<String>,
        selectors: Vec<String>,
        #[serde(rename = "x509SVIDTTL")]
        x509_svid_ttl: Option<String>,
        #[serde(rename = "jwtSVIDTTL")]
        jwt_svid_ttl: Option<String>,
        dns_names: Vec<String>,
        jwt_audiences: Vec<String>,
        hint: String,
    }
    RateLimitSpec {
        service: String,
        limits: Vec<LimitSpec>,
        global: Option<GlobalLimitSpec>,
    }
    GlobalLimitSpec {
        server: String,
        domain: String,
        timeout: Option<String>,
        failure_mode: Option<String>,
        descriptors: Vec<DescriptorSpec>,
    }
    DescriptorSpec {
        r#match: LimitMatchSpec,
        entries: Vec<DescriptorEntrySpec>,
    }
    DescriptorEntrySpec {
        key: String,
        value: Option<String>,
        from: Option<String>,
        optional: bool,
    }
    LimitSpec {
        r#match: LimitMatchSpec,
        per: Option<String>,
        requests: u32,
        every: Option<String>,
    }
    LimitMatchSpec {
        uri: Option<StringMatchSpec>,
        method: Option<StringMatchSpec>,
        headers: BTreeMap<String, StringMatchSpec>,
    }
    TransformationSpec {
        owner: Option<String>,
        expires: Option<String>,
        selector: Option<SelectorSpec>,
        target_refs: Vec<TargetRefSpec>,
        r#match: Vec<TransformationMatchSpec>,
        request: Option<RequestChangesSpec>,
        response: Option<ResponseChangesSpec>,
    }
    TargetRefSpec {
        group: String,
        kind: String,
        name: String,
    }
    TransformationMatchSpec {
        uri: Option<StringMatchSpec>,
        method: Option<StringMatchSpec>,
        authority: Option<StringMatchSpec>,
        headers: BTreeMap<String, StringMatchSpec>,
        without_headers: BTreeMap<String, StringMatchSpec>,
        query_params: BTreeMap<String, StringMatchSpec>,
    }
    RequestChangesSpec {
        headers: HeaderOpsSpec,
        query_params: QueryOpsSpec,
        body: Option<BodyChangesSpec>,
    }
    ResponseChangesSpec {
        when_status: Vec<u16>,
        status: Option<u16>,
        headers: HeaderOpsSpec,
        body: Option<BodyChangesSpec>,
    }
    QueryOpsSpec {
        set: BTreeMap<String, String>,
        add: BTreeMap<String, String>,
        remove: Vec<String>,
    }
    BodyChangesSpec {
        content_types: Vec<String>,
        replace: Vec<ReplacementSpec>,
        json_patch: Vec<serde_json::Value>,
        otherwise: Option<String>,
    }
    ReplacementSpec {
        text: Option<String>,
        regex: Option<String>,
        with: String,
    }
    MeshConfigSpec {
        trust_domain: Option<String>,
        root_namespace: Option<String>,
        certificate_ttl: Option<String>,
        root_ttl: Option<String>,
        intermediate_ttl: Option<String>,
        rotation_wait: Option<String>,
        mtls: Option<MtlsSpec>,
        #[serde(rename = "meshMTLS")]
        mesh_mtls: Option<MeshMtlsSpec>,
        authorization: Option<AuthorizationSpec>,
        caller_shares: Option<CallerSharesSpec>,
        path_normalization: Option<PathNormalizationSpec>,
        extension_providers: Vec<ExtensionProviderSpec>,
        dns: Option<DnsSpec>,
        default_config: Option<ProxySpec>,
        outbound_traffic_policy: Option<OutboundTrafficPolicySpec>,
        tracing: Option<TracingSpec>,
        audit: Option<AuditSpec>,
        tap: Option<TapSpec>,
        break_glass: Option<BreakGlassSpec>,
        access_log_file: Option<String>,
        access_log_encoding: Option<String>,
        access_log_format: Option<String>,
        danger_allow_internal_jwks: bool,
        jwks_ca_certificates: Option<String>,
        kubernetes_tokens: Option<KubernetesTokensSpec>,
        federation: Option<FederationSpec>,
    }
    KubernetesTokensSpec {
        audience: String,
        issuer: Option<String>,
        jwks: Option<String>,
        api_server: Option<String>,
        ca_file: Option<String>,
        token_file: Option<String>,
    }
    FederationSpec {
        bundle_endpoint: Option<BundleEndpointSpec>,
        ca_certificates: Option<String>,
        danger_allow_internal_endpoints: bool,
    }
    BundleEndpointSpec {
        address: String,
        profile: Option<String>,
        credential_name: Option<String>,
        refresh_hint: Option<String>,
    }
    FederatedTrustDomainSpec {
        #[serde(rename = "className")]
        _class_name: Option<String>,
        trust_domain: String,
        #[serde(rename = "bundleEndpointURL")]
        bundle_endpoint_url: Option<String>,
        bundle_endpoint_profile: Option<EndpointProfileSpec>,
        trust_domain_bundle: Option<String>,
        trust_domain_bundle_file: Option<String>,
    }
    EndpointProfileSpec {
        r#type: String,
        #[serde(rename = "endpointSPIFFEID")]
        endpoint_spiffe_id: Option<String>,
    }
    ExtensionProviderSpec {
        name: String,
        envoy_ext_authz_grpc: Option<ExtAuthzGrpcSpec>,
        envoy_ext_authz_http: Option<ExtAuthzHttpSpec>,
    }
    ExtAuthzGrpcSpec {
        service: String,
        port: u16,
        timeout: Option<String>,
        fail_open: bool,
        status_on_error: Option<String>,
        include_request_body_in_check: Option<BodyInCheckSpec>,
    }
    BodyInCheckSpec {
        max_request_bytes: u32,
        allow_partial_message: bool,
        pack_as_bytes: bool,
    }
    ExtAuthzHttpSpec {
        service: String,
        port: u16,
        timeout: Option<String>,
        fail_open: bool,
        status_on_error: Option<String>,
        path_prefix: Option<String>,
        include_headers_in_check: Vec<String>,
        include_request_headers_in_check: Vec<String>,
        include_additional_headers_in_check: BTreeMap<String, String>,
        include_request_body_in_check: Option<BodyInCheckSpec>,
        headers_to_upstream_on_allow: Vec<String>,
        headers_to_downstream_on_allow: Vec<String>,
        headers_to_downstream_on_deny: Vec<String>,
    }
    PathRuleSpec {
        selector: Option<SelectorSpec>,
        normalization: Option<String>,
        port_level: BTreeMap<String, PortPathRuleSpec>,
    }
    PortPathRuleSpec { normalization: Option<String>, }
    MeshMtlsSpec { ecdh_curves: Vec<String>, }
    CallerSharesSpec {
        requests_per_connection: Option<i64>,
        requests_per_caller: Option<i64>,
    }
    DnsSpec { name_servers: Vec<String>, }
    ProxySpec { gateway_topology: Option<TopologySpec>, }
    TopologySpec {
        num_trusted_proxies: u32,
        forward_client_cert_details: Option<String>,
        proxy_protocol: Option<ProxyProtocolSpec>,
    }
    ProxyProtocolSpec { }
    OutboundTrafficPolicySpec { mode: Option<String>, }
    AuthorizationSpec {
        state: Option<String>,
        namespaces: BTreeMap<String, String>,
        services: BTreeMap<String, String>,
    }
    BreakGlassSpec {
        public_keys: Vec<String>,
        mesh_public_keys: Vec<String>,
        revoked: Vec<String>,
    }
    TapSpec {
        mode: Option<String>,
        namespaces: BTreeMap<String, String>,
    }
    TracingSpec {
        otlp_endpoint: String,
        sampling_percent: Option<f64>,
    }
    FieldClassesSpec {
        headers: BTreeMap<String, String>,
        query: BTreeMap<String, String>,
        claims: BTreeMap<String, String>,
        context: BTreeMap<String, String>,
    }
    AuditSpec {
        recorded_headers: Vec<String>,
        danger_pass_unrecorded: bool,
        field_classes: FieldClassesSpec,
        join_key: Option<String>,
        level: Option<String>,
        wal_max_bytes: Option<u64>,
        columns_after: Option<String>,
        retention: Option<String>,
        witnesses: Vec<WitnessSpec>,
        witness_quorum: Option<u16>,
        witness_timeout: Option<String>,
        danger_acknowledge_unwitnessed: bool,
        replicas: Option<u16>,
        replicas_elsewhere: Vec<AuditReplicaSpec>,
    }
    AuditReplicaSpec {
        name: String,
        address: String,
    }
    WitnessSpec {
        url: String,
        key: String,
    }
    LocalMeshSpec { workloads: Vec<LocalWorkloadSpec>, }
    LocalWorkloadSpec {
        name: String,
        namespace: Option<String>,
        service_account: Option<String>,
        labels: BTreeMap<String, String>,
        role: Option<String>,
        replicas: Option<u16>,
        command: Option<Vec<String>>,
        env: BTreeMap<String, String>,
        working_dir: Option<String>,
        ports: Vec<LocalPortSpec>,
        health: Option<HealthSpec>,
        restart_policy: Option<String>,
        hold_application_until_proxy_starts: Option<bool>,
        metrics: Option<MetricsSpec>,
    }
    MetricsSpec {
        port: u16,
        path: Option<String>,
    }
    LocalPortSpec {
        port: u16,
        name: String,
        app_port: Option<u16>,
    }
    HealthSpec {
        http_get: Option<HttpGetSpec>,
        tcp: Option<PortProbeSpec>,
        period_seconds: Option<u32>,
        failure_threshold: Option<u32>,
    }
    HttpGetSpec {
        path: String,
        port: u16,
    }
    PortProbeSpec { port: u16, }
}

/// A mode by its name, or Istio's form: `{normalization: MODE}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathNormalizationSpec {
    pub(crate) mode: String,
    /// Whether it was Istio's form.
    pub(crate) nested: bool,
    /// Other keys of that form.
    pub(crate) unknown: Vec<String>,
}

impl<'de> Deserialize<'de> for PathNormalizationSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NormalizationVisitor)
    }
}

struct NormalizationVisitor;

impl<'de> Visitor<'de> for NormalizationVisitor {
    type Value = PathNormalizationSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mode, or a mapping with normalization")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(PathNormalizationSpec {
            mode: text.to_owned(),
            nested: false,
            unknown: Vec::new(),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut spec = PathNormalizationSpec {
            mode: "DEFAULT".to_owned(),
            nested: true,
            unknown: Vec::new(),
        };
        while let Some(key) = entries.next_key::<String>()? {
            match key.as_str() {
                "normalization" => spec.mode = entries.next_value()?,
                _ => {
                    let IgnoredAny = entries.next_value()?;
                    spec.unknown.push(key);
                }
            }
        }
        Ok(spec)
    }
}
