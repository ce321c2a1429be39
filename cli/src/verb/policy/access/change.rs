//! Who can reach what before and after a change of policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use reeve_control::Mesh;
use reeve_core::decision::Action;
use serde::Serialize;

use super::{Access, AskedArgs, Can, METHODS, Survey};
use crate::problem::Problem;

/// An answer that is not what it was: of the same caller, target and methods.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct AccessChange {
    caller: String,
    target: String,
    methods: Vec<Action>,
    before: Can,
    after: Can,
    /// What the answers depend on, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions_before: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions_after: Vec<String>,
}

/// What each asks of each: an answer, and what it depends on.
type Answers = BTreeMap<(String, String, Action), (Can, Vec<String>)>;

/// Most policies that are asked, over all questions: beyond it, it would take minutes.
const MAX_ASKED: usize = 500_000;

/// What differs between two meshes of the same services and workloads; nothing if there is too much to ask about. Which
/// policy permits it is no difference.
pub(crate) fn changes(before: &Mesh, after: &Mesh) -> Result<Option<Vec<AccessChange>>, Problem> {
    let policies = before.policies.len() + after.policies.len();
    let targets = after.services.len() + after.workloads.len();
    let asked = [after.workloads.len() + 1, targets, METHODS.len(), policies];
    if asked.into_iter().fold(1, usize::saturating_mul) > MAX_ASKED {
        return Ok(None);
    }
    let (before, after) = (answers(before)?, answers(after)?);
    let no = (Can::No, Vec::new());
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let mut all: Vec<AccessChange> = Vec::new();
    for key in keys {
        let (old, new) = (
            before.get(key).unwrap_or(&no),
            after.get(key).unwrap_or(&no),
        );
        if old == new {
            continue;
        }
        let (caller, target, method) = key.clone();
        let change = AccessChange {
            caller,
            target,
            methods: vec![method],
            before: old.0,
            after: new.0,
            conditions_before: old.1.clone(),
            conditions_after: new.1.clone(),
        };
        match all.iter_mut().find(|known| known.is_like(&change)) {
            Some(known) => known.methods.push(method),
            None => all.push(change),
        }
    }
    Ok(Some(all))
}

fn answers(mesh: &Mesh) -> Result<Answers, Problem> {
    let args = AskedArgs {
        path: "/".to_owned(),
        ..AskedArgs::default()
    };
    let survey = Survey::of(&args, mesh.clone(), Path::new("the policies"))?;
    let mut answers = Answers::new();
    let targets = survey.all_targets();
    for caller in survey.callers() {
        for access in targets.iter().flat_map(|t| survey.access(&caller, t)) {
            for method in &access.methods {
                let key = (access.caller.clone(), access.target(), *method);
                answers.insert(key, (access.answer, words(&access)));
            }
        }
    }
    Ok(answers)
}

fn words(access: &Access) -> Vec<String> {
    let mut words: Vec<_> = access
        .conditions
        .iter()
        .map(|c| c.words().to_owned())
        .collect();
    words.sort();
    words
}

impl AccessChange {
    /// Whether it is the same but for the methods.
    fn is_like(&self, other: &Self) -> bool {
        (&self.caller, &self.target, self.before, self.after)
            == (&other.caller, &other.target, other.before, other.after)
            && self.conditions_before == other.conditions_before
            && self.conditions_after == other.conditions_after
    }
}

impl fmt::Display for AccessChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<_> = self.methods.iter().map(|m| m.as_str()).collect();
        let mark = match (self.before, self.after) {
            (Can::No, _) => '+',
            (_, Can::No) => '-',
            _ => '~',
        };
        let said = |answer: Can, conditions: &[String]| match conditions {
            [] => answer.as_str().to_owned(),
            _ => format!("{} ({})", answer.as_str(), conditions.join("; ")),
        };
        write!(
            f,
            "{mark} {} -> {} {}: {} -> {}",
            self.caller,
            self.target,
            methods.join(" "),
            said(self.before, &self.conditions_before),
            said(self.after, &self.conditions_after)
        )
    }
}
