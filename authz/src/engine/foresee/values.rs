//! The values that stand for everything that an unknown part of a request may be.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "few forms of Cedar's grammar compare a part with texts; every other, of later versions too, leaves it open"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cedar_policy::pst::{BinaryOp, Clause, Expr, Literal, UnaryOp};
use reeve_core::decision::{AccessRequest, User};

use super::{Searched, Unknown};
use crate::{
    compile::Compiled,
    expression::{of_context, parts},
};

/// A text that no policy spells out, since policies are shorter than it is (it begins like none that is sent, either).
const ANYTHING_ELSE: &str = "\u{10FFFD}something else";

/// Most texts that one part is compared with; every set of them is a value.
const MAX_TEXTS: usize = 12;

/// An unknown part of a request, and every value of it that could make a difference.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) unknown: Unknown,
    values: Values,
}

#[derive(Debug)]
enum Values {
    /// Absent, or any set of these that is not empty.
    Set(Texts),
    /// As it stands (empty), or one of these.
    Subject(Texts),
    /// Absent, or one of these issuers, of these subjects, and any of these claims.
    User {
        issuers: Texts,
        subjects: Texts,
        claims: BTreeMap<String, Texts>,
    },
}

/// What a text or a set of texts is compared with.
#[derive(Clone, Debug, Default)]
struct Texts {
    spelled_out: BTreeSet<String>,
    /// Also with something that is not spelled out.
    open: bool,
}

impl Texts {
    /// The texts that it may be, or contain.
    fn each(&self) -> Vec<&str> {
        let spelled_out = self.spelled_out.iter().map(String::as_str);
        spelled_out.chain([ANYTHING_ELSE]).collect()
    }

    fn merge(&mut self, other: &Self) {
        self.spelled_out.extend(other.spelled_out.iter().cloned());
        self.open |= other.open;
    }

    /// Whether it is compared with anything.
    fn is_compared(&self) -> bool {
        self.open || !self.spelled_out.is_empty()
    }

    fn is_closed(&self) -> bool {
        !self.open
            && self.spelled_out.len() < MAX_TEXTS
            && !self.spelled_out.contains(ANYTHING_ELSE)
    }

    /// Number of sets, the empty one (= absent) included.
    fn sets(&self) -> usize {
        1 << (self.spelled_out.len().min(MAX_TEXTS) + 1)
    }

    /// The set of that number; `None` = absent.
    fn set(&self, number: usize) -> Option<BTreeSet<String>> {
        let members = self.each().into_iter().enumerate();
        let members = members.filter(|(at, _)| number >> at & 1 == 1);
        let members: BTreeSet<_> = members.map(|(_, text)| text.to_owned()).collect();
        (!members.is_empty()).then_some(members)
    }

    fn one(&self, number: usize) -> String {
        let found = self.each().get(number).copied();
        found.unwrap_or(ANYTHING_ELSE).to_owned()
    }
}

impl Slot {
    /// Whether its values stand for everything.
    pub(super) fn is_closed(&self) -> bool {
        match &self.values {
            Values::Set(texts) | Values::Subject(texts) => texts.is_closed(),
            Values::User {
                issuers,
                subjects,
                claims,
            } => {
                issuers.is_closed() && subjects.is_closed() && claims.values().all(Texts::is_closed)
            }
        }
    }

    /// How many values there are; number 0 is that it is absent.
    pub(super) fn count(&self) -> usize {
        match &self.values {
            Values::Set(texts) => texts.sets(),
            Values::Subject(texts) => texts.each().len() + 1,
            Values::User {
                issuers,
                subjects,
                claims,
            } => {
                let one = issuers.each().len().saturating_mul(subjects.each().len());
                let sets = claims.values().map(Texts::sets);
                sets.fold(one, usize::saturating_mul).saturating_add(1)
            }
        }
    }

