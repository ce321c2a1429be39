//! One route's conditions, compiled.

use std::{borrow::Cow, collections::BTreeMap};

use http::{HeaderMap, HeaderName};
use reeve_core::model::{HeaderMatch, RouteMatch, StringMatch};
use regex::{Regex, RegexBuilder};

use super::RouteError;
use crate::query;

/// Bound on one compiled expression, in bytes.
const MAX_REGEX_BYTES: usize = 1024 * 1024;

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
        })
    }

    /// Whether every condition holds.
    pub(crate) fn holds(&self, request: &RequestView<'_>) -> bool {
        let text = |m: &Option<TextMatcher>, value| m.as_ref().is_none_or(|m| m.holds(value));
        let header = |(name, m): &(HeaderName, ValueMatcher)| {
            m.holds(joined(request.headers, name).as_deref())
        };
        text(&self.uri, request.path)
            && text(&self.scheme, request.scheme)
            && text(&self.method, request.method)
            && text(&self.authority, request.authority)
            && self.headers.iter().all(header)
            && !self.without_headers.iter().any(header)
            && self.query.iter().all(|(name, m)| {
                let value = request.query.and_then(|q| query::first(q, name));
                m.holds(value.as_deref())
            })
    }

    /// The part of `path` that a prefix match took, which a rewrite replaces; the whole path for other matches.
    pub(crate) fn matched_part<'p>(&self, path: &'p str) -> &'p str {
        match &self.uri {
            Some(TextMatcher::Prefix(prefix, _)) => path.get(..prefix.len()).unwrap_or(path),
            _ => path,
        }
    }
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

/// Every value of a header, joined with commas (as Envoy matches it); `None` if it is absent or not text.
fn joined<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, str>> {
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Sensitive,
    Ignored,
}

#[derive(Debug)]
enum TextMatcher {
    Exact(String, Case),
    Prefix(String, Case),
    Regex(Regex),
}

impl TextMatcher {
    fn compile(rule: &StringMatch, case: Case, route: &str) -> Result<Self, RouteError> {
        match rule {
            StringMatch::Exact(text) => Ok(Self::Exact(text.clone(), case)),
            StringMatch::Prefix(text) => Ok(Self::Prefix(text.clone(), case)),
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

    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Exact(text, Case::Sensitive) => value == text,
            Self::Exact(text, Case::Ignored) => value.eq_ignore_ascii_case(text),
            Self::Prefix(prefix, Case::Sensitive) => value.starts_with(prefix.as_str()),
            Self::Prefix(prefix, Case::Ignored) => value
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix)),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}
