use proptest::prelude::*;
use tlog_tiles::{check_record, check_tree, record_hash};

use super::*;
use crate::{log::tree, proof::tiles::path_in};

fn leaves(size: u64) -> Vec<[u8; 32]> {
    (0..size).map(|n| record_hash(&n.to_be_bytes()).0).collect()
}

fn root(leaves: &[[u8; 32]]) -> Vec<u8> {
    let leaves: Vec<_> = leaves.iter().copied().map(Hash).collect();
    tree::root(&leaves).0.to_vec()
}

fn inclusion(leaves: &[[u8; 32]], index: usize) -> Inclusion {
    Inclusion {
        leaf_idx: index as u64,
        tree_size: leaves.len() as u64,
        root: root(leaves),
        leaf_hash: leaves[index].to_vec(),
        proof: path_in(leaves, index).iter().map(|h| h.to_vec()).collect(),
    }
}

/// RFC 6962, section 2.1.2, as it is written there.
fn subproof(old: usize, leaves: &[[u8; 32]], known: Option<()>) -> Vec<Vec<u8>> {
    if old == leaves.len() {
        return known.map_or_else(|| vec![root(leaves)], |()| vec![]);
    }
    let k = 1 << (leaves.len() - 1).ilog2();
    let (left, right) = leaves.split_at(k);
    if old <= k {
        let mut path = subproof(old, left, known);
        path.push(root(right));
        path
    } else {
        let mut path = subproof(old - k, right, None);
        path.push(root(left));
        path
    }
}

fn consistency(leaves: &[[u8; 32]], old: usize) -> Consistency {
    Consistency {
        size1: old as u64,
        size2: leaves.len() as u64,
        root1: root(&leaves[..old]),
        root2: root(leaves),
        proof: subproof(old, leaves, Some(())),
    }
}

fn hashes(proof: &[Vec<u8>]) -> Vec<Hash> {
    let hash = |h: &Vec<u8>| Hash(h.as_slice().try_into().unwrap());
    proof.iter().map(hash).collect()
}

fn hash_of(bytes: &[u8]) -> Hash {
    Hash(bytes.try_into().unwrap())
}

#[test]
fn the_paths_of_all_small_trees_hold() {
    for size in 1..=40 {
        let leaves = leaves(size);
        for at in 0..leaves.len() {
            inclusion(&leaves, at).verify().unwrap();
            consistency(&leaves, at + 1).verify().unwrap();
        }
    }
}

proptest! {
    /// Beside an implementation that is not ours, on claims of which most are false.
    #[test]
    fn claims_hold_exactly_if_they_hold_elsewhere(
        size in 1..70u64, at: prop::sample::Index, by in 0..4u64, grow in 0..4u64, flip in 0..6u8, bit in 0..256usize,
    ) {
        let tree = leaves(size);
        let at = at.index(tree.len());
        let mut claim = inclusion(&tree, at);
        claim.leaf_idx = (claim.leaf_idx + by).saturating_sub(1);
        claim.tree_size = (claim.tree_size + grow).saturating_sub(1);
        match flip {
            0 => claim.root[bit / 8] ^= 1 << (bit % 8),
            1 => claim.leaf_hash[bit / 8] ^= 1 << (bit % 8),
            2 => claim.proof.push(claim.root.clone()),
            3 => drop(claim.proof.pop()),
            _ => {}
        }
        let theirs = check_record(&hashes(&claim.proof), claim.tree_size, hash_of(&claim.root), claim.leaf_idx,
            hash_of(&claim.leaf_hash));
        prop_assert_eq!(claim.verify().is_ok(), theirs.is_ok(), "{:?}", claim);

        let mut claim = consistency(&tree, at + 1);
        claim.size1 = (claim.size1 + by).saturating_sub(1);
        claim.size2 = (claim.size2 + grow).saturating_sub(1);
        match flip {
            0 => claim.root1[bit / 8] ^= 1 << (bit % 8),
            1 => claim.root2[bit / 8] ^= 1 << (bit % 8),
            2 => claim.proof.push(claim.root1.clone()),
            3 => drop(claim.proof.pop()),
            _ => {}
        }
        let theirs = check_tree(&hashes(&claim.proof), claim.size2, hash_of(&claim.root2), claim.size1,
            hash_of(&claim.root1));
        // Two empty trees are the same one; theirs asks for a leaf.
        if claim.size1 > 0 {
            prop_assert_eq!(claim.verify().is_ok(), theirs.is_ok(), "{:?}", claim);
        }
    }

    #[test]
    fn no_numbers_hang_or_panic(index: u64, size: u64, length in 0..70usize) {
        let proof = vec![vec![7; 32]; length];
        let claim = Inclusion { leaf_idx: index, tree_size: size, root: vec![1; 32], leaf_hash: vec![2; 32],
            proof: proof.clone() };
        prop_assert!(claim.verify().is_err());
        let claim = Consistency { size1: index, size2: size, root1: vec![1; 32], root2: vec![2; 32], proof };
        prop_assert!(claim.verify().is_err());
    }
}

