//! Break-glass grants: a Cedar `permit`, signed beforehand, that a proxy takes up without asking anybody.
//!
//! A grant is read, its signature checked, and only then is anything it says believed. What comes out is one policy that
//! judges its namespace alone (or, signed by who may do that, every one) and carries its end in itself (`@until`), so that it stops deciding on time whatever else
//! happens. It is one more `permit` beside the policy set: every `forbid` still wins.

mod extent;
mod keys;

use std::{fmt, time::Duration};

use cedar_policy::{Effect as CedarEffect, Policy};
use reeve_core::{
    Namespace, PolicyId, TrustDomain, UnixTime,
    model::{BreakGlass, PolicyMode, PolicySource, SignerKey},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::extent::Extent;
pub use self::keys::{KeyFault, SigningKey, parse_public_key, verifies};
use crate::{PolicyFault, check, entities::datetime, parse_access_policy};

/// Longest grant, in bytes of its file.
pub const MAX_GRANT_BYTES: usize = 32 * 1024;
/// Longest policy of a grant.
pub const MAX_GRANT_POLICY_BYTES: usize = 4 * 1024;
/// Longest reason, and longest name of an issuer, in bytes.
pub const MAX_GRANT_TEXT_BYTES: usize = 512;
/// Longest time that a grant may be in force at once.
pub const MAX_GRANT_TIME: Duration = Duration::from_secs(3600);
/// The same of a grant that opens every namespace.
pub const MAX_MESH_GRANT_TIME: Duration = Duration::from_secs(900);
/// Longest time from `not_before` to `expires_at`: what lies in a safe is renewed once a year.
pub const MAX_GRANT_VALIDITY: Duration = Duration::from_secs(400 * 86_400);

/// What the ids of policies in force by break-glass begin with; no namespace may have this name.
pub const BREAK_GLASS: &str = "break-glass";
/// The version of the format.
const SCHEMA: &str = "reeve.break-glass/v1";
/// SECURITY: what is signed begins with this, so that no signature made for anything else is one of a grant.
const DOMAIN: &[u8] = b"reeve.dev/break-glass/v1 grant\n";

/// What is signed. Its fields stand in the order of canonical JSON (by name).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// From then on it can no longer be used, and what it opened ends.
    #[serde(serialize_with = "show_time", deserialize_with = "read_time")]
    pub expires_at: UnixTime,
    /// Names it: lower-case letters, digits and `-`, at most 63.
    pub id: String,
    /// Who vouches for it, for people.
    pub issuer: String,
    /// The longest time that it may be in force at once, in seconds.
    pub longest_seconds: u64,
    /// The namespace whose resources it concerns; `*` for every one.
    pub namespace: Extent,
    /// Before this it cannot be used.
    #[serde(serialize_with = "show_time", deserialize_with = "read_time")]
    pub not_before: UnixTime,
    /// One Cedar `permit`.
    pub policy: String,
    /// What it is for.
    pub reason: String,
    /// The format's version.
    pub schema: String,
    /// The only mesh that takes it.
    pub trust_domain: TrustDomain,
}

/// A grant as it lies in a safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedGrant {
    /// What it grants.
    pub grant: Grant,
    /// Who signed it.
    pub signer: SignerKey,
    /// Ed25519, in base64, over a fixed prefix and the grant's canonical JSON.
    pub signature: String,
}

/// Where and when a grant is to be used.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Whose grants are taken.
    pub trust: &'a BreakGlass,
    /// The mesh.
    pub trust_domain: &'a TrustDomain,
    /// The namespace of the workload that is to be reached.
    pub namespace: &'a Namespace,
    /// Now.
    pub now: UnixTime,
    /// How long it is to be in force.
    pub lasting: Duration,
}

/// A grant that may come into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// What was granted.
    pub grant: Grant,
    /// By whom.
    pub signer: SignerKey,
    /// When it ends by itself.
    pub until: UnixTime,
    /// The policy, with its end.
    pub policy: PolicySource,
}

