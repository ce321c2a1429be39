//! Cedar text: conditions that are put together from tests, and printed with as few parentheses as they need.

use std::fmt;

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    /// One test, which binds closer than `&&`.
    Test(String),
    /// All of them hold; nothing to hold always does.
    And(Vec<Self>),
    /// One of them holds; of none, none does.
    Or(Vec<Self>),
    /// It does not hold.
    Not(Box<Self>),
}

impl Expr {
    /// Always.
    pub(crate) const ALWAYS: Self = Self::And(Vec::new());
    /// Never.
    pub(crate) const NEVER: Self = Self::Or(Vec::new());

    pub(crate) fn test(text: impl Into<String>) -> Self {
        Self::Test(text.into())
    }

    /// Its text, if it is one test.
    pub(crate) fn as_test(&self) -> Option<&str> {
        match self {
            Self::Test(text) => Some(text),
            Self::And(_) | Self::Or(_) | Self::Not(_) => None,
        }
    }

    /// All of `parts`.
    pub(crate) fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut flat = Vec::new();
        for part in parts {
            if part == Self::NEVER {
                return Self::NEVER;
            }
            match part {
                Self::And(inner) => flat.extend(inner),
                other @ (Self::Test(_) | Self::Or(_) | Self::Not(_)) => flat.push(other),
            }
        }
        let mut seen: Vec<Self> = Vec::new();
        for part in flat {
            if !seen.contains(&part) {
                seen.push(part);
            }
        }
        match <[Self; 1]>::try_from(seen) {
            Ok([only]) => only,
            Err(parts) => Self::And(parts),
        }
    }

    /// One of `parts`.
    pub(crate) fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut flat = Vec::new();
        for part in parts {
            if part == Self::ALWAYS {
                return Self::ALWAYS;
            }
            match part {
                Self::Or(inner) => flat.extend(inner),
                other @ (Self::Test(_) | Self::And(_) | Self::Not(_)) => flat.push(other),
            }
        }
        match <[Self; 1]>::try_from(flat) {
            Ok([only]) => only,
            Err(parts) => Self::Or(parts),
        }
    }

    /// The opposite.
    pub(crate) fn negated(self) -> Self {
        if self == Self::ALWAYS {
            return Self::NEVER;
        }
        match self {
            Self::Or(parts) if parts.is_empty() => Self::ALWAYS,
            Self::Not(inner) => *inner,
            other @ (Self::Test(_) | Self::And(_) | Self::Or(_)) => Self::Not(Box::new(other)),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, parts: &[Self], with: &str, within: bool| {
            for (n, part) in parts.iter().enumerate() {
                if n > 0 {
                    f.write_str(with)?;
                }
                match part {
                    Self::Or(_) if within => write!(f, "({part})")?,
                    Self::And(_) if !within => write!(f, "({part})")?,
                    Self::Test(_) | Self::Not(_) | Self::And(_) | Self::Or(_) => {
                        write!(f, "{part}")?;
                    }
                }
            }
            Ok(())
        };
        match self {
            Self::Test(text) => f.write_str(text),
            Self::And(parts) if parts.is_empty() => f.write_str("true"),
            Self::Or(parts) if parts.is_empty() => f.write_str("false"),
            Self::And(parts) => joined(f, parts, " && ", true),
            Self::Or(parts) => joined(f, parts, " || ", false),
            Self::Not(inner) => write!(f, "!({inner})"),
        }
    }
}

/// A string literal.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    escape(text, &mut out);
    out.push('"');
    out
}

/// A `like` pattern: the texts with anything between them.
pub(crate) fn pattern(texts: &[&str]) -> String {
    let mut out = String::from("\"");
    for (n, text) in texts.iter().enumerate() {
        if n > 0 {
            out.push('*');
        }
        let mut escaped = String::new();
        escape(text, &mut escaped);
        out.push_str(&escaped.replace('*', "\\*"));
    }
    out.push('"');
    out
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
}

/// A set of string literals.
pub(crate) fn strings<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let all: Vec<String> = texts.into_iter().map(quoted).collect();
    format!("[{}]", all.join(", "))
}

/// How Istio reads a value: exact, `prefix*`, `*suffix`, or `*` for anything that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match<'v> {
    /// `*`
    Present,
    /// `*suffix`
    Suffix(&'v str),
    /// `prefix*`
    Prefix(&'v str),
    /// The value itself.
    Exact(&'v str),
}

impl<'v> Match<'v> {
    pub(crate) fn of(value: &'v str) -> Self {
        match (value, value.strip_prefix('*'), value.strip_suffix('*')) {
            ("*", _, _) => Self::Present,
            (_, Some(suffix), _) => Self::Suffix(suffix),
            (_, None, Some(prefix)) => Self::Prefix(prefix),
            (_, None, None) => Self::Exact(value),
        }
    }
}

/// Whether the text `subject` is one of `values`, as Istio reads them.
pub(crate) fn matches(subject: &str, values: &[String]) -> Expr {
    let (mut exact, mut tests) = (Vec::new(), Vec::new());
    for value in values {
        match Match::of(value) {
            Match::Exact(text) => exact.push(text),
            Match::Present => tests.push(Expr::test(format!("{subject} != \"\""))),
            Match::Prefix(text) => {
                tests.push(Expr::test(format!(
                    "{subject} like {}",
                    pattern(&[text, ""])
                )));
            }
            Match::Suffix(text) => {
                tests.push(Expr::test(format!(
                    "{subject} like {}",
                    pattern(&["", text])
                )));
            }
        }
    }
    let exact = match exact.as_slice() {
        [] => None,
        [only] => Some(format!("{subject} == {}", quoted(only))),
        many => Some(format!(
            "{}.contains({subject})",
            strings(many.iter().copied())
        )),
    };
    Expr::any(exact.map(Expr::Test).into_iter().chain(tests))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_printed_with_the_parentheses_that_they_need() {
        let test = |name: &str| Expr::test(name);
        let all = Expr::all([
            test("a"),
            Expr::any([test("b"), Expr::all([test("c"), test("d")])]),
            test("a"),
            Expr::ALWAYS,
        ]);
        assert_eq!(all.to_string(), "a && (b || (c && d))");
        assert_eq!(all.negated().to_string(), "!(a && (b || (c && d)))");
        assert_eq!(Expr::all([test("a"), Expr::NEVER]), Expr::NEVER);
        assert_eq!(Expr::any([test("a"), Expr::ALWAYS]), Expr::ALWAYS);
        assert_eq!(Expr::any([]).negated(), Expr::ALWAYS);
    }

    #[test]
    fn values_are_read_as_istio_reads_them() {
        let text = |values: &[&str]| {
            let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
            matches("s", &values).to_string()
        };
        assert_eq!(text(&["a"]), r#"s == "a""#);
        assert_eq!(text(&["a", "b"]), r#"["a", "b"].contains(s)"#);
        assert_eq!(text(&["a*", "*b"]), r#"s like "a*" || s like "*b""#);
        assert_eq!(text(&["*"]), r#"s != """#);
        assert_eq!(text(&["*a*"]), r#"s like "*a\*""#);
        assert_eq!(text(&["\"\\\n"]), r#"s == "\"\\\n""#);
    }
}
