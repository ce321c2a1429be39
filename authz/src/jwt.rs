//! JSON Web Tokens: signatures by `jsonwebtoken`, claims strictly by us (RFC 7515, 7517, 7519, 8725).
//!
//! Semantics are those of Istio's `RequestAuthentication`: no token is fine (policies decide what that means), every
//! token that is present must verify. Stricter than Istio: times are whole seconds, names in a JSON object occur
//! once, `crit` is refused, a missing `iss` matches no rule, audiences and issuers compare byte for byte, and only
//! asymmetric algorithms of the key's own type count.

mod claims;
mod error;
mod json;
mod keys;
mod memory;
mod token;

use std::{borrow::Cow, sync::Arc, time::Duration};

use reeve_core::{UnixTime, decision::User, model::JwtRule};
use serde::Serialize;
use serde_json::{Map, Value};

pub use self::error::{JwksError, TokenError};
use self::{
    claims::{Claims, Validity},
    keys::KeySet,
    token::Token,
};

/// Longest token.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Most different tokens in one request.
pub const MAX_TOKENS: usize = 8;
/// Where tokens stand when a rule does not say (Istio's defaults).
const DEFAULT_HEADER: (&str, &str) = ("authorization", "Bearer ");
const DEFAULT_PARAM: &str = "access_token";

/// Where tokens are looked up in a request.
pub trait TokenLookup {
    /// Every value of the header `name` (lower case), as it came.
    fn header_values(&self, name: &str) -> Vec<&[u8]>;
    /// Every value of the query parameter `name`, percent-decoded.
    fn query_values(&self, name: &str) -> Vec<String>;
}

/// The token rules of one workload, with their keys parsed.
#[derive(Debug)]
pub struct JwtVerifier {
    /// No other has it.
    number: u64,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    rule: JwtRule,
    /// (name, prefix)
    headers: Vec<(String, String)>,
    params: Vec<String>,
    /// Headers (lower case) that claims are put into.
    claimed_headers: Vec<String>,
    keys: KeySet,
}

/// What the verified tokens of a request say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The end user; `None` when no token was there. With several tokens, the one found first: rules in their order,
    /// headers before query parameters.
    pub user: Option<Arc<User>>,
    /// Headers (lower case) to remove before the request goes on; do this before `set_headers`.
    pub strip_headers: Vec<String>,
    /// Query parameters to remove before the request goes on.
    pub strip_query: Vec<String>,
    /// Headers to set, from claims.
    pub set_headers: Vec<(String, String)>,
}

/// A token as it stands in a request.
#[derive(Debug)]
struct Found<'a> {
    text: Cow<'a, str>,
    places: Places<'a>,
}

/// Where a token was found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places<'a> {
    /// Rules that look there.
    rules: Vec<usize>,
    headers: Vec<&'a str>,
    params: Vec<&'a str>,
}

/// A token that a rule accepted.
#[derive(Debug)]
struct Accepted {
    /// The first of the rules that look for it and accept it.
    rule: usize,
    user: Arc<User>,
    /// From claims.
    set_headers: Vec<(String, String)>,
    valid: Validity,
}

impl JwtVerifier {
    /// Parses the keys of `rules`. A rule without usable keys refuses every token of its issuer.
    pub fn compile(rules: &[JwtRule]) -> Self {
        Self {
            number: memory::next_number(),
            rules: rules.iter().cloned().map(Rule::new).collect(),
        }
    }

    /// Verifies every token that a rule looks for. No token is fine (policies decide); any bad one is an error.
    pub fn verify(&self, lookup: &impl TokenLookup, now: UnixTime) -> Result<Verified, TokenError> {
        let mut verified = Verified::default();
        for rule in &self.rules {
            // SECURITY: a caller cannot pass a header off as a claim, token or not.
            let claimed = rule.claimed_headers.iter();
            verified.strip_headers.extend(claimed.cloned());
        }
        for Found { text, places } in self.find(lookup)? {
            let accepted = memory::accepted(self, &text, &places.rules, now)?;
            let rule = self.rules.get(accepted.rule);
            if rule.is_some_and(|rule| !rule.rule.forward_original_token) {
                let (headers, params) = (places.headers.iter(), places.params.iter());
                verified
                    .strip_headers
                    .extend(headers.map(|&h| h.to_owned()));
                verified.strip_query.extend(params.map(|&p| p.to_owned()));
            }
            verified
                .set_headers
                .extend(accepted.set_headers.iter().cloned());
            if verified.user.is_none() {
                verified.user = Some(accepted.user.clone());
            }
        }
        for names in [&mut verified.strip_headers, &mut verified.strip_query] {
            names.sort();
            names.dedup();
        }
        Ok(verified)
    }

