//! What a policy looks at: which parts of a request have to be built, and which names it spells out.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "of most forms of Cedar's grammar only the parts are looked at"
)]

use std::collections::BTreeSet;

use cedar_policy::pst::{BinaryOp, Clause, Expr, Literal, Template, Var};

use crate::{
    expression::{of_context, parts},
    mesh_schema::MeshSchema,
};

/// The parts of a request that some policies look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    /// Attributes of `context`.
    pub(crate) attributes: BTreeSet<String>,
    /// `context` stands alone somewhere, so all of it counts.
    pub(crate) whole_context: bool,
    /// `action` stands in a condition.
    pub(crate) action: bool,
    /// Something is asked of another entity than the request's own principal, action or resource.
    pub(crate) hierarchy: bool,
    /// The entities that it is asked of, as far as they are spelled out: type and id.
    pub(crate) entities: BTreeSet<(String, String)>,
    /// It is asked what the end user is in.
    pub(crate) user_groups: bool,
    /// Names of labels.
    pub(crate) labels: BTreeSet<String>,
    /// Header names.
    pub(crate) headers: BTreeSet<String>,
    /// Query parameter names.
    pub(crate) query: BTreeSet<String>,
    /// Claim names.
    pub(crate) claims: BTreeSet<String>,
    /// Tag look-ups that do not spell their name out, or look into anything but `context.<headers, query, user>`.
    pub(crate) indirect: Vec<String>,
}

impl Uses {
    /// What one policy looks at.
    pub(crate) fn of(policy: &Template) -> Self {
        let mut uses = Self::default();
        for clause in policy.clauses() {
            uses.merge(Self::of_clause(clause));
        }
        uses
    }

    /// What one condition looks at.
    pub(crate) fn of_clause(clause: &Clause) -> Self {
        let mut uses = Self::default();
        let (Clause::When(body) | Clause::Unless(body)) = clause;
        uses.visit(body);
        uses
    }

    /// Adds the claims that tell what an end user is in, if that is asked.
    #[must_use]
    pub(crate) fn with_claims_of(mut self, mesh: &MeshSchema) -> Self {
        if self.user_groups {
            let claims = mesh.claimed().map(|(_, claim)| claim.name.clone());
            self.claims.extend(claims);
        }
        self
    }

    /// Adds what another policy looks at.
    pub(crate) fn merge(&mut self, other: Self) {
        self.attributes.extend(other.attributes);
        self.whole_context |= other.whole_context;
        self.action |= other.action;
        self.hierarchy |= other.hierarchy;
        self.entities.extend(other.entities);
        self.user_groups |= other.user_groups;
        self.labels.extend(other.labels);
        self.headers.extend(other.headers);
        self.query.extend(other.query);
        self.claims.extend(other.claims);
        self.indirect.extend(other.indirect);
    }

    /// Whether `context.<attribute>` has to be there.
    pub(crate) fn attribute(&self, attribute: &str) -> bool {
        self.whole_context || self.attributes.contains(attribute)
    }

    /// Whether anything of the end user is looked at, in one form or the other.
    pub(crate) fn user(&self) -> bool {
        self.attribute("user") || self.attribute("claim_lines")
    }

    // Cedar bounds the depth of an expression when it parses it.
    fn visit(&mut self, expr: &Expr) {
        match expr {
            Expr::Var(Var::Context) => self.whole_context = true,
            Expr::Var(Var::Action) => self.action = true,
            Expr::GetAttr { expr, attr } if is_context(expr) => {
                self.attributes.insert(attr.to_string());
            }
            Expr::HasAttr { expr, attrs } if is_context(expr) => {
                self.attributes.insert(attrs.first().to_string());
            }
            Expr::BinaryOp {
                op: BinaryOp::GetTag | BinaryOp::HasTag,
                left,
                right,
            } => self.visit_tag(left, right),
            Expr::BinaryOp {
                op: BinaryOp::In,
                left: who,
                ..
            }
            | Expr::Is {
                expr: who,
                in_expr: Some(_),
                ..
            } => {
                self.user_groups |= mentions_context(who);
                self.look_into(who);
                self.visit_parts(expr);
            }
            Expr::GetAttr { expr: who, .. } | Expr::HasAttr { expr: who, .. } => {
                if !is_of_context(who) {
                    self.look_into(who);
                }
                self.visit_parts(expr);
            }
            _ => self.visit_parts(expr),
        }
    }

