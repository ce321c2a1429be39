//! `security.istio.io`: `PeerAuthentication`, `RequestAuthentication`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::raw;

raw! {
    SelectorSpec { match_labels: BTreeMap<String, String>, }
    PeerAuthenticationSpec {
        selector: Option<SelectorSpec>,
        mtls: Option<MtlsSpec>,
        port_level_mtls: BTreeMap<String, MtlsSpec>,
    }
    MtlsSpec { mode: Option<String>, }
    RequestAuthenticationSpec {
        selector: Option<SelectorSpec>,
        jwt_rules: Vec<JwtRuleSpec>,
    }
    JwtRuleSpec {
        issuer: String,
        audiences: Vec<String>,
        jwks_uri: Option<String>,
        jwks: Option<String>,
        from_headers: Vec<JwtHeaderSpec>,
        from_params: Vec<String>,
        forward_original_token: bool,
        output_claim_to_headers: Vec<ClaimToHeaderSpec>,
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
