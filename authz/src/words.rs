//! Conditions in words, for tables and graphs that people read.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "few forms of Cedar's grammar have words; every other is shown as it is written"
)]

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{
    Policy,
    pst::{BinaryOp, Clause, Expr, Literal, PatternElem, UnaryOp, Var},
};

/// What must hold for all of `conditions` (`when { … }`, `unless { … }`), such as
/// "a user with roles=admin from `https://issuer.example`, and the path is like /admin/*".
pub fn in_words(conditions: &[String]) -> String {
    let as_written = || conditions.join(" ");
    let text = format!("permit (principal, action, resource)\n{};", as_written());
    let parsed = Policy::parse(None, text).ok();
    let Some(tree) = parsed.and_then(|policy| policy.to_pst().ok()) else {
        return as_written();
    };
    let (mut needed, mut exceptions) = (Vec::new(), Vec::new());
    for clause in tree.body().clauses() {
        match clause {
            Clause::When(body) => conjuncts(body, &mut needed),
            Clause::Unless(body) => exceptions.push(format!("not where {}", words(body))),
        }
    }
    let mut phrases = together(&needed);
    phrases.extend(exceptions);
    phrases.join(", and ")
}

fn conjuncts<'e>(expr: &'e Expr, found: &mut Vec<&'e Expr>) {
    match expr {
        Expr::BinaryOp {
            op: BinaryOp::And,
            left,
            right,
        } => {
            conjuncts(left, found);
            conjuncts(right, found);
        }
        other => found.push(other),
    }
}

/// What is said of the end user.
#[derive(Default)]
struct User<'e> {
    is_asked: bool,
    issuer: Option<&'e str>,
    subject: Option<&'e str>,
    claims: Vec<String>,
}

/// Phrases for expressions that must all hold: what they say of one user is one phrase.
fn together(all: &[&Expr]) -> Vec<String> {
    let mut user = User::default();
    let mut phrases = Vec::new();
    // Asking whether a tag is there is only a guard where its value is asked for.
    let mut valued: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for expr in all {
        if let Some((holder, name, _)) = tag_value(expr) {
            valued.entry(holder).or_default().insert(name);
        }
    }
    let guarded = |holder: &str, name: &str| valued.get(holder).is_some_and(|n| n.contains(name));
    for expr in all {
        if !user.takes(expr, &guarded) && !is_guard(expr, &guarded) {
            phrases.push(words(expr));
        }
    }
    if user.is_asked {
        phrases.insert(0, user.phrase());
    }
    phrases
}

impl<'e> User<'e> {
    /// Whether `expr` is about the user, and now said.
    fn takes(&mut self, expr: &'e Expr, guarded: &impl Fn(&str, &str) -> bool) -> bool {
        let said = match expr {
            Expr::HasAttr { expr, attrs } => is_context(expr) && attrs.first() == "user",
            Expr::BinaryOp {
                op: BinaryOp::Eq,
                left,
                right,
            } => match (attribute(left), text(right)) {
                (Some("user.issuer"), Some(issuer)) => {
                    self.issuer = Some(issuer);
                    true
                }
                (Some("user.subject"), Some(subject)) => {
                    self.subject = Some(subject);
                    true
                }
                _ => false,
            },
            _ => false,
        };
        let claim = match (tag_value(expr), tag_there(expr)) {
            (Some(("user", name, value)), _) => {
                self.claims.push(format!("{name}{value}"));
                true
            }
            (_, Some(("user", name))) => {
                if !guarded("user", name) {
                    self.claims.push(name.to_owned());
                }
                true
            }
            _ => false,
        };
        self.is_asked |= said || claim;
        said || claim
    }

    fn phrase(&self) -> String {
        let mut phrase = match self.subject {
            Some(subject) => format!("the user {subject}"),
            None if self.claims.is_empty() => "any user".to_owned(),
            None => "a user".to_owned(),
        };
        if !self.claims.is_empty() {
            phrase.push_str(&format!(" with {}", self.claims.join(" and ")));
        }
        if let Some(issuer) = self.issuer {
            phrase.push_str(&format!(" from {issuer}"));
        }
        phrase
    }
}

fn is_guard(expr: &Expr, guarded: &impl Fn(&str, &str) -> bool) -> bool {
    tag_there(expr).is_some_and(|(holder, name)| guarded(holder, name))
}

