//! What policies can learn of entities, and what is known of them without the rest.
//!
//! INVARIANT: policies decide on what is left of the records as they do on all of them. An edge of the hierarchy counts only if it
//! leads to a group that is spelled out on the right of an `in`; an attribute or label only if its name stands somewhere.
//! A property test in `control` compares.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use cedar_policy_core::ast::{BinaryOp, Expr, ExprKind, Literal};
use reeve_core::model::{EntityName, EntityRecord};

use crate::compile::Compiled;

/// What some policies can learn of entities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedOf {
    /// Groups that are spelled out.
    groups: BTreeSet<EntityName>,
    attributes: BTreeSet<String>,
    labels: BTreeSet<String>,
    /// It is asked whether something is in a group that is not spelled out.
    any_group: bool,
}

impl AskedOf {
    /// What one policy can.
    pub(crate) fn by(policy: &Compiled) -> Self {
        let mut asked = Self {
            labels: policy.checked.uses.labels.clone(),
            ..Self::default()
        };
        policy
            .condition
            .subexpressions()
            .for_each(|e| asked.visit(e));
        asked
    }

    /// Adds what other policies can.
    pub fn merge(&mut self, other: &Self) {
        self.groups.extend(other.groups.iter().cloned());
        self.attributes.extend(other.attributes.iter().cloned());
        self.labels.extend(other.labels.iter().cloned());
        self.any_group |= other.any_group;
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "each part of an expression is visited by itself; most say nothing of entities"
    )]
    fn visit(&mut self, expr: &Expr) {
        match expr.expr_kind() {
            ExprKind::GetAttr { attr, .. } | ExprKind::HasAttr { attr, .. } => {
                self.attributes.insert(attr.to_string());
            }
            ExprKind::ExtHasAttr { attrs, .. } => {
                self.attributes
                    .extend(attrs.iter().map(ToString::to_string));
            }
            ExprKind::BinaryApp {
                op: BinaryOp::In,
                arg2,
                ..
            } => match spelled_out(arg2) {
                Some(groups) => self.groups.extend(groups),
                None => self.any_group = true,
            },
            _ => {}
        }
    }

    /// What of `records` such policies can learn; what says nothing is left out.
    pub fn narrowed(&self, records: &[EntityRecord]) -> Vec<EntityRecord> {
        let leading = self.leading(records);
        let left = records.iter().filter_map(|record| {
            let tags = record
                .tags
                .iter()
                .filter(|(name, _)| self.labels.contains(*name));
            let attrs = record
                .attrs
                .iter()
                .filter(|(name, _)| self.attributes.contains(*name));
            let parents = record.parents.iter().filter(|parent| leading.leads(parent));
            let left = EntityRecord {
                attrs: attrs.map(|(n, v)| (n.clone(), v.clone())).collect(),
                parents: parents.cloned().collect(),
                tags: tags.map(|(n, v)| (n.clone(), v.clone())).collect(),
                uid: record.uid.clone(),
            };
            let silent = left.attrs.is_empty() && left.parents.is_empty() && left.tags.is_empty();
            (!silent).then_some(left)
        });
        left.collect()
    }

    /// The entities that are spelled out, and all that are in one of them.
    fn leading<'r>(&'r self, records: &'r [EntityRecord]) -> Leading<'r> {
        if self.any_group {
            return Leading(None);
        }
        let mut members: HashMap<&EntityName, Vec<&EntityName>> = HashMap::new();
        for record in records {
            for parent in &record.parents {
                members.entry(parent).or_default().push(&record.uid);
            }
        }
        let mut found: BTreeSet<&EntityName> = self.groups.iter().collect();
        let mut open: Vec<&EntityName> = found.iter().copied().collect();
        while let Some(group) = open.pop() {
            for member in members.get(group).into_iter().flatten() {
                if found.insert(member) {
                    open.push(member);
                }
            }
        }
        Leading(Some(found))
    }
}

/// Entities by which a group that is spelled out is reached; `None` = any may be.
struct Leading<'r>(Option<BTreeSet<&'r EntityName>>);

impl Leading<'_> {
    fn leads(&self, to: &EntityName) -> bool {
        self.0.as_ref().is_none_or(|found| found.contains(to))
    }
}

/// The one group, or each of a list of them.
fn spelled_out(groups: &Expr) -> Option<Vec<EntityName>> {
    let one = |group: &Expr| {
        let ExprKind::Lit(Literal::EntityUID(uid)) = group.expr_kind() else {
            return None;
        };
        Some(EntityName {
            id: AsRef::<str>::as_ref(uid.eid()).to_owned(),
            kind: uid.entity_type().to_string(),
        })
    };
    if let ExprKind::Set(members) = groups.expr_kind() {
        return members.iter().map(one).collect();
    }
    one(groups).map(|group| vec![group])
}

/// What the policies of each scope can learn.
pub(crate) fn by_scope(
    policies: &[Arc<Compiled>],
) -> BTreeMap<Option<reeve_core::Namespace>, AskedOf> {
    let mut found: BTreeMap<_, AskedOf> = BTreeMap::new();
    for policy in policies {
        let scope = found.entry(policy.source.scope.clone()).or_default();
        scope.merge(&AskedOf::by(policy));
    }
    found
}

#[cfg(test)]
mod tests;
