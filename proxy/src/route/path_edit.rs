//! Changes of paths: rewrites and the new path of a redirect.

use std::borrow::Cow;

use reeve_core::model::PathRewrite;
use regex::{Regex, RegexBuilder};

use super::{RouteError, matcher::MAX_REGEX_BYTES};

/// A compiled [`PathRewrite`].
#[derive(Debug)]
pub(crate) enum PathEdit {
    Matched(String),
    Full(String),
    Regex {
        regex: Regex,
        /// In the syntax of the library.
        substitution: String,
    },
}

impl PathEdit {
    /// Compiles `rewrite`, which stands in the route named `route`.
    pub(crate) fn compile(rewrite: &PathRewrite, route: &str) -> Result<Self, RouteError> {
        match rewrite {
            PathRewrite::Matched(to) => Ok(Self::Matched(to.clone())),
            PathRewrite::Full(to) => Ok(Self::Full(to.clone())),
            PathRewrite::Regex {
                pattern,
                substitution,
            } => {
                let regex = RegexBuilder::new(pattern)
                    .size_limit(MAX_REGEX_BYTES)
                    .build();
                let regex = regex.map_err(|source| RouteError::Regex {
                    route: route.to_owned(),
                    pattern: pattern.clone(),
                    source: Box::new(source),
                })?;
                let substitution = translate(substitution);
                Ok(Self::Regex {
                    regex,
                    substitution,
                })
            }
        }
    }

    /// The path after the change; `matched` is the part of it that the route's match took.
    pub(crate) fn apply(&self, path: &str, matched: &str) -> String {
        match self {
            Self::Matched(to) => join(to, path.get(matched.len()..).unwrap_or_default()),
            Self::Full(to) => to.clone(),
            Self::Regex {
                regex,
                substitution,
            } => match regex.replace_all(path, substitution) {
                Cow::Borrowed(same) => same.to_owned(),
                Cow::Owned(changed) if changed.starts_with('/') => changed,
                Cow::Owned(changed) => format!("/{changed}"),
            },
        }
    }
}

/// Joins a rewrite with what follows the matched prefix; one slash where both have one.
fn join(to: &str, rest: &str) -> String {
    let rest = match rest.strip_prefix('/') {
        Some(bare) if to.ends_with('/') => bare,
        _ => rest,
    };
    let path = format!("{to}{rest}");
    if path.starts_with('/') {
        path
    } else {
        format!("/{path}")
    }
}

/// RE2's `\1` is the library's `${1}`.
pub(crate) fn translate(substitution: &str) -> String {
    let mut out = String::with_capacity(substitution.len());
    let mut chars = substitution.chars();
    while let Some(c) = chars.next() {
        match (c, (c == '\\').then(|| chars.next()).flatten()) {
            ('\\', Some(digit)) if digit.is_ascii_digit() => {
                out.extend(["${", digit.encode_utf8(&mut [0; 4]), "}"]);
            }
            ('\\', Some(other)) => out.push(other),
            ('$', _) => out.push_str("$$"),
            (other, _) => out.push(other),
        }
    }
    out
}
