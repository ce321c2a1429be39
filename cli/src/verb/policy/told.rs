//! Explanations for people: what decided, and for a denial, which permits came closest.

use reeve_authz::{Engine, Explanation, PolicyVerdict, Verdict};
use reeve_core::{
    decision::{AccessRequest, Effect},
    model::{PolicyMode, PolicySlice},
};

/// Most permits that are shown as near misses.
const MAX_MISSES: usize = 3;

/// What the policies of a recorded set, as it is stored, say of a request; nothing if the set cannot be read any more.
pub(crate) fn by_recorded(policies: &str, request: &AccessRequest) -> Option<Explanation> {
    let slice: PolicySlice = serde_json::from_str(policies).ok()?;
    Some(Engine::compile(&slice).ok()?.explain(request))
}

/// What decided, with its text, and what nearly permitted it.
pub(crate) fn policies(explanation: &Explanation) -> Vec<String> {
    let (decided, others): (Vec<_>, Vec<_>) = explanation
        .policies
        .iter()
        .partition(|policy| policy.verdict != Verdict::Unsatisfied);
    let mut lines = Vec::new();
    if !decided.is_empty() {
        lines.push("what applied:".to_owned());
    }
    for policy in &decided {
        lines.push(policy.to_string());
        lines.extend(policy.text.lines().map(|line| format!("      {line}")));
    }
    let misses: Vec<_> = others.iter().filter(|policy| is_miss(policy)).collect();
    let permitted = decided.iter().any(|policy| policy.effect == Effect::Allow);
    if explanation.decision.is_allow() || permitted || misses.is_empty() {
        return lines;
    }
    lines.push("nearest misses:".to_owned());
    lines.extend(misses.iter().take(MAX_MISSES).map(ToString::to_string));
    let more = misses.len().saturating_sub(MAX_MISSES);
    if more > 0 {
        lines.push(format!(
            "  and {more} permits that are further away (-o json shows them)"
        ));
    }
    lines
}

/// Whether it would have permitted the request, had it applied.
fn is_miss(policy: &PolicyVerdict) -> bool {
    policy.effect == Effect::Allow && policy.mode == PolicyMode::Enforce
}

/// All of an explanation.
pub(crate) fn explanation(explanation: &Explanation) -> String {
    let decision = &explanation.decision;
    let word = match decision.effect {
        Effect::Allow => "allowed",
        Effect::Deny => "denied",
    };
    let by: Vec<_> = decision.policies.iter().map(ToString::to_string).collect();
    let mut first = format!("{word}: {} {}", decision.reason.as_str(), by.join(" "));
    first.truncate(first.trim_end().len());
    let mut lines = vec![first];
    if let Some(shadow) = &decision.shadow {
        let effect = if shadow.is_allow() { "allow" } else { "deny" };
        let reason = shadow.reason.as_str();
        lines.push(format!("shadow policies in force would {effect}: {reason}"));
    }
    lines.extend(policies(explanation));
    lines.join("\n")
}
