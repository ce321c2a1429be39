//! Policy sets of a size, and the requests that they are asked about.
//!
//! - `mesh`: services with ten policies each, ten services to a namespace. Nine permits let one service account GET or POST
//!   below a path, every third for staff only; one `forbid` in ten is about writing without a tenant header. A mesh-wide
//!   `forbid` keeps addresses out.
//! - `conditions`: no policy names a principal or resource; they differ in the path that they permit to staff.
//! - `one service`: each policy permits another workload to GET from the one service.
//! - `groups`: as `mesh`, by types that the mesh adds. Permits name a team of callers (each in two of them, below departments)
//!   and a group of services, a third of them asks for a label of the caller's, a third for the end user's group; the
//!   `forbid` asks for a label and an attribute of the resource. Nine entities in ten are workloads with labels, attributes and
//!   teams, up to 10,000 of them.

use std::sync::Arc;

use http::request::Parts;
use reeve_core::{
    Namespace, PolicyId, SpiffeId, UnixTime,
    decision::{ResourceRef, User},
    model::{EntityRecord, PolicyMode, PolicySlice, PolicySource},
};

use serde_json::{Value, json};

use crate::Outcome;

pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
/// Policies of one service in [`Shape::Mesh`].
pub(crate) const PER_SERVICE: usize = 10;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Mesh,
    Conditions,
    OneService,
    Groups,
}

/// What [`Shape::Groups`] adds to the schema.
const SCHEMA: &str = "
    entity Department;
    entity Team in [Department] { budget?: Long };
    entity Shelf;
    entity Workload in [Team] { tier?: String };
    entity Service in [Shelf];
    @claim(\"groups\") @issuer(\"https://issuer.example\") entity Group;
    entity User in [Group];
";
/// Most workloads that something is known of.
const KNOWN_CALLERS: usize = 10_000;

/// Who asks whom for what.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) id: SpiffeId,
    pub(crate) resource: Arc<ResourceRef>,
    pub(crate) authority: String,
    /// What its paths begin with.
    pub(crate) path: String,
}

