//! JSON Web Tokens: signatures by `jsonwebtoken`, claims strictly by us (RFC 7515, 7517, 7519, 8725).
//!
//! Semantics are those of Istio's `RequestAuthentication`: no token is fine (policies decide what that means), every
//! token that is present must verify. Stricter than Istio: times are whole seconds, names in a JSON object occur
//! once, `crit` is refused, a missing `iss` matches no rule, audiences and issuers compare byte for byte, a `typ` says
//! that it is an access token or nothing, and only asymmetric algorithms of the key's own type count.

mod check;
mod claims;
mod error;
mod json;
mod keys;
mod memory;
mod request;
mod svid;
mod token;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use reeve_core::{UnixTime, decision::User, model::JwtRule};
use serde_json::{Map, Value};

pub use self::{
    check::{CheckOptions, Checked, check_jwks, check_token, claimed_subject},
    error::{JwksError, TokenError},
    keys::KeySet,
    request::TokenLookup,
};
use self::{
    claims::{Claims, Validity},
    request::Found,
    token::Token,
};

/// Longest token.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Most different tokens in one request.
pub const MAX_TOKENS: usize = 8;
/// Where tokens stand when a rule does not say (Istio's defaults).
const DEFAULT_HEADER: (&str, &str) = ("authorization", "Bearer ");
const DEFAULT_PARAM: &str = "access_token";

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
    /// Headers (lower case) that claims or the payload are put into.
    claimed_headers: Vec<String>,
    keys: KeySet,
    /// A token came that only a key which is not here could have signed.
    lacking: AtomicBool,
}

/// What the verified tokens of a request say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The end user; `None` when no token was there. With several tokens, the one found first: headers before query
    /// parameters before cookies, in each the rules in their order.
    pub user: Option<Arc<User>>,
    /// Headers (lower case) to remove before the request goes on, with those that differ only by underscores for dashes;
    /// do this before `set_headers`.
    pub strip_headers: Vec<String>,
    /// Headers (lower case) that tokens are taken from: what differs from one only by underscores for dashes was not
    /// looked at, and is to be removed too.
    pub strip_disguises_of: Vec<String>,
    /// Query parameters to remove before the request goes on.
    pub strip_query: Vec<String>,
    /// Cookies to remove before the request goes on.
    pub strip_cookies: Vec<String>,
    /// Headers to set, from claims; each name once.
    pub set_headers: Vec<(String, String)>,
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
            let looked_in = rule.headers.iter().map(|(name, _)| name);
            let disguisable = looked_in.filter(|name| name.contains(['-', '_']));
            verified.strip_disguises_of.extend(disguisable.cloned());
        }
        for Found { text, places } in request::find(&self.rules, lookup)? {
            let accepted = memory::accepted(self, &text, &places.rules, now)?;
            let rule = self.rules.get(accepted.rule);
            if rule.is_some_and(|rule| !rule.rule.forward_original_token) {
                places.strip(&mut verified);
            }
            verified.say(&accepted);
        }
        let Verified {
            strip_headers,
            strip_disguises_of,
            strip_query,
            strip_cookies,
            ..
        } = &mut verified;
        for names in [
            strip_headers,
            strip_disguises_of,
            strip_query,
            strip_cookies,
        ] {
            names.sort();
            names.dedup();
        }
        Ok(verified)
    }

    /// The rules, by name, by which tokens came since the last call that only a key which is not here could have signed:
    /// the issuer has new ones, or somebody makes tokens up.
    pub fn take_lacking(&self) -> Vec<String> {
        let rules = self.rules.iter();
        let lacking = rules.filter(|rule| rule.lacking.swap(false, Ordering::Relaxed));
        lacking.map(|rule| rule.rule.name.clone()).collect()
    }

    /// What the first of `rules` that accepts the token makes of it, else the first one's reason against it.
    fn accept(&self, text: &str, rules: &[usize], now: UnixTime) -> Result<Accepted, TokenError> {
        let token = Token::parse(text)?;
        let object = token.claims()?;
        let issuer = svid::issuer(&object)?;
        let mut reason = TokenError::UnknownIssuer;
        for at in rules {
            let Some(rule) = self.rules.get(*at).filter(|r| r.rule.issuer == issuer) else {
                continue;
            };
            match rule.accept(&token, &object, now) {
                Ok(claims) => {
                    return Ok(Accepted {
                        rule: *at,
                        set_headers: rule.set_headers(&claims, token.payload_text),
                        valid: claims.validity(),
                        user: Arc::new(claims.into_user(&rule.rule.space_delimited_claims)?),
                    });
                }
                Err(e) => {
                    if token.may_have_a_newer_key(e) {
                        rule.lacking.store(true, Ordering::Relaxed);
                    }
                    if reason == TokenError::UnknownIssuer {
                        reason = e;
                    }
                }
            }
        }
        Err(reason)
    }
}

impl Verified {
    /// SECURITY: with several tokens, what a header says comes from the first one alone, as the user does: a second value
    /// would let the caller choose which of them the application reads.
    fn say(&mut self, accepted: &Accepted) {
        let known = self.set_headers.len();
        for (name, value) in &accepted.set_headers {
            let earlier = self.set_headers.iter().take(known);
            if !earlier.into_iter().any(|(said, _)| said == name) {
                self.set_headers.push((name.clone(), value.clone()));
            }
        }
        if self.user.is_none() {
            self.user = Some(accepted.user.clone());
        }
    }
}

impl Rule {
    fn new(rule: JwtRule) -> Self {
        let default = rule.from_headers.is_empty()
            && rule.from_params.is_empty()
            && rule.from_cookies.is_empty();
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
        let claimed = rule.claims_to_headers.iter().map(|(header, _)| header);
        let claimed_headers = claimed
            .chain(&rule.payload_to_header)
            .map(|header| header.to_ascii_lowercase());
        Self {
            headers,
            params,
            claimed_headers: claimed_headers.collect(),
            keys: keys.unwrap_or_default(),
            lacking: AtomicBool::new(false),
            rule,
        }
    }

    fn accept(
        &self,
        token: &Token<'_>,
        object: &Map<String, Value>,
        now: UnixTime,
    ) -> Result<Claims, TokenError> {
        token.check_type()?;
        self.keys.verify(token)?;
        let without_issuer = self.rule.svids.is_some() && !object.contains_key("iss");
        let expected = claims::Expected {
            issuer: (!without_issuer).then_some(&self.rule.issuer),
            audiences: &self.rule.audiences,
            leeway: self.rule.leeway,
        };
        let claims = Claims::check(object, &expected, now)?;
        let Some(svids) = &self.rule.svids else {
            return Ok(claims);
        };
        svid::check(token, object, claims.expires_at(), svids)?;
        Ok(claims.vouched_for_by(&self.rule.issuer))
    }

    fn set_headers(&self, claims: &Claims, payload: &str) -> Vec<(String, String)> {
        let rules = self.rule.claims_to_headers.iter();
        let set = rules.filter_map(|(header, claim)| {
            let value = claims.header_value(claim)?;
            Some((header.to_ascii_lowercase(), value))
        });
        let whole = self.rule.payload_to_header.iter();
        let whole = whole.map(|header| (header.to_ascii_lowercase(), payload.to_owned()));
        set.chain(whole).collect()
    }
}

#[cfg(test)]
mod tests;
