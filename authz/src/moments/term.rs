//! What conditions make of the time before they compare it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not understood is told as such, a construct of a later Cedar too"
)]

use std::collections::BTreeSet;

use cedar_policy::pst::{BinaryOp, Expr, UnaryOp};

use super::{DAY_MS, constant::constant};
use crate::expression::of_context;

/// A value that depends on the time alone, `unit` of which counts as one:
/// `(what(context.time + before) + after) / unit`, in milliseconds, rounded towards zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Term {
    what: What,
    before: i64,
    after: i64,
    unit: i64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The time.
    Time,
    /// The beginning of its day.
    Day,
    /// What has passed since then.
    Clock,
}

/// Its type in Cedar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Datetime,
    Duration,
    Long,
}

/// When a comparison changes, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Flips {
    /// Since 1970.
    Once(Vec<i64>),
    /// Of the day; to be taken modulo its length.
    Daily(Vec<i64>),
}

impl Term {
    /// The term that `expr` is, if it is one.
    pub(super) fn of(expr: &Expr) -> Option<Self> {
        match expr {
            Expr::GetAttr { .. } if of_context(expr) == Some("time") => Some(Self {
                what: What::Time,
                before: 0,
                after: 0,
                unit: 1,
                kind: Kind::Datetime,
            }),
            Expr::UnaryOp { op, expr } => Self::of(expr)?.then(op),
            Expr::BinaryOp { op, left, right } => Self::of(left)?.with(op, constant(right)?),
            _ => None,
        }
    }

    fn then(self, op: &UnaryOp) -> Option<Self> {
        let unit = match (self.kind, op) {
            (Kind::Datetime, UnaryOp::ToDate | UnaryOp::ToTime) => return self.in_days(op),
            (Kind::Duration, UnaryOp::ToMilliseconds) => 1,
            (Kind::Duration, UnaryOp::ToSeconds) => 1000,
            (Kind::Duration, UnaryOp::ToMinutes) => 60_000,
            (Kind::Duration, UnaryOp::ToHours) => 3_600_000,
            (Kind::Duration, UnaryOp::ToDays) => DAY_MS,
            _ => return None,
        };
        let kind = Kind::Long;
        Some(Self { unit, kind, ..self })
    }

    /// The day, or the time of day, of a time; of a day, nothing more is made.
    fn in_days(self, op: &UnaryOp) -> Option<Self> {
        let plain = self.what == What::Time && self.unit == 1;
        let before = self.before.checked_add(self.after)?;
        let (what, kind) = match op {
            UnaryOp::ToDate => (What::Day, Kind::Datetime),
            _ => (What::Clock, Kind::Duration),
        };
        plain.then_some(Self {
            what,
            before,
            after: 0,
            kind,
            ..self
        })
    }

    fn with(self, op: &BinaryOp, value: i64) -> Option<Self> {
        let (by, kind) = match (self.kind, op) {
            (Kind::Datetime, BinaryOp::Offset) => (value, Kind::Datetime),
            (Kind::Datetime, BinaryOp::DurationSince) => (value.checked_neg()?, Kind::Duration),
            _ => return None,
        };
        let after = self.after.checked_add(by)?;
        Some(Self {
            after,
            kind,
            ..self
        })
    }

    /// When its comparison with `value` changes; `None` beyond what numbers can say.
    pub(super) fn flips(self, value: i64) -> Option<Flips> {
        let multiple = |of: i64| of.checked_mul(self.unit);
        let (here, next, last) = (
            multiple(value)?,
            multiple(value.checked_add(1)?)?,
            multiple(value.checked_sub(1)?)?,
        );
        // Rounding towards zero: above it a quotient changes at a multiple, below it one after.
        let edges = [here, next, last.checked_add(1)?, here.checked_add(1)?];
        let edges = edges.map(|edge| edge.checked_sub(self.after));
        let edges = edges.into_iter().collect::<Option<BTreeSet<i64>>>()?;
        let at = |edge: i64| edge.checked_sub(self.before);
        Some(match self.what {
            What::Time => Flips::Once(edges.into_iter().map(at).collect::<Option<_>>()?),
            What::Day => {
                let midnights = edges.into_iter().map(|edge| at(next_midnight(edge)?));
                Flips::Once(midnights.collect::<Option<_>>()?)
            }
            What::Clock => {
                let within = edges.into_iter().filter(|edge| (1..DAY_MS).contains(edge));
                let daily = within.chain([0]).map(at);
                Flips::Daily(daily.collect::<Option<_>>()?)
            }
        })
    }
}

/// The first midnight that is not before `time`.
fn next_midnight(time: i64) -> Option<i64> {
    let since = time.rem_euclid(DAY_MS);
    match since {
        0 => Some(time),
        _ => time.checked_sub(since)?.checked_add(DAY_MS),
    }
}
