//! Whether evaluation can fail: what comes after something that can says nothing about a policy.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not known to succeed, of later versions of Cedar too, may fail"
)]

use cedar_policy::pst::{BinaryOp, Expr, Literal, UnaryOp};

/// Whether evaluating `expr` can end in an error, for a request and a policy that fit the schema: overflow is the
/// one error that validation does not rule out. What is not known here may fail.
pub(crate) fn may_fail(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(_) | Expr::Var(_) => false,
        Expr::UnaryOp { op, expr } => match op {
            UnaryOp::Not
            | UnaryOp::IsEmpty
            | UnaryOp::IsIPv4
            | UnaryOp::IsIPV6
            | UnaryOp::IsLoopback
            | UnaryOp::IsMulticast => may_fail(expr),
            // Strict validation has read the text.
            UnaryOp::Ip | UnaryOp::Decimal | UnaryOp::Datetime | UnaryOp::Duration => {
                !matches!(**expr, Expr::Literal(Literal::String(_)))
            }
            _ => true,
        },
        Expr::BinaryOp {
            op:
                BinaryOp::Eq
                | BinaryOp::NotEq
                | BinaryOp::Less
                | BinaryOp::LessEq
                | BinaryOp::Greater
                | BinaryOp::GreaterEq
                | BinaryOp::And
                | BinaryOp::Or
                | BinaryOp::In
                | BinaryOp::Contains
                | BinaryOp::ContainsAll
                | BinaryOp::ContainsAny
                | BinaryOp::GetTag
                | BinaryOp::HasTag
                | BinaryOp::IsInRange,
            left,
            right,
        } => may_fail(left) || may_fail(right),
        Expr::GetAttr { expr, .. } | Expr::HasAttr { expr, .. } | Expr::Like { expr, .. } => {
            may_fail(expr)
        }
        Expr::Is { expr, in_expr, .. } => {
            may_fail(expr) || in_expr.as_ref().is_some_and(|parent| may_fail(parent))
        }
        Expr::IfThenElse {
            cond,
            then_expr,
            else_expr,
        } => may_fail(cond) || may_fail(then_expr) || may_fail(else_expr),
        Expr::Set(items) => items.iter().any(|item| may_fail(item)),
        Expr::Record(pairs) => pairs.values().any(|value| may_fail(value)),
        _ => true,
    }
}
