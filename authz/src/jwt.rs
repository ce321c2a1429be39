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
mod token;

use std::{collections::BTreeMap, time::Duration};

use reeve_core::{UnixTime, decision::User, model::JwtRule};
use serde::Serialize;
use serde_json::{Map, Value};

pub use self::error::{JwksError, TokenError};
use self::{claims::Claims, keys::KeySet, token::Token};

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
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    rule: JwtRule,
    /// (name, prefix)
    headers: Vec<(String, String)>,
    params: Vec<String>,
    keys: KeySet,
}

/// What the verified tokens of a request say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The end user; `None` when no token was there. With several tokens, the one found first: rules in their order,
    /// headers before query parameters.
    pub user: Option<User>,
    /// Headers (lower case) to remove before the request goes on; do this before `set_headers`.
    pub strip_headers: Vec<String>,
    /// Query parameters to remove before the request goes on.
    pub strip_query: Vec<String>,
    /// Headers to set, from claims.
    pub set_headers: Vec<(String, String)>,
}

/// A token as it stands in a request.
#[derive(Debug, Default)]
struct Found {
    /// Rules that look where it stands.
    rules: Vec<usize>,
    headers: Vec<String>,
    params: Vec<String>,
}

impl JwtVerifier {
    /// Parses the keys of `rules`. A rule without usable keys refuses every token of its issuer.
    pub fn compile(rules: &[JwtRule]) -> Self {
        Self {
            rules: rules.iter().cloned().map(Rule::new).collect(),
        }
    }

    /// Verifies every token that a rule looks for. No token is fine (policies decide); any bad one is an error.
    pub fn verify(&self, lookup: &impl TokenLookup, now: UnixTime) -> Result<Verified, TokenError> {
        let mut verified = Verified::default();
        for rule in &self.rules {
            // SECURITY: a caller cannot pass a header off as a claim, token or not.
            let claimed = rule.rule.claims_to_headers.iter();
            verified
                .strip_headers
                .extend(claimed.map(|(header, _)| header.to_ascii_lowercase()));
        }
        for (text, found) in self.find(lookup)? {
            let token = Token::parse(&text)?;
            let (rule, claims) = self.verify_one(&token, &found, now)?;
            if !rule.rule.forward_original_token {
                verified.strip_headers.extend(found.headers);
                verified.strip_query.extend(found.params);
            }
            for (header, claim) in &rule.rule.claims_to_headers {
                if let Some(value) = claims.header_value(claim) {
                    verified
                        .set_headers
                        .push((header.to_ascii_lowercase(), value));
                }
            }
            if verified.user.is_none() {
                verified.user = Some(claims.into_user()?);
            }
        }
        for names in [&mut verified.strip_headers, &mut verified.strip_query] {
            names.sort();
            names.dedup();
        }
        Ok(verified)
    }

    /// The different tokens of a request, in the order in which rules look for them.
    fn find(&self, lookup: &impl TokenLookup) -> Result<Vec<(String, Found)>, TokenError> {
        let mut order = Vec::new();
        let mut all: BTreeMap<String, Found> = BTreeMap::new();
        let mut add = |token: String, rule: usize| {
            if !all.contains_key(&token) {
                if all.len() == MAX_TOKENS {
                    return Err(TokenError::TooManyTokens);
                }
                order.push(token.clone());
            }
            let found = all.entry(token).or_default();
            found.rules.push(rule);
            Ok(())
        };
        let mut places = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            for (name, prefix) in &rule.headers {
                for value in lookup.header_values(name) {
                    if let Some(token) = without_prefix(value, prefix)? {
                        add(token.clone(), index)?;
                        places.push((token, Some(name), None));
                    }
                }
            }
        }
        for (index, rule) in self.rules.iter().enumerate() {
            for name in &rule.params {
                for token in lookup.query_values(name) {
                    add(token.clone(), index)?;
                    places.push((token, None, Some(name)));
                }
            }
        }
        for (token, header, param) in places {
            if let Some(found) = all.get_mut(&token) {
                found.headers.extend(header.cloned());
                found.params.extend(param.cloned());
            }
        }
        let taken = order
            .into_iter()
            .filter_map(|token| all.remove_entry(&token));
        Ok(taken.collect())
    }

    /// The first of the rules of the token's issuer that accepts it, else the first one's reason.
    fn verify_one(
        &self,
        token: &Token<'_>,
        found: &Found,
        now: UnixTime,
    ) -> Result<(&Rule, Claims), TokenError> {
        let object = token.claims()?;
        let issuer = claims::issuer(&object)?;
        let mut reason = TokenError::UnknownIssuer;
        for rule in found.rules.iter().filter_map(|at| self.rules.get(*at)) {
            if rule.rule.issuer != issuer {
                continue;
            }
            match rule.accept(token, &object, now) {
                Ok(claims) => return Ok((rule, claims)),
                Err(e) if reason == TokenError::UnknownIssuer => reason = e,
                Err(_) => {}
            }
        }
        Err(reason)
    }
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
        Self {
            headers,
            params,
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
}

/// What follows `prefix`, which is compared without regard to case (RFC 9110 section 11.1); `None` when the value is
/// something else, such as another authentication scheme.
fn without_prefix(value: &[u8], prefix: &str) -> Result<Option<String>, TokenError> {
    let Some((start, token)) = value.split_at_checked(prefix.len()) else {
        return Ok(None);
    };
    if !start.eq_ignore_ascii_case(prefix.as_bytes()) {
        return Ok(None);
    }
    let token = std::str::from_utf8(token).map_err(|_| TokenError::Malformed)?;
    Ok(Some(token.trim_matches([' ', '\t']).to_owned()))
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