impl Shape {
    pub(crate) const ALL: [Self; 4] =
        [Self::Mesh, Self::Conditions, Self::OneService, Self::Groups];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Conditions => "conditions",
            Self::OneService => "one service",
            Self::Groups => "groups",
        }
    }

    /// The whole set: policies, and what they rest on.
    pub(crate) fn slice(self, size: usize) -> Outcome<PolicySlice> {
        let mut slice = PolicySlice {
            policies: self.policies(size)?,
            ..PolicySlice::default()
        };
        if self == Self::Groups {
            slice.schema = vec![SCHEMA.to_owned()];
            slice.entities = Arc::new(entities(size)?);
        }
        Ok(slice)
    }

    pub(crate) fn policies(self, size: usize) -> Outcome<Vec<PolicySource>> {
        let policy = |number| {
            Ok(PolicySource {
                id: PolicyId::parse(&format!("reeve-system/p{number:06}"))?,
                scope: None,
                mode: PolicyMode::Enforce,
                text: self.text(number),
            })
        };
        (0..size).map(policy).collect()
    }

    fn text(self, number: usize) -> String {
        let service = number / PER_SERVICE;
        match self {
            Self::Mesh if number == 11 => r#"@description("addresses that nobody calls from") forbid (principal, action, resource) when { context.source_ip.isInRange(ip("192.0.2.0/24")) };"#.to_owned(),
            Self::Mesh if number % PER_SERVICE == PER_SERVICE - 1 => format!(
                r#"forbid (principal, action in Action::"write", resource in Service::"{}") unless {{ context.headers.hasTag("x-tenant") }};"#,
                host(service)
            ),
            Self::Mesh => {
                let staff = if kind(number) == 2 {
                    r#" && context has user && context.user.hasTag("groups") && context.user.getTag("groups").contains("staff")"#
                } else {
                    ""
                };
                format!(
                    r#"permit (principal in ServiceAccount::"{}", action in [Action::"GET", Action::"POST"], resource in Service::"{}") when {{ context.mtls && context.path like "/api/v{}/*"{staff} }};"#,
                    account(number),
                    host(service),
                    kind(number),
                )
            }
            Self::Groups if number % PER_SERVICE == PER_SERVICE - 1 => format!(
                r#"forbid (principal, action in Action::"write", resource in Shelf::"shelf-{service}") unless {{ context.headers.hasTag("x-tenant") && resource.hasTag("stage") && resource.getTag("stage").contains("live") }};"#,
            ),
            Self::Groups => {
                let more = match kind(number) {
                    0 => r#" && principal is Workload && principal.hasTag("app") && principal.getTag("app").contains("web")"#,
                    1 => r#" && principal is Workload && principal has tier && principal.tier == "gold""#,
                    _ => r#" && context has user && context.user in Group::"staff""#,
                };
                format!(
                    r#"permit (principal in Team::"team-{}", action in [Action::"GET", Action::"POST"], resource in Shelf::"shelf-{service}") when {{ context.mtls && context.path like "/api/v{}/*"{more} }};"#,
                    team(number),
                    kind(number),
                )
            }
            Self::Conditions => format!(
                r#"permit (principal, action in Action::"http", resource) when {{ context.path like "/tenant-{number:06}/*" && context has user && context.user.issuer == "https://issuer.example" }};"#,
            ),
            Self::OneService => format!(
                r#"permit (principal == Workload::"spiffe://{}", action == Action::"GET", resource in Service::"{}") when {{ context.path like "/api/*" }};"#,
                account(number),
                host(0),
            ),
        }
    }

    /// A caller that one of the policies is for. The numbers are spread over all services, and over each service's policies
    /// in the same way at every size, so that it is the size alone that differs.
    pub(crate) fn caller(self, number: usize, size: usize) -> Outcome<Caller> {
        let service = number.wrapping_mul(7919) % (size / PER_SERVICE).max(1);
        let policy = service * PER_SERVICE + number % (PER_SERVICE - 1);
        self.of_policy(policy % size)
    }

    /// Each number another caller.
    pub(crate) fn stranger(self, number: usize, size: usize) -> Outcome<Caller> {
        let mut caller = self.caller(number, size)?;
        let other = format!("spiffe://mesh.local/ns/elsewhere/sa/stranger-{number}");
        caller.id = SpiffeId::parse(&other)?;
        Ok(caller)
    }

    fn of_policy(self, policy: usize) -> Outcome<Caller> {
        let service = match self {
            Self::Mesh | Self::Groups => policy / PER_SERVICE,
            Self::Conditions | Self::OneService => 0,
        };
        let path = match self {
            Self::Mesh | Self::Groups => format!("/api/v{}/items/", kind(policy)),
            Self::Conditions => format!("/tenant-{policy:06}/items/"),
            Self::OneService => "/api/items/".to_owned(),
        };
        let name = namespace(service);
        let resource = ResourceRef {
            workload: Some(SpiffeId::parse(&format!(
                "spiffe://mesh.local/ns/{name}/sa/service-{service}"
            ))?),
            namespace: Namespace::parse(&name)?,
            services: vec![
                host(service).parse()?,
                format!("all.{}", host(service)).parse()?,
            ],
            address: None,
        };
        let caller = match self {
            Self::Groups => policy % KNOWN_CALLERS,
            Self::Mesh | Self::Conditions | Self::OneService => policy,
        };
        Ok(Caller {
            id: SpiffeId::parse(&format!("spiffe://{}", account(caller)))?,
            resource: Arc::new(resource),
            authority: host(service),
            path,
        })
    }
}

/// Permits of [`Shape::Mesh`] come in three kinds.
pub(crate) fn kind(policy: usize) -> usize {
    policy % PER_SERVICE % 3
}

pub(crate) fn namespace(service: usize) -> String {
    format!("team-{}", service / 10)
}

pub(crate) fn host(service: usize) -> String {
    format!("service-{service}.{}.svc.cluster.local", namespace(service))
}

