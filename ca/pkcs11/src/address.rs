//! Which token: a PKCS#11 URI (RFC 7512).

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
};

use zeroize::Zeroizing;

/// Longest PIN that is read, in bytes.
const MAX_PIN: usize = 256;

/// A token and how to get in. `pkcs11:token=LABEL?module-path=FILE&pin-source=SOURCE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAddress {
    /// The token's label.
    pub token: String,
    /// The module that speaks to it, a shared library.
    pub module: PathBuf,
    /// Where its PIN is.
    pub pin: PinSource,
}

/// Where a PIN is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinSource {
    /// `file:PATH`, or a path: in a file that only its owner may read.
    File(PathBuf),
    /// `env:NAME`: in an environment variable.
    Environment(String),
    /// `|COMMAND`: what a command prints.
    Command(String),
}

/// Why there is no token address, or no PIN. No variant holds a PIN.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Another scheme.
    #[error(
        "a token is named by a PKCS#11 URI, pkcs11:token=LABEL?module-path=FILE&pin-source=SOURCE (RFC 7512)"
    )]
    NotPkcs11,
    /// An attribute that is missing.
    #[error("the PKCS#11 URI lacks {0}")]
    Missing(&'static str),
    /// An attribute that is not used here; the others would not say which token is meant.
    #[error(
        "the PKCS#11 URI has {0}, which is not supported; only token, module-path and pin-source are"
    )]
    Unsupported(String),
    /// The PIN itself, where other processes see it.
    #[error(
        "the PKCS#11 URI has pin-value, which every process of this machine could read; use pin-source"
    )]
    PinInTheOpen,
    /// Not percent-encoded as it must be.
    #[error("the PKCS#11 URI is not percent-encoded right in {0}")]
    Encoding(String),
    /// Others may read the PIN.
    #[error("others may read the PIN in {path}; make it private with chmod 600", path = .0.display())]
    NotPrivate(PathBuf),
    /// It cannot be had.
    #[error("the PIN cannot be had from {from}: {why}")]
    NoPin {
        /// Where it should be.
        from: String,
        /// What happened.
        why: String,
    },
}

impl FromStr for TokenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text
            .strip_prefix("pkcs11:")
            .ok_or(AddressError::NotPkcs11)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let [mut token, mut module, mut pin] = [None, None, None];
        let attributes = path.split(';').chain(query.split('&'));
        for attribute in attributes.filter(|attribute| !attribute.is_empty()) {
            let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            let place = match name {
                "token" => &mut token,
                "module-path" => &mut module,
                "pin-source" => &mut pin,
                "pin-value" => return Err(AddressError::PinInTheOpen),
                other => return Err(AddressError::Unsupported(other.to_owned())),
            };
            let decoded = decoded(value).filter(|value| !value.is_empty());
            *place = Some(decoded.ok_or_else(|| AddressError::Encoding(name.to_owned()))?);
        }
        Ok(Self {
            token: token.ok_or(AddressError::Missing("token"))?,
            module: module.ok_or(AddressError::Missing("module-path"))?.into(),
            pin: PinSource::of(&pin.ok_or(AddressError::Missing("pin-source"))?),
        })
    }
}

impl fmt::Display for TokenAddress {
    /// What it is called in messages; not the URI.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} of {}", self.token, self.module.display())
    }
}

impl PinSource {
    fn of(text: &str) -> Self {
        if let Some(command) = text.strip_prefix('|') {
            return Self::Command(command.to_owned());
        }
        if let Some(name) = text.strip_prefix("env:") {
            return Self::Environment(name.to_owned());
        }
        let path = text.strip_prefix("file:").unwrap_or(text);
        Self::File(path.strip_prefix("//").unwrap_or(path).into())
    }

    /// The PIN, without the line's end.
    pub fn read(&self) -> Result<Zeroizing<String>, AddressError> {
        let text = match self {
            Self::File(path) => from_file(path)?,
            Self::Environment(name) => {
                let value = std::env::var(name).map(Zeroizing::new);
                value.map_err(|error| no_pin(format!("the variable {name}"), &error))?
            }
            Self::Command(command) => printed(command)?,
        };
        let pin = text.trim_end_matches(['\r', '\n']);
        match (1..=MAX_PIN).contains(&pin.len()) {
            true => Ok(Zeroizing::new(pin.to_owned())),
            false => Err(no_pin(self.to_string(), &"it is empty or too long")),
        }
    }
}

