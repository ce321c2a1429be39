//! What an answer depends on, in words.

use std::{collections::BTreeMap, fmt};

use reeve_authz::{Engine, PolicyVerdict, in_words};
use reeve_core::{PolicyId, decision::Effect};
use serde::Serialize;

/// A policy whose scope fits and whose conditions decide.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Condition {
    pub(super) policy: PolicyId,
    pub(super) effect: Effect,
    /// The part of it that did not hold, or that failed to evaluate; absent if all hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) part: Option<String>,
    /// Of a permit, what else would have to hold; of a forbid, all its conditions.
    conditions: Vec<String>,
    /// The same for people.
    words: String,
}

impl Condition {
    /// For people.
    pub(super) fn words(&self) -> &str {
        &self.words
    }
}

/// Every policy's conditions.
#[derive(Debug)]
pub(super) struct Conditions(BTreeMap<PolicyId, Vec<String>>);

impl Conditions {
    pub(super) fn of(engine: &Engine) -> Self {
        Self(engine.conditions().into_iter().collect())
    }

    /// Whether a policy has none.
    pub(super) fn are_none(&self, policy: &PolicyId) -> bool {
        self.0.get(policy).is_none_or(Vec::is_empty)
    }

    /// What `verdict`, whose scope fits, depends on.
    pub(super) fn of_policy(&self, verdict: &PolicyVerdict) -> Condition {
        let all = self
            .0
            .get(&verdict.id)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let failed = verdict.failed.as_ref();
        let held = match verdict.effect {
            Effect::Allow => all
                .iter()
                .position(|c| Some(c) == failed)
                .unwrap_or(all.len()),
            Effect::Deny => 0,
        };
        let conditions = all.get(held..).unwrap_or_default().to_vec();
        Condition {
            policy: verdict.id.clone(),
            effect: verdict.effect,
            part: verdict.failed.clone(),
            words: said(verdict, &conditions),
            conditions,
        }
    }
}

fn said(verdict: &PolicyVerdict, conditions: &[String]) -> String {
    if conditions.is_empty() {
        return match &verdict.failed {
            Some(part) => format!("where {part}"),
            None => String::new(),
        };
    }
    match verdict.effect {
        Effect::Allow => format!("where {}", in_words(conditions)),
        // What a forbid without other conditions leaves open is what has to be.
        Effect::Deny if conditions.iter().all(|c| c.starts_with("unless ")) => {
            let open = conditions.iter().map(|c| c.replacen("unless", "when", 1));
            format!("only where {}", in_words(&open.collect::<Vec<_>>()))
        }
        Effect::Deny => format!("not where {}", in_words(conditions)),
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.effect, self.words.is_empty()) {
            (Effect::Deny, true) => write!(f, "unless {}", self.policy),
            (Effect::Allow, true) => write!(f, "{}", self.policy),
            (_, false) => write!(f, "{}: {}", self.policy, self.words),
        }
    }
}