/// Why a grant is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantRefused {
    /// It is too long.
    #[error("a grant is at most {MAX_GRANT_BYTES} bytes long")]
    TooLarge,
    /// It is none.
    #[error("this is no break-glass grant: {0}")]
    Malformed(String),
    /// The mesh has named no signers.
    #[error(
        "MeshConfig.spec.breakGlass.publicKeys names no signer, so there is no break-glass here"
    )]
    NoSigners,
    /// Its signer is not trusted.
    #[error("its signer {0} is none of MeshConfig.spec.breakGlass.publicKeys")]
    UnknownSigner(SignerKey),
    /// Its signer may not open every namespace.
    #[error(
        "its signer {0} may open single namespaces alone: it is none of MeshConfig.spec.breakGlass.meshPublicKeys"
    )]
    NotForMesh(SignerKey),
    /// It was altered, or not signed by whom it says.
    #[error("its signature does not verify")]
    BadSignature,
    /// It was taken back.
    #[error("grant {0} is revoked (MeshConfig.spec.breakGlass.revoked)")]
    Revoked(String),
    /// A part of it is out of bounds.
    #[error("{0}")]
    OutOfBounds(String),
    /// It is for another mesh.
    #[error("it is for trust domain {0}")]
    OtherTrustDomain(TrustDomain),
    /// It is for another namespace.
    #[error("it opens namespace {0} alone")]
    OtherNamespace(Extent),
    /// It cannot be used yet.
    #[error("it cannot be used before {}", datetime(*.0))]
    NotYet(UnixTime),
    /// It cannot be used any more.
    #[error("it expired at {}", datetime(*.0))]
    Expired(UnixTime),
    /// More time is asked for than it gives.
    #[error(
        "it may be in force for {longest_seconds} s at once, and {asked_seconds} s are asked for"
    )]
    TooLong {
        /// What it gives.
        longest_seconds: u64,
        /// What is asked for.
        asked_seconds: u64,
    },
    /// No time is asked for.
    #[error("it must be in force for a time above zero")]
    NoTime,
    /// Its policy is no `permit` that could decide.
    #[error("its policy cannot be used: {0}")]
    Policy(String),
}

impl SignedGrant {
    /// Reads a grant's file. Nothing it says is to be believed before [`Self::admit`].
    pub fn read(text: &[u8]) -> Result<Self, GrantRefused> {
        if text.len() > MAX_GRANT_BYTES {
            return Err(GrantRefused::TooLarge);
        }
        let signed: Self =
            serde_json::from_slice(text).map_err(|e| GrantRefused::Malformed(e.to_string()))?;
        if signed.grant.schema != SCHEMA {
            let said = format!("its schema is not {SCHEMA}");
            return Err(GrantRefused::Malformed(said));
        }
        Ok(signed)
    }

    /// Signs a grant that can be used.
    pub fn sign(mut grant: Grant, key: &SigningKey) -> Result<Self, GrantRefused> {
        SCHEMA.clone_into(&mut grant.schema);
        grant.check_bounds()?;
        grant.policy_until(grant.expires_at)?;
        Ok(Self {
            signer: key.public(),
            signature: key.sign(&grant.message()?),
            grant,
        })
    }

    /// Whether its signer signed just this.
    pub fn verify(&self) -> Result<(), GrantRefused> {
        match verifies(&self.signer, &self.grant.message()?, &self.signature) {
            true => Ok(()),
            false => Err(GrantRefused::BadSignature),
        }
    }

    /// Whether it may come into force under these terms, and as what.
    pub fn admit(self, terms: Terms<'_>) -> Result<Admitted, GrantRefused> {
        self.check_signer(terms.trust)?;
        // SECURITY: what follows looks at signed content only.
        let grant = self.grant;
        grant.check_bounds()?;
        if grant.trust_domain != *terms.trust_domain {
            return Err(GrantRefused::OtherTrustDomain(grant.trust_domain));
        }
        if !grant.namespace.has(terms.namespace) {
            return Err(GrantRefused::OtherNamespace(grant.namespace));
        }
        if terms.now < grant.not_before {
            return Err(GrantRefused::NotYet(grant.not_before));
        }
        if terms.now >= grant.expires_at {
            return Err(GrantRefused::Expired(grant.expires_at));
        }
        if terms.lasting.is_zero() {
            return Err(GrantRefused::NoTime);
        }
        if terms.lasting > Duration::from_secs(grant.longest_seconds) {
            return Err(GrantRefused::TooLong {
                longest_seconds: grant.longest_seconds,
                asked_seconds: terms
                    .lasting
                    .as_millis()
                    .div_ceil(1000)
                    .try_into()
                    .unwrap_or(u64::MAX),
            });
        }
        let until = terms.now.plus(terms.lasting).min(grant.expires_at);
        Ok(Admitted {
            policy: grant.policy_until(until)?,
            signer: self.signer,
            until,
            grant,
        })
    }

