//! What is refused though it verifies: identities and certificates that the operator has revoked.

use std::collections::BTreeSet;

use reeve_core::SpiffeId;

/// Identities and serial numbers that are refused. The authority bounds how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    ids: BTreeSet<SpiffeId>,
    /// In lower-case hexadecimal, as [`VerifiedPeer::serial`](crate::VerifiedPeer::serial) has it.
    serials: BTreeSet<String>,
}

impl Revoked {
    /// These identities, and the certificates of these serial numbers.
    pub fn new(
        ids: impl IntoIterator<Item = SpiffeId>,
        serials: impl IntoIterator<Item = String>,
    ) -> Self {
        Self {
            ids: ids.into_iter().collect(),
            serials: serials.into_iter().collect(),
        }
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.serials.is_empty()
    }

    /// The identities.
    pub fn ids(&self) -> impl Iterator<Item = &SpiffeId> {
        self.ids.iter()
    }

    /// The serial numbers.
    pub fn serials(&self) -> impl Iterator<Item = &str> {
        self.serials.iter().map(String::as_str)
    }

    /// Whether every certificate of this identity is refused.
    pub fn covers_id(&self, id: &SpiffeId) -> bool {
        self.ids.contains(id)
    }

    /// Whether the certificate of this serial number is refused.
    pub fn covers_serial(&self, serial: &str) -> bool {
        self.serials.contains(serial)
    }
}
