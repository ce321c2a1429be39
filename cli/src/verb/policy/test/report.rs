//! What came of the cases.

use std::fmt;

use reeve_authz::{Explanation, PolicyVerdict, Verdict};
use reeve_core::{
    PolicyId,
    decision::{Decision, Effect},
};
use serde::Serialize;

use super::{Seen, Use, Uses, cases::Expected};

/// All of it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) passed: bool,
    pub(super) cases: Vec<CaseOutcome>,
    pub(super) coverage: Coverage,
}

/// One case, twins included.
#[derive(Debug, Serialize)]
pub(super) struct CaseOutcome {
    pub(super) file: String,
    pub(super) name: String,
    pub(super) passed: bool,
    pub(super) misses: Vec<Miss>,
}

/// An answer that is not what was expected.
#[derive(Debug, Serialize)]
pub(super) struct Miss {
    /// Which twin; empty for the case itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<Expected>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actual: Option<Decision>,
    /// What the policies said that matter here, nearest to applying first.
    policies: Vec<PolicyVerdict>,
}

/// Which policies decided a case, and which of their conditions were seen both ways.
#[derive(Debug, Default, Serialize)]
pub(super) struct Coverage {
    policies: Vec<PolicyUse>,
    decided: usize,
    /// Whole percents, rounded down; 100 if there is no policy.
    percent: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum: Option<u8>,
    conditions: Conditions,
}

/// Outcomes of conditions: each holds or fails.
#[derive(Debug, Default, Serialize)]
struct Conditions {
    outcomes: usize,
    seen: usize,
    /// Whole percents, rounded down; 100 if there are no conditions.
    percent: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum: Option<u8>,
}

/// What is asked of the coverage, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Minima {
    pub(super) policies: Option<u8>,
    pub(super) conditions: Option<u8>,
}

/// In how many cases (and twins) a policy was among those that determined the answer, shadow answers included.
#[derive(Debug, Serialize)]
pub(super) struct PolicyUse {
    pub(super) source: String,
    pub(super) id: PolicyId,
    pub(super) cases: usize,
    /// Each `unless`, and each `when` split at its top-level `&&`.
    conditions: Vec<ConditionUse>,
}

/// Whether a condition was seen to hold, and to fail, in a case whose request the policy's scope fits.
#[derive(Debug, Serialize)]
struct ConditionUse {
    condition: String,
    held: bool,
    failed: bool,
}

/// `allow` or `deny`.
pub(super) fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    }
}

impl Report {
    pub(super) fn finish(&mut self, uses: Uses, minima: Minima) {
        let condition = |seen: Seen| ConditionUse {
            condition: seen.text,
            held: seen.held,
            failed: seen.failed,
        };
        let policy = |((source, id), known): ((String, PolicyId), Use)| PolicyUse {
            source,
            id,
            cases: known.cases,
            conditions: known.conditions.into_iter().map(condition).collect(),
        };
        let policies: Vec<_> = uses.0.into_iter().map(policy).collect();
        let decided = policies.iter().filter(|policy| policy.cases > 0).count();
        let conditions = policies.iter().flat_map(|policy| &policy.conditions);
        let outcomes = conditions.clone().count() * 2;
        let seen = conditions
            .map(|c| usize::from(c.held) + usize::from(c.failed))
            .sum();
        self.coverage = Coverage {
            decided,
            percent: percent(decided, policies.len()),
            minimum: minima.policies,
            conditions: Conditions {
                outcomes,
                seen,
                percent: percent(seen, outcomes),
                minimum: minima.conditions,
            },
            policies,
        };
        let enough = !self.coverage.is_too_low() && !self.coverage.conditions.are_too_few();
        self.passed = self.cases.iter().all(|case| case.passed) && enough;
    }
}

fn percent(part: usize, whole: usize) -> usize {
    (part * 100).checked_div(whole).unwrap_or(100)
}

impl Coverage {
    fn is_too_low(&self) -> bool {
        let minimum = self.minimum.map(usize::from);
        minimum.is_some_and(|minimum| self.percent < minimum)
    }
}

