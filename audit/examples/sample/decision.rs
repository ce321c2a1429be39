//! A decision as they are many: by a workload, over mTLS, with one recorded header and a trace.

use reeve_audit::{AuthenticatedBy, DecisionRecord, Direction, LookedFor, batch::BoxError};
use reeve_core::{
    decision::{
        AccessRequest, Action, Decision, Effect, HttpContext, Principal, Reason, RequestContext,
        ResourceRef,
    },
    model::{Generation, MtlsMode, PathNormalization},
};

pub(crate) fn decision() -> Result<DecisionRecord, BoxError> {
    Ok(DecisionRecord {
        request: AccessRequest {
            principal: Principal::Workload(
                "spiffe://mesh.local/ns/default/sa/productpage".parse()?,
            ),
            user: None,
            action: Action::Get,
            resource: ResourceRef {
                workload: Some("spiffe://mesh.local/ns/default/sa/reviews".parse()?),
                namespace: "default".parse()?,
                services: vec!["reviews.default.svc.cluster.local".parse()?],
                address: None,
            },
            context: RequestContext {
                destination_ip: None,
                remote_ip: None,
                sni: None,
                source_ip: [127, 77, 3, 1].into(),
                port: 9080,
                mtls: true,
                time: reeve_core::UnixTime::from_secs(1_700_000_000),
                http: Some(HttpContext {
                    method: "GET".to_owned(),
                    host: "reviews".to_owned(),
                    path: "/reviews/0".to_owned(),
                    grpc: None,
                    headers: [("end-user".to_owned(), ["jason".to_owned()].into())].into(),
                    query: Default::default(),
                }),
            },
        },
        decision: Decision {
            policies: vec!["default/reviews".parse()?],
            ..Decision::without_policy(Effect::Allow, Reason::Permitted)
        },
        authenticated_by: AuthenticatedBy::Mtls,
        direction: Direction::Inbound,
        generation: Some(Generation(7)),
        policy_hash: "5a".repeat(32),
        projection_hash: "a5".repeat(32),
        looked_for: LookedFor::default(),
        redacted: Default::default(),
        mtls_mode: MtlsMode::Strict,
        strict_would_refuse: false,
        path_normalization: PathNormalization::RefuseAmbiguous,
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        request_id: Some("9f1c2d8e-7a54-4c9e-8a35-2f0d9c1b6e77".to_owned()),
        transformations: vec![],
        cost_us: 9,
    })
}
