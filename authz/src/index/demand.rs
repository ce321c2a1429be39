//! What a policy demands of a request before anything else in it can matter.
//!
//! Conditions are read in the order in which Cedar evaluates them: conjuncts from left to right, each only if those
//! before it hold. A demand found in one counts only when everything evaluated before it cannot fail, so a request
//! that does not meet it makes the policy false before anything of it can fail. Attributes and tags that may be
//! absent do not fail here, since strict validation refuses policies that do not ask first.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "few forms of Cedar's grammar are looked up by; every other, of later versions too, demands nothing"
)]

use std::net::IpAddr;

use cedar_policy::pst::{
    ActionConstraint, BinaryOp, Clause, EntityOrSlot, EntityUID, Expr, Literal, PatternElem,
    PrincipalConstraint, ResourceConstraint, Template, UnaryOp, Var,
};
use reeve_core::decision::{AccessRequest, Action, Principal};

use super::{
    aspects::MAX_PREFIX_BYTES,
    fact::{About, Fact, Network, Tag},
};
use crate::{entities::MAX_NAMED_SEGMENTS, failing::may_fail, mesh_schema::MeshSchema};

/// One of these must hold; `None` = nothing is demanded.
pub(super) type Wanted = Option<Vec<Fact>>;

/// What a policy demands.
#[derive(Debug)]
pub(super) struct Demand {
    pub(super) principals: Wanted,
    pub(super) resources: Wanted,
    pub(super) details: Wanted,
    /// Bits of [`shape_of`] that a request may have.
    pub(super) shape: u16,
}

const EVERY_SHAPE: u16 = u16::MAX;
const BY_WORKLOAD: u16 = 1 << 12;
const BY_NOBODY: u16 = 1 << 13;
const OF_WORKLOAD: u16 = 1 << 14;
const OF_SERVICE: u16 = 1 << 15;

/// A request's action, type of principal and type of resource: one bit each.
pub(super) fn shape_of(request: &AccessRequest) -> u16 {
    let principal = match request.principal {
        Principal::Workload(_) => BY_WORKLOAD,
        Principal::Unauthenticated => BY_NOBODY,
    };
    let resource = match request.resource.workload {
        Some(_) => OF_WORKLOAD,
        None => OF_SERVICE,
    };
    action_bit(request.action) | principal | resource
}

/// The shapes that requests for `actions` can have.
pub(super) fn every_request_shape(
    actions: impl IntoIterator<Item = Action>,
) -> impl Iterator<Item = u16> {
    let parties = [BY_WORKLOAD, BY_NOBODY]
        .into_iter()
        .flat_map(|by| [OF_WORKLOAD, OF_SERVICE].map(|of| by | of));
    actions.into_iter().flat_map(move |action| {
        parties
            .clone()
            .map(move |parties| action_bit(action) | parties)
    })
}

fn action_bit(action: Action) -> u16 {
    1 << (action as u16)
}

/// What one demand is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Principal,
    Resource,
    Detail,
}

impl Demand {
    pub(super) fn of(mesh: &MeshSchema, policy: &Template) -> Self {
        let mut this = Self {
            principals: principal_scope(&policy.principal),
            resources: resource_scope(&policy.resource),
            details: None,
            shape: scope_shape(mesh, policy),
        };
        for clause in policy.clauses() {
            let body = match clause {
                Clause::When(body) => {
                    this.narrow(mesh, body);
                    body
                }
                Clause::Unless(body) => body,
            };
            if may_fail(body) {
                break;
            }
        }
        this
    }

    fn narrow(&mut self, mesh: &MeshSchema, body: &Expr) {
        self.shape &= shape(mesh, body);
        let narrowed = |known: &mut Wanted, side| {
            *known = narrower(known.take(), wanted(body, side));
        };
        narrowed(&mut self.principals, Side::Principal);
        narrowed(&mut self.resources, Side::Resource);
        narrowed(&mut self.details, Side::Detail);
    }
}

/// Facts, one of which must hold for `expr` to be anything but false (and not an error).
fn wanted(expr: &Expr, side: Side) -> Wanted {
    match expr {
        Expr::BinaryOp { op, left, right } => match op {
            BinaryOp::And => {
                let second = if may_fail(left) {
                    None
                } else {
                    wanted(right, side)
                };
                narrower(wanted(left, side), second)
            }
            BinaryOp::Or => {
                let mut both = wanted(left, side)?;
                both.extend(wanted(right, side)?);
                Some(both)
            }
            BinaryOp::Eq => equal(left, right, side).or_else(|| equal(right, left, side)),
            BinaryOp::In if is_subject(left, side) => entities(right),
            BinaryOp::Contains if is_subject(right, side) => entities(left),
            BinaryOp::Contains | BinaryOp::ContainsAll | BinaryOp::ContainsAny
                if side == Side::Detail =>
            {
                members(left, right)
            }
            BinaryOp::IsInRange if side == Side::Detail && is_source(left) => {
                Some(vec![Fact::Network(network(right)?)])
            }
            _ => None,
        },
        Expr::Is {
            expr,
            in_expr: Some(parent),
            ..
        } if is_subject(expr, side) => entities(parent),
        Expr::Like { expr, pattern } if side == Side::Detail && is_path(expr) => prefix(pattern),
        _ => None,
    }
}

