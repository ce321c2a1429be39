//! `networking.istio.io`: `VirtualService`, `DestinationRule`, `Gateway`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::traffic::{ConnectionPoolSpec, FaultSpec, TrafficPolicySpec};

macro_rules! raw {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub(crate) struct $name { $($(#[$attr])* pub(crate) $field: $type,)* }
    )*};
}
pub(crate) use raw;

raw! {
    VirtualServiceSpec {
        export_to: Vec<String>,
        hosts: Vec<String>,
        gateways: Vec<String>,
        http: Vec<HttpRouteSpec>,
        tls: Vec<TlsRouteSpec>,
        tcp: Vec<TcpRouteSpec>,
    }
    HttpRouteSpec {
        name: Option<String>,
        r#match: Vec<MatchSpec>,
        route: Vec<WeightedSpec>,
        redirect: Option<RedirectSpec>,
        direct_response: Option<DirectResponseSpec>,
        rewrite: Option<RewriteSpec>,
        timeout: Option<String>,
        retries: Option<RetriesSpec>,
        fault: Option<FaultSpec>,
        headers: Option<HeadersSpec>,
        delegate: Option<DelegateSpec>,
        cors_policy: Option<CorsSpec>,
        mirror: Option<DestinationSpec>,
        mirror_percentage: Option<PercentSpec>,
        #[serde(alias = "mirror_percent")]
        mirror_percent: Option<u32>,
        mirrors: Vec<MirrorSpec>,
    }
    DelegateSpec {
        name: String,
        namespace: Option<String>,
    }
    PercentSpec { value: f64, }
    MirrorSpec {
        destination: Option<DestinationSpec>,
        percentage: Option<PercentSpec>,
    }
    CorsSpec {
        allow_origin: Vec<String>,
        allow_origins: Option<Vec<StringMatchSpec>>,
        allow_methods: Vec<String>,
        allow_headers: Vec<String>,
        expose_headers: Vec<String>,
        max_age: Option<String>,
        allow_credentials: bool,
        unmatched_preflights: Option<String>,
    }
    MatchSpec {
        name: Option<String>,
        uri: Option<StringMatchSpec>,
        scheme: Option<StringMatchSpec>,
        method: Option<StringMatchSpec>,
        authority: Option<StringMatchSpec>,
        headers: BTreeMap<String, StringMatchSpec>,
        without_headers: BTreeMap<String, StringMatchSpec>,
        query_params: BTreeMap<String, StringMatchSpec>,
        ignore_uri_case: bool,
        port: Option<u16>,
        gateways: Vec<String>,
        source_labels: BTreeMap<String, String>,
        source_namespace: Option<String>,
        stat_prefix: Option<String>,
    }
    StringMatchSpec {
        exact: Option<String>,
        prefix: Option<String>,
        regex: Option<String>,
    }
    WeightedSpec {
        destination: DestinationSpec,
        weight: Option<u32>,
        headers: Option<HeadersSpec>,
    }
    DestinationSpec {
        host: String,
        subset: Option<String>,
        port: Option<PortSelectorSpec>,
    }
    PortSelectorSpec { number: u16, }
    RedirectSpec {
        uri: Option<String>,
        authority: Option<String>,
        port: Option<u16>,
        derive_port: Option<String>,
        scheme: Option<String>,
        redirect_code: Option<u16>,
    }
    DirectResponseSpec {
        status: u16,
        body: Option<BodySpec>,
    }
    BodySpec {
        string: Option<String>,
        bytes: Option<String>,
    }
    RewriteSpec {
        uri: Option<String>,
        authority: Option<String>,
        uri_regex_rewrite: Option<RegexRewriteSpec>,
    }
    RegexRewriteSpec {
        r#match: String,
        rewrite: String,
    }
    RetriesSpec {
        attempts: Option<u32>,
        per_try_timeout: Option<String>,
        retry_on: Option<String>,
        backoff: Option<String>,
        retry_ignore_previous_hosts: Option<bool>,
        retry_remote_localities: Option<bool>,
    }
    HeadersSpec {
        request: HeaderOpsSpec,
        response: HeaderOpsSpec,
    }
    HeaderOpsSpec {
        set: BTreeMap<String, String>,
        add: BTreeMap<String, String>,
        remove: Vec<String>,
    }
    TcpRouteSpec {
        r#match: Vec<TcpMatchSpec>,
        route: Vec<WeightedSpec>,
    }
    TcpMatchSpec {
        destination_subnets: Vec<String>,
        port: Option<u16>,
        gateways: Vec<String>,
        source_labels: BTreeMap<String, String>,
        source_namespace: Option<String>,
    }
    TlsRouteSpec {
        r#match: Vec<TlsMatchSpec>,
        route: Vec<WeightedSpec>,
    }
    TlsMatchSpec {
        sni_hosts: Vec<String>,
        destination_subnets: Vec<String>,
        port: Option<u16>,
        gateways: Vec<String>,
        source_labels: BTreeMap<String, String>,
        source_namespace: Option<String>,
    }
    DestinationRuleSpec {
        export_to: Vec<String>,
        host: String,
        traffic_policy: Option<TrafficPolicySpec>,
        subsets: Vec<SubsetSpec>,
    }
    SubsetSpec {
        name: String,
        labels: BTreeMap<String, String>,
        traffic_policy: Option<TrafficPolicySpec>,
    }
    TlsSpec {
        mode: Option<String>,
        client_certificate: String,
        private_key: String,
        ca_certificates: String,
        ca_crl: String,
        credential_name: String,
        subject_alt_names: Vec<String>,
        sni: String,
        insecure_skip_verify: bool,
    }
    ServiceEntrySpec {
        hosts: Vec<String>,
        addresses: Vec<String>,
        ports: Vec<EntryPortSpec>,
        location: Option<String>,
        resolution: Option<String>,
        endpoints: Vec<WorkloadEntrySpec>,
        workload_selector: Option<WorkloadSelectorSpec>,
        export_to: Vec<String>,
        subject_alt_names: Vec<String>,
    }
    SidecarSpec {
        workload_selector: Option<WorkloadSelectorSpec>,
        egress: Vec<SidecarEgressSpec>,
        ingress: Vec<SidecarIngressSpec>,
        inbound_connection_pool: Option<ConnectionPoolSpec>,
        outbound_traffic_policy: Option<SidecarPolicySpec>,
    }
    SidecarEgressSpec { hosts: Vec<String>, }
    SidecarIngressSpec {
        port: Option<SidecarPortSpec>,
        bind: String,
        capture_mode: Option<String>,
        default_endpoint: String,
        connection_pool: Option<ConnectionPoolSpec>,
    }
    SidecarPortSpec {
        number: u16,
        protocol: String,
        name: String,
    }
    SidecarPolicySpec { mode: Option<String>, }
    EntryPortSpec {
        number: u16,
        protocol: String,
        name: String,
        target_port: Option<u16>,
    }
    WorkloadSelectorSpec { labels: BTreeMap<String, String>, }
    WorkloadEntrySpec {
        address: String,
        ports: BTreeMap<String, u16>,
        labels: BTreeMap<String, String>,
        weight: Option<u32>,
        locality: String,
        service_account: String,
    }
    WorkloadGroupSpec {
        metadata: GroupMetadataSpec,
        template: Option<WorkloadEntrySpec>,
    }
    GroupMetadataSpec { labels: BTreeMap<String, String>, }
    GatewaySpec {
        selector: BTreeMap<String, String>,
        servers: Vec<ServerSpec>,
    }
    ServerSpec {
        name: Option<String>,
        port: Option<ServerPortSpec>,
        bind: String,
        hosts: Vec<String>,
        tls: Option<ServerTlsSpec>,
    }
    ServerTlsSpec {
        mode: Option<String>,
        https_redirect: bool,
        server_certificate: String,
        private_key: String,
        ca_certificates: String,
        ca_crl: String,
        credential_name: String,
        credential_names: Vec<String>,
        ca_cert_credential_name: String,
        tls_certificates: Vec<TlsCertificateSpec>,
        subject_alt_names: Vec<String>,
        verify_certificate_spki: Vec<String>,
        verify_certificate_hash: Vec<String>,
        min_protocol_version: Option<String>,
        max_protocol_version: Option<String>,
        cipher_suites: Vec<String>,
    }
    TlsCertificateSpec {
        server_certificate: String,
        private_key: String,
        ca_certificates: String,
    }
    ServerPortSpec {
        number: u16,
        name: String,
        protocol: String,
    }
}
