//! What is wrong with a policy, said the way Cedar says it: where, what, and what to do.

use std::{collections::BTreeSet, fmt};

use cedar_policy::ffi::DetailedError;
use reeve_core::{PolicyId, decision::Action};
use serde::{Deserialize, Serialize};

/// Longest snippet in characters.
const MAX_SNIPPET_CHARS: usize = 160;

/// One fault of one policy. Lines and columns count from 1, in the text that was handed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFault {
    /// The policy, or the document's own id when no single policy can be named.
    pub policy: PolicyId,
    /// What is wrong.
    pub message: String,
    /// Line of the fault.
    pub line: usize,
    /// Column of the fault, in characters.
    pub column: usize,
    /// The faulty line of text, without its line break.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snippet: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// What kind of fault it is, for programs; not part of what is shown.
    #[serde(skip)]
    pub kind: FaultKind,
}

/// Kinds of faults that programs tell apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FaultKind {
    /// Any other.
    #[default]
    Other,
    /// The policy's condition can never hold, and so it says nothing.
    Impossible,
}

/// The code by which a diagnostic of Cedar's says so; Cedar itself gives it none.
pub(crate) const IMPOSSIBLE: &str = "impossible_policy";

impl PolicyFault {
    /// A fault at byte `offset` of `text`.
    pub(crate) fn at(policy: &PolicyId, text: &str, offset: usize, message: String) -> Self {
        let offset = floor_char_boundary(text, offset);
        let before = text.get(..offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = text.get(line_start..).unwrap_or_default();
        let snippet: String = line
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(MAX_SNIPPET_CHARS)
            .collect();
        Self {
            policy: policy.clone(),
            message,
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            snippet: (!snippet.trim().is_empty()).then_some(snippet),
            help: None,
            kind: FaultKind::Other,
        }
    }

    /// Adds advice.
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// A diagnostic of Cedar's whose source is `text`.
    pub(crate) fn of_cedar(policy: &PolicyId, text: &str, diagnostic: &DetailedError) -> Self {
        let label = diagnostic.source_locations.first();
        let fault = Self::at(
            policy,
            text,
            label.map_or(0, |l| l.loc.start),
            plain_message(policy, diagnostic),
        );
        let help = diagnostic
            .help
            .clone()
            .or_else(|| label.and_then(|l| l.label.clone()));
        let kind = match diagnostic.code.as_deref() {
            Some(IMPOSSIBLE) => FaultKind::Impossible,
            Some(_) | None => FaultKind::Other,
        };
        Self {
            help,
            kind,
            ..fault
        }
    }
}

/// Makes one fault of those that say the same for several actions: Cedar types a policy once for each action.
pub(crate) fn merged(faults: Vec<PolicyFault>) -> Vec<PolicyFault> {
    let mut all: Vec<(PolicyFault, BTreeSet<String>)> = Vec::new();
    for mut fault in faults {
        let action = take_action(&mut fault.message);
        match all.iter_mut().find(|(known, _)| *known == fault) {
            Some((_, actions)) => actions.extend(action),
            None => all.push((fault, action.into_iter().collect())),
        }
    }
    let every = Action::ALL.len();
    all.into_iter()
        .map(|(mut fault, actions)| {
            if actions.is_empty() || actions.len() == every {
                return fault;
            }
            let names: Vec<_> = actions.iter().map(|a| format!("Action::\"{a}\"")).collect();
            fault.message = format!("{} for {}", fault.message, names.join(", "));
            if actions.iter().eq([Action::Connect.as_str()]) {
                return fault.with_help(
                    "a connection has no HTTP parts; name HTTP in the scope: action in Action::\"http\"",
                );
            }
            fault
        })
        .collect()
}

/// Takes ` for Action::"X"` out of a message.
fn take_action(message: &mut String) -> Option<String> {
    const START: &str = " for Action::\"";
    let (before, rest) = message.split_once(START)?;
    let (action, after) = rest.split_once('"')?;
    let action = action.to_owned();
    *message = format!("{before}{after}");
    Some(action)
}

/// Cedar's message without the prefix that repeats the policy's id, which a fault states on its own.
fn plain_message(policy: &PolicyId, diagnostic: &DetailedError) -> String {
    let prefix = format!("for policy `{policy}`, ");
    let message = &diagnostic.message;
    message.strip_prefix(&prefix).unwrap_or(message).to_owned()
}

fn floor_char_boundary(text: &str, offset: usize) -> usize {
    let mut at = offset.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl fmt::Display for PolicyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.policy, self.line, self.column, self.message
        )?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for PolicyFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let id = PolicyId::parse("default/a").unwrap();
        let text = "permit (\n  // é\n  é nope);";
        let at = text.find("nope").unwrap();
        let fault = PolicyFault::at(&id, text, at, "unknown".into()).with_help("remove it");
        assert_eq!((fault.line, fault.column), (3, 5));
        assert_eq!(fault.snippet.as_deref(), Some("  é nope);"));
        assert_eq!(fault.to_string(), "default/a:3:5: unknown (remove it)");
        let inside = PolicyFault::at(&id, "é", 1, String::new());
        assert_eq!((inside.line, inside.column), (1, 1));
        let beyond = PolicyFault::at(&id, "a\n", 99, String::new());
        assert_eq!((beyond.line, beyond.column, beyond.snippet), (2, 1, None));
    }
}
