//! A policy as alternatives of plain facts, any of which makes it apply.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "few forms of Cedar's grammar are understood; every other, of later versions too, is a fact of its own"
)]

use std::collections::BTreeSet;

use cedar_policy::pst::{
    ActionConstraint, BinaryOp, Clause, EntityOrSlot, EntityUID, Expr, Literal, PatternElem,
    PrincipalConstraint, ResourceConstraint, Template, UnaryOp, Var,
};
use reeve_core::decision::Action;

use crate::{compile::Compiled, entities::datetime, failing::may_fail, mesh_schema::MeshSchema};

/// Most alternatives of one policy; one with more is not looked at.
const MAX_BRANCHES: usize = 64;

/// When a policy applies: if all facts of one branch hold.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) branches: Vec<Branch>,
    resource: Option<String>,
}

/// Facts that must hold together.
pub(super) type Branch = Vec<Fact>;

/// One fact, and how the policy says it.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    pub(super) atom: Atom,
    pub(super) said: String,
}

/// Who or what a fact is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Principal,
    Resource,
}

/// Something that holds or not. Terms are expressions as Cedar writes them: within one request, each has one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Atom {
    Never,
    Not(Box<Atom>),
    /// The action is one of these.
    Actions(u16),
    /// The resource is in this namespace: the policy decides nothing else.
    Tenant(String),
    Is(Side, String),
    Equals(Side, Uid),
    /// In one of them.
    In(Side, Vec<Uid>),
    Text(String, String),
    Like(String, Vec<PatternElem>),
    /// Between them, both included.
    Number(String, i64, i64),
    /// A set that is just this.
    Members(String, BTreeSet<String>),
    /// A set that has it.
    Has(String, String),
    /// Anything else.
    Holds(String),
}

/// An entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Uid {
    pub(super) kind: String,
    pub(super) id: String,
}

impl Region {
    /// The region of `policy`, unless it may fail to evaluate or has too many alternatives.
    pub(super) fn of(mesh: &MeshSchema, policy: &Compiled) -> Option<Self> {
        let tree = &policy.tree()?;
        let mut branches: Vec<Branch> = vec![scope(mesh, policy, tree)?];
        for clause in tree.clauses() {
            let (body, positive) = match clause {
                Clause::When(body) => (body, true),
                Clause::Unless(body) => (body, false),
            };
            if may_fail(body) {
                return None;
            }
            branches = both(&branches, &alternatives(mesh, body, positive)?)?;
        }
        let resource = match &tree.resource {
            ResourceConstraint::Eq(EntityOrSlot::Entity(uid))
            | ResourceConstraint::In(EntityOrSlot::Entity(uid))
            | ResourceConstraint::IsIn(_, EntityOrSlot::Entity(uid)) => Some(uid.to_string()),
            _ => None,
        };
        Some(Self { branches, resource })
    }

    /// The entity that its scope names as resource.
    pub(super) fn resource(&self) -> Option<&str> {
        self.resource.as_deref()
    }
}

fn scope(mesh: &MeshSchema, policy: &Compiled, tree: &Template) -> Option<Branch> {
    let mut facts = Vec::new();
    let mut add = |atom, said: String| facts.push(Fact { atom, said });
    if let Some(namespace) = &policy.source.scope {
        let said = format!("the policy's namespace {namespace}");
        add(Atom::Tenant(namespace.to_string()), said);
    }
    let said = format!("principal {}", tree.principal);
    for atom in principal(&tree.principal)? {
        add(atom, said.clone());
    }
    let said = format!("action {}", tree.action);
    match &tree.action {
        ActionConstraint::Any => {}
        ActionConstraint::Eq(uid) => add(actions(mesh, std::slice::from_ref(uid)), said),
        ActionConstraint::In(uids) => add(actions(mesh, uids), said),
    }
    let said = format!("resource {}", tree.resource);
    for atom in resource(&tree.resource)? {
        add(atom, said.clone());
    }
    if let Some(until) = policy.checked.until {
        let atom = Atom::Number(
            "context.time".to_owned(),
            i64::MIN,
            i64::try_from(until.as_millis()).ok()? - 1,
        );
        add(atom, format!("@until(\"{}\")", datetime(until)));
    }
    Some(facts)
}

