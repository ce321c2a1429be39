//! When the answer of a policy may change by time alone: the moments at which a condition on `context.time` flips.
//!
//! Known are comparisons with constants (`<`, `<=`, `>`, `>=`, `==`, `!=`, and `contains` of a set of constants) of
//!
//! - the time itself, `context.time`, and its day, `.toDate()`;
//! - the time of day, `.toTime()`;
//! - the time since a constant, `.durationSince(datetime("…"))`;
//!
//! each after any `.offset(duration("…"))`, and durations also as numbers (`.toHours()` and its like). Whatever else is
//! made of the time may change at any moment; it counts as changing once a minute.
//!
//! INVARIANT: between two moments that are told, no condition of a known form flips. There may be more moments than flips.
//! A property test compares with the policies' own answers.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "of most forms of Cedar's grammar only the parts are looked at"
)]

mod constant;
mod term;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use cedar_policy::pst::{BinaryOp, Clause, Expr, Template, Var};
use reeve_core::UnixTime;

use self::{constant::constant, term::Term};
use crate::{
    expression::{of_context, parts},
    index::Step,
    uses::Uses,
};

/// Milliseconds of a day; Cedar's days have no leap seconds, and neither has [`UnixTime`].
const DAY_MS: i64 = 86_400_000;
/// How often what is not understood may change, in milliseconds.
const MINUTE_MS: u64 = 60_000;

/// When one policy's answer may change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moments {
    /// At these times, once each.
    once: BTreeSet<UnixTime>,
    /// Every day at these milliseconds, UTC.
    daily: BTreeSet<u32>,
    /// At any time, for all that is known.
    unknown: bool,
}

impl Moments {
    /// Those of a policy that looks at `uses`.
    pub(crate) fn of(policy: &Template, uses: &Uses) -> Self {
        let mut moments = Self::default();
        if uses.attribute("time") {
            for Clause::When(body) | Clause::Unless(body) in policy.clauses() {
                moments.visit(body);
            }
        }
        moments
    }

    // Cedar bounds the depth of an expression when it parses it.
    fn visit(&mut self, expr: &Expr) {
        if let Some((term, values)) = comparison(expr) {
            values.into_iter().for_each(|value| self.flips(term, value));
            return;
        }
        match expr {
            Expr::Var(Var::Context) => self.unknown = true,
            Expr::GetAttr { .. } if of_context(expr).is_some() => {
                self.unknown |= of_context(expr) == Some("time");
            }
            Expr::HasAttr { expr, .. } if matches!(**expr, Expr::Var(Var::Context)) => {}
            _ => match parts(expr) {
                Some(parts) => parts.into_iter().for_each(|part| self.visit(part)),
                None => self.unknown = true,
            },
        }
    }

    /// Adds the moments at which `term` comes to `value` and leaves it.
    fn flips(&mut self, term: Term, value: i64) {
        match term.flips(value) {
            Some(term::Flips::Once(times)) => {
                let times = times.into_iter().filter_map(|t| u64::try_from(t).ok());
                self.once.extend(times.map(UnixTime::from_millis));
            }
            Some(term::Flips::Daily(times)) => {
                let times = times.into_iter().map(|t| t.rem_euclid(DAY_MS));
                self.daily
                    .extend(times.filter_map(|t| u32::try_from(t).ok()));
            }
            // Beyond what can be counted.
            None => self.unknown = true,
        }
    }
}

/// A comparison of something made of the time with constants.
fn comparison(expr: &Expr) -> Option<(Term, Vec<i64>)> {
    let Expr::BinaryOp { op, left, right } = expr else {
        return None;
    };
    match op {
        BinaryOp::Eq
        | BinaryOp::NotEq
        | BinaryOp::Less
        | BinaryOp::LessEq
        | BinaryOp::Greater
        | BinaryOp::GreaterEq => {
            let (term, value) = match Term::of(left) {
                Some(term) => (term, constant(right)?),
                None => (Term::of(right)?, constant(left)?),
            };
            Some((term, vec![value]))
        }
        BinaryOp::Contains => {
            let (Expr::Set(items), Some(term)) = (&**left, Term::of(right)) else {
                return None;
            };
            let values = items.iter().map(|item| constant(item));
            Some((term, values.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

/// The moments of many policies, with the ends of those that lapse, counted so that policies can come and go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calendar {
    once: BTreeMap<UnixTime, u32>,
    daily: BTreeMap<u32, u32>,
    unknown: u32,
}

impl Calendar {
    /// Enters a policy's moments, or takes them out.
    pub(crate) fn change(&mut self, moments: &Moments, until: Option<UnixTime>, step: Step) {
        for time in moments.once.iter().chain(&until) {
            step.count(&mut self.once, time);
        }
        for time in &moments.daily {
            step.count(&mut self.daily, time);
        }
        if moments.unknown {
            step.take(&mut self.unknown);
        }
    }

    /// The first moment after `time` at which an answer may change; `None`: by time alone, none ever does.
    pub(crate) fn next_after(&self, time: UnixTime) -> Option<UnixTime> {
        let after = (Bound::Excluded(time), Bound::Unbounded);
        let once = self.once.range(after).next().map(|(at, _)| *at);
        let minute = MINUTE_MS - time.as_millis() % MINUTE_MS;
        let minute = (self.unknown > 0).then(|| time.as_millis().saturating_add(minute));
        let daily = self.next_daily(time);
        let soonest = minute.into_iter().chain(daily).map(UnixTime::from_millis);
        soonest.chain(once).min()
    }

    fn next_daily(&self, time: UnixTime) -> Option<u64> {
        let day = DAY_MS.unsigned_abs();
        let (midnight, now) = (
            time.as_millis() / day * day,
            u32::try_from(time.as_millis() % day).unwrap_or(u32::MAX),
        );
        let today = (Bound::Excluded(now), Bound::Unbounded);
        let today = self.daily.range(today).next().map(|(at, _)| u64::from(*at));
        let tomorrow = || Some(u64::from(*self.daily.keys().next()?).saturating_add(day));
        Some(midnight.saturating_add(today.or_else(tomorrow)?))
    }

    /// Whether an answer given at `from` may be another at `to`. A clock that was set back may have undone anything.
    pub(crate) fn may_change(&self, from: UnixTime, to: UnixTime) -> bool {
        match to < from {
            true => self.next_after(UnixTime::default()).is_some(),
            false => self.next_after(from).is_some_and(|at| at <= to),
        }
    }
}

#[cfg(test)]
mod tests;
