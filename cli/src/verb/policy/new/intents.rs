//! The library of intents: what each asks for. What it makes of it is in `build`.

use serde::Serialize;

use super::{
    build,
    draft::Draft,
    given::{Given, wrong},
};
use crate::problem::Problem;

/// Something that people often want of a policy.
#[derive(Serialize)]
pub(super) struct Intent {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) params: &'static [Param],
    #[serde(skip)]
    pub(super) build: fn(&Given<'_>) -> Result<Draft, Problem>,
}

/// A parameter of an intent.
#[derive(Debug, Serialize)]
pub(super) struct Param {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) default: Option<&'static str>,
}

const fn needed(name: &'static str, about: &'static str) -> Param {
    Param {
        name,
        about,
        required: true,
        default: None,
    }
}

const fn optional(name: &'static str, about: &'static str) -> Param {
    Param {
        required: false,
        ..needed(name, about)
    }
}

const fn preset(name: &'static str, default: &'static str, about: &'static str) -> Param {
    Param {
        default: Some(default),
        ..optional(name, about)
    }
}

const SERVICE: Param = optional("service", "the service (reviews, reviews.shop)");
const NAMESPACE: Param = optional("namespace", "or all of a namespace");
const ISSUER: Param = needed("issuer", "who signs the tokens (iss)");
const CALLERS: &str = "service accounts (web, shop/web), SPIFFE IDs, namespace:NAME, groups (Team::books) or label:NAME=VALUE, with commas";

/// The intent whose policy is signed and kept rather than applied.
pub(super) const BREAK_GLASS: &str = "break-glass";

/// Every intent.
pub(super) const ALL: &[Intent] = &[
    Intent {
        name: "allow-callers",
        about: "let these callers, and nobody else by this policy, call a service",
        params: &[
            needed("service", "the service (reviews, reviews.shop)"),
            needed("callers", CALLERS),
            optional(
                "methods",
                "HTTP methods with commas, or connect [default: GET, or connect for TCP]",
            ),
            optional("path", "only this path; * stands for anything (/reviews/*)"),
        ],
        build: build::allow_callers,
    },
    Intent {
        name: "allow-grpc",
        about: "let these callers call gRPC methods of a service",
        params: &[
            needed("service", "the service (reviews, reviews.shop)"),
            needed("callers", CALLERS),
            needed(
                "methods",
                "gRPC methods with commas (pkg.Service/Method), or pkg.Service for all of it",
            ),
        ],
        build: build::allow_grpc,
    },
    Intent {
        name: "only-role-may-write",
        about: "forbid changes (POST, PUT, PATCH, DELETE, …) to end users without a role",
        params: &[
            SERVICE,
            NAMESPACE,
            optional(
                "issuer",
                "who signs the tokens (iss); a group says it itself",
            ),
            preset(
                "claim",
                "roles",
                "the claim that holds roles; nested ones with dots (realm.roles)",
            ),
            needed(
                "role",
                "the role that may write, or a group of end users (Group::editors)",
            ),
        ],
        build: build::only_role_may_write,
    },
    Intent {
        name: "require-scope",
        about: "forbid requests without a token that has an OAuth scope",
        params: &[
            SERVICE,
            NAMESPACE,
            ISSUER,
            needed("scope", "the scope (orders:read)"),
        ],
        build: build::require_scope,
    },
    Intent {
        name: "block-path",
        about: "forbid a path and all below it",
        params: &[
            SERVICE,
            NAMESPACE,
            needed("path", "the path (/admin)"),
            optional("except", CALLERS),
        ],
        build: build::block_path,
    },
    Intent {
        name: "business-hours",
        about: "forbid everything outside of certain hours of the day",
        params: &[
            SERVICE,
            NAMESPACE,
            preset("from", "08:00", "the first minute"),
            preset(
                "to",
                "18:00",
                "the first minute after; before `from`, the night between is meant",
            ),
            preset(
                "utc-offset",
                "+00:00",
                "how far the clock is ahead of UTC (+02:00)",
            ),
        ],
        build: build::business_hours,
    },
    Intent {
        name: "isolate-namespace",
        about: "forbid a namespace's workloads to everybody from elsewhere",
        params: &[
            needed("namespace", "the namespace"),
            optional(
                "allow",
                "exceptions, such as a gateway: service accounts (edge/gateway), SPIFFE IDs, namespace:NAME, Team::books, label:NAME=VALUE",
            ),
        ],
        build: build::isolate_namespace,
    },
    Intent {
        name: "require-mtls",
        about: "forbid callers without a mesh certificate",
        params: &[SERVICE, NAMESPACE],
        build: build::require_mtls,
    },
    Intent {
        name: "freeze",
        about: "forbid changes until a date; then the policy lapses by itself",
        params: &[
            SERVICE,
            NAMESPACE,
            needed(
                "until",
                "the last day (2030-12-31), or a time (2030-12-31T18:00:00Z)",
            ),
        ],
        build: build::freeze,
    },
    Intent {
        name: BREAK_GLASS,
        about: "what a break-glass grant permits, to be signed beforehand (`reeve break-glass sign --policy`)",
        params: &[
            SERVICE,
            NAMESPACE,
            needed("callers", CALLERS),
            preset("methods", "GET", "HTTP methods with commas, or connect"),
            optional("path", "only this path; * stands for anything (/admin/*)"),
        ],
        build: build::break_glass,
    },
];

impl Intent {
    /// The intent of that name.
    pub(super) fn named(name: &str) -> Result<&'static Self, Problem> {
        let found = ALL.iter().find(|intent| intent.name == name);
        found.ok_or_else(|| {
            let near = reeve_authz::nearest(name, ALL.iter().map(|intent| intent.name));
            let fix = near.map(|near| format!("did you mean {near}?"));
            wrong(format!("there is no intent {name}"))
                .fix(fix.unwrap_or_else(|| "`reeve policy new` lists them".to_owned()))
        })
    }
}
