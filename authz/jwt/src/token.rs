//! The compact form of a signed token (RFC 7515 section 7.1).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{MAX_TOKEN_BYTES, TokenError, json, json::JsonError};

/// Signature algorithms that are accepted: asymmetric ones only (RFC 8725 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    const ALL: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// The name as it stands in `alg` (RFC 7518, RFC 8037).
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of that name; names are case-sensitive.
    pub(super) fn parse(name: &str) -> Result<Self, TokenError> {
        let found = Self::ALL.into_iter().find(|a| a.as_str() == name);
        found.ok_or_else(|| match name {
            _ if name.eq_ignore_ascii_case("none") => TokenError::Unsigned,
            "HS256" | "HS384" | "HS512" => TokenError::SymmetricAlgorithm,
            _ => TokenError::UnsupportedAlgorithm,
        })
    }
}

/// What `typ` may say (RFC 7519 section 5.1, RFC 9068 section 2.1, RFC 7515 section 4.1.9).
const TYPES: [&str; 3] = ["jwt", "at+jwt", "jose"];

/// A token whose form is right; nothing in it is believed yet.
#[derive(Debug)]
pub(super) struct Token<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    /// `header.payload`, which the signature covers.
    pub(super) signed: &'a str,
    /// The signature, in base64url.
    pub(super) signature: &'a str,
    /// The payload, in base64url.
    pub(super) payload_text: &'a str,
    payload: Vec<u8>,
    /// `typ`.
    kind: Option<String>,
}

impl<'a> Token<'a> {
    /// Takes a token apart.
    pub(super) fn parse(text: &'a str) -> Result<Self, TokenError> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload_text) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header = object(&decode(header)?, TokenError::MalformedHeader)?;
        let payload = decode(payload_text)?;
        decode(signature)?;
        let algorithm = match header.get("alg") {
            Some(Value::String(name)) => Algorithm::parse(name)?,
            _ => return Err(TokenError::MalformedHeader),
        };
        // RFC 7515 section 4.1.11: what is critical must be understood. `b64` (RFC 7797) counts even unannounced.
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(TokenError::CriticalHeader);
        }
        let text = |name| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(TokenError::MalformedHeader),
        };
        Ok(Self {
            algorithm,
            key_id: text("kid")?,
            signed,
            signature,
            payload_text,
            payload,
            kind: text("typ")?,
        })
    }

    /// Refuses what says to be another thing than an access token: a logout token or a security event of the same issuer
    /// is signed with the same keys (RFC 8725 section 3.11). `typ` is a media type, `application/` left out or not.
    pub(super) fn check_type(&self) -> Result<(), TokenError> {
        let Some(kind) = &self.kind else {
            return Ok(());
        };
        let kind = kind.to_ascii_lowercase();
        let short = kind.strip_prefix("application/").unwrap_or(&kind);
        match TYPES.contains(&short) {
            true => Ok(()),
            false => Err(TokenError::WrongType),
        }
    }

    /// Whether a key that is not here yet may be why it was refused.
    pub(super) fn may_have_a_newer_key(&self, reason: TokenError) -> bool {
        matches!(reason, TokenError::UnknownKey | TokenError::NoKeys)
            || (reason == TokenError::BadSignature && self.key_id.is_none())
    }

    /// The claims, not yet believed.
    pub(super) fn claims(&self) -> Result<Map<String, Value>, TokenError> {
        object(&self.payload, TokenError::MalformedClaims)
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Malformed)
}

fn object(bytes: &[u8], otherwise: TokenError) -> Result<Map<String, Value>, TokenError> {
    match json::parse(bytes) {
        Ok(Value::Object(members)) => Ok(members),
        Err(JsonError::Duplicate(_)) => Err(TokenError::DuplicateMember),
        Ok(_) | Err(JsonError::Syntax(_)) => Err(otherwise),
    }
}
