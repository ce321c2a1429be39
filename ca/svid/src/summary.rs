//! What a certificate says of itself, for people to read.

use reeve_core::UnixTime;
use rustls_pki_types::CertificateDer;

use crate::{SvidError, profile};

/// A certificate's own statements. Nothing of it is verified, and nothing may be decided by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    /// The subject's distinguished name (RFC 4514); empty for most leaves.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The serial number in hexadecimal.
    pub serial: String,
    /// The URI names among the subject's alternative names.
    pub uris: Vec<String>,
    /// From when it is valid.
    pub not_before: UnixTime,
    /// The last second at which it is valid.
    pub not_after: UnixTime,
}

impl CertificateSummary {
    /// Reads a DER certificate.
    pub fn of(der: &CertificateDer<'_>) -> Result<Self, SvidError> {
        profile::summary(der)
    }

    /// Whether `at` lies within its validity.
    pub fn is_valid_at(&self, at: UnixTime) -> bool {
        (self.not_before.as_secs()..=self.not_after.as_secs()).contains(&at.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forge::{Forge, ID, NOW};

    #[test]
    fn a_summary_tells_what_the_certificate_says() {
        let forge = Forge::new("mesh.local");
        let svid = forge.svid(ID);
        let leaf = CertificateSummary::of(&svid.chain()[0]).unwrap();
        assert_eq!(leaf.uris, [ID]);
        assert_eq!(leaf.serial, svid.serial());
        assert_eq!(leaf.not_after, svid.not_after());
        assert!(leaf.is_valid_at(NOW));
        assert!(!leaf.is_valid_at(UnixTime::from_secs(leaf.not_after.as_secs() + 1)));
        let root = CertificateSummary::of(&forge.root).unwrap();
        assert_eq!(root.subject, root.issuer);
    }
}
