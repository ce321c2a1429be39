//! One route's conditions, compiled.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName};
use reeve_core::{
    decision::User,
    model::{HeaderMatch, RouteMatch, StringMatch},
};
use regex::{Regex, RegexBuilder};

use super::RouteError;
use crate::{query, shadow};

/// Bound on one compiled expression, in bytes.
pub(crate) const MAX_REGEX_BYTES: usize = 1024 * 1024;

/// What of a request is matched on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestView<'a> {
    /// `http` or `https`.
    pub(crate) scheme: &'a str,
    /// As sent, lower case, with the port if it has one.
    pub(crate) authority: &'a str,
    /// Case-sensitive.
    pub(crate) method: &'a str,
    /// Normalised, without query.
    pub(crate) path: &'a str,
    /// Without the question mark.
    pub(crate) query: Option<&'a str>,
    /// All of them.
    pub(crate) headers: &'a HeaderMap,
    /// The verified token, where one was asked for.
    pub(crate) claims: Option<&'a User>,
}

/// One alternative of a route: all conditions must hold.
#[derive(Debug)]
pub(crate) struct Matcher {
    uri: Option<TextMatcher>,
    scheme: Option<TextMatcher>,
    method: Option<TextMatcher>,
    authority: Option<TextMatcher>,
    headers: Vec<(HeaderName, ValueMatcher)>,
    without_headers: Vec<(HeaderName, ValueMatcher)>,
    query: Vec<(String, ValueMatcher)>,
    claims: Vec<(String, ValueMatcher)>,
    without_claims: Vec<(String, ValueMatcher)>,
    /// The name under which what matched is counted.
    pub(super) stat_prefix: Option<Arc<str>>,
}

/// What a request must have at least to match; an index finds routes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key<'m> {
    /// This path.
    Exact(&'m str),
    /// A path that begins so.
    Prefix(&'m str),
    /// This value of this header.
    Header(&'m HeaderName, &'m str),
    /// Nothing that helps.
    Any,
}

impl Matcher {
    /// Compiles `rule`, which stands in the route named `route`.
    pub(crate) fn compile(rule: &RouteMatch, route: &str) -> Result<Self, RouteError> {
        let text = |m: &Option<StringMatch>| {
            let compile = |m| TextMatcher::compile(m, Case::Sensitive, route);
            m.as_ref().map(compile).transpose()
        };
        let uri_case = if rule.ignore_uri_case {
            Case::Ignored
        } else {
            Case::Sensitive
        };
        let uri = rule.uri.as_ref();
        Ok(Self {
            uri: uri
                .map(|m| TextMatcher::compile(m, uri_case, route))
                .transpose()?,
            scheme: text(&rule.scheme)?,
            method: text(&rule.method)?,
            authority: text(&rule.authority)?,
            headers: compile_headers(&rule.headers, route)?,
            without_headers: compile_headers(&rule.without_headers, route)?,
            query: compile_query(&rule.query_params, route)?,
            claims: compile_query(&rule.claims, route)?,
            without_claims: compile_query(&rule.without_claims, route)?,
            stat_prefix: rule.stat_prefix.as_deref().map(Into::into),
        })
    }

    /// What to find it by.
    pub(super) fn key(&self) -> Key<'_> {
        match &self.uri {
            Some(TextMatcher::Exact(path, Case::Sensitive)) => return Key::Exact(path),
            Some(TextMatcher::Prefix(prefix, Case::Sensitive)) => return Key::Prefix(prefix),
            Some(TextMatcher::Elements(prefix, Case::Sensitive)) => return Key::Prefix(prefix),
            Some(_) | None => {}
        }
        let exact = self.headers.iter().find_map(|(name, m)| match m {
            ValueMatcher::Value(TextMatcher::Exact(value, Case::Sensitive)) => Some((name, value)),
            ValueMatcher::Present | ValueMatcher::Value(_) => None,
        });
        exact.map_or(Key::Any, |(name, value)| Key::Header(name, value))
    }

    /// Whether every condition holds.
    pub(crate) fn holds(&self, request: &RequestView<'_>) -> bool {
        let text = |m: &Option<TextMatcher>, value| m.as_ref().is_none_or(|m| m.holds(value));
        let header = |(name, m): &(HeaderName, ValueMatcher)| {
            m.holds(joined(request.headers, name).as_deref())
        };
        let taboo = |(name, m): &(HeaderName, ValueMatcher)| {
            m.holds_or_empty(joined(request.headers, name).as_deref())
        };
        text(&self.uri, request.path)
            && text(&self.scheme, request.scheme)
            && text(&self.method, request.method)
            && text(&self.authority, request.authority)
            && self.headers.iter().all(header)
            && !self.without_headers.iter().any(taboo)
            && self.query.iter().all(|(name, m)| {
                let value = request.query.and_then(|q| query::first(q, name));
                m.holds(value.as_deref())
            })
            && self.claims.iter().all(|claim| has_claim(claim, request))
            && !self
                .without_claims
                .iter()
                .any(|claim| has_claim(claim, request))
    }

    /// The part of `path` that a prefix match took, which a rewrite replaces; the whole path for other matches.
    pub(crate) fn matched_part<'p>(&self, path: &'p str) -> &'p str {
        match &self.uri {
            Some(TextMatcher::Prefix(prefix, _) | TextMatcher::Elements(prefix, _)) => {
                path.get(..prefix.len()).unwrap_or(path)
            }
            _ => path,
        }
    }
}