fn principal(scope: &PrincipalConstraint) -> Option<Vec<Atom>> {
    let side = Side::Principal;
    Some(match scope {
        PrincipalConstraint::Any => Vec::new(),
        PrincipalConstraint::Is(kind) => vec![Atom::Is(side, kind.to_string())],
        PrincipalConstraint::Eq(entity) => vec![Atom::Equals(side, known(entity)?)],
        PrincipalConstraint::In(entity) => vec![Atom::In(side, vec![known(entity)?])],
        PrincipalConstraint::IsIn(kind, entity) => vec![
            Atom::Is(side, kind.to_string()),
            Atom::In(side, vec![known(entity)?]),
        ],
    })
}

fn resource(scope: &ResourceConstraint) -> Option<Vec<Atom>> {
    let side = Side::Resource;
    Some(match scope {
        ResourceConstraint::Any => Vec::new(),
        ResourceConstraint::Is(kind) => vec![Atom::Is(side, kind.to_string())],
        ResourceConstraint::Eq(entity) => vec![Atom::Equals(side, known(entity)?)],
        ResourceConstraint::In(entity) => vec![Atom::In(side, vec![known(entity)?])],
        ResourceConstraint::IsIn(kind, entity) => vec![
            Atom::Is(side, kind.to_string()),
            Atom::In(side, vec![known(entity)?]),
        ],
    })
}

fn known(entity: &EntityOrSlot) -> Option<Uid> {
    match entity {
        EntityOrSlot::Entity(uid) => Some(uid.into()),
        EntityOrSlot::Slot(_) => None,
    }
}

impl From<&EntityUID> for Uid {
    fn from(uid: &EntityUID) -> Self {
        Self {
            kind: uid.ty.to_string(),
            id: uid.eid.to_string(),
        }
    }
}

fn actions(mesh: &MeshSchema, uids: &[EntityUID]) -> Atom {
    let meant = Action::ALL.into_iter().filter(|action| {
        uids.iter()
            .any(|uid| mesh.is_action_in(*action, uid.eid.as_str()))
    });
    Atom::Actions(meant.map(|action| 1 << (action as u16)).sum())
}

/// Every combination of one alternative of each.
fn both(one: &[Branch], other: &[Branch]) -> Option<Vec<Branch>> {
    if one.len().saturating_mul(other.len()) > MAX_BRANCHES {
        return None;
    }
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (a, b)));
    Some(pairs.map(|(a, b)| [a.as_slice(), b].concat()).collect())
}

/// The alternatives in which `expr` is as `positive` says.
fn alternatives(mesh: &MeshSchema, expr: &Expr, positive: bool) -> Option<Vec<Branch>> {
    let of = |expr: &Expr, positive| alternatives(mesh, expr, positive);
    match expr {
        Expr::UnaryOp {
            op: UnaryOp::Not,
            expr,
        } => of(expr, !positive),
        Expr::BinaryOp {
            op: op @ (BinaryOp::And | BinaryOp::Or),
            left,
            right,
        } => {
            let (left, right) = (of(left, positive)?, of(right, positive)?);
            match (op == &BinaryOp::And) == positive {
                true => both(&left, &right),
                false => either(left, right),
            }
        }
        Expr::IfThenElse {
            cond,
            then_expr,
            else_expr,
        } => {
            let first = both(&of(cond, true)?, &of(then_expr, positive)?)?;
            let second = both(&of(cond, false)?, &of(else_expr, positive)?)?;
            either(first, second)
        }
        Expr::Literal(Literal::Bool(value)) => Some(match *value == positive {
            true => vec![Vec::new()],
            false => vec![vec![Fact {
                atom: Atom::Never,
                said: expr.to_string(),
            }]],
        }),
        Expr::Is {
            expr: subject,
            entity_type,
            in_expr: Some(parent),
        } if positive => {
            let side = side(subject);
            let parts = side.and_then(|side| {
                Some([
                    Atom::Is(side, entity_type.to_string()),
                    Atom::In(side, entities(parent)?),
                ])
            });
            let said = expr.to_string();
            let atoms = parts.map_or_else(|| vec![Atom::Holds(said.clone())], Vec::from);
            let fact = |atom| Fact {
                atom,
                said: said.clone(),
            };
            Some(vec![atoms.into_iter().map(fact).collect()])
        }
        _ => {
            let atom = atom(mesh, expr);
            let said = match positive {
                true => expr.to_string(),
                false => format!("!({expr})"),
            };
            let atom = if positive { atom } else { negated(atom) };
            Some(vec![vec![Fact { atom, said }]])
        }
    }
}

