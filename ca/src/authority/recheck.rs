//! The check before release: a certificate is read back, by other code than wrote it, and compared with what was meant.

use reeve_core::UnixTime;
use reeve_svid::{Purpose, SvidError, TrustBundle, verify_svid};
use rustls_pki_types::CertificateDer;
use x509_parser::{
    oid_registry::{
        OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME,
        OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
    },
    prelude::{FromDer, GeneralName, X509Certificate},
};

use super::{
    Recheck,
    template::{Leaf, Standing},
};

/// Returns the leaf's serial number if the chain is what it was meant to be.
pub(super) fn before_release(
    chain: &[CertificateDer<'static>],
    bundle: &TrustBundle,
    meant: &Leaf<'_>,
    spki_der: &[u8],
    now: UnixTime,
) -> Result<String, Recheck> {
    let peer = verify_svid(chain, bundle, now, Purpose::Client)?;
    if peer.id() != meant.id {
        return Err(Recheck::Departs("identity"));
    }
    if peer.not_after() != meant.life.not_after {
        return Err(Recheck::Departs("end"));
    }
    let leaf = chain.first().ok_or(SvidError::EmptyChain)?;
    let malformed = |_| SvidError::Malformed { position: 0 };
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(malformed)?;
    if leaf.public_key().raw != spki_der {
        return Err(Recheck::Departs("public key"));
    }
    let from = u64::try_from(leaf.validity().not_before.timestamp()).unwrap_or_default();
    if from != meant.life.not_before.as_secs() {
        return Err(Recheck::Departs("beginning"));
    }
    if Standing::of_serial(peer.serial()) != meant.standing {
        return Err(Recheck::Departs("serial number"));
    }
    // As a server too: nothing above the leaf is for one purpose alone, which was seen to when it came to sign. Another path
    // would cost all signatures again.
    let purposes = leaf.extended_key_usage().ok().flatten();
    if !purposes.is_some_and(|purposes| purposes.value.server_auth) {
        return Err(Recheck::Departs("set of purposes"));
    }
    only_our_extensions(&leaf, meant)?;
    Ok(peer.serial().to_owned())
}

fn only_our_extensions(leaf: &X509Certificate<'_>, meant: &Leaf<'_>) -> Result<(), Recheck> {
    let ours = [
        OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
        OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_EXTENDED_KEY_USAGE,
        OID_X509_EXT_KEY_USAGE,
        OID_X509_EXT_SUBJECT_ALT_NAME,
        OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
    ];
    if !leaf.extensions().iter().all(|e| ours.contains(&e.oid)) {
        return Err(Recheck::Departs("set of extensions"));
    }
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice());
    let Some([GeneralName::URI(_), dns @ ..]) = names else {
        return Err(Recheck::Departs("list of names"));
    };
    let is = |(found, wanted): (&GeneralName<'_>, &reeve_core::ServiceName)| matches!(found, GeneralName::DNSName(found) if *found == wanted.as_str());
    match dns.len() == meant.dns_names.len() && dns.iter().zip(meant.dns_names).all(is) {
        true => Ok(()),
        false => Err(Recheck::Departs("list of names")),
    }
}

#[cfg(test)]
mod tests;