    /// Puts the value of that number into `request`.
    pub(super) fn fill(&self, request: &mut AccessRequest, number: usize) {
        let Some(http) = &mut request.context.http else {
            return;
        };
        match (&self.unknown, &self.values) {
            (Unknown::Header(name), Values::Set(texts)) => {
                put(&mut http.headers, name, texts.set(number));
            }
            (Unknown::Query(name), Values::Set(texts)) => {
                put(&mut http.query, name, texts.set(number));
            }
            (Unknown::User, Values::User { .. }) => {
                request.user = self.user(number).map(Into::into);
            }
            (Unknown::Claim(name), Values::Set(texts)) => {
                if let Some(user) = &mut request.user {
                    put(&mut Arc::make_mut(user).claims, name, texts.set(number));
                }
            }
            (Unknown::Claim(_), Values::Subject(texts)) => {
                if let Some(user) = &mut request.user {
                    let subject = number.checked_sub(1).map(|one| texts.one(one));
                    Arc::make_mut(user).subject = subject.unwrap_or_default();
                }
            }
            (Unknown::Context(_), _)
            | (Unknown::Header(_) | Unknown::Query(_) | Unknown::User, Values::Subject(_))
            | (Unknown::Header(_) | Unknown::Query(_) | Unknown::Claim(_), Values::User { .. })
            | (Unknown::User, Values::Set(_)) => {}
        }
    }

    fn user(&self, number: usize) -> Option<User> {
        let Values::User {
            issuers,
            subjects,
            claims,
        } = &self.values
        else {
            return None;
        };
        let mut rest = number.checked_sub(1)?;
        let mut digit = |base: usize| {
            let digit = rest % base;
            rest /= base;
            digit
        };
        let issuer = issuers.one(digit(issuers.each().len()));
        let subject = subjects.one(digit(subjects.each().len()));
        let claims = claims.iter().filter_map(|(name, texts)| {
            let members = texts.set(digit(texts.sets()))?;
            Some((name.clone(), members))
        });
        Some(User {
            claims: claims.collect(),
            expires_at: None,
            issuer,
            subject,
        })
    }
}

fn put(
    into: &mut BTreeMap<String, BTreeSet<String>>,
    name: &str,
    members: Option<BTreeSet<String>>,
) {
    match members {
        Some(members) => into.insert(name.to_owned(), members),
        None => into.remove(name),
    };
}

/// What `policies` read of `request` that is not known, ordered.
pub(super) fn slots<'r>(
    reads: impl Iterator<Item = &'r Read>,
    request: &AccessRequest,
    known: Searched<'_>,
) -> Vec<Slot> {
    let Some(http) = &request.context.http else {
        return Vec::new();
    };
    let mut read = Read::default();
    for one in reads {
        read.merge(one);
    }
    let mut found = Vec::new();
    for (name, texts) in read.headers {
        if !http.headers.contains_key(&name) && !known.names.headers.contains(&name) {
            found.push(Slot {
                unknown: Unknown::Header(name),
                values: Values::Set(texts),
            });
        }
    }
    for (name, texts) in read.query {
        if !http.query.contains_key(&name) && !known.names.query.contains(&name) {
            found.push(Slot {
                unknown: Unknown::Query(name),
                values: Values::Set(texts),
            });
        }
    }
    if request.user.is_some() {
        let mut unknown = |name: &str, values| {
            if known.redacted_claims.contains(name) {
                let unknown = Unknown::Claim(name.to_owned());
                found.push(Slot { unknown, values });
            }
        };
        if read.subject.is_compared() {
            unknown("sub", Values::Subject(read.subject.clone()));
        }
        for (name, texts) in read.claims.iter().filter(|(name, _)| *name != "sub") {
            unknown(name, Values::Set(texts.clone()));
        }
    }
    if read.user && request.user.is_none() && !known.user {
        found.push(Slot {
            unknown: Unknown::User,
            values: Values::User {
                issuers: read.issuer,
                subjects: read.subject,
                claims: read.claims,
            },
        });
    }
    found
}

/// What policies read, and what they compare it with.
#[derive(Debug, Default)]
pub(super) struct Read {
    headers: BTreeMap<String, Texts>,
    query: BTreeMap<String, Texts>,
    user: bool,
    issuer: Texts,
    subject: Texts,
    claims: BTreeMap<String, Texts>,
}

impl Read {
    /// What one policy reads.
    pub(super) fn of(policy: &Compiled) -> Self {
        let mut this = Self::default();
        this.policy(policy);
        this
    }

    fn merge(&mut self, other: &Self) {
        let tags = |to: &mut BTreeMap<String, Texts>, from: &BTreeMap<String, Texts>| {
            for (name, texts) in from {
                to.entry(name.clone()).or_default().merge(texts);
            }
        };
        tags(&mut self.headers, &other.headers);
        tags(&mut self.query, &other.query);
        tags(&mut self.claims, &other.claims);
        self.user |= other.user;
        self.issuer.merge(&other.issuer);
        self.subject.merge(&other.subject);
    }