    /// Something is asked of the entity that `who` stands for.
    fn look_into(&mut self, who: &Expr) {
        // An end user's groups, and what those are in, are all direct parents.
        let user = matches!(who, Expr::GetAttr { expr, .. } if is_context(expr));
        self.hierarchy |= !(user || matches!(who, Expr::Var(_)));
        let mut open = vec![who];
        while let Some(expr) = open.pop() {
            if let Expr::Literal(Literal::EntityUID(uid)) = expr {
                let name = (uid.ty.to_string(), uid.eid.to_string());
                self.entities.insert(name);
            }
            open.extend(parts(expr).into_iter().flatten());
        }
    }

    fn visit_parts(&mut self, expr: &Expr) {
        let Some(parts) = parts(expr) else {
            // Everything is built for it.
            self.whole_context = true;
            self.action = true;
            self.hierarchy = true;
            return;
        };
        parts.into_iter().for_each(|part| self.visit(part));
    }

    fn visit_tag(&mut self, holder: &Expr, key: &Expr) {
        let names = match of_context(holder) {
            Some("headers" | "header_text") => &mut self.headers,
            Some("query") => &mut self.query,
            Some("user" | "claim_lines") => &mut self.claims,
            // Of an entity that the request does not carry.
            _ if !mentions_context(holder) => {
                self.look_into(holder);
                &mut self.labels
            }
            _ => {
                self.indirect.push(holder.to_string());
                return;
            }
        };
        if let Expr::Literal(Literal::String(name)) = key {
            names.insert(name.to_string());
        } else {
            self.indirect.push(key.to_string());
        }
        self.visit(holder);
    }
}

fn is_context(expr: &Expr) -> bool {
    matches!(expr, Expr::Var(Var::Context))
}

/// `context.a.b`
fn is_of_context(expr: &Expr) -> bool {
    match expr {
        Expr::GetAttr { expr, .. } => is_of_context(expr),
        _ => is_context(expr),
    }
}

fn mentions_context(expr: &Expr) -> bool {
    is_context(expr) || parts(expr).is_none_or(|parts| parts.into_iter().any(mentions_context))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(condition: &str) -> Uses {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        let policy = cedar_policy::Policy::parse(None, text).unwrap();
        Uses::of(policy.to_pst().unwrap().body())
    }

    #[test]
    fn attributes_and_tags_are_found_wherever_they_stand() {
        let found = uses(
            r#"if context has user then context.user.hasTag("groups") && [context.port].contains(1)
               else !(context.headers.getTag("a").contains("b")) || context.query.hasTag("q")"#,
        );
        let attributes: Vec<_> = found.attributes.iter().map(String::as_str).collect();
        assert_eq!(attributes, ["headers", "port", "query", "user"]);
        assert!(found.claims.contains("groups"));
        assert!(found.headers.contains("a"));
        assert!(found.query.contains("q"));
        assert!(!found.whole_context && !found.hierarchy && found.indirect.is_empty());
    }

    #[test]
    fn a_bare_context_counts_as_all_of_it() {
        assert!(uses("context == context").whole_context);
        assert!(!uses("context.port == 1").whole_context);
        assert!(uses("{a: context}.a.port == 1").whole_context);
    }

    #[test]
    fn names_that_are_not_spelled_out_are_reported() {
        assert_eq!(
            uses("context.headers.hasTag(context.host)").indirect.len(),
            1
        );
        assert_eq!(
            uses(r#"(if context.mtls then context.headers else context.headers).hasTag("a")"#)
                .indirect
                .len(),
            1
        );
        assert!(uses(r#"context.headers.hasTag("a")"#).indirect.is_empty());
    }

    #[test]
    fn membership_of_something_else_needs_the_hierarchy() {
        assert!(!uses(r#"principal in Namespace::"a""#).hierarchy);
        assert!(uses(r#"Namespace::"a" in TrustDomain::"b""#).hierarchy);
        assert!(!uses(r#"resource is Workload in Service::"a""#).hierarchy);
        assert!(!uses(r#"context.user is User in Group::"a""#).hierarchy);
        assert!(
            uses(r#"(if context.mtls then context.user else context.user) in Group::"a""#)
                .hierarchy
        );
    }
}
