//! Access decisions: Cedar policies against one schema, and JWT verification from given keys.
//!
//! Flow: `control` splits each `AccessPolicy` with [`parse_access_policy`] and validates it; a proxy compiles the
//! slice that concerns it into an [`Engine`] and asks [`Engine::decide`] once per request or connection. End users
//! come from [`JwtVerifier`].
//!
//! Invariants:
//! - Closed by default: no permit, no policy set, or a `forbid` that fails to evaluate is a denial with its reason.
//! - A policy enters an engine only when it passes strict validation against the built-in [`schema()`].
//! - A namespaced policy is never even evaluated for another namespace's resources.
//! - Decisions never depend on the order of policies, and nothing a peer sends can panic or outgrow a named bound.
//!
//! Deliberately absent: I/O, key fetching (that is `control`'s), wire formats, TLS.

#[cfg(test)]
mod arbitrary;
mod asked_of;
mod bounds;
pub mod break_glass;
#[cfg(test)]
mod cases;
mod check;
mod compile;
mod document;
mod engine;
mod entities;
pub mod eval;
mod explain;
mod expression;
mod extension;
mod failing;
mod fault;
#[cfg(test)]
mod fixtures;
mod format;
mod ids;
mod index;
mod judge;
mod known;
mod mesh_schema;
mod moments;
mod opaque;
mod plain;
mod review;
mod role;
mod schema;
mod store;
mod uses;
mod words;

pub use asked_of::AskedOf;
pub use check::parse_until;
pub use document::{mesh_hash, parse_access_policy, slice_hash};
pub use engine::{
    Asked, Engine, Foreseen, Foresight, MAX_CANDIDATES, Needs, Searched, Sight, Unknown,
};
pub use entities::{MAX_NAMED_SEGMENTS, datetime};
pub use explain::{Explanation, PolicyVerdict, Verdict};
pub use extension::SchemaFault;
pub use fault::{FaultKind, PolicyFault};
pub use format::format_policies;
pub use known::{Known, nearest};
pub use mesh_schema::schema;
pub use plain::{Plain, PlainQuestion};
pub use reeve_jwt as jwt;
pub use reeve_jwt::{JwtVerifier, TokenError, TokenLookup, Verified};
pub use review::{Remark, RemarkCode, Review, review};
pub use role::{BindError, Role};
pub use schema::{PolicySchema, entity_name};
pub use store::EntityFault;
pub use words::in_words;
