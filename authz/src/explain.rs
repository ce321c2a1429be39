//! Why a request was answered as it was, for operators.
//!
//! A policy is taken apart – principal, action, resource, then each condition, top-level `&&` split – and its parts
//! are asked in order until one does not hold.

mod values;

use std::{collections::BTreeMap, fmt};

use cedar_policy::{
    Policy, PolicySet,
    pst::{
        self, ActionConstraint, BinaryOp, Clause, Effect as PstEffect, Expr, PrincipalConstraint,
        ResourceConstraint, StaticPolicy, Template,
    },
};
use reeve_core::{
    PolicyId, UnixTime,
    decision::{Decision, Effect},
    model::PolicyMode,
};
use serde::{Deserialize, Serialize};

use crate::{
    compile::Compiled,
    entities::Question,
    judge::{OnForbidError, judge},
};

/// Annotations that an explanation tells.
const TOLD: [&str; 3] = ["description", "owner", "until"];

/// A decision and what each candidate policy said. Policies scoped to other namespaces are not candidates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The decision itself.
    pub decision: Decision,
    /// Every candidate policy: those that applied or failed to evaluate, then those nearest to applying.
    pub policies: Vec<PolicyVerdict>,
}

/// What one policy said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyVerdict {
    /// Which policy.
    pub id: PolicyId,
    /// `permit` (allow) or `forbid` (deny).
    pub effect: Effect,
    /// Whether it binds or is only recorded.
    pub mode: PolicyMode,
    /// Whether it applied.
    pub verdict: Verdict,
    /// Parts that held, of `parts`; counting stops at the first that does not.
    pub matched: usize,
    /// Parts of the policy: three of its scope, and each condition.
    pub parts: usize,
    /// Whether it is about this resource, whatever else holds.
    #[serde(default)]
    pub resource_fits: bool,
    /// The first part that did not hold, as Cedar text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// What that part looked at, and found, as Cedar writes it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
    /// The evaluation error, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it says of itself: `description`, `owner`, `until`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Its source.
    pub text: String,
}

/// Whether a policy applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It applied.
    Satisfied,
    /// It failed to evaluate.
    Error,
    /// It did not apply.
    Unsatisfied,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.decision.effect {
            Effect::Allow => "allowed",
            Effect::Deny => "denied",
        };
        write!(f, "{word}: {}", self.decision.reason.as_str())?;
        for id in &self.decision.policies {
            write!(f, " {id}")?;
        }
        if let Some(shadow) = &self.decision.shadow {
            let effect = if shadow.is_allow() { "allow" } else { "deny" };
            let reason = shadow.reason.as_str();
            write!(f, "\nshadow policies in force would {effect}: {reason}")?;
        }
        for policy in &self.policies {
            write!(f, "\n{policy}")?;
        }
        Ok(())
    }
}

impl PolicyVerdict {
    /// Whether principal, action and resource fit, and it has not lapsed: whether its conditions decide.
    pub fn is_in_scope(&self) -> bool {
        let failed = self.failed.as_ref();
        failed.is_none_or(|part| part.starts_with("when ") || part.starts_with("unless "))
    }

    /// Whether it cannot apply to these parties whatever the circumstances, since of what is known of them (an attribute, a
    /// label) a condition fails.
    pub fn is_out_of_reach(&self) -> bool {
        const KNOWN: [&str; 4] = ["principal.", "principal has ", "resource.", "resource has "];
        self.failed.as_ref().is_some_and(|part| {
            !part.contains("context") && KNOWN.into_iter().any(|known| part.contains(known))
        })
    }
}

impl fmt::Display for PolicyVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = match self.effect {
            Effect::Allow => "permit",
            Effect::Deny => "forbid",
        };
        let shadow = match self.mode {
            PolicyMode::Enforce => "",
            PolicyMode::Shadow => " (shadow)",
        };
        write!(f, "  {effect} {}{shadow}: ", self.id)?;
        match (self.verdict, &self.failed, &self.error) {
            (Verdict::Satisfied, _, _) => f.write_str("applies")?,
            (_, _, Some(error)) => write!(f, "failed to evaluate: {error}")?,
            (_, Some(part), None) => {
                let Self { matched, parts, .. } = self;
                write!(f, "{matched} of {parts} parts hold, not: {part}")?;
                for (name, value) in &self.values {
                    write!(f, "\n      {name}: {value}")?;
                }
            }
            (_, None, None) => f.write_str("does not apply")?,
        }
        for (name, value) in &self.annotations {
            write!(f, "\n      {name}: {value}")?;
        }
        Ok(())
    }
}

/// Orders verdicts: applied, failed, then those about the resource, then by how little is missing.
pub(crate) fn nearest_first(verdicts: &mut [PolicyVerdict]) {
    verdicts.sort_by(|a, b| {
        let missing = |v: &PolicyVerdict| v.parts - v.matched.min(v.parts);
        // Who asks why is closer to a policy about what was asked for than to one about another thing.
        let key = |v: &PolicyVerdict| (v.verdict, !v.resource_fits, missing(v));
        (key(a), &a.id).cmp(&(key(b), &b.id))
    });
}

