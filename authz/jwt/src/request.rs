//! Where tokens stand in a request: headers, query parameters, cookies.

use std::borrow::Cow;

use super::{MAX_TOKENS, Rule, TokenError, Verified};

/// Where tokens are looked up in a request.
pub trait TokenLookup {
    /// Every value of the header `name` (lower case), as it came.
    fn header_values(&self, name: &str) -> Vec<&[u8]>;
    /// Every value of the query parameter `name`, percent-decoded.
    fn query_values(&self, name: &str) -> Vec<String>;
}

/// A token as it stands in a request.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) places: Places<'a>,
}

/// Where a token was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places<'a> {
    /// Rules that look there.
    pub(super) rules: Vec<usize>,
    headers: Vec<&'a str>,
    params: Vec<&'a str>,
    cookies: Vec<&'a str>,
}

impl Places<'_> {
    /// Has them removed from the request.
    pub(super) fn strip(&self, verified: &mut Verified) {
        for (from, to) in [
            (&self.headers, &mut verified.strip_headers),
            (&self.params, &mut verified.strip_query),
            (&self.cookies, &mut verified.strip_cookies),
        ] {
            to.extend(from.iter().map(|&name| name.to_owned()));
        }
    }
}

/// The different tokens of a request, in the order in which rules look for them.
pub(super) fn find<'a>(
    rules: &'a [Rule],
    lookup: &'a impl TokenLookup,
) -> Result<Vec<Found<'a>>, TokenError> {
    let mut all: Vec<Found<'a>> = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        for (name, prefix) in &rule.headers {
            for value in lookup.header_values(name) {
                if let Some(token) = without_prefix(value, prefix)? {
                    let places = places_of(&mut all, token.into(), index)?;
                    places.headers.push(name);
                }
            }
        }
    }
    for (index, rule) in rules.iter().enumerate() {
        for name in &rule.params {
            for token in lookup.query_values(name) {
                let places = places_of(&mut all, token.into(), index)?;
                places.params.push(name);
            }
        }
    }
    for (index, rule) in rules.iter().enumerate() {
        for name in &rule.rule.from_cookies {
            for token in cookies(lookup, name) {
                let token = std::str::from_utf8(token).map_err(|_| TokenError::Malformed)?;
                let places = places_of(&mut all, token.into(), index)?;
                places.cookies.push(name);
            }
        }
    }
    Ok(all)
}

/// The places of `token` among `all`, which the rule at `index` looks for.
fn places_of<'s, 'a>(
    all: &'s mut Vec<Found<'a>>,
    token: Cow<'a, str>,
    index: usize,
) -> Result<&'s mut Places<'a>, TokenError> {
    let at = match all.iter().position(|found| found.text == token) {
        Some(at) => at,
        None if all.len() == MAX_TOKENS => return Err(TokenError::TooManyTokens),
        None => {
            all.push(Found {
                text: token,
                places: Places::default(),
            });
            all.len().saturating_sub(1)
        }
    };
    let found = all.get_mut(at).ok_or(TokenError::TooManyTokens)?;
    found.places.rules.push(index);
    Ok(&mut found.places)
}

/// What follows `prefix`, which is compared without regard to case (RFC 9110 section 11.1); `None` when the value is
/// something else, such as another authentication scheme.
fn without_prefix<'v>(value: &'v [u8], prefix: &str) -> Result<Option<&'v str>, TokenError> {
    let Some((start, token)) = value.split_at_checked(prefix.len()) else {
        return Ok(None);
    };
    if !start.eq_ignore_ascii_case(prefix.as_bytes()) {
        return Ok(None);
    }
    let token = std::str::from_utf8(token).map_err(|_| TokenError::Malformed)?;
    Ok(Some(token.trim_matches([' ', '\t'])))
}

/// Every value of the cookie `name` (RFC 6265 section 4.2.1), without the quotes that may stand around it.
fn cookies<'l>(lookup: &'l impl TokenLookup, name: &str) -> Vec<&'l [u8]> {
    let fields = lookup.header_values("cookie").into_iter();
    let pairs = fields.flat_map(|field| field.split(|byte| *byte == b';'));
    let values = pairs.filter_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (found, value) = pair.split_at_checked(equals)?;
        let value = value.get(1..)?.trim_ascii();
        let quoted = value
            .strip_prefix(b"\"")
            .and_then(|v| v.strip_suffix(b"\""));
        (found.trim_ascii() == name.as_bytes()).then(|| quoted.unwrap_or(value))
    });
    values.collect()
}