fn equal(this: &Expr, that: &Expr, side: Side) -> Wanted {
    if is_subject(this, side) {
        return entities(that);
    }
    if side != Side::Detail {
        return None;
    }
    if is_source(this) {
        return Some(vec![Fact::Network(single(network(that)?)?)]);
    }
    match that {
        Expr::Literal(Literal::String(text)) => {
            let text = text.as_str().into();
            Some(vec![match segment(this) {
                Some(place) => Fact::Segment(place, text),
                None => Fact::Text(attribute(this)?, text),
            }])
        }
        Expr::Literal(Literal::Long(port)) if context_path(this)?.as_slice() == ["port"] => {
            Some(vec![Fact::Port(u16::try_from(*port).ok()?)])
        }
        _ => None,
    }
}

fn is_subject(expr: &Expr, side: Side) -> bool {
    match expr {
        Expr::Var(Var::Principal) => side == Side::Principal,
        Expr::Var(Var::Resource) => side == Side::Resource,
        _ => false,
    }
}

/// Entities that are spelled out, one or a set of them.
fn entities(expr: &Expr) -> Wanted {
    match expr {
        Expr::Literal(Literal::EntityUID(uid)) => Some(vec![entity(uid)?]),
        Expr::Set(items) => {
            let each = items.iter().map(|item| match &**item {
                Expr::Literal(Literal::EntityUID(uid)) => entity(uid),
                _ => None,
            });
            each.collect()
        }
        _ => None,
    }
}

fn entity(uid: &EntityUID) -> Option<Fact> {
    let about = About::entity(uid.ty.0.id.as_str());
    let built = || Fact::Text(about, uid.eid.as_str().into());
    uid.ty.0.namespace.is_empty().then(built)
}

/// The attributes of the context that are looked up by their whole value.
fn attribute(expr: &Expr) -> Option<About> {
    let path = context_path(expr)?;
    Some(match path.as_slice() {
        ["path"] => About::Path,
        ["host"] => About::Host,
        ["method"] => About::Method,
        ["user", "subject"] => About::Subject,
        ["user", "issuer"] => About::Issuer,
        ["grpc", "service"] => About::GrpcService,
        ["grpc", "method"] => About::GrpcMethod,
        _ => return None,
    })
}

/// The place of `context.path_segments.s1` and so on.
fn segment(expr: &Expr) -> Option<u8> {
    let path = context_path(expr)?;
    let ["path_segments", name] = path.as_slice() else {
        return None;
    };
    let place = name.strip_prefix('s')?.parse().ok()?;
    (usize::from(place) <= MAX_NAMED_SEGMENTS).then_some(place)
}

fn is_source(expr: &Expr) -> bool {
    context_path(expr).is_some_and(|path| path == ["source_ip"])
}

/// `ip("10.0.0.0/8")`
fn network(expr: &Expr) -> Option<Network> {
    let Expr::UnaryOp {
        op: UnaryOp::Ip,
        expr,
    } = expr
    else {
        return None;
    };
    let Expr::Literal(Literal::String(text)) = &**expr else {
        return None;
    };
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse().ok()?)),
        None => (text.as_str(), None),
    };
    let address: IpAddr = address.parse().ok()?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    Network::around(address, length.unwrap_or(whole))
}

/// The network, if it is one address: a range equals no caller.
fn single(network: Network) -> Option<Network> {
    let whole = if network.v6 { 128 } else { 32 };
    (network.length == whole).then_some(network)
}

fn is_path(expr: &Expr) -> bool {
    attribute(expr) == Some(About::Path)
}

/// `context.a.b` as its names.
fn context_path(expr: &Expr) -> Option<Vec<&str>> {
    match expr {
        Expr::Var(Var::Context) => Some(Vec::new()),
        Expr::GetAttr { expr, attr } => {
            let mut path = context_path(expr)?;
            path.push(attr);
            Some(path)
        }
        _ => None,
    }
}

/// The beginning that a pattern spells out, as far as paths are looked up by it.
fn prefix(pattern: &[PatternElem]) -> Wanted {
    let mut literal = String::new();
    for elem in pattern {
        match elem {
            PatternElem::Char(c) if literal.len() + c.len_utf8() <= MAX_PREFIX_BYTES => {
                literal.push(*c);
            }
            _ => break,
        }
    }
    let prefix = || Fact::Text(About::PathPrefix, literal.as_str().into());
    (!literal.is_empty()).then(|| vec![prefix()])
}