/// One expression in words; as it is written where there are none.
fn words(expr: &Expr) -> String {
    match expr {
        Expr::BinaryOp { op, left, right } => match op {
            BinaryOp::And => {
                let mut all = Vec::new();
                conjuncts(expr, &mut all);
                together(&all).join(" and ")
            }
            BinaryOp::Or => format!("({} or {})", alternative(left), alternative(right)),
            _ => compared(*op, left, right).unwrap_or_else(|| expr.to_string()),
        },
        Expr::UnaryOp {
            op: UnaryOp::Not,
            expr,
        } => match attribute(expr) {
            Some("mtls") => "not over mTLS".to_owned(),
            _ => format!("not ({})", words(expr)),
        },
        Expr::UnaryOp {
            op: UnaryOp::IsLoopback,
            expr,
        } if attribute(expr) == Some("source_ip") => "the source is this machine".to_owned(),
        Expr::GetAttr { .. } if attribute(expr) == Some("mtls") => "over mTLS".to_owned(),
        Expr::HasAttr { expr: inner, attrs } if whose(inner).is_some() => {
            let whose = whose(inner).unwrap_or_default();
            format!("{whose} {} is known", attrs.first())
        }
        Expr::HasAttr { expr: inner, attrs } if is_context(inner) => match attrs.first().as_str() {
            "user" => "any user".to_owned(),
            "grpc" => "it is gRPC".to_owned(),
            "sni" => "there is a server name".to_owned(),
            _ => expr.to_string(),
        },
        Expr::Like {
            expr: term,
            pattern,
        } => match name(term) {
            Some(name) => format!("{name} is like {}", shown(pattern)),
            None => expr.to_string(),
        },
        Expr::Is {
            expr: term,
            entity_type,
            in_expr: None,
        } if matches!(**term, Expr::Var(Var::Principal)) => {
            format!("the caller is {entity_type}")
        }
        _ => expr.to_string(),
    }
}

fn alternative(expr: &Expr) -> String {
    let text = words(expr);
    // `a or b or c` needs no brackets within.
    let inner = text.strip_prefix('(').and_then(|t| t.strip_suffix(')'));
    match (expr, inner) {
        (
            Expr::BinaryOp {
                op: BinaryOp::Or, ..
            },
            Some(inner),
        ) => inner.to_owned(),
        _ => text,
    }
}

fn compared(op: BinaryOp, left: &Expr, right: &Expr) -> Option<String> {
    if let Some((holder, tag)) = tag(left) {
        let kind = match holder {
            "headers" => "header",
            "query" => "query parameter",
            _ => return user_claim(op, tag, right),
        };
        return Some(match (op, right) {
            (BinaryOp::Contains, _) => format!("{kind} {tag} has {}", text(right)?),
            (BinaryOp::Eq, Expr::Set(items)) => format!("{kind} {tag} is just {}", texts(items)?),
            _ => return None,
        });
    }
    if matches!(op, BinaryOp::HasTag)
        && let Some(holder) = attribute(left)
    {
        let kind = match holder {
            "headers" => "header",
            "query" => "query parameter",
            _ => "claim",
        };
        return Some(format!("{kind} {} is there", text(right)?));
    }
    if let Some(said) = of_party(op, left, right) {
        return Some(said);
    }
    if op == BinaryOp::In && attribute(left) == Some("user") {
        return Some(format!("a user in {}", entities(right)?));
    }
    if let (BinaryOp::In | BinaryOp::Eq, Expr::Var(var)) = (op, left) {
        let who = match var {
            Var::Principal => "the caller",
            Var::Resource => "the target",
            Var::Action => "the method",
            Var::Context => return None,
        };
        let word = if op == BinaryOp::In { "is in" } else { "is" };
        return Some(format!("{who} {word} {}", entities(right)?));
    }
    let name = name(left)?;
    let value = value(right)?;
    let word = match op {
        BinaryOp::Eq => "is",
        BinaryOp::NotEq => "is not",
        BinaryOp::Less if is_time(right) => "is before",
        BinaryOp::Greater | BinaryOp::GreaterEq if is_time(right) => "is after",
        BinaryOp::Less => "is below",
        BinaryOp::LessEq => "is at most",
        BinaryOp::Greater => "is above",
        BinaryOp::GreaterEq => "is at least",
        BinaryOp::IsInRange => "is in",
        _ => return None,
    };
    Some(format!("{name} {word} {value}"))
}

