//! What a part of a policy looked at, and what it found: the values beside the condition that did not hold.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is looked up has few forms; every other is looked into"
)]

use std::{collections::BTreeMap, str::FromStr as _};

use cedar_policy::{
    EvalResult, Expression, eval_expression,
    pst::{BinaryOp, Clause, Expr, Var},
};

use super::Part;
use crate::entities::Question;

/// Most values that are shown of one part.
const MAX_VALUES_SHOWN: usize = 16;
/// Longest value in characters.
const MAX_VALUE_CHARS: usize = 256;

/// Said of what a request does not have.
const ABSENT: &str = "absent";

/// The name and value of everything that `part` looks at.
pub(super) fn of(part: &Part, question: &Question) -> BTreeMap<String, String> {
    let mut terms = Vec::new();
    match part {
        Part::Principal(_) => terms.push(Term::var("principal")),
        Part::Action(_) => terms.push(Term::var("action")),
        Part::Resource(_) => terms.push(Term::var("resource")),
        Part::Condition(Clause::When(body) | Clause::Unless(body)) => collect(body, &mut terms),
    }
    let shown = terms.into_iter().take(MAX_VALUES_SHOWN);
    shown
        .map(|term| {
            let value = term.value(question);
            (term.name, value)
        })
        .collect()
}

/// Something that is looked up.
#[derive(Debug)]
struct Term {
    name: String,
    /// What tells whether it is there, if it may be absent.
    guard: Option<String>,
}

impl Term {
    fn var(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            guard: None,
        }
    }

    fn value(&self, question: &Question) -> String {
        let there = match &self.guard {
            None => true,
            Some(guard) => matches!(ask(guard, question), Some(EvalResult::Bool(true))),
        };
        let found = there.then(|| ask(&self.name, question)).flatten();
        let Some(found) = found else {
            return ABSENT.to_owned();
        };
        let mut text = shown(&found);
        if let EvalResult::EntityUid(uid) = &found
            && matches!(self.name.as_str(), "principal" | "resource")
        {
            let above = question.entities.ancestors(uid).into_iter().flatten();
            let mut above: Vec<_> = above.map(ToString::to_string).collect();
            above.sort();
            if !above.is_empty() {
                text = format!("{text} in {}", above.join(", "));
            }
        }
        match text.char_indices().nth(MAX_VALUE_CHARS) {
            None => text,
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        }
    }
}

fn ask(expression: &str, question: &Question) -> Option<EvalResult> {
    let expression = Expression::from_str(expression).ok()?;
    eval_expression(&question.request, &question.entities, &expression).ok()
}

/// A value as Cedar writes it; an entity that only stands for what the request carries says nothing by its id.
fn shown(value: &EvalResult) -> String {
    match value {
        EvalResult::EntityUid(uid) if uid.type_name().basename() == "User" => "present".to_owned(),
        EvalResult::Set(set) => {
            let members: Vec<_> = set.iter().map(shown).collect();
            format!("[{}]", members.join(", "))
        }
        other => other.to_string(),
    }
}

/// The look-ups in `expr`, the outermost of each chain.
fn collect(expr: &Expr, terms: &mut Vec<Term>) {
    let mut add = |name: String, guard: Option<String>| {
        if terms.iter().all(|term| term.name != name) {
            terms.push(Term { name, guard });
        }
    };
    match expr {
        Expr::Var(Var::Principal) => add("principal".to_owned(), None),
        Expr::Var(Var::Action) => add("action".to_owned(), None),
        Expr::Var(Var::Resource) => add("resource".to_owned(), None),
        Expr::GetAttr { expr: inner, .. } if is_chain(inner) => {
            add(expr.to_string(), Some(guard(expr)));
        }
        Expr::HasAttr { expr: inner, attrs } if is_chain(inner) => {
            let name = format!("{inner}.{}", attrs.first());
            add(name, Some(format!("{inner} has {}", attrs.first())));
        }
        Expr::BinaryOp {
            op: BinaryOp::HasTag | BinaryOp::GetTag,
            left,
            right,
        } => {
            // Where there is no user, there are no claims.
            let there = format!("{} && {left}.hasTag({right})", guard(left));
            add(format!("{left}.getTag({right})"), Some(there));
        }
        Expr::BinaryOp { left, right, .. } => {
            collect(left, terms);
            collect(right, terms);
        }
        Expr::Is { expr, .. }
        | Expr::UnaryOp { expr, .. }
        | Expr::GetAttr { expr, .. }
        | Expr::HasAttr { expr, .. }
        | Expr::Like { expr, .. } => collect(expr, terms),
        Expr::IfThenElse {
            cond,
            then_expr,
            else_expr,
        } => {
            for expr in [cond, then_expr, else_expr] {
                collect(expr, terms);
            }
        }
        Expr::Set(items) => items.iter().for_each(|item| collect(item, terms)),
        Expr::Record(pairs) => pairs.values().for_each(|value| collect(value, terms)),
        _ => {}
    }
}

/// `context`, a party, or attributes of it.
fn is_chain(expr: &Expr) -> bool {
    match expr {
        Expr::Var(Var::Context | Var::Principal | Var::Resource) => true,
        Expr::GetAttr { expr, .. } => is_chain(expr),
        _ => false,
    }
}

/// What is true if all of `context.a.b` is there.
fn guard(expr: &Expr) -> String {
    match expr {
        Expr::GetAttr { expr: inner, attr } => {
            let own = format!("{inner} has {attr}");
            match guard(inner).as_str() {
                "true" => own,
                before => format!("{before} && {own}"),
            }
        }
        _ => "true".to_owned(),
    }
}
