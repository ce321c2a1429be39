//! Sealing of files with AES-256-GCM: what lies on disk is useless without the key, and cannot be altered unseen.

use std::{fmt, fs, io::Write, path::Path};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

/// First bytes of a sealed file.
const MAGIC: &[u8] = b"reeve-sealed-1\n";
/// Largest sealed file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// A 256-bit key that seals files.
#[derive(Clone)]
pub struct SealKey(Zeroizing<[u8; 32]>);

/// Why a file cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key is not 64 hexadecimal digits.
    #[error("a sealing key is 64 hexadecimal digits")]
    BadKey,
    /// The file system refused.
    #[error("{path}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no sealed file, was altered, or was sealed with another key.
    #[error("{0} was altered, or was sealed with another key")]
    Tampered(String),
    /// The cryptographic library failed.
    #[error("sealing failed")]
    Crypto,
}

impl SealKey {
    /// Reads 64 hexadecimal digits; white space around them is ignored.
    pub fn from_hex(text: &str) -> Result<Self, SealError> {
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim(), key.as_mut_slice()).map_err(|_| SealError::BadKey)?;
        Ok(Self(key))
    }

    fn cipher(&self) -> Result<RandomizedNonceKey, SealError> {
        RandomizedNonceKey::new(&AES_256_GCM, self.0.as_slice()).map_err(|_| SealError::Crypto)
    }

    /// Writes `plain` sealed to `path`, all or nothing.
    pub(crate) fn write(&self, path: &Path, plain: &[u8]) -> Result<(), SealError> {
        let mut body = Zeroizing::new(plain.to_vec());
        let nonce = self
            .cipher()?
            .seal_in_place_append_tag(Aad::from(MAGIC), &mut *body)
            .map_err(|_| SealError::Crypto)?;
        let sealed = [MAGIC, nonce.as_ref().as_slice(), body.as_slice()].concat();
        replace_file(path, &sealed).map_err(|source| io_error(path, source))
    }

    /// Opens what [`Self::write`] wrote; `None` if there is no such file.
    pub(crate) fn read(&self, path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, SealError> {
        let tampered = || SealError::Tampered(path.display().to_string());
        let mut sealed = match fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(path, e)),
            Ok(m) if m.len() > MAX_BYTES => return Err(tampered()),
            Ok(_) => fs::read(path).map_err(|e| io_error(path, e))?,
        };
        let body = sealed.strip_prefix(MAGIC).ok_or_else(tampered)?;
        let (nonce, body) = body.split_at_checked(NONCE_LEN).ok_or_else(tampered)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| tampered())?;
        let mut body = Zeroizing::new(body.to_vec());
        sealed.clear();
        let plain = self
            .cipher()?
            .open_in_place(nonce, Aad::from(MAGIC), body.as_mut_slice())
            .map_err(|_| tampered())?;
        Ok(Some(Zeroizing::new(plain.to_vec())))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(…)")
    }
}

fn io_error(path: &Path, source: std::io::Error) -> SealError {
    SealError::Io {
        path: path.display().to_string(),
        source,
    }
}

/// Writes beside, syncs, renames, syncs the folder.
fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let beside = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(digit: &str) -> SealKey {
        SealKey::from_hex(&digit.repeat(64)).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sealed");
        assert!(key("a").read(&path).unwrap().is_none());
        key("a").write(&path, b"secret").unwrap();
        assert_eq!(key("a").read(&path).unwrap().unwrap().as_slice(), b"secret");
        assert!(matches!(key("b").read(&path), Err(SealError::Tampered(_))));
        let raw = fs::read(&path).unwrap();
        assert!(!raw.windows(6).any(|w| w == b"secret"));
    }

    #[test]
    fn any_flipped_or_missing_byte_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sealed");
        key("a").write(&path, b"secret").unwrap();
        let good = fs::read(&path).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(
                matches!(key("a").read(&path), Err(SealError::Tampered(_))),
                "byte {i}"
            );
            fs::write(&path, &good[..i]).unwrap();
            assert!(
                matches!(key("a").read(&path), Err(SealError::Tampered(_))),
                "cut at {i}"
            );
        }
    }

    #[test]
    fn a_key_is_64_hexadecimal_digits() {
        for bad in ["", "abc", &"g".repeat(64), &"a".repeat(63), &"a".repeat(66)] {
            assert!(
                matches!(SealKey::from_hex(bad), Err(SealError::BadKey)),
                "{bad}"
            );
        }
        assert_eq!(format!("{:?}", key("a")), "SealKey(…)");
    }
}
