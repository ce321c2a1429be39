//! Walking Cedar's expressions. Their depth is bounded where they are parsed.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a construct of a later Cedar has parts that nobody knows"
)]

use cedar_policy::pst::{Expr, Var};

/// The direct parts of an expression; `None` for a construct that is not known, with which anything may be done.
pub(crate) fn parts(expr: &Expr) -> Option<Vec<&Expr>> {
    Some(match expr {
        Expr::Literal(_) | Expr::Var(_) | Expr::Slot(_) => Vec::new(),
        Expr::UnaryOp { expr, .. }
        | Expr::GetAttr { expr, .. }
        | Expr::HasAttr { expr, .. }
        | Expr::Like { expr, .. } => vec![expr],
        Expr::BinaryOp { left, right, .. } => vec![left, right],
        Expr::Is { expr, in_expr, .. } => {
            let parent = in_expr.iter().map(|parent| &**parent);
            parent.chain([&**expr]).collect()
        }
        Expr::IfThenElse {
            cond,
            then_expr,
            else_expr,
        } => vec![cond, then_expr, else_expr],
        Expr::Set(items) => items.iter().map(|item| &**item).collect(),
        Expr::Record(pairs) => pairs.values().map(|value| &**value).collect(),
        _ => return None,
    })
}

/// The `x` of an expression `context.x`.
pub(crate) fn of_context(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::GetAttr { expr, attr } if matches!(**expr, Expr::Var(Var::Context)) => {
            Some(attr.as_str())
        }
        _ => None,
    }
}