fn either(mut one: Vec<Branch>, other: Vec<Branch>) -> Option<Vec<Branch>> {
    one.extend(other);
    (one.len() <= MAX_BRANCHES).then_some(one)
}

fn negated(atom: Atom) -> Atom {
    match atom {
        Atom::Not(inner) => *inner,
        Atom::Actions(bits) => {
            let every = Action::ALL
                .into_iter()
                .map(|a| 1_u16 << (a as u16))
                .sum::<u16>();
            Atom::Actions(every & !bits)
        }
        // Half a line has a half as its rest.
        Atom::Number(term, i64::MIN, high) if high < i64::MAX => {
            Atom::Number(term, high + 1, i64::MAX)
        }
        Atom::Number(term, low, i64::MAX) if low > i64::MIN => {
            Atom::Number(term, i64::MIN, low - 1)
        }
        other => Atom::Not(Box::new(other)),
    }
}

/// What an expression without `&&`, `||` and `!` says.
fn atom(mesh: &MeshSchema, expr: &Expr) -> Atom {
    let understood = match expr {
        Expr::BinaryOp { op, left, right } => match op {
            BinaryOp::Eq => equal(mesh, left, right).or_else(|| equal(mesh, right, left)),
            BinaryOp::NotEq => {
                let same = equal(mesh, left, right).or_else(|| equal(mesh, right, left));
                let plain = Expr::BinaryOp {
                    op: BinaryOp::Eq,
                    left: left.clone(),
                    right: right.clone(),
                };
                Some(negated(
                    same.unwrap_or_else(|| Atom::Holds(plain.to_string())),
                ))
            }
            BinaryOp::In => inside(mesh, left, right),
            BinaryOp::Contains => contains(left, right),
            BinaryOp::Less | BinaryOp::LessEq | BinaryOp::Greater | BinaryOp::GreaterEq => {
                ordered(*op, left, right)
            }
            _ => None,
        },
        Expr::Like { expr, pattern } => Some(Atom::Like(expr.to_string(), pattern.clone())),
        Expr::Is {
            expr,
            entity_type,
            in_expr: None,
        } => side(expr).map(|side| Atom::Is(side, entity_type.to_string())),
        _ => None,
    };
    understood.unwrap_or_else(|| Atom::Holds(expr.to_string()))
}

fn side(expr: &Expr) -> Option<Side> {
    match expr {
        Expr::Var(Var::Principal) => Some(Side::Principal),
        Expr::Var(Var::Resource) => Some(Side::Resource),
        _ => None,
    }
}