#[test]
fn the_form_is_that_of_known_vectors() {
    let json = r#"{"leafIdx": 5, "treeSize": 8, "root": "XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=",
        "leafHash": "QnGia+DYqE8L1UyMMC58s6O10fpngKQLzOKHNHfatlg=",
        "proof": ["vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms=", "yoVOoSjtBQtBs1/8G4e46yveRh6eO1WW7Oa51ZdaCuA=",
        "037kGJdt2VdTwcc4Yrk5j6Kiz5tP8P3+izDNlSCWFLc="], "desc": "happy path", "wantErr": false}"#;
    let claim: Inclusion = serde_json::from_str(json).unwrap();
    assert_eq!(claim.verify(), Ok(()));
    let hexadecimal = json.replace(
        "XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=",
        &hex::encode(&claim.root),
    );
    assert_eq!(
        serde_json::from_str::<Inclusion>(&hexadecimal).unwrap(),
        claim
    );
    let json = r#"{"size1": 6, "size2": 8, "root1": "duZ9rbzfHhDht03cYIq9L5jfsW+851J3tSMqEn8gh+8=",
        "root2": "XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=", "proof": [
        "DrxdNDf74tsVi58Sah0RjjCBgQMdCpSfje3t68VY72o=", "yoVOoSjtBQtBs1/8G4e46yveRh6eO1WW7Oa51ZdaCuA=",
        "037kGJdt2VdTwcc4Yrk5j6Kiz5tP8P3+izDNlSCWFLc="]}"#;
    let claim: Consistency = serde_json::from_str(json).unwrap();
    assert_eq!(claim.verify(), Ok(()));
}

#[test]
fn missing_proofs_are_empty_and_hashes_have_32_bytes() {
    let one = r#"{"leafIdx":0,"treeSize":1,"root":"bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=",
        "leafHash":"bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=","proof":null}"#;
    assert_eq!(
        serde_json::from_str::<Inclusion>(one).unwrap().verify(),
        Ok(())
    );
    let short = one.replace("proof\":null", "proof\":[\"AAAA\"]");
    let fault = serde_json::from_str::<Inclusion>(&short).unwrap().verify();
    assert!(fault.unwrap_err().contains("3 bytes"));
    let empty = one.replace(
        "\"leafHash\":\"bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=\"",
        "\"leafHash\":\"\"",
    );
    assert!(
        serde_json::from_str::<Inclusion>(&empty)
            .unwrap()
            .verify()
            .is_err()
    );
    assert!(serde_json::from_str::<Inclusion>(&one.replace("bjQ", "b!Q")).is_err());
    let nothing = Consistency {
        size1: 0,
        size2: 1,
        root1: vec![0; 32],
        root2: vec![0; 32],
        proof: vec![],
    };
    assert!(nothing.verify().unwrap_err().contains("empty tree"));
}
