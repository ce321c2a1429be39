//! Constants of conditions on time, in Cedar's own numbers: milliseconds of times and durations, and plain numbers.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not understood is told as such, a construct of a later Cedar too"
)]

use cedar_policy::pst::{BinaryOp, Expr, Literal, UnaryOp};
use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// The value of an expression without anything of the request; `None` for what is not understood.
pub(super) fn constant(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(Literal::Long(number)) => Some(*number),
        Expr::UnaryOp {
            op: UnaryOp::Neg,
            expr,
        } => constant(expr)?.checked_neg(),
        Expr::UnaryOp {
            op: UnaryOp::Datetime,
            expr,
        } => datetime(text(expr)?),
        Expr::UnaryOp {
            op: UnaryOp::Duration,
            expr,
        } => duration(text(expr)?),
        Expr::BinaryOp {
            op: BinaryOp::Offset,
            left,
            right,
        } => constant(left)?.checked_add(constant(right)?),
        _ => None,
    }
}

fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(Literal::String(text)) => Some(text),
        _ => None,
    }
}

/// `2030-12-31`, and times such as `2030-12-31T18:00:00.000Z` and `2030-12-31T18:00:00+0100`.
fn datetime(text: &str) -> Option<i64> {
    let time = match text.contains('T') {
        true => text.parse::<Timestamp>().ok()?,
        false => {
            let midnight = text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC);
            midnight.ok()?.timestamp()
        }
    };
    Some(time.as_millisecond())
}

/// `1d2h3m4s5ms`, with a minus before it or not.
fn duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let mut whole: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at_checked(digits)?;
        let end = after.find(|c: char| c.is_ascii_digit());
        let (unit, after) = after.split_at_checked(end.unwrap_or(after.len()))?;
        let unit = match unit {
            "d" => super::DAY_MS,
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        let part = number.parse::<i64>().ok()?.checked_mul(unit)?;
        whole = whole.checked_add(part)?;
        rest = after;
    }
    whole.checked_mul(sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations_are_read_as_cedar_writes_them() {
        for (text, expected) in [
            ("1970-01-02", Some(86_400_000)),
            ("1970-01-01T00:00:01Z", Some(1000)),
            ("1970-01-01T00:00:01.250Z", Some(1250)),
            ("1970-01-01T01:00:00+0100", Some(0)),
            ("1969-12-31", Some(-86_400_000)),
            ("soon", None),
        ] {
            assert_eq!(datetime(text), expected, "{text}");
        }
        for (text, expected) in [
            ("1d2h3m4s5ms", Some(93_784_005)),
            ("-90m", Some(-5_400_000)),
            ("0ms", Some(0)),
            ("1w", None),
            ("h", None),
            ("7", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }
}
