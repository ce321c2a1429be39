//! Bare proofs: numbers and hashes, without a log around them.
//!
//! The JSON members are those of the test vectors of `transparency-dev/merkle`; `desc` and `wantErr` of theirs are passed
//! over. Hashes are base64 or, with 64 digits, hexadecimal. The algorithms are those of RFC 9162, sections 2.1.3.2 and
//! 2.1.4.2, over the hashes of RFC 6962.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use tlog_tiles::{Hash, node_hash};

/// A claim that a tree has a leaf at a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inclusion {
    /// The leaf's place, from 0.
    #[serde(alias = "leafIndex", alias = "leaf_index", alias = "index")]
    pub leaf_idx: u64,
    /// How many leaves the tree has.
    #[serde(alias = "tree_size", alias = "size")]
    pub tree_size: u64,
    /// The tree's root.
    #[serde(alias = "rootHash", alias = "root_hash", with = "bytes")]
    pub root: Vec<u8>,
    /// The leaf's hash: `SHA-256(0x00 || entry)`.
    #[serde(alias = "leaf_hash", with = "bytes")]
    pub leaf_hash: Vec<u8>,
    /// From the leaf's sibling up.
    #[serde(default, alias = "hashes", with = "list")]
    pub proof: Vec<Vec<u8>>,
}

/// A claim that one tree is the beginning of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consistency {
    /// How many leaves the smaller has.
    #[serde(alias = "oldSize", alias = "old_size", alias = "first")]
    pub size1: u64,
    /// How many leaves the larger has.
    #[serde(alias = "newSize", alias = "new_size", alias = "second")]
    pub size2: u64,
    /// The smaller one's root.
    #[serde(alias = "oldRoot", alias = "old_root", with = "bytes")]
    pub root1: Vec<u8>,
    /// The larger one's root.
    #[serde(alias = "newRoot", alias = "new_root", with = "bytes")]
    pub root2: Vec<u8>,
    /// As RFC 6962, section 2.1.2, has it.
    #[serde(default, alias = "hashes", with = "list")]
    pub proof: Vec<Vec<u8>>,
}

impl Inclusion {
    /// Whether it is so; if not, the one reason.
    pub fn verify(&self) -> Result<(), String> {
        let leaf = hash("the leaf's hash", &self.leaf_hash)?;
        let root = root_of(self.leaf_idx, self.tree_size, &leaf, &path(&self.proof)?)?;
        matches("the root", root, &self.root)
    }
}

/// The root that a path leads to from a leaf's hash.
pub(crate) fn root_of(
    index: u64,
    size: u64,
    leaf: &[u8; 32],
    path: &[[u8; 32]],
) -> Result<[u8; 32], String> {
    if index >= size {
        return Err(format!("a tree of {size} has no leaf {index}"));
    }
    let mut climb = Climb(index, size - 1);
    let mut root = *leaf;
    for hash in path {
        if climb.is_at_the_top() {
            return Err("the path is too long".to_owned());
        }
        root = match climb.step() {
            Side::Left => node(hash, &root),
            Side::Right => node(&root, hash),
        };
    }
    match climb.is_at_the_top() {
        true => Ok(root),
        false => Err("the path is too short".to_owned()),
    }
}

impl Consistency {
    /// Whether it is so; if not, the one reason.
    pub fn verify(&self) -> Result<(), String> {
        let path = path(&self.proof)?;
        if self.size1 > self.size2 {
            return Err(format!("{} is more than {}", self.size1, self.size2));
        }
        if self.size1 == self.size2 {
            if !path.is_empty() {
                return Err("the path is too long".to_owned());
            }
            return match self.root1 == self.root2 {
                true => Ok(()),
                false => Err("trees of the same size have different roots".to_owned()),
            };
        }
        if self.size1 == 0 {
            return Err("nothing can be proved of the empty tree".to_owned());
        }
        let first = hash("the first root", &self.root1)?;
        let (below, above) = self.roots(&first, &path)?;
        matches("the first root", below, &self.root1)?;
        matches("the second root", above, &self.root2)
    }

    /// Both roots as the path has them, for sizes of which the first is less and not 0.
    fn roots(&self, first: &[u8; 32], path: &[[u8; 32]]) -> Result<([u8; 32], [u8; 32]), String> {
        let mut climb = Climb(self.size1 - 1, self.size2 - 1);
        while climb.0 & 1 == 1 {
            climb.up();
        }
        let mut rest = path.iter();
        // A complete tree is its own beginning of the path.
        let seed = match self.size1.is_power_of_two() {
            true => first,
            false => rest.next().ok_or("the path is too short")?,
        };
        let (mut below, mut above) = (*seed, *seed);
        for hash in rest {
            if climb.is_at_the_top() {
                return Err("the path is too long".to_owned());
            }
            match climb.step() {
                Side::Left => {
                    below = node(hash, &below);
                    above = node(hash, &above);
                }
                Side::Right => above = node(&above, hash),
            }
        }
        match climb.is_at_the_top() {
            true => Ok((below, above)),
            false => Err("the path is too short".to_owned()),
        }
    }
}

/// On which side of the way the next hash of a path is.
enum Side {
    Left,
    Right,
}

/// The way up a tree: the place of a node, and that of the last one, at the same level.
struct Climb(u64, u64);

impl Climb {
    fn is_at_the_top(&self) -> bool {
        self.1 == 0
    }

    fn up(&mut self) {
        self.0 >>= 1;
        self.1 >>= 1;
    }

    fn step(&mut self) -> Side {
        let left = self.0 & 1 == 1 || self.0 == self.1;
        if left {
            // A last node without a sibling stands for itself further up.
            while self.0 & 1 == 0 && self.0 != 0 {
                self.up();
            }
        }
        self.up();
        if left { Side::Left } else { Side::Right }
    }
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    node_hash(Hash(*left), Hash(*right)).0
}

fn matches(what: &str, computed: [u8; 32], given: &[u8]) -> Result<(), String> {
    match computed == given {
        true => Ok(()),
        false => Err(format!(
            "{what} is {}, but the path leads to {}",
            BASE64_STANDARD.encode(given),
            BASE64_STANDARD.encode(computed)
        )),
    }
}

fn hash(what: &str, bytes: &[u8]) -> Result<[u8; 32], String> {
    bytes
        .try_into()
        .map_err(|_length| format!("{what} has {} bytes, not 32", bytes.len()))
}

fn path(proof: &[Vec<u8>]) -> Result<Vec<[u8; 32]>, String> {
    proof
        .iter()
        .map(|h| hash("a hash of the path", h))
        .collect()
}

fn decode<E: Error>(text: &str) -> Result<Vec<u8>, E> {
    if text.len() == 64
        && let Ok(bytes) = hex::decode(text)
    {
        return Ok(bytes);
    }
    BASE64_STANDARD
        .decode(text)
        .map_err(|e| E::custom(format!("{text:?} is no hash: {e}")))
}

mod bytes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        decode(&text.unwrap_or_default())
    }
}

mod list {
    use super::*;

    pub(super) fn serialize<S: Serializer>(list: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(|bytes| BASE64_STANDARD.encode(bytes)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Option::<Vec<String>>::deserialize(from)?;
        texts
            .unwrap_or_default()
            .iter()
            .map(|t| decode(t))
            .collect()
    }
}

#[cfg(test)]
mod tests;