impl Conditions {
    fn are_too_few(&self) -> bool {
        let minimum = self.minimum.map(usize::from);
        minimum.is_some_and(|minimum| self.percent < minimum)
    }
}

impl Miss {
    pub(super) fn new(
        what: String,
        expected: &Expected,
        actual: Decision,
        explanation: &Explanation,
    ) -> Self {
        let mut told: Vec<_> = explanation
            .policies
            .iter()
            .filter(|policy| {
                expected.policies().contains(&policy.id)
                    || actual.policies.contains(&policy.id)
                    || policy.verdict == Verdict::Error
            })
            .cloned()
            .collect();
        // The permit that came closest, where one was hoped for.
        let nearest = explanation
            .policies
            .iter()
            .find(|policy| policy.effect == Effect::Allow && policy.verdict != Verdict::Satisfied);
        if expected.allows()
            && let Some(nearest) = nearest
            && !told.contains(nearest)
        {
            told.push(nearest.clone());
        }
        Self {
            what,
            expected: Some(expected.clone()),
            actual: Some(actual),
            policies: told,
        }
    }

    /// Every twin came out as the case itself.
    pub(super) fn no_twin_differs() -> Self {
        Self {
            what: "no twin comes out the other way".to_owned(),
            expected: None,
            actual: None,
            policies: Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.cases {
            writeln!(f, "{case}")?;
        }
        let failed = self.cases.iter().filter(|case| !case.passed).count();
        let Coverage {
            policies,
            decided,
            percent,
            ..
        } = &self.coverage;
        writeln!(f, "{} cases, {failed} failed", self.cases.len())?;
        write!(f, "{}", self.coverage.conditions)?;
        for policy in policies {
            for condition in &policy.conditions {
                condition.tell(f, policy)?;
            }
        }
        write!(
            f,
            "{decided} of {} policies decided a case ({percent} %)",
            policies.len()
        )?;
        if self.coverage.is_too_low() {
            write!(
                f,
                ", fewer than {} %",
                self.coverage.minimum.unwrap_or_default()
            )?;
        }
        for policy in policies.iter().filter(|policy| policy.cases == 0) {
            write!(f, "\n  in no case: {} ({})", policy.id, policy.source)?;
        }
        Ok(())
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seen,
            outcomes,
            percent,
            ..
        } = self;
        write!(
            f,
            "{seen} of {outcomes} outcomes of conditions were seen ({percent} %)"
        )?;
        match self.minimum.filter(|_| self.are_too_few()) {
            Some(minimum) => writeln!(f, ", fewer than {minimum} %"),
            None => writeln!(f),
        }
    }
}

impl ConditionUse {
    /// What of it no case has shown.
    fn tell(&self, f: &mut fmt::Formatter<'_>, policy: &PolicyUse) -> fmt::Result {
        let what = match (self.held, self.failed) {
            (true, true) => return Ok(()),
            (true, false) => "never failed",
            (false, true) => "never held",
            (false, false) => "never looked at",
        };
        let text = self
            .condition
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        writeln!(f, "  {what}: {}: {text}", policy.id)
    }
}

impl fmt::Display for CaseOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.passed { "ok  " } else { "FAIL" };
        write!(f, "{word} {}: {}", self.file, self.name)?;
        self.misses.iter().try_for_each(|miss| write!(f, "{miss}"))
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.what.is_empty() {
            write!(f, "\n  {}", self.what)?;
        }
        if let (Some(expected), Some(actual)) = (&self.expected, &self.actual) {
            write!(
                f,
                "\n  expected: {expected}\n  actual:   {}",
                Answered(actual)
            )?;
        }
        self.policies
            .iter()
            .try_for_each(|policy| write!(f, "\n  {policy}"))
    }
}

/// A decision in one line.
struct Answered<'a>(&'a Decision);

impl fmt::Display for Answered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            effect_word(self.0.effect),
            self.0.reason.as_str()
        )?;
        self.0
            .policies
            .iter()
            .try_for_each(|id| write!(f, " {id}"))?;
        match &self.0.shadow {
            Some(shadow) => write!(f, ", in shadow {}", Answered(shadow)),
            None => Ok(()),
        }
    }
}