    fn policy(&mut self, policy: &Compiled) {
        let uses = &policy.checked.uses;
        // Named even where the walk below does not come upon them. What is read as one text is compared with patterns,
        // and no set of texts stands for all that they may match.
        for name in &uses.headers {
            self.headers.entry(name.clone()).or_default().open |= uses.attribute("header_text");
        }
        for name in &uses.query {
            self.query.entry(name.clone()).or_default().open |= uses.whole_context;
        }
        for name in &uses.claims {
            self.claims.entry(name.clone()).or_default().open |= uses.attribute("claim_lines");
        }
        if uses.user_groups {
            // Which groups there are is not spelled out: those of groups count, too.
            self.open_user();
        }
        self.user |= uses.user();
        let Some(tree) = policy.tree() else {
            self.open_all();
            return;
        };
        for clause in tree.clauses() {
            let (Clause::When(body) | Clause::Unless(body)) = clause;
            self.visit(body);
        }
    }

    /// The texts that what `expr` stands for is compared with, if it is one of the parts that may be unknown.
    fn part(&mut self, expr: &Expr) -> Option<&mut Texts> {
        match expr {
            Expr::BinaryOp {
                op: BinaryOp::GetTag,
                left,
                right,
            } => {
                let Expr::Literal(Literal::String(name)) = &**right else {
                    return None;
                };
                let tags = match of_context(left)? {
                    "headers" => &mut self.headers,
                    "query" => &mut self.query,
                    "user" => &mut self.claims,
                    _ => return None,
                };
                Some(tags.entry(name.to_string()).or_default())
            }
            Expr::GetAttr { expr, attr } if of_context(expr) == Some("user") => {
                match attr.as_str() {
                    "issuer" => Some(&mut self.issuer),
                    "subject" => Some(&mut self.subject),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    // Cedar bounds the depth of an expression when it parses it.
    fn visit(&mut self, expr: &Expr) {
        if let Some(texts) = self.part(expr) {
            // It stands where its value is not only compared with what is spelled out.
            texts.open = true;
            return;
        }
        match expr {
            Expr::BinaryOp {
                op: BinaryOp::HasTag,
                ..
            } => {}
            Expr::BinaryOp {
                op:
                    BinaryOp::Contains
                    | BinaryOp::ContainsAll
                    | BinaryOp::ContainsAny
                    | BinaryOp::Eq
                    | BinaryOp::NotEq,
                left,
                right,
            } => {
                if !self.compare(left, right) && !self.compare(right, left) {
                    self.visit_parts(expr);
                }
            }
            Expr::UnaryOp {
                op: UnaryOp::IsEmpty,
                expr,
            } if self.part(expr).is_some() => {}
            Expr::Is { expr, .. } => self.visit(expr),
            _ => self.visit_parts(expr),
        }
    }

    fn visit_parts(&mut self, expr: &Expr) {
        match parts(expr) {
            Some(parts) => parts.into_iter().for_each(|part| self.visit(part)),
            None => self.open_all(),
        }
    }

    /// Whether `part` is one that may be unknown and `with` spells out texts.
    fn compare(&mut self, part: &Expr, with: &Expr) -> bool {
        let Some(spelled_out) = texts(with) else {
            return false;
        };
        match self.part(part) {
            Some(texts) => texts.spelled_out.extend(spelled_out),
            None => return false,
        }
        true
    }

    fn open_user(&mut self) {
        let claims = self.claims.values_mut();
        for texts in claims.chain([&mut self.issuer]) {
            texts.open = true;
        }
    }

    fn open_all(&mut self) {
        let tags = [&mut self.headers, &mut self.query, &mut self.claims];
        let tags = tags.into_iter().flat_map(BTreeMap::values_mut);
        for texts in tags.chain([&mut self.issuer, &mut self.subject]) {
            texts.open = true;
        }
    }
}

/// A text, or the members of a set of texts.
fn texts(expr: &Expr) -> Option<Vec<String>> {
    match expr {
        Expr::Literal(Literal::String(text)) => Some(vec![text.to_string()]),
        Expr::Set(items) => {
            let each = items.iter().map(|item| match &**item {
                Expr::Literal(Literal::String(text)) => Some(text.to_string()),
                _ => None,
            });
            each.collect()
        }
        _ => None,
    }
}