/// What is said of a label of the caller or the target.
fn of_party(op: BinaryOp, left: &Expr, right: &Expr) -> Option<String> {
    if op == BinaryOp::HasTag {
        return Some(format!("{} label {} is there", whose(left)?, text(right)?));
    }
    let Expr::BinaryOp {
        op: BinaryOp::GetTag,
        left: party,
        right: label,
    } = left
    else {
        return None;
    };
    let label = format!("{} label {}", whose(party)?, text(label)?);
    Some(match (op, right) {
        (BinaryOp::Contains, _) => format!("{label} has {}", text(right)?),
        (BinaryOp::Eq, Expr::Set(items)) => format!("{label} is just {}", texts(items)?),
        _ => return None,
    })
}

fn whose(expr: &Expr) -> Option<&'static str> {
    match expr {
        Expr::Var(Var::Principal) => Some("the caller's"),
        Expr::Var(Var::Resource) => Some("the target's"),
        _ => None,
    }
}

fn user_claim(op: BinaryOp, claim: &str, value: &Expr) -> Option<String> {
    let value = match (op, value) {
        (BinaryOp::Contains, _) => text(value)?.to_owned(),
        (BinaryOp::Eq, Expr::Set(items)) => texts(items)?,
        _ => return None,
    };
    Some(format!("a user with {claim}={value}"))
}

fn is_time(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::UnaryOp {
            op: UnaryOp::Datetime,
            ..
        }
    )
}

/// What people call an attribute of the context.
fn name(expr: &Expr) -> Option<String> {
    if let Expr::GetAttr { expr, attr } = expr
        && let Some(whose) = whose(expr)
    {
        return Some(format!("{whose} {attr}"));
    }
    Some(match attribute(expr)? {
        "path" => "the path".to_owned(),
        "port" => "the port".to_owned(),
        "host" => "the host".to_owned(),
        "method" => "the method".to_owned(),
        "source_ip" => "the source".to_owned(),
        "remote_ip" => "the client".to_owned(),
        "destination_ip" => "the address called".to_owned(),
        "sni" => "the server name".to_owned(),
        "time" => "the time".to_owned(),
        "grpc.service" => "the gRPC service".to_owned(),
        "grpc.method" => "the gRPC method".to_owned(),
        "user.issuer" => "the user's issuer".to_owned(),
        "user.subject" => "the user".to_owned(),
        segment => match segment.strip_prefix("path_segments.s") {
            Some(number) => format!("segment {number} of the path"),
            None => return None,
        },
    })
}

fn value(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Literal(Literal::String(text)) => Some(text.to_string()),
        Expr::Literal(Literal::Long(number)) => Some(number.to_string()),
        Expr::UnaryOp {
            op: UnaryOp::Ip | UnaryOp::Datetime | UnaryOp::Duration,
            expr,
        } => text(expr).map(str::to_owned),
        _ => None,
    }
}

fn is_context(expr: &Expr) -> bool {
    matches!(expr, Expr::Var(Var::Context))
}

/// `a.b` of `context.a.b`, for the names that have words.
fn attribute(expr: &Expr) -> Option<&'static str> {
    const NAMES: [&str; 20] = [
        "path",
        "port",
        "host",
        "method",
        "source_ip",
        "remote_ip",
        "destination_ip",
        "sni",
        "time",
        "mtls",
        "headers",
        "query",
        "user",
        "grpc.service",
        "grpc.method",
        "user.issuer",
        "user.subject",
        "path_segments.s1",
        "path_segments.s2",
        "path_segments.s3",
    ];
    let Expr::GetAttr { expr, attr } = expr else {
        return None;
    };
    let whole = match &**expr {
        Expr::Var(Var::Context) => attr.to_string(),
        Expr::GetAttr { expr, attr: outer } if is_context(expr) => format!("{outer}.{attr}"),
        _ => return None,
    };
    NAMES.into_iter().find(|name| *name == whole)
}

fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(Literal::String(text)) => Some(text),
        _ => None,
    }
}

fn texts(items: &[std::sync::Arc<Expr>]) -> Option<String> {
    let texts: Option<Vec<_>> = items.iter().map(|item| text(item)).collect();
    Some(texts?.join(" and "))
}

/// The holder and name of `context.headers.getTag("name")`.
fn tag(expr: &Expr) -> Option<(&'static str, &str)> {
    match expr {
        Expr::BinaryOp {
            op: BinaryOp::GetTag,
            left,
            right,
        } => Some((attribute(left)?, text(right)?)),
        _ => None,
    }
}

/// Holder, name and value (`=value`) of a tag that is compared.
fn tag_value(expr: &Expr) -> Option<(&'static str, &str, String)> {
    let Expr::BinaryOp { op, left, right } = expr else {
        return None;
    };
    let (holder, name) = tag(left)?;
    let value = match (op, &**right) {
        (BinaryOp::Contains, value) => text(value)?.to_owned(),
        (BinaryOp::Eq, Expr::Set(items)) => texts(items)?,
        _ => return None,
    };
    Some((holder, name, format!("={value}")))
}