/// Asks one policy, at `now`.
pub(crate) fn verdict(policy: &Compiled, question: &Question, now: UnixTime) -> PolicyVerdict {
    let annotations = policy.policy.annotations();
    let told = annotations.filter(|(name, _)| TOLD.contains(name));
    let mut found = PolicyVerdict {
        id: policy.source.id.clone(),
        effect: policy.effect(),
        mode: policy.source.mode,
        verdict: Verdict::Satisfied,
        matched: 0,
        parts: 0,
        resource_fits: true,
        failed: None,
        values: BTreeMap::new(),
        error: None,
        annotations: told
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        text: policy.source.text.clone(),
    };
    match policy.policy.to_pst() {
        Ok(tree) => take_apart(tree.body(), question, &mut found),
        Err(error) => {
            found.verdict = Verdict::Error;
            found.error = Some(error.to_string());
        }
    }
    if let Some(until) = found.annotations.get("until") {
        found.parts += 1;
        if policy.is_in_force(now) {
            found.matched += 1;
        } else if found.verdict != Verdict::Unsatisfied {
            // It is not asked any more, and so cannot fail either.
            found.verdict = Verdict::Unsatisfied;
            found.failed = Some(format!("@until({until:?})"));
            found.error = None;
        }
    }
    found
}

fn take_apart(tree: &Template, question: &Question, found: &mut PolicyVerdict) {
    let parts = parts(tree);
    found.parts = parts.len();
    let mut resource = anything();
    resource.resource = tree.resource.clone();
    found.resource_fits = ask(&resource, question).unwrap_or(true);
    let mut so_far = anything();
    for part in parts {
        // Each part is asked with those before it: a guard such as `context has user` shields what follows.
        let answer = part
            .restrict(&mut so_far)
            .and_then(|()| ask(&so_far, question));
        match answer {
            Ok(true) => found.matched += 1,
            Ok(false) => {
                found.verdict = Verdict::Unsatisfied;
                found.failed = Some(part.to_string());
                found.values = values::of(&part, question);
                break;
            }
            Err(error) => {
                found.verdict = Verdict::Error;
                found.failed = Some(part.to_string());
                found.values = values::of(&part, question);
                found.error = Some(error);
                break;
            }
        }
    }
}

/// The conditions of a policy, as [`verdict`] asks them after the three parts of its scope. `@until` is none.
pub(crate) fn conditions(policy: &Compiled) -> Vec<String> {
    let parts = policy.tree().map(|tree| parts(&tree)).unwrap_or_default();
    parts.iter().skip(3).map(ToString::to_string).collect()
}

/// One thing that must hold for a policy to apply.
#[derive(Clone, Debug)]
enum Part {
    Principal(PrincipalConstraint),
    Action(ActionConstraint),
    Resource(ResourceConstraint),
    Condition(Clause),
}

impl Part {
    fn restrict(&self, tree: &mut Template) -> Result<(), String> {
        match self {
            Self::Principal(constraint) => tree.principal = constraint.clone(),
            Self::Action(constraint) => tree.action = constraint.clone(),
            Self::Resource(constraint) => tree.resource = constraint.clone(),
            Self::Condition(clause) => {
                return tree
                    .try_add_clause(clause.clone())
                    .map_err(|e| e.to_string());
            }
        }
        Ok(())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Principal(constraint) => write!(f, "principal {constraint}"),
            Self::Action(constraint) => write!(f, "action {constraint}"),
            Self::Resource(constraint) => write!(f, "resource {constraint}"),
            Self::Condition(clause) => clause.fmt(f),
        }
    }
}

fn anything() -> Template {
    Template::new(
        pst::PolicyID("part".into()),
        PstEffect::Permit,
        PrincipalConstraint::Any,
        ActionConstraint::Any,
        ResourceConstraint::Any,
    )
}

fn parts(tree: &Template) -> Vec<Part> {
    let mut parts = vec![
        Part::Principal(tree.principal.clone()),
        Part::Action(tree.action.clone()),
        Part::Resource(tree.resource.clone()),
    ];
    for clause in tree.clauses() {
        match clause {
            Clause::When(body) => conjuncts(body, &mut parts),
            Clause::Unless(_) => parts.push(Part::Condition(clause.clone())),
        }
    }
    parts
}

fn conjuncts(body: &Expr, parts: &mut Vec<Part>) {
    if let Expr::BinaryOp {
        op: BinaryOp::And,
        left,
        right,
    } = body
    {
        conjuncts(left, parts);
        conjuncts(right, parts);
    } else {
        parts.push(Part::Condition(Clause::When(body.clone().into())));
    }
}

fn ask(tree: &Template, question: &Question) -> Result<bool, String> {
    let policy = StaticPolicy::try_from(tree.clone()).map_err(|e| e.to_string())?;
    let policy = Policy::from_pst(pst::Policy::Static(policy)).map_err(|e| e.to_string())?;
    let set = PolicySet::from_policies([policy]).map_err(|e| e.to_string())?;
    let Question { request, entities } = question;
    let judgement = judge(request, &set, entities, OnForbidError::Deny);
    match judgement.errors.into_iter().next() {
        Some((_, message)) => Err(message),
        None => Ok(judgement.effect == Effect::Allow),
    }
}

#[cfg(test)]
mod tests;
