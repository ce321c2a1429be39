//! Break-glass: who may sign permits for the worst hour, and which of those are taken back.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Whose grants a proxy accepts. Nobody's: there is no break-glass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BreakGlass {
    /// Who may sign grants that open one namespace.
    pub signers: Vec<SignerKey>,
    /// Who may sign grants that open any namespace, and all of them at once.
    pub mesh_signers: Vec<SignerKey>,
    /// Ids of grants that hold no longer, whatever they say.
    pub revoked: Vec<String>,
}

impl BreakGlass {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        !self.has_signers() && self.revoked.is_empty()
    }

    /// Whether anybody may sign.
    pub fn has_signers(&self) -> bool {
        !(self.signers.is_empty() && self.mesh_signers.is_empty())
    }

    /// Whether that key may sign grants at all.
    pub fn knows(&self, key: &SignerKey) -> bool {
        self.signers.contains(key) || self.mesh_signers.contains(key)
    }
}

/// An Ed25519 public key (RFC 8032); as text, 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SignerKey(pub [u8; 32]);

/// The text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an Ed25519 public key is 64 hexadecimal digits")]
pub struct NotAKey;

impl fmt::Display for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SignerKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let digits = text.bytes().map(|byte| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NotAKey),
        });
        let digits: Vec<u8> = digits.collect::<Result<_, _>>()?;
        let bytes: Vec<u8> = digits
            .chunks_exact(2)
            .map(|pair| pair.iter().fold(0, |high, low| (high << 4) | low))
            .collect();
        match (bytes.try_into(), digits.len()) {
            (Ok(key), 64) => Ok(Self(key)),
            _ => Err(NotAKey),
        }
    }
}

impl TryFrom<String> for SignerKey {
    type Error = NotAKey;

    fn try_from(text: String) -> Result<Self, NotAKey> {
        text.parse()
    }
}

impl From<SignerKey> for String {
    fn from(key: SignerKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_as_text() {
        let key = SignerKey(std::array::from_fn(|at| u8::try_from(at * 7).unwrap()));
        let text = key.to_string();
        assert_eq!((text.len(), text.parse()), (64, Ok(key)));
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<SignerKey>(&json).unwrap(), key);
        for bad in [
            "",
            "00",
            &"0g".repeat(32),
            &"00".repeat(33),
            &"AA".repeat(32),
            text.get(..63).unwrap(),
        ] {
            assert_eq!(bad.parse::<SignerKey>(), Err(NotAKey), "{bad:?}");
        }
    }
}