fn equal(mesh: &MeshSchema, term: &Expr, value: &Expr) -> Option<Atom> {
    Some(match (term, value) {
        (Expr::Literal(_), _) => return None,
        (Expr::Var(Var::Action), Expr::Literal(Literal::EntityUID(uid))) => {
            actions(mesh, std::slice::from_ref(uid))
        }
        (_, Expr::Literal(Literal::EntityUID(uid))) => Atom::Equals(side(term)?, uid.into()),
        (_, Expr::Literal(Literal::String(text))) => Atom::Text(term.to_string(), text.to_string()),
        (_, Expr::Literal(Literal::Bool(true))) => Atom::Holds(term.to_string()),
        (_, Expr::Literal(Literal::Bool(false))) => negated(Atom::Holds(term.to_string())),
        (_, Expr::Set(items)) => Atom::Members(term.to_string(), texts(items)?),
        _ => {
            let number = number(value)?;
            Atom::Number(term.to_string(), number, number)
        }
    })
}

fn texts(items: &[std::sync::Arc<Expr>]) -> Option<BTreeSet<String>> {
    let text = |item: &std::sync::Arc<Expr>| match &**item {
        Expr::Literal(Literal::String(text)) => Some(text.to_string()),
        _ => None,
    };
    items.iter().map(text).collect()
}

/// A number, or a time in milliseconds.
fn number(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(Literal::Long(number)) => Some(*number),
        Expr::UnaryOp {
            op: UnaryOp::Datetime,
            expr,
        } => match &**expr {
            Expr::Literal(Literal::String(text)) => {
                let time: jiff::Timestamp = text.parse().ok()?;
                Some(time.as_millisecond())
            }
            _ => None,
        },
        _ => None,
    }
}

fn inside(mesh: &MeshSchema, subject: &Expr, parent: &Expr) -> Option<Atom> {
    if let Expr::Var(Var::Action) = subject {
        let uids: Option<Vec<EntityUID>> = match parent {
            Expr::Literal(Literal::EntityUID(uid)) => Some(vec![uid.clone()]),
            Expr::Set(items) => items
                .iter()
                .map(|item| match &**item {
                    Expr::Literal(Literal::EntityUID(uid)) => Some(uid.clone()),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        return Some(actions(mesh, &uids?));
    }
    Some(Atom::In(side(subject)?, entities(parent)?))
}

fn entities(expr: &Expr) -> Option<Vec<Uid>> {
    match expr {
        Expr::Literal(Literal::EntityUID(uid)) => Some(vec![uid.into()]),
        Expr::Set(items) => items
            .iter()
            .map(|item| match &**item {
                Expr::Literal(Literal::EntityUID(uid)) => Some(uid.into()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

fn contains(set: &Expr, member: &Expr) -> Option<Atom> {
    match (set, member) {
        (Expr::Set(_), _) => {
            let subject = side(member)?;
            let among = entities(set)?;
            // One of them itself: that it is in one of them is all that is used of it.
            (among.len() == 1).then_some(())?;
            Some(Atom::Equals(subject, among.into_iter().next()?))
        }
        (_, Expr::Literal(Literal::String(text))) => {
            Some(Atom::Has(set.to_string(), text.to_string()))
        }
        _ => None,
    }
}

fn ordered(op: BinaryOp, left: &Expr, right: &Expr) -> Option<Atom> {
    let (term, bound, op) = match (number(left), number(right)) {
        (None, Some(bound)) => (left, bound, op),
        (Some(bound), None) => {
            let turned = match op {
                BinaryOp::Less => BinaryOp::Greater,
                BinaryOp::LessEq => BinaryOp::GreaterEq,
                BinaryOp::Greater => BinaryOp::Less,
                _ => BinaryOp::LessEq,
            };
            (right, bound, turned)
        }
        _ => return None,
    };
    let term = term.to_string();
    Some(match op {
        BinaryOp::Less => Atom::Number(term, i64::MIN, bound.checked_sub(1)?),
        BinaryOp::LessEq => Atom::Number(term, i64::MIN, bound),
        BinaryOp::Greater => Atom::Number(term, bound.checked_add(1)?, i64::MAX),
        _ => Atom::Number(term, bound, i64::MAX),
    })
}
