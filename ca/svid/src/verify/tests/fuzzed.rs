//! Byte-level fuzz behind the signature: a leaf is changed anywhere and signed again by its authority, so that only the
//! rules stand between it and being accepted. What is accepted is read once more by a reader of the tests' own.

use proptest::prelude::*;
use reeve_core::SpiffeId;
use rustls_pki_types::CertificateDer;

use super::{forge, good, verify};
use crate::surgery::{Der, changed_within, oid};

/// How a value is changed.
#[derive(Clone, Debug)]
enum Change {
    Replace(u8),
    Insert(u8),
    Remove,
    Double,
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<u8>().prop_map(Change::Replace),
        any::<u8>().prop_map(Change::Insert),
        Just(Change::Remove),
        Just(Change::Double),
    ]
}

fn apply(bytes: &mut Vec<u8>, at: prop::sample::Index, change: &Change) {
    let at = at.index(bytes.len().max(1));
    match change {
        Change::Insert(byte) => bytes.insert(at, *byte),
        _ if bytes.is_empty() => {}
        Change::Replace(byte) => bytes[at] = *byte,
        Change::Remove => drop(bytes.drain(at..=at)),
        Change::Double => bytes.insert(at, bytes[at]),
    }
}

/// Every value of a tree that holds no others, by mutable reference.
fn leaves<'d>(der: &'d mut Der, found: &mut Vec<&'d mut Vec<u8>>) {
    match der {
        Der::Leaf(_, content) => found.push(content),
        Der::Tree(_, parts) => parts.iter_mut().for_each(|part| leaves(part, found)),
        Der::Raw(_) => {}
    }
}

/// The rules for a leaf (SPIFFE X509-SVID sections 2 to 5), read by nothing that the verifier reads with.
fn keeps_the_rules(certificate: &CertificateDer<'_>) -> Result<(), String> {
    let mut whole = Der::parse(certificate);
    let tbs = &mut whole.parts()[0];
    let version = tbs.parts()[0].encode();
    if version != [0xa0, 3, 2, 1, 2] {
        return Err(format!("version {version:02x?}"));
    }
    let of = |tbs: &mut Der, id: &[u8]| -> Vec<Vec<u8>> {
        let extensions = tbs.extensions().iter_mut();
        let named = extensions.filter_map(|e| {
            let parts = e.parts();
            matches!(&parts[0], Der::Leaf(6, found) if found == id)
                .then(|| parts.last_mut().map(|value| value.content().clone()))?
        });
        named.collect()
    };
    let names = of(tbs, oid::SUBJECT_ALT_NAME);
    let [names] = names.as_slice() else {
        return Err("the names are not there once".to_owned());
    };
    let mut names = Der::parse(names);
    let uris = names.parts().iter_mut().filter_map(|name| match name {
        Der::Leaf(0x86, uri) => Some(String::from_utf8_lossy(uri).into_owned()),
        Der::Leaf(..) | Der::Tree(..) | Der::Raw(_) => None,
    });
    let uris: Vec<_> = uris.collect();
    let [uri] = uris.as_slice() else {
        return Err(format!("{uris:?} is not one URI"));
    };
    if !uri.starts_with("spiffe://mesh.local/") || SpiffeId::parse(uri).is_err() {
        return Err(format!("{uri:?} is no identity of mesh.local"));
    }
    // Bit 0 is digitalSignature, bits 5 and 6 are keyCertSign and cRLSign, from the left.
    let usage = of(tbs, oid::KEY_USAGE);
    match usage.as_slice() {
        [usage] if matches!(usage[..], [3, _, _, bits, ..] if bits & 0x86 == 0x80) => {}
        other => return Err(format!("key usage {other:02x?}")),
    }
    let constraints = of(tbs, oid::BASIC_CONSTRAINTS);
    match constraints
        .iter()
        .all(|c| !c.windows(3).any(|w| w == [1, 1, 0xff]))
    {
        true => Ok(()),
        false => Err("a CA".to_owned()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// The values within the leaf, each of its length.
    #[test]
    fn a_leaf_that_is_changed_within_and_signed_keeps_the_rules_or_is_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any_change()), 1..4),
    ) {
        let forge = forge();
        let changed = changed_within(&good()[0], forge.issuer.key(), |tbs| {
            for (which, at, change) in &changes {
                let mut found = Vec::new();
                leaves(tbs, &mut found);
                let which = which.index(found.len());
                apply(found[which], *at, change);
            }
        });
        if verify(forge, &[changed.clone(), good()[1].clone()]).is_ok() {
            prop_assert_eq!(keeps_the_rules(&changed), Ok(()), "{:?}", changes);
        }
    }

    /// The bytes of the leaf, lengths and tags included.
    #[test]
    fn a_leaf_whose_bytes_are_changed_and_signed_keeps_the_rules_or_is_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_change()), 1..4),
    ) {
        let forge = forge();
        let changed = changed_within(&good()[0], forge.issuer.key(), |tbs| {
            let mut bytes = tbs.encode();
            for (at, change) in &changes {
                apply(&mut bytes, *at, change);
            }
            *tbs = Der::Raw(bytes);
        });
        if verify(forge, &[changed.clone(), good()[1].clone()]).is_ok() {
            prop_assert_eq!(keeps_the_rules(&changed), Ok(()), "{:?}", changes);
        }
    }
}

#[test]
fn the_reader_of_these_tests_takes_a_good_leaf() {
    assert_eq!(keeps_the_rules(&good()[0]), Ok(()));
}