    /// The different tokens of a request, in the order in which rules look for them.
    fn find<'a>(&'a self, lookup: &'a impl TokenLookup) -> Result<Vec<Found<'a>>, TokenError> {
        let mut all: Vec<Found<'a>> = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            for (name, prefix) in &rule.headers {
                for value in lookup.header_values(name) {
                    if let Some(token) = without_prefix(value, prefix)? {
                        let places = places_of(&mut all, token.into(), index)?;
                        places.headers.push(name);
                    }
                }
            }
        }
        for (index, rule) in self.rules.iter().enumerate() {
            for name in &rule.params {
                for token in lookup.query_values(name) {
                    let places = places_of(&mut all, token.into(), index)?;
                    places.params.push(name);
                }
            }
        }
        Ok(all)
    }

    /// What the first of `rules` that accepts the token makes of it, else the first one's reason against it.
    fn accept(&self, text: &str, rules: &[usize], now: UnixTime) -> Result<Accepted, TokenError> {
        let token = Token::parse(text)?;
        let object = token.claims()?;
        let issuer = claims::issuer(&object)?;
        let mut reason = TokenError::UnknownIssuer;
        for at in rules {
            let Some(rule) = self.rules.get(*at).filter(|r| r.rule.issuer == issuer) else {
                continue;
            };
            match rule.accept(&token, &object, now) {
                Ok(claims) => {
                    return Ok(Accepted {
                        rule: *at,
                        set_headers: rule.set_headers(&claims),
                        valid: claims.validity(),
                        user: Arc::new(claims.into_user()?),
                    });
                }
                Err(e) if reason == TokenError::UnknownIssuer => reason = e,
                Err(_) => {}
            }
        }
        Err(reason)
    }
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

impl Rule {
    fn new(rule: JwtRule) -> Self {
        let default = rule.from_headers.is_empty() && rule.from_params.is_empty();
        let named = rule.from_headers.iter();
        let mut headers: Vec<_> = named
            .map(|h| (h.name.to_ascii_lowercase(), h.prefix.clone()))
            .collect();
        let mut params = rule.from_params.clone();
        if default {
            headers.push((DEFAULT_HEADER.0.to_owned(), DEFAULT_HEADER.1.to_owned()));
            params.push(DEFAULT_PARAM.to_owned());
        }
        let document = rule.jwks.as_ref();
        let keys = document.and_then(|d| KeySet::parse(&d.json).ok());
        let claimed = rule.claims_to_headers.iter();
        let claimed_headers = claimed.map(|(header, _)| header.to_ascii_lowercase());
        Self {
            headers,
            params,
            claimed_headers: claimed_headers.collect(),
            keys: keys.unwrap_or_default(),
            rule,
        }
    }

    fn accept(
        &self,
        token: &Token<'_>,
        object: &Map<String, Value>,
        now: UnixTime,
    ) -> Result<Claims, TokenError> {
        self.keys.verify(token)?;
        let expected = claims::Expected {
            issuer: Some(&self.rule.issuer),
            audiences: &self.rule.audiences,
            leeway: self.rule.leeway,
        };
        Claims::check(object, &expected, now)
    }

    fn set_headers(&self, claims: &Claims) -> Vec<(String, String)> {
        let rules = self.rule.claims_to_headers.iter();
        let set = rules.filter_map(|(header, claim)| {
            let value = claims.header_value(claim)?;
            Some((header.to_ascii_lowercase(), value))
        });
        set.collect()
    }
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

/// How `reeve jwt verify` looks at a token.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// Required `iss`.
    pub issuer: Option<String>,
    /// Accepted `aud`; empty = any.
    pub audiences: Vec<String>,
    /// Bound on clock difference.
    pub leeway: Duration,
    /// Any JWS payload; claims are not looked at.
    pub bare: bool,
}

/// A token that verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// `alg` of the signature.
    pub algorithm: String,
    /// `kid` of the token.
    pub key_id: Option<String>,
    /// The claims; `null` with `bare`.
    pub claims: Value,
}

/// Checks a JWKS document; the number of usable keys, at least one.
pub fn check_jwks(json: &str) -> Result<usize, JwksError> {
    let keys = KeySet::parse(json)?;
    if keys.is_empty() {
        return Err(JwksError::NoUsableKey);
    }
    Ok(keys.len())
}

/// Verifies one token against a JWKS document or a single JWK (`reeve jwt verify`), with the data path's own code.
pub fn check_token(
    token: &str,
    jwks_json: &str,
    options: &CheckOptions,
    now: UnixTime,
) -> Result<Checked, TokenError> {
    let keys = KeySet::parse(jwks_json).map_err(|_| TokenError::NoKeys)?;
    let token = Token::parse(token)?;
    keys.verify(&token)?;
    let claims = if options.bare {
        Value::Null
    } else {
        let object = token.claims()?;
        let expected = claims::Expected {
            issuer: options.issuer.as_deref(),
            audiences: &options.audiences,
            leeway: options.leeway,
        };
        Claims::check(&object, &expected, now)?;
        Value::Object(object)
    };
    Ok(Checked {
        algorithm: token.algorithm.as_str().to_owned(),
        key_id: token.key_id.clone(),
        claims,
    })
}

#[cfg(test)]
mod tests;