/// The caller of a policy.
pub(crate) fn account(policy: usize) -> String {
    let of = policy.wrapping_mul(31) % 5_000;
    format!("mesh.local/ns/team-{}/sa/caller-{policy}", of / 50)
}

/// The team that the caller of a policy is in; five callers share one.
fn team(policy: usize) -> usize {
    policy % KNOWN_CALLERS / 5
}

/// What is known of the callers and services of [`Shape::Groups`].
fn entities(size: usize) -> Outcome<Vec<EntityRecord>> {
    let entity = |kind: &str, id: String| json!({"type": kind, "id": id});
    let callers = (0..size.min(KNOWN_CALLERS)).map(|number| {
        let teams = [team(number), team(number + 50)].map(|n| entity("Team", format!("team-{n}")));
        json!({"uid": entity("Workload", format!("spiffe://{}", account(number))), "parents": teams,
               "attrs": {"tier": "gold"}, "tags": {"app": ["web", format!("caller-{number}")]}})
    });
    let teams = (0..=team(size.min(KNOWN_CALLERS) - 1) + 10).map(|number| {
        let department = entity("Department", format!("department-{}", number / 20));
        json!({"uid": entity("Team", format!("team-{number}")), "parents": [department], "attrs": {"budget": number}})
    });
    let services = (0..size.div_ceil(PER_SERVICE).min(KNOWN_CALLERS / 2)).flat_map(|number| {
        let name = namespace(number);
        let workload = format!("spiffe://mesh.local/ns/{name}/sa/service-{number}");
        let tags = json!({"stage": ["live"]});
        [
            json!({"uid": entity("Service", host(number)), "parents": [entity("Shelf", format!("shelf-{number}"))], "tags": tags}),
            json!({"uid": entity("Workload", workload), "tags": tags}),
        ]
    });
    let all: Vec<Value> = callers.chain(teams).chain(services).collect();
    let mut all: Vec<EntityRecord> = serde_json::from_value(Value::Array(all))?;
    all.sort_by(|one, other| one.uid.cmp(&other.uid));
    Ok(all)
}

/// An end user as identity providers have them.
pub(crate) fn user() -> User {
    let set = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
    let claims = [
        ("aud", set(&["orders", "reviews"])),
        ("azp", set(&["web"])),
        ("email", set(&["alice@example.com"])),
        ("email_verified", set(&["true"])),
        ("groups", set(&["staff", "eu", "beta", "on-call"])),
        ("name", set(&["Alice Example"])),
        ("realm.roles", set(&["reader", "writer"])),
        ("scope", set(&["openid", "profile", "orders:read"])),
        ("tenant", set(&["t-17"])),
    ];
    User {
        issuer: "https://issuer.example".into(),
        subject: "f81d4fae-7dec-11d0-a765-00a0c91e6bf6".into(),
        claims: claims.into_iter().map(|(n, v)| (n.to_owned(), v)).collect(),
        expires_at: None,
    }
}

/// The head of a request as browsers and libraries send them.
pub(crate) fn head(caller: &Caller, number: u64) -> Outcome<Parts> {
    let uri = format!(
        "http://{}{}{number}?page=2&sort=asc",
        caller.authority, caller.path
    );
    let method = if number % 4 == 3 { "POST" } else { "GET" };
    let request = http::Request::builder()
        .method(method)
        .uri(uri)
        .header("accept", "application/json, text/plain;q=0.9, */*;q=0.5")
        .header("accept-encoding", "gzip, deflate, br")
        .header("accept-language", "en-GB,en;q=0.8")
        .header("authorization", "Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2ln")
        .header("cache-control", "no-cache")
        .header("content-type", "application/json")
        .header(
            "cookie",
            "session=9f1c2d8e7a544c9e8a352f0d9c1b6e77; theme=dark",
        )
        .header(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
        .header("user-agent", "shop/1.4 (linux; x86_64)")
        .header("x-forwarded-proto", "https")
        .header("x-request-id", "9f1c2d8e-7a54-4c9e-8a35-2f0d9c1b6e77")
        .header("x-tenant", "t-17")
        .body(())?;
    Ok(request.into_parts().0)
}