impl fmt::Display for PinSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "the variable {name}"),
            Self::Command(_) => f.write_str("the command of pin-source"),
        }
    }
}

fn from_file(path: &Path) -> Result<Zeroizing<String>, AddressError> {
    let shown = || path.display().to_string();
    let metadata = fs::metadata(path).map_err(|error| no_pin(shown(), &error))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(AddressError::NotPrivate(path.to_owned()));
    }
    if metadata.len() > MAX_PIN as u64 {
        return Err(no_pin(shown(), &"it is too long"));
    }
    let text = fs::read_to_string(path).map(Zeroizing::new);
    text.map_err(|error| no_pin(shown(), &error))
}

/// Runs on the token's own thread: whoever waits for that thread has a limit.
fn printed(command: &str) -> Result<Zeroizing<String>, AddressError> {
    let failed = |why: &dyn fmt::Display| no_pin("the command of pin-source".to_owned(), why);
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = output.map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(failed(&output.status));
    }
    let text = Zeroizing::new(output.stdout);
    let text = str::from_utf8(&text).map_err(|_| failed(&"it is not text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn no_pin(from: String, why: &dyn fmt::Display) -> AddressError {
    AddressError::NoPin {
        from,
        why: why.to_string(),
    }
}

/// Percent-decoded (RFC 3986 section 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = match first {
            b'%' => {
                let (digits, tail) = tail.split_at_checked(2)?;
                bytes.extend(hex::decode(digits).ok()?);
                tail
            }
            other => {
                bytes.push(*other);
                tail
            }
        };
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_address_says_which_token_and_where_its_pin_is() {
        let parse = |text: &str| text.parse::<TokenAddress>();
        let whole =
            parse("pkcs11:token=our%20keys?module-path=/usr/lib/m.so&pin-source=file:/etc/pin");
        let whole = whole.unwrap();
        assert_eq!(whole.token, "our keys");
        assert_eq!(whole.module, Path::new("/usr/lib/m.so"));
        assert_eq!(whole.pin, PinSource::File("/etc/pin".into()));
        let pin = |source: &str| {
            let uri = format!("pkcs11:token=t?module-path=m&pin-source={source}");
            parse(&uri).unwrap().pin
        };
        assert_eq!(pin("file:///a"), PinSource::File("/a".into()));
        assert_eq!(pin("/a"), PinSource::File("/a".into()));
        assert_eq!(pin("env:PIN"), PinSource::Environment("PIN".to_owned()));
        assert_eq!(pin("|echo%201"), PinSource::Command("echo 1".to_owned()));
    }

    #[test]
    fn an_address_that_could_mean_another_token_is_refused() {
        for (text, why) in [
            ("softhsm:token=t", "PKCS#11 URI"),
            ("pkcs11:?module-path=m&pin-source=/p", "lacks token"),
            ("pkcs11:token=t?pin-source=/p", "lacks module-path"),
            ("pkcs11:token=t?module-path=m", "lacks pin-source"),
            (
                "pkcs11:token=t;serial=1?module-path=m&pin-source=/p",
                "has serial",
            ),
            ("pkcs11:token=t?module-path=m&pin-value=1234", "pin-value"),
            (
                "pkcs11:token=%4?module-path=m&pin-source=/p",
                "percent-encoded right in token",
            ),
        ] {
            let error = text.parse::<TokenAddress>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains("1234"), "{error}");
        }
    }

    #[test]
    fn a_pin_is_read_from_where_it_is_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        fs::write(&path, "12 34\n").unwrap();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o600);
        assert_eq!(*PinSource::File(path.clone()).read().unwrap(), "12 34");
        mode(0o640);
        let error = PinSource::File(path.clone()).read().unwrap_err();
        assert!(matches!(error, AddressError::NotPrivate(_)));
        let command = |text: &str| PinSource::Command(text.to_owned()).read();
        assert_eq!(*command("printf 5678").unwrap(), "5678");
        for (text, why) in [
            ("exit 3", "exit status: 3"),
            ("true", "empty"),
            ("echo 5678; exit 1", "exit"),
        ] {
            let error = command(text).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("5678"), "{error}");
        }
        let error = PinSource::Environment("NO_SUCH_PIN".to_owned())
            .read()
            .unwrap_err();
        assert!(error.to_string().contains("NO_SUCH_PIN"));
    }
}