/// Whether the verified token has the claim with a value that matches; there may be several.
fn has_claim((name, matcher): &(String, ValueMatcher), request: &RequestView<'_>) -> bool {
    let values = request.claims.and_then(|user| user.claims.get(name));
    let mut values = values.into_iter().flatten();
    values.any(|value| matcher.holds(Some(value)))
}

fn compile_headers(
    rules: &BTreeMap<String, HeaderMatch>,
    route: &str,
) -> Result<Vec<(HeaderName, ValueMatcher)>, RouteError> {
    let compile = |(name, m): (&String, &HeaderMatch)| {
        Ok((header_name(name, route)?, ValueMatcher::compile(m, route)?))
    };
    rules.iter().map(compile).collect()
}

fn compile_query(
    rules: &BTreeMap<String, HeaderMatch>,
    route: &str,
) -> Result<Vec<(String, ValueMatcher)>, RouteError> {
    let compile =
        |(name, m): (&String, &HeaderMatch)| Ok((name.clone(), ValueMatcher::compile(m, route)?));
    rules.iter().map(compile).collect()
}

/// Parses a header name.
pub(super) fn header_name(text: &str, route: &str) -> Result<HeaderName, RouteError> {
    HeaderName::try_from(text).map_err(|_| RouteError::Header {
        route: route.to_owned(),
        part: "name",
        text: text.to_owned(),
    })
}

/// Every value of a header, joined with commas (as Envoy matches it); `None` if it is absent or not text. Whether a
/// request is shadow traffic is told by its trace, as if there were a header.
pub(super) fn joined<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, str>> {
    if *name == shadow::HEADER {
        return shadow::is_marked(headers).then_some(Cow::Borrowed("true"));
    }
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    let mut joined = Cow::Borrowed(first);
    for value in values {
        let joined = joined.to_mut();
        joined.push(',');
        joined.push_str(value.to_str().ok()?);
    }
    Some(joined)
}

#[derive(Debug)]
enum ValueMatcher {
    Present,
    Value(TextMatcher),
}

impl ValueMatcher {
    fn compile(rule: &HeaderMatch, route: &str) -> Result<Self, RouteError> {
        match rule {
            HeaderMatch::Present => Ok(Self::Present),
            HeaderMatch::Value(m) => {
                TextMatcher::compile(m, Case::Sensitive, route).map(Self::Value)
            }
        }
    }

    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Present => value.is_some(),
            Self::Value(m) => value.is_some_and(|value| m.holds(value)),
        }
    }

    /// The same of something that must not match: what is absent counts as empty there, as in Istio.
    fn holds_or_empty(&self, value: Option<&str>) -> bool {
        match self {
            Self::Present => value.is_some(),
            Self::Value(m) => m.holds(value.unwrap_or_default()),
        }
    }
}

/// Whether case counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Sensitive,
    Ignored,
}

/// A compiled [`StringMatch`].
#[derive(Debug)]
pub(super) enum TextMatcher {
    Exact(String, Case),
    Prefix(String, Case),
    /// Without a slash at its end.
    Elements(String, Case),
    Regex(Regex),
}

impl TextMatcher {
    /// Compiles `rule`, which stands in the route named `route`.
    pub(super) fn compile(rule: &StringMatch, case: Case, route: &str) -> Result<Self, RouteError> {
        match rule {
            StringMatch::Exact(text) => Ok(Self::Exact(text.clone(), case)),
            StringMatch::Prefix(text) => Ok(Self::Prefix(text.clone(), case)),
            StringMatch::PathPrefix(text) => {
                let bare = text.strip_suffix('/').unwrap_or(text);
                Ok(Self::Elements(bare.to_owned(), case))
            }
            StringMatch::Regex(pattern) => RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
                .size_limit(MAX_REGEX_BYTES)
                .build()
                .map(Self::Regex)
                .map_err(|source| RouteError::Regex {
                    route: route.to_owned(),
                    pattern: pattern.clone(),
                    source: Box::new(source),
                }),
        }
    }

    /// Whether `value` matches.
    pub(super) fn holds(&self, value: &str) -> bool {
        match self {
            Self::Exact(text, Case::Sensitive) => value == text,
            Self::Exact(text, Case::Ignored) => value.eq_ignore_ascii_case(text),
            Self::Prefix(prefix, Case::Sensitive) => value.starts_with(prefix.as_str()),
            Self::Prefix(prefix, Case::Ignored) => value
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix)),
            Self::Elements(prefix, case) => {
                let start = value.get(..prefix.len());
                let same = start.is_some_and(|start| match case {
                    Case::Sensitive => start == prefix,
                    Case::Ignored => start.eq_ignore_ascii_case(prefix),
                });
                let rest = value.get(prefix.len()..).unwrap_or_default();
                same && (rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}