/// Holder and name of a tag that is asked to be there.
fn tag_there(expr: &Expr) -> Option<(&'static str, &str)> {
    match expr {
        Expr::BinaryOp {
            op: BinaryOp::HasTag,
            left,
            right,
        } => Some((attribute(left)?, text(right)?)),
        _ => None,
    }
}

fn entities(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Literal(Literal::EntityUID(uid)) => Some(uid.eid.to_string()),
        Expr::Set(items) => {
            let each: Option<Vec<_>> = items.iter().map(|item| entities(item)).collect();
            Some(each?.join(" or "))
        }
        _ => None,
    }
}

fn shown(pattern: &[PatternElem]) -> String {
    let char = |elem: &PatternElem| match elem {
        PatternElem::Char(c) => *c,
        PatternElem::Wildcard => '*',
    };
    pattern.iter().map(char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(conditions: &[&str]) -> String {
        let conditions: Vec<_> = conditions.iter().map(|c| (*c).to_owned()).collect();
        in_words(&conditions)
    }

    #[test]
    fn groups_attributes_and_labels_have_words() {
        for (condition, words) in [
            (
                r#"when { principal in Team::"web" }"#,
                "the caller is in web",
            ),
            (
                r#"when { context has user && context.user in Group::"staff" }"#,
                "a user in staff",
            ),
            (
                r#"when { principal has tier && principal.tier == "gold" }"#,
                "the caller's tier is gold",
            ),
            (
                r#"when { resource.hasTag("app") && resource.getTag("app").contains("web") }"#,
                "the target's label app has web",
            ),
        ] {
            let found = said(&[condition]);
            assert!(found.contains(words), "{condition}: {found}");
        }
    }

    #[test]
    fn what_is_said_of_a_user_is_one_phrase() {
        let user = r#"when { context has user && context.user.issuer == "https://i.example" && context.user.hasTag("roles") && context.user.getTag("roles").contains("admin") }"#;
        assert_eq!(
            said(&[user]),
            "a user with roles=admin from https://i.example"
        );
        let rest = r#"when { context.user.issuer == "https://i.example" }"#;
        assert_eq!(said(&[rest]), "any user from https://i.example");
        assert_eq!(
            said(&[&user.replacen("when", "unless", 1)]),
            "not where a user with roles=admin from https://i.example"
        );
        assert_eq!(
            said(&[
                "when { context has user }",
                r#"when { context.user.subject == "alice" && context.path == "/a" }"#
            ]),
            "the user alice, and the path is /a"
        );
    }

    #[test]
    fn conditions_are_said_as_people_do() {
        for (condition, phrase) in [
            (r#"context.path like "/a/*""#, "the path is like /a/*"),
            (
                "context.mtls && !context.mtls",
                "over mTLS, and not over mTLS",
            ),
            ("context.port >= 80", "the port is at least 80"),
            (
                r#"context.path == "/a" || context.path == "/b" || context.port == 1"#,
                "(the path is /a or the path is /b or the port is 1)",
            ),
            (
                r#"context.headers.hasTag("end-user") && context.headers.getTag("end-user") == ["jason"]"#,
                "header end-user is just jason",
            ),
            (
                r#"context.query.hasTag("preview") && context.query.getTag("preview").contains("yes")"#,
                "query parameter preview has yes",
            ),
            (
                r#"context.source_ip.isInRange(ip("10.0.0.0/8"))"#,
                "the source is in 10.0.0.0/8",
            ),
            (
                r#"context.time < datetime("2030-01-01T00:00:00Z")"#,
                "the time is before 2030-01-01T00:00:00Z",
            ),
            (
                r#"principal in [Namespace::"mesh.local/ns/a", Namespace::"mesh.local/ns/b"]"#,
                "the caller is in mesh.local/ns/a or mesh.local/ns/b",
            ),
            (
                r#"context has path_segments && context.path_segments.s1 == "admin""#,
                "context has path_segments, and segment 1 of the path is admin",
            ),
        ] {
            assert_eq!(said(&[&format!("when {{ {condition} }}")]), phrase);
        }
    }

    #[test]
    fn what_has_no_words_is_shown_as_it_is_written() {
        let odd = "when { (context.port * 2) == 160 }";
        assert_eq!(said(&[odd]), "(context.port * 2) == 160");
        assert_eq!(said(&["nonsense"]), "nonsense");
    }
}
