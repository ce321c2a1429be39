//! The text form of C2SP tlog-proof: an index, a path, and the checkpoint that it leads to.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};

use super::inputs::Inclusion;

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// The longest path: a tree has at most 2^63 leaves.
pub const MAX_PATH: usize = 63;

/// A path with what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    /// The leaf's place.
    pub index: u64,
    /// From the leaf's sibling up.
    pub hashes: Vec<[u8; 32]>,
    /// The checkpoint, verbatim.
    pub checkpoint: String,
}

impl TlogProof {
    /// The same as proof inputs.
    pub fn inclusion(&self, size: u64, root: [u8; 32], leaf: [u8; 32]) -> Inclusion {
        Inclusion {
            leaf_idx: self.index,
            tree_size: size,
            root: root.to_vec(),
            leaf_hash: leaf.to_vec(),
            proof: self.hashes.iter().map(|h| h.to_vec()).collect(),
        }
    }
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}\nindex {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", BASE64_STANDARD.encode(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for TlogProof {
    type Err = String;

    /// Reads one; `extra` is passed over, as nothing vouches for it.
    fn from_str(text: &str) -> Result<Self, String> {
        let (head, checkpoint) = text
            .split_once("\n\n")
            .ok_or("there is no empty line before a checkpoint")?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(FIRST_LINE) {
            return Err(format!("does not begin with {FIRST_LINE}"));
        }
        lines.next_if(|line| line.starts_with("extra "));
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let number = index.and_then(|digits| digits.parse::<u64>().ok());
        let index = number
            .filter(|number| index == Some(number.to_string().as_str()))
            .ok_or("there is no index")?;
        let hash = |line: &str| {
            let bytes = BASE64_STANDARD.decode(line).ok();
            bytes
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or_else(|| "a line of the path is no SHA-256 in base64".to_owned())
        };
        let hashes: Vec<[u8; 32]> = lines.map(hash).collect::<Result<_, _>>()?;
        if hashes.len() > MAX_PATH {
            return Err(format!("its path is longer than {MAX_PATH}"));
        }
        Ok(Self {
            index,
            hashes,
            checkpoint: checkpoint.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_that_of_c2sp() {
        let proof = TlogProof {
            index: 5,
            hashes: vec![[0; 32], [255; 32]],
            checkpoint: "example.com/log\n9\nAA==\n\n— example.com/log AAAA\n".to_owned(),
        };
        let text = proof.to_string();
        assert_eq!(
            text,
            format!(
                "c2sp.org/tlog-proof@v1\nindex 5\n{}\n{}\n\n{}",
                "A".repeat(43) + "=",
                "/".repeat(42) + "8=",
                proof.checkpoint
            )
        );
        assert_eq!(text.parse(), Ok(proof.clone()));
        let extra = text.replacen("index", "extra YWJj\nindex", 1);
        assert_eq!(extra.parse(), Ok(proof));
        let none = "c2sp.org/tlog-proof@v1\nindex 0\n\ncheckpoint\n";
        assert!(none.parse::<TlogProof>().unwrap().hashes.is_empty());
    }

    #[test]
    fn what_is_not_of_that_form_is_refused() {
        for bad in [
            "",
            "c2sp.org/tlog-proof@v1\n",
            "c2sp.org/tlog-proof@v2\nindex 0\n\nc\n",
            "c2sp.org/tlog-proof@v1\nindex 00\n\nc\n",
            "c2sp.org/tlog-proof@v1\nindex +1\n\nc\n",
            "c2sp.org/tlog-proof@v1\nindex 1\nAAAA\n\nc\n",
            "c2sp.org/tlog-proof@v1\nindex 18446744073709551616\n\nc\n",
        ] {
            assert!(bad.parse::<TlogProof>().is_err(), "{bad:?}");
        }
        let hash = format!("{}\n", BASE64_STANDARD.encode([1; 32]));
        let long = format!("{FIRST_LINE}\nindex 0\n{}\nc\n", hash.repeat(MAX_PATH + 1));
        assert!(long.parse::<TlogProof>().is_err());
    }
}
