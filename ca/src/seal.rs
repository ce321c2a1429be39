//! Sealed files: AES-256-GCM, replaced as a whole.

use std::{
    fmt, fs, io,
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

/// First bytes of a sealed file; authenticated with the content.
const MAGIC: &[u8] = b"reeve-sealed-1\n";
/// Longest sealed file that is read.
const MAX_BYTES: u64 = 32 * 1024 * 1024;
const KEY_BYTES: usize = 32;

/// The key of sealed files.
#[derive(Clone)]
pub struct SealKey(Zeroizing<[u8; KEY_BYTES]>);

/// A sealed file or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A file system call failed.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The key is not 64 hexadecimal digits.
    #[error("a seal key is 64 hexadecimal digits")]
    BadKey,
    /// Others may read the key file.
    #[error("others may read the key file {path}; make it private with chmod 600", path = .0.display())]
    KeyNotPrivate(PathBuf),
    /// Not a sealed file.
    #[error("{path} is not a sealed file", path = .0.display())]
    NotSealed(PathBuf),
    /// Altered, or sealed with another key.
    #[error("{path} was altered, or sealed with another key", path = .0.display())]
    Refused(PathBuf),
    /// Too large to be ours.
    #[error("{path} is larger than 1 MiB", path = .0.display())]
    TooLarge(PathBuf),
    /// The cryptographic library failed.
    #[error("sealing failed")]
    Crypto,
}

impl SealKey {
    /// From 64 hexadecimal digits; white space around them is dropped.
    pub fn from_hex(text: &str) -> Result<Self, SealError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(text.trim(), &mut *key).map_err(|_| SealError::BadKey)?;
        Ok(Self(key))
    }

    /// From a file that only its owner may read.
    pub fn from_file(path: &Path) -> Result<Self, SealError> {
        let metadata = fs::metadata(path).map_err(failed("read", path))?;
        if metadata.mode() & 0o077 != 0 {
            return Err(SealError::KeyNotPrivate(path.to_owned()));
        }
        let text = fs::read_to_string(path).map_err(failed("read", path))?;
        Self::from_hex(&Zeroizing::new(text))
    }

    /// From a file, which is made, with a random key, if it is not there.
    pub fn from_file_or_new(path: &Path) -> Result<Self, SealError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        aws_lc_rs::rand::fill(&mut *key).map_err(|_| SealError::Crypto)?;
        let mut options = fs::OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                let text = Zeroizing::new(hex::encode(*key) + "\n");
                let written = file
                    .write_all(text.as_bytes())
                    .and_then(|()| file.sync_all());
                written.map_err(failed("write", path))?;
                Ok(Self(key))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::from_file(path),
            Err(error) => Err(failed("make", path)(error)),
        }
    }

    fn cipher(&self) -> Result<RandomizedNonceKey, SealError> {
        RandomizedNonceKey::new(&AES_256_GCM, &*self.0).map_err(|_| SealError::Crypto)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// Seals `plain` into the file at `path` so that a crash leaves either the old file or the new one. `purpose` must be
/// given again to open it: one sealed file cannot be passed off as another.
pub(crate) fn write(
    path: &Path,
    key: &SealKey,
    purpose: &str,
    plain: &[u8],
) -> Result<(), SealError> {
    let mut sealed = Zeroizing::new(plain.to_vec());
    let nonce = key
        .cipher()?
        .seal_in_place_append_tag(aad(purpose), &mut *sealed)
        .map_err(|_| SealError::Crypto)?;
    let parts: [&[u8]; 3] = [MAGIC, nonce.as_ref(), &sealed];
    replace(path, &parts.concat())
}

/// Opens the sealed file at `path`; none if there is no file.
pub(crate) fn read(
    path: &Path,
    key: &SealKey,
    purpose: &str,
) -> Result<Option<Zeroizing<Vec<u8>>>, SealError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    if metadata.len() > MAX_BYTES {
        return Err(SealError::TooLarge(path.to_owned()));
    }
    let bytes = fs::read(path).map_err(failed("read", path))?;
    let sealed = bytes
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.split_first_chunk::<NONCE_LEN>());
    let (nonce, sealed) = sealed.ok_or_else(|| SealError::NotSealed(path.to_owned()))?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let plain = key
        .cipher()?
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            aad(purpose),
            &mut sealed,
        )
        .map_err(|_| SealError::Refused(path.to_owned()))?;
    Ok(Some(Zeroizing::new(plain.to_vec())))
}

fn aad(purpose: &str) -> Aad<Vec<u8>> {
    Aad::from([MAGIC, purpose.as_bytes()].concat())
}

/// Writes beside, flushes, renames, and flushes the folder.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), SealError> {
    let beside = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&beside).map_err(failed("make", &beside))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(failed("write", &beside))?;
    fs::rename(&beside, path).map_err(failed("replace", path))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let flushed = fs::File::open(folder).and_then(|folder| folder.sync_all());
    flushed.map_err(failed("flush", folder))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SealError {
    let path = path.to_owned();
    move |source| SealError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests;