    fn check_signer(&self, trust: &BreakGlass) -> Result<(), GrantRefused> {
        if !trust.has_signers() {
            return Err(GrantRefused::NoSigners);
        }
        if !trust.knows(&self.signer) {
            return Err(GrantRefused::UnknownSigner(self.signer));
        }
        self.verify()?;
        if !self.grant.namespace.may_be_signed_by(&self.signer, trust) {
            return Err(GrantRefused::NotForMesh(self.signer));
        }
        if trust.revoked.contains(&self.grant.id) {
            return Err(GrantRefused::Revoked(self.grant.id.clone()));
        }
        Ok(())
    }
}

impl Grant {
    /// Whether nothing it says is out of bounds, whoever signed it.
    fn check_bounds(&self) -> Result<(), GrantRefused> {
        let out = |said: String| Err(GrantRefused::OutOfBounds(said));
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.id.is_empty() || self.id.len() > 63 || !self.id.bytes().all(legal) {
            return out("its id is not of lower-case letters, digits and -, at most 63".to_owned());
        }
        for (what, text) in [("reason", &self.reason), ("issuer", &self.issuer)] {
            if text.trim().is_empty() || text.chars().any(char::is_control) {
                return out(format!("its {what} is empty or more than a line of text"));
            }
            if text.len() > MAX_GRANT_TEXT_BYTES {
                return out(format!(
                    "its {what} is longer than {MAX_GRANT_TEXT_BYTES} bytes"
                ));
            }
        }
        if self.policy.len() > MAX_GRANT_POLICY_BYTES {
            return out(format!(
                "its policy is longer than {MAX_GRANT_POLICY_BYTES} bytes"
            ));
        }
        let longest = self.namespace.longest().as_secs();
        if !(1..=longest).contains(&self.longest_seconds) {
            return out(format!("a grant is in force for 1 to {longest} s at once"));
        }
        if self.expires_at <= self.not_before {
            return out("it expires before it can be used".to_owned());
        }
        if self.expires_at.since(self.not_before) > MAX_GRANT_VALIDITY {
            let days = MAX_GRANT_VALIDITY.as_secs() / 86_400;
            return out(format!("it is valid for more than {days} days"));
        }
        Ok(())
    }

    /// The policy, validated as any other, with its end.
    fn policy_until(&self, until: UnixTime) -> Result<PolicySource, GrantRefused> {
        let refused = |said: &str| GrantRefused::Policy(said.to_owned());
        let whole = Policy::parse(None, &self.policy).map_err(|e| refused(&e.to_string()))?;
        if whole.effect() != CedarEffect::Permit {
            return Err(refused("break-glass permits; it forbids nothing"));
        }
        // An id, a mode or an end of its own would belie what is recorded.
        if whole
            .annotations()
            .any(|(name, _)| !["description", "owner"].contains(&name))
        {
            return Err(refused("only @description and @owner may stand before it"));
        }
        // SECURITY: an end that is part of the policy holds even if nobody takes the policy away.
        let text = format!("@until(\"{}\")\n{}", datetime(until), self.policy);
        let namespace = Namespace::parse(BREAK_GLASS).map_err(|e| refused(&e.to_string()))?;
        let sources = parse_access_policy(self.namespace.namespace(), &namespace, &self.id, &text)
            .map_err(|faults| GrantRefused::Policy(first(&faults)))?;
        match <[PolicySource; 1]>::try_from(sources) {
            Ok([source]) if source.mode == PolicyMode::Enforce => Ok(source),
            Ok(_) | Err(_) => Err(refused("it is not one policy")),
        }
    }

    /// What is signed.
    fn message(&self) -> Result<Vec<u8>, GrantRefused> {
        let mut message = DOMAIN.to_vec();
        serde_json::to_writer(&mut message, self)
            .map_err(|e| GrantRefused::Malformed(e.to_string()))?;
        Ok(message)
    }
}

/// Whether a policy is in force by break-glass.
pub fn is_break_glass(policy: &PolicyId) -> bool {
    let rest = policy.as_str().strip_prefix(BREAK_GLASS);
    rest.is_some_and(|rest| rest.starts_with('/'))
}

fn first(faults: &[PolicyFault]) -> String {
    faults.first().map(ToString::to_string).unwrap_or_default()
}

fn show_time<S: Serializer>(time: &UnixTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&datetime(*time))
}

fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UnixTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    check::parse_until(&text)
        .filter(|time| datetime(*time) == text)
        .ok_or_else(|| de::Error::custom(NotATime(text)))
}

/// Times have one form, so that a grant has one text.
struct NotATime(String);

impl fmt::Display for NotATime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no time such as 2030-12-31T18:00:00.000Z",
            self.0
        )
    }
}

#[cfg(test)]
mod tests;
