//! Requests of every shape, for property tests.

use std::collections::BTreeSet;

use proptest::{
    collection::{btree_map, btree_set, vec},
    option,
    prelude::*,
    sample::select,
};
use reeve_core::{
    ServiceName, SpiffeId, UnixTime,
    decision::{
        AccessRequest, Action, GrpcMethod, HttpContext, Principal, RequestContext, ResourceRef,
        User,
    },
};

use crate::{
    fixtures::{self, namespace},
    uses::Uses,
};

/// Names everything that these requests can carry.
pub(crate) fn everything() -> Uses {
    let names = ["end-user", "x-a", "page", "groups", "realm.roles"];
    let names: BTreeSet<_> = names.map(str::to_owned).into();
    Uses {
        whole_context: true,
        hierarchy: true,
        headers: names.clone(),
        query: names.clone(),
        claims: names,
        ..Uses::default()
    }
}

fn spiffe_id() -> impl Strategy<Value = SpiffeId> {
    let domain = select(vec!["mesh.local", "partner.example"]);
    let path = select(vec![
        "/ns/default/sa/a",
        "/ns/default/sa/b",
        "/ns/pay/sa/a",
        "/other/form",
        "",
    ]);
    (domain, path).prop_map(|(domain, path)| fixtures::id(&format!("spiffe://{domain}{path}")))
}

fn multi_map() -> impl Strategy<Value = std::collections::BTreeMap<String, BTreeSet<String>>> {
    let name = select(vec![
        "end-user",
        "x-a",
        "page",
        "groups",
        "realm.roles",
        "unnamed",
    ]);
    btree_map(
        name.prop_map(str::to_owned),
        btree_set(select(vec!["", "a", "admin"]).prop_map(str::to_owned), 0..3),
        0..4,
    )
}

fn http() -> impl Strategy<Value = HttpContext> {
    let grpc = option::of(any::<String>().prop_map(|method| GrpcMethod {
        service: "store.Ratings".into(),
        method,
    }));
    let path = prop_oneof![
        select(vec![
            "",
            "/",
            "*",
            "/a",
            "/a/",
            "//",
            "/reviews/7",
            "/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r"
        ])
        .prop_map(str::to_owned),
        "(/[ -~é]{0,3}){0,20}",
    ];
    (
        any::<String>(),
        any::<String>(),
        path,
        grpc,
        multi_map(),
        multi_map(),
    )
        .prop_map(|(method, host, path, grpc, headers, query)| HttpContext {
            method,
            host,
            path,
            grpc,
            headers,
            query,
        })
}

fn user() -> impl Strategy<Value = User> {
    let issuer = prop_oneof![Just("https://issuer.example".to_owned()), any::<String>()];
    (issuer, any::<String>(), multi_map()).prop_map(|(issuer, subject, claims)| User {
        issuer,
        subject,
        claims,
        expires_at: None,
    })
}

fn resource() -> impl Strategy<Value = ResourceRef> {
    let service = select(vec![
        "reviews.default.svc.cluster.local",
        "api.example.com",
        "pay.pay.svc.cluster.local",
    ]);
    let services = vec(service.prop_map(|s| ServiceName::parse(s).unwrap()), 1..3);
    (
        option::of(spiffe_id()),
        select(vec!["default", "pay"]),
        services,
    )
        .prop_map(|(workload, ns, services)| ResourceRef {
            workload,
            namespace: namespace(ns),
            services,
            address: None,
        })
}

prop_compose! {
    /// Any request that a proxy can build.
    pub(crate) fn any_request()(
        principal in option::of(spiffe_id()),
        user in option::of(user()),
        action in select(Action::ALL.to_vec()),
        resource in resource(),
        source_ip in any::<std::net::IpAddr>(),
        (remote_ip, destination_ip) in any::<(Option<std::net::IpAddr>, Option<std::net::IpAddr>)>(),
        sni in option::of("[a-z.]{1,8}"),
        port in any::<u16>(),
        mtls in any::<bool>(),
        time in prop_oneof![any::<u64>(), 1_700_000_000_000..1_900_000_000_000u64],
        http in http(),
    ) -> AccessRequest {
        let http = (action != Action::Connect).then_some(http);
        let mut resource = resource;
        if resource.workload.is_none() {
            resource.services.truncate(1);
        }
        let principal = principal.or_else(|| resource.workload.is_none().then(|| fixtures::id(fixtures::PRODUCTPAGE)));
        AccessRequest {
            principal: principal.map_or(Principal::Unauthenticated, Principal::Workload),
            user: user.filter(|_| http.is_some()).map(Into::into),
            action,
            resource,
            context: RequestContext {
                destination_ip,
                http,
                mtls,
                port,
                remote_ip,
                sni: sni.map(Into::into),
                source_ip,
                time: UnixTime::from_millis(time),
            },
        }
    }
}