/// `context.<headers, query, user>.getTag("name")`, or that of a party's label, that contains what is spelled out.
fn members(set: &Expr, member: &Expr) -> Wanted {
    let Expr::BinaryOp {
        op: BinaryOp::GetTag,
        left: holder,
        right: name,
    } = set
    else {
        return None;
    };
    let tag = match &**holder {
        Expr::Var(Var::Principal) => Tag::PrincipalLabel,
        Expr::Var(Var::Resource) => Tag::ResourceLabel,
        _ => match context_path(holder)?.as_slice() {
            ["user"] => Tag::Claim,
            ["headers"] => Tag::Header,
            ["query"] => Tag::Query,
            _ => return None,
        },
    };
    let Expr::Literal(Literal::String(name)) = &**name else {
        return None;
    };
    let fact = |expr: &Expr| match expr {
        Expr::Literal(Literal::String(text)) => Some(Fact::Member(
            tag,
            name.as_str().into(),
            text.as_str().into(),
        )),
        _ => None,
    };
    match member {
        // `containsAll` of nothing is true of every set.
        Expr::Set(items) if !items.is_empty() => items.iter().map(|item| fact(item)).collect(),
        Expr::Set(_) => None,
        single => Some(vec![fact(single)?]),
    }
}

/// The one of two demands, both of which must be met, that fewer requests meet.
fn narrower(one: Wanted, other: Wanted) -> Wanted {
    let measure = |facts: &Vec<Fact>| {
        let breadth = facts.iter().map(Fact::breadth).max().unwrap_or_default();
        (breadth, facts.len())
    };
    match (one, other) {
        (Some(a), Some(b)) if measure(&b) < measure(&a) => Some(b),
        (Some(a), _) => Some(a),
        (None, b) => b,
    }
}

fn principal_scope(scope: &PrincipalConstraint) -> Wanted {
    match scope {
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
        PrincipalConstraint::Eq(entity)
        | PrincipalConstraint::In(entity)
        | PrincipalConstraint::IsIn(_, entity) => scope_entity(entity),
    }
}

fn resource_scope(scope: &ResourceConstraint) -> Wanted {
    match scope {
        ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
        ResourceConstraint::Eq(entity)
        | ResourceConstraint::In(entity)
        | ResourceConstraint::IsIn(_, entity) => scope_entity(entity),
    }
}

fn scope_entity(constraint: &EntityOrSlot) -> Wanted {
    match constraint {
        EntityOrSlot::Entity(uid) => Some(vec![entity(uid)?]),
        EntityOrSlot::Slot(_) => None,
    }
}

fn scope_shape(mesh: &MeshSchema, policy: &Template) -> u16 {
    let principal = match &policy.principal {
        PrincipalConstraint::Is(kind) | PrincipalConstraint::IsIn(kind, _) => {
            principal_type(&kind.0.id)
        }
        _ => EVERY_SHAPE,
    };
    let resource = match &policy.resource {
        ResourceConstraint::Is(kind) | ResourceConstraint::IsIn(kind, _) => {
            resource_type(&kind.0.id)
        }
        _ => EVERY_SHAPE,
    };
    let action = match &policy.action {
        ActionConstraint::Any => EVERY_SHAPE,
        ActionConstraint::Eq(uid) => actions(mesh, std::slice::from_ref(uid)),
        ActionConstraint::In(uids) => actions(mesh, uids),
    };
    principal & resource & action
}

/// The shapes that `expr` can hold for; for every other it is false, and not an error.
fn shape(mesh: &MeshSchema, expr: &Expr) -> u16 {
    match expr {
        Expr::BinaryOp { op, left, right } => match (op, &**left, &**right) {
            (BinaryOp::And, _, _) if may_fail(left) => shape(mesh, left),
            (BinaryOp::And, _, _) => shape(mesh, left) & shape(mesh, right),
            (BinaryOp::Or, _, _) => shape(mesh, left) | shape(mesh, right),
            (
                BinaryOp::Eq | BinaryOp::In,
                Expr::Var(Var::Action),
                Expr::Literal(Literal::EntityUID(uid)),
            ) => actions(mesh, std::slice::from_ref(uid)),
            _ => EVERY_SHAPE,
        },
        Expr::Is {
            expr, entity_type, ..
        } => match **expr {
            Expr::Var(Var::Principal) => principal_type(&entity_type.0.id),
            Expr::Var(Var::Resource) => resource_type(&entity_type.0.id),
            _ => EVERY_SHAPE,
        },
        _ => EVERY_SHAPE,
    }
}

fn principal_type(name: &cedar_policy::pst::Id) -> u16 {
    let kinds = BY_WORKLOAD | BY_NOBODY;
    EVERY_SHAPE & !kinds
        | match About::entity(name.as_str()) {
            About::Workload => BY_WORKLOAD,
            About::Unauthenticated => BY_NOBODY,
            _ => 0,
        }
}

fn resource_type(name: &cedar_policy::pst::Id) -> u16 {
    let kinds = OF_WORKLOAD | OF_SERVICE;
    EVERY_SHAPE & !kinds
        | match About::entity(name.as_str()) {
            About::Workload => OF_WORKLOAD,
            About::Service => OF_SERVICE,
            _ => 0,
        }
}

fn actions(mesh: &MeshSchema, uids: &[EntityUID]) -> u16 {
    let every = Action::ALL.into_iter().map(action_bit).sum::<u16>();
    let meant = Action::ALL.into_iter().filter(|action| {
        uids.iter()
            .any(|uid| mesh.is_action_in(*action, uid.eid.as_str()))
    });
    EVERY_SHAPE & !every | meant.map(action_bit).sum::<u16>()
}
