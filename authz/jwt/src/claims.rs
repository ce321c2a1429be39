//! The claims of a token: the registered ones checked (RFC 7519 section 4.1), all of them as policy sees them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use reeve_core::{UnixTime, decision::User};
use serde_json::{Map, Value};

use super::TokenError;

/// Most claim names of one token, nested ones counted each.
const MAX_NAMES: usize = 256;
/// Most values of all claims.
const MAX_VALUES: usize = 1024;
/// Deepest nesting of objects and arrays.
const MAX_DEPTH: usize = 8;
/// Top-level claims that hold several values in one text, separated by spaces (as Istio splits them).
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// What a token must say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    /// `iss`, byte for byte; `None` = any, and none.
    pub(super) issuer: Option<&'a str>,
    /// One of these must be in `aud`; empty = any.
    pub(super) audiences: &'a [String],
    /// Bound on clock difference.
    pub(super) leeway: Duration,
}

/// Claims that were checked.
#[derive(Debug)]
pub(super) struct Claims {
    issuer: String,
    subject: String,
    expires_at: Option<UnixTime>,
    valid: Validity,
    object: Map<String, Value>,
}

/// When claims hold, leeway included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    leeway: Duration,
    expires_at: Option<UnixTime>,
    not_before: Option<UnixTime>,
    issued_at: Option<UnixTime>,
}

impl Validity {
    /// Refuses claims that do not hold at `now`.
    pub(super) fn check(&self, now: UnixTime) -> Result<(), TokenError> {
        // "The current date/time MUST be before the expiration date/time" (RFC 7519 section 4.1.4).
        if self
            .expires_at
            .is_some_and(|exp| now >= exp.plus(self.leeway))
        {
            return Err(TokenError::Expired);
        }
        let latest = now.plus(self.leeway);
        if self.not_before.is_some_and(|nbf| nbf > latest) {
            return Err(TokenError::NotYetValid);
        }
        if self.issued_at.is_some_and(|iat| iat > latest) {
            return Err(TokenError::IssuedInFuture);
        }
        Ok(())
    }
}

/// `iss`, which selects the rule.
pub(super) fn issuer(claims: &Map<String, Value>) -> Result<&str, TokenError> {
    text(claims, "iss")?.ok_or(TokenError::NoIssuer)
}

/// `sub`.
pub(super) fn subject(claims: &Map<String, Value>) -> Result<Option<&str>, TokenError> {
    text(claims, "sub")
}

impl Claims {
    /// Checks the registered claims of a token whose signature is right.
    pub(super) fn check(
        claims: &Map<String, Value>,
        expected: &Expected<'_>,
        now: UnixTime,
    ) -> Result<Self, TokenError> {
        let found = text(claims, "iss")?;
        if let Some(wanted) = expected.issuer
            && found.ok_or(TokenError::NoIssuer)? != wanted
        {
            return Err(TokenError::UnknownIssuer);
        }
        let subject = subject(claims)?.unwrap_or_default();
        let audiences = audiences(claims)?;
        if !expected.audiences.is_empty()
            && !audiences
                .iter()
                .any(|aud| expected.audiences.iter().any(|e| e == aud))
        {
            return Err(TokenError::WrongAudience);
        }
        let valid = Validity {
            leeway: expected.leeway,
            expires_at: time(claims, "exp")?,
            not_before: time(claims, "nbf")?,
            issued_at: time(claims, "iat")?,
        };
        valid.check(now)?;
        Ok(Self {
            issuer: found.unwrap_or_default().to_owned(),
            subject: subject.to_owned(),
            expires_at: valid.expires_at,
            valid,
            object: claims.clone(),
        })
    }

    /// `exp`.
    pub(super) fn expires_at(&self) -> Option<UnixTime> {
        self.expires_at
    }

