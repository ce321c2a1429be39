//! Kinds of Istio's before `security.istio.io`: read for `reeve policy import` alone.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;

use super::{Object, push, raw, tables};
use crate::{Fault, source::Document};

raw! {
    ServiceRoleSpec { rules: Vec<RoleRuleSpec>, }
    RoleRuleSpec {
        services: Vec<String>,
        paths: Vec<String>,
        methods: Vec<String>,
        constraints: Vec<ConstraintSpec>,
    }
    ConstraintSpec {
        key: String,
        values: Vec<String>,
    }
    RoleBindingSpec {
        subjects: Vec<RoleSubjectSpec>,
        role_ref: Option<RoleRefSpec>,
        mode: Option<String>,
    }
    RoleSubjectSpec {
        user: Option<String>,
        group: Option<String>,
        properties: BTreeMap<String, String>,
    }
    RoleRefSpec {
        kind: String,
        name: String,
    }
    RbacConfigSpec {
        mode: Option<String>,
        inclusion: RbacTargetSpec,
        exclusion: RbacTargetSpec,
        enforcement_mode: Option<String>,
    }
    RbacTargetSpec {
        services: Vec<String>,
        namespaces: Vec<String>,
    }
    AuthenticationSpec {
        targets: Vec<AuthenticationTargetSpec>,
        peers: Vec<PeerMethodSpec>,
        peer_is_optional: bool,
        origins: Vec<OriginMethodSpec>,
        origin_is_optional: bool,
        principal_binding: Option<String>,
    }
    AuthenticationTargetSpec {
        name: String,
        ports: Vec<TargetPortSpec>,
    }
    TargetPortSpec {
        number: Option<u16>,
        name: Option<String>,
    }
    PeerMethodSpec {
        mtls: Option<LegacyMtlsSpec>,
        jwt: Option<LegacyJwtSpec>,
    }
    LegacyMtlsSpec {
        mode: Option<String>,
        allow_tls: bool,
    }
    OriginMethodSpec { jwt: Option<LegacyJwtSpec>, }
    LegacyJwtSpec {
        issuer: String,
        audiences: Vec<String>,
        jwks: Option<String>,
        jwks_uri: Option<String>,
        jwt_headers: Vec<String>,
        jwt_params: Vec<String>,
        trigger_rules: Vec<TriggerRuleSpec>,
    }
    TriggerRuleSpec {
        excluded_paths: Vec<BTreeMap<String, String>>,
        included_paths: Vec<BTreeMap<String, String>>,
    }
}

/// Every object of these kinds.
#[derive(Debug, Default)]
pub(crate) struct LegacyObjects {
    pub(crate) roles: Vec<Object<ServiceRoleSpec>>,
    pub(crate) bindings: Vec<Object<RoleBindingSpec>>,
    pub(crate) configs: Vec<Object<RbacConfigSpec>>,
    pub(crate) policies: Vec<Object<AuthenticationSpec>>,
}

impl LegacyObjects {
    /// Sorts every document into its kind, with all faults; others are passed over.
    pub(crate) fn read(documents: &[Arc<Document>]) -> (Self, Vec<Fault>) {
        let mut objects = Self::default();
        let mut faults = Vec::new();
        for d in documents {
            match d.kind.as_deref() {
                Some("ServiceRole") => push(&mut objects.roles, d, tables::STRICT, &mut faults),
                Some("ServiceRoleBinding") => {
                    push(&mut objects.bindings, d, tables::STRICT, &mut faults);
                }
                Some("ClusterRbacConfig" | "RbacConfig") => {
                    push(&mut objects.configs, d, tables::STRICT, &mut faults);
                }
                Some("Policy" | "MeshPolicy") => {
                    push(&mut objects.policies, d, tables::STRICT, &mut faults);
                }
                _ => {}
            }
        }
        (objects, faults)
    }
}
