//! Requests and policies for tests.

use reeve_core::{
    Namespace, PolicyId, ServiceName, SpiffeId, UnixTime,
    decision::{
        AccessRequest, Action, GrpcMethod, HttpContext, Principal, RequestContext, ResourceRef,
        User,
    },
    model::{PolicyMode, PolicySlice, PolicySource},
};

use crate::{Engine, parse_access_policy};

pub(crate) const PRODUCTPAGE: &str = "spiffe://mesh.local/ns/default/sa/bookinfo-productpage";
pub(crate) const REVIEWS: &str = "spiffe://mesh.local/ns/default/sa/bookinfo-reviews";

pub(crate) fn namespace(name: &str) -> Namespace {
    Namespace::parse(name).unwrap()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// productpage asks reviews for `GET /reviews/7`.
pub(crate) fn request() -> AccessRequest {
    AccessRequest {
        principal: Principal::Workload(id(PRODUCTPAGE)),
        user: None,
        action: Action::Get,
        resource: ResourceRef {
            workload: Some(id(REVIEWS)),
            namespace: namespace("default"),
            services: vec![ServiceName::parse("reviews.default.svc.cluster.local").unwrap()],
            address: None,
        },
        context: RequestContext {
            destination_ip: None,
            remote_ip: None,
            sni: None,
            source_ip: "10.1.2.3".parse().unwrap(),
            port: 9080,
            mtls: true,
            time: UnixTime::from_secs(1_800_000_000),
            http: Some(HttpContext {
                method: "GET".into(),
                host: "reviews".into(),
                path: "/reviews/7".into(),
                grpc: None,
                headers: [("end-user".into(), ["jason".into(), "joe".into()].into())].into(),
                query: [("page".into(), ["2".into()].into())].into(),
            }),
        },
    }
}

/// The same, as a TCP connection.
pub(crate) fn connection() -> AccessRequest {
    let mut request = request();
    request.action = Action::Connect;
    request.context.http = None;
    request
}

pub(crate) fn grpc() -> GrpcMethod {
    GrpcMethod {
        service: "store.Ratings".into(),
        method: "Get".into(),
    }
}

pub(crate) fn user() -> User {
    User {
        issuer: "https://issuer.example".into(),
        subject: "alice".into(),
        claims: [("groups".into(), ["admin".into(), "staff".into()].into())].into(),
        expires_at: None,
    }
}

/// A policy as it reaches an engine.
pub(crate) fn source(name: &str, scope: Option<&str>, text: &str) -> PolicySource {
    PolicySource {
        id: PolicyId::parse(name).unwrap(),
        scope: scope.map(namespace),
        mode: PolicyMode::Enforce,
        text: text.into(),
    }
}

pub(crate) fn engine(policies: Vec<PolicySource>) -> Engine {
    let slice = PolicySlice {
        mesh_hash: "hash".into(),
        policies,
        ..PolicySlice::default()
    };
    Engine::compile(&slice).unwrap()
}

/// An engine for the policies of one mesh-wide document, named `reeve-system/p…`.
pub(crate) fn mesh_wide(document: &str) -> Engine {
    let root = namespace("reeve-system");
    engine(parse_access_policy(None, &root, "p", document).unwrap())
}
