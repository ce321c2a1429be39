//! Who asks a bucket: from the environment, or from a credentials file as AWS's own tools have it.

use std::{env, fmt, fs, io, path::PathBuf};

use object_store::aws::AmazonS3Builder;
use zeroize::Zeroizing;

/// The longest credentials file.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// An access key with its secret.
#[derive(Clone)]
pub struct Credentials {
    key_id: String,
    secret: Zeroizing<String>,
    token: Option<Zeroizing<String>>,
}

/// Credentials cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("the credentials file {} cannot be read", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has no such profile.
    #[error("the credentials file {} has no profile {profile:?} with aws_access_key_id and aws_secret_access_key", path.display())]
    NoProfile {
        /// Which file.
        path: PathBuf,
        /// Which profile.
        profile: String,
    },
}

impl Credentials {
    /// A key, its secret, and the token of a session.
    pub fn new(key_id: &str, secret: &str, token: Option<&str>) -> Self {
        Self {
            key_id: key_id.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
            token: token.map(|token| Zeroizing::new(token.to_owned())),
        }
    }

    /// Those of the file that `AWS_SHARED_CREDENTIALS_FILE` names, unless the environment has a key itself.
    pub(crate) fn from_environment() -> Result<Option<Self>, CredentialsError> {
        let path = env::var_os("AWS_SHARED_CREDENTIALS_FILE");
        let Some(path) = path.filter(|_| env::var_os("AWS_ACCESS_KEY_ID").is_none()) else {
            return Ok(None);
        };
        let profile = env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned());
        Self::from_file(path.into(), profile).map(Some)
    }

    /// A profile of a credentials file.
    pub fn from_file(path: PathBuf, profile: String) -> Result<Self, CredentialsError> {
        let read = fs::metadata(&path).and_then(|about| match about.len() {
            ..=MAX_FILE_BYTES => fs::read_to_string(&path),
            _ => Err(io::ErrorKind::FileTooLarge.into()),
        });
        match read {
            Ok(text) => Self::parse(&Zeroizing::new(text), &profile)
                .ok_or(CredentialsError::NoProfile { path, profile }),
            Err(source) => Err(CredentialsError::Io { path, source }),
        }
    }

    fn parse(text: &str, profile: &str) -> Option<Self> {
        let mut here = false;
        let (mut key_id, mut secret, mut token) = (None, None, None);
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                here = name.trim() == profile;
            } else if let Some((name, value)) = line.split_once('=').filter(|_| here) {
                match name.trim() {
                    "aws_access_key_id" => key_id = Some(value.trim()),
                    "aws_secret_access_key" => secret = Some(value.trim()),
                    "aws_session_token" => token = Some(value.trim()),
                    _ => {}
                }
            }
        }
        Some(Self::new(key_id?, secret?, token))
    }

    pub(crate) fn give_to(&self, builder: AmazonS3Builder) -> AmazonS3Builder {
        let builder = builder
            .with_access_key_id(&self.key_id)
            .with_secret_access_key(self.secret.as_str());
        match &self.token {
            Some(token) => builder.with_token(token.as_str()),
            None => builder,
        }
    }
}

/// Without what is secret.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[default]\naws_access_key_id = AKIA1\naws_secret_access_key=s3cr3t\n\n\
                        [trail]\naws_access_key_id=AKIA2\naws_secret_access_key = other\naws_session_token= t\n[none]\n";

    #[test]
    fn a_profile_is_read_and_its_secret_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        fs::write(&path, FILE).unwrap();
        let read = |profile: &str| Credentials::from_file(path.clone(), profile.to_owned());
        let default = read("default").unwrap();
        assert_eq!(
            (default.key_id.as_str(), default.secret.as_str()),
            ("AKIA1", "s3cr3t")
        );
        assert_eq!(format!("{default:?}"), "Credentials(AKIA1)");
        assert_eq!(read("trail").unwrap().token.unwrap().as_str(), "t");
        for missing in ["none", "nobody"] {
            let error = read(missing).unwrap_err().to_string();
            assert!(
                error.contains("has no profile") && !error.contains("s3cr3t"),
                "{error}"
            );
        }
    }
}
