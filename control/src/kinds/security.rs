//! `security.istio.io`: `PeerAuthentication`, `RequestAuthentication`, `AuthorizationPolicy`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::raw;

raw! {
    SelectorSpec { match_labels: BTreeMap<String, String>, }
    PolicyTargetSpec {
        group: String,
        kind: String,
        name: String,
        namespace: Option<String>,
    }
    PeerAuthenticationSpec {
        selector: Option<SelectorSpec>,
        mtls: Option<MtlsSpec>,
        port_level_mtls: BTreeMap<String, MtlsSpec>,
    }
    MtlsSpec { mode: Option<String>, }
    RequestAuthenticationSpec {
        selector: Option<SelectorSpec>,
        target_ref: Option<PolicyTargetSpec>,
        target_refs: Vec<PolicyTargetSpec>,
        jwt_rules: Vec<JwtRuleSpec>,
    }
    JwtRuleSpec {
        issuer: String,
        audiences: Vec<String>,
        jwks_uri: Option<String>,
        jwks: Option<String>,
        from_headers: Vec<JwtHeaderSpec>,
        from_params: Vec<String>,
        from_cookies: Vec<String>,
        forward_original_token: bool,
        output_payload_to_header: Option<String>,
        output_claim_to_headers: Vec<ClaimToHeaderSpec>,
        space_delimited_claims: Vec<String>,
        timeout: Option<String>,
    }
    JwtHeaderSpec {
        name: String,
        prefix: Option<String>,
    }
    ClaimToHeaderSpec {
        header: String,
        claim: String,
    }
    AuthorizationPolicySpec {
        selector: Option<SelectorSpec>,
        target_ref: Option<PolicyTargetSpec>,
        target_refs: Vec<PolicyTargetSpec>,
        action: Option<String>,
        provider: Option<AuthorizationProviderSpec>,
        rules: Vec<AuthorizationRuleSpec>,
    }
    AuthorizationProviderSpec { name: String, }
    AuthorizationRuleSpec {
        from: Option<Vec<AuthorizationFromSpec>>,
        to: Option<Vec<AuthorizationToSpec>>,
        when: Vec<ConditionSpec>,
    }
    AuthorizationFromSpec { source: Option<SourceSpec>, }
    AuthorizationToSpec { operation: Option<OperationSpec>, }
    SourceSpec {
        principals: Vec<String>,
        not_principals: Vec<String>,
        request_principals: Vec<String>,
        not_request_principals: Vec<String>,
        namespaces: Vec<String>,
        not_namespaces: Vec<String>,
        service_accounts: Vec<String>,
        not_service_accounts: Vec<String>,
        ip_blocks: Vec<String>,
        not_ip_blocks: Vec<String>,
        remote_ip_blocks: Vec<String>,
        not_remote_ip_blocks: Vec<String>,
    }
    OperationSpec {
        hosts: Vec<String>,
        not_hosts: Vec<String>,
        ports: Vec<String>,
        not_ports: Vec<String>,
        methods: Vec<String>,
        not_methods: Vec<String>,
        paths: Vec<String>,
        not_paths: Vec<String>,
    }
    ConditionSpec {
        key: String,
        values: Vec<String>,
        not_values: Vec<String>,
    }
}