    /// The same, by this issuer, whom a JWT-SVID need not name.
    pub(super) fn vouched_for_by(self, issuer: &str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            ..self
        }
    }

    /// When they hold.
    pub(super) fn validity(&self) -> Validity {
        self.valid
    }

    /// The end user as policy sees it; `delimited` are further claims with several values in one text.
    pub(super) fn into_user(self, delimited: &[String]) -> Result<User, TokenError> {
        let mut flat = Flat::default();
        for (name, value) in &self.object {
            if let Value::String(values) = value
                && (SPACE_DELIMITED.contains(&name.as_str()) || delimited.contains(name))
            {
                for value in values.split(' ').filter(|v| !v.is_empty()) {
                    flat.add(&[name], value.to_owned())?;
                }
            } else {
                flat.walk(&mut vec![name], value, 1)?;
            }
        }
        Ok(User {
            issuer: self.issuer,
            subject: self.subject,
            claims: flat.into_claims(),
            expires_at: self.expires_at,
        })
    }

    /// The single text, number or boolean that `claim` (dots for nesting) has, if it can stand in a header.
    pub(super) fn header_value(&self, claim: &str) -> Option<String> {
        let found = self.object.get(claim).or_else(|| {
            let (first, rest) = claim.split_once('.')?;
            let start = self.object.get(first)?;
            rest.split('.')
                .try_fold(start, |value, name| value.get(name))
        })?;
        scalar(found).filter(|text| text.bytes().all(|b| matches!(b, b' '..=b'~')))
    }
}

/// Claims under dotted names.
#[derive(Default)]
struct Flat<'a> {
    claims: BTreeMap<String, (Vec<&'a str>, BTreeSet<String>)>,
    values: usize,
}

impl<'a> Flat<'a> {
    /// Arrays add each of their members to the same claim, so that none hides; objects add a name.
    fn walk(
        &mut self,
        path: &mut Vec<&'a str>,
        value: &'a Value,
        depth: usize,
    ) -> Result<(), TokenError> {
        if depth > MAX_DEPTH {
            return Err(TokenError::TooManyClaims);
        }
        match value {
            Value::Null => Ok(()),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                self.add(path, scalar(value).unwrap_or_default())
            }
            Value::Array(items) => {
                let mut items = items.iter();
                items.try_for_each(|item| self.walk(path, item, depth + 1))
            }
            Value::Object(members) => {
                for (name, member) in members {
                    path.push(name);
                    self.walk(path, member, depth + 1)?;
                    path.pop();
                }
                Ok(())
            }
        }
    }

    fn add(&mut self, path: &[&'a str], value: String) -> Result<(), TokenError> {
        let name = path.join(".");
        let fresh = || (path.to_vec(), BTreeSet::new());
        let (origin, values) = self.claims.entry(name).or_insert_with(fresh);
        if origin != path {
            return Err(TokenError::AmbiguousClaims);
        }
        values.insert(value);
        self.values += 1;
        if self.claims.len() > MAX_NAMES || self.values > MAX_VALUES {
            return Err(TokenError::TooManyClaims);
        }
        Ok(())
    }

    fn into_claims(self) -> BTreeMap<String, BTreeSet<String>> {
        let claims = self.claims.into_iter();
        claims.map(|(name, (_, values))| (name, values)).collect()
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn text<'a>(
    claims: &'a Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'a str>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::ClaimType(name)),
    }
}

/// `aud`: one text, or an array of them.
fn audiences(claims: &Map<String, Value>) -> Result<Vec<&str>, TokenError> {
    let wrong = TokenError::ClaimType("aud");
    match claims.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(many)) => many.iter().map(|a| a.as_str().ok_or(wrong)).collect(),
        Some(_) => Err(wrong),
    }
}

/// A time in whole seconds. RFC 7519 allows fractions; no issuer of note writes them, and readers round differently.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<UnixTime>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(seconds)) => match seconds.as_u64() {
            Some(seconds) => Ok(Some(UnixTime::from_secs(seconds))),
            None => Err(TokenError::ClaimType(name)),
        },
        Some(_) => Err(TokenError::ClaimType(name)),
    }
}
