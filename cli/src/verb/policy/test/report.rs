//! What came of the cases.

use std::fmt;

use reeve_authz::{Explanation, PolicyVerdict, Verdict};
use reeve_core::{
    PolicyId,
    decision::{Decision, Effect},
};
use serde::Serialize;

use super::cases::Expected;

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

/// Which policies decided a case.
#[derive(Debug, Default, Serialize)]
pub(super) struct Coverage {
    policies: Vec<PolicyUse>,
    decided: usize,
    /// Whole percents, rounded down; 100 if there is no policy.
    percent: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum: Option<u8>,
}

/// In how many cases (and twins) a policy was among those that determined the answer, shadow answers included.
#[derive(Debug, Serialize)]
pub(super) struct PolicyUse {
    pub(super) source: String,
    pub(super) id: PolicyId,
    pub(super) cases: usize,
}

/// `allow` or `deny`.
pub(super) fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    }
}

impl Report {
    pub(super) fn finish(
        &mut self,
        uses: impl Iterator<Item = ((String, PolicyId), usize)>,
        minimum: Option<u8>,
    ) {
        let policies: Vec<PolicyUse> = uses.map(PolicyUse::from).collect();
        let decided = policies.iter().filter(|policy| policy.cases > 0).count();
        let percent = (decided * 100).checked_div(policies.len()).unwrap_or(100);
        self.coverage = Coverage {
            policies,
            decided,
            percent,
            minimum,
        };
        self.passed = self.cases.iter().all(|case| case.passed) && !self.coverage.is_too_low();
    }
}

impl Coverage {
    fn is_too_low(&self) -> bool {
        self.minimum
            .is_some_and(|minimum| self.percent < usize::from(minimum))
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
