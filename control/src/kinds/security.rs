//! `security.istio.io`: `PeerAuthentication`, `RequestAuthentication`.

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
}
