//! The key that seals keys at rest.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure as must};
use tokio::{io::AsyncReadExt, process::Command, time::timeout};
use zeroize::Zeroizing;

/// Longest answer of a command that gives the key.
const MAX_KEY_ANSWER: u64 = 1024;
/// How long such a command may take.
const COMMAND: Duration = Duration::from_secs(30);

/// The key, as those who seal with it want it.
pub(crate) struct Keys {
    pub(super) authority: reeve_ca::SealKey,
    pub(crate) log: reeve_audit::seal::SealKey,
}

impl Keys {
    /// From a file, which is made if nothing was sealed yet.
    pub(super) fn of_file(file: &Path, sealed: &[&Path]) -> anyhow::Result<Self> {
        ensure(file, sealed)?;
        let named = || format!("the seal key {}", file.display());
        Ok(Self {
            authority: reeve_ca::SealKey::from_file(file).with_context(named)?,
            log: reeve_audit::seal::SealKey::from_file(file).with_context(named)?,
        })
    }

    /// From what a command prints: 64 hexadecimal digits. It is kept in memory only.
    pub(super) async fn of_command(command: &str) -> anyhow::Result<Self> {
        let printed = timeout(COMMAND, printed(command)).await;
        let printed = printed.with_context(|| format!("within {} s", COMMAND.as_secs()));
        let text = printed.and_then(|text| text);
        Self::of_hex(&text.context("the command of --seal-key-command gave no key")?)
    }

    /// From an environment variable.
    pub(super) fn of_environment(name: &str) -> anyhow::Result<Self> {
        let text = std::env::var(name).map(Zeroizing::new);
        let text = text.with_context(|| format!("the variable {name} of --seal-key-env"))?;
        Self::of_hex(&text).with_context(|| format!("the variable {name} of --seal-key-env"))
    }

    fn of_hex(text: &str) -> anyhow::Result<Self> {
        Ok(Self {
            authority: reeve_ca::SealKey::from_hex(text)?,
            log: reeve_audit::seal::SealKey::from_hex(text)?,
        })
    }
}

async fn printed(command: &str) -> anyhow::Result<Zeroizing<String>> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut text = Zeroizing::new(String::new());
    let out = child.stdout.take().context("it has no output")?;
    out.take(MAX_KEY_ANSWER).read_to_string(&mut text).await?;
    let status = child.wait().await?;
    must!(status.success(), "it ended with {status}");
    Ok(text)
}

/// Makes the key in `file` if there is none and nothing was sealed yet. `sealed` are the places that would hold what
/// was sealed with it.
pub(crate) fn ensure(file: &Path, sealed: &[&Path]) -> anyhow::Result<()> {
    if file.exists() {
        return Ok(());
    }
    if let Some(place) = sealed.iter().find(|place| holds_anything(place)) {
        bail!(
            "the seal key {} is missing, and {} was sealed with it; bring the key back, or start over in another state directory",
            file.display(),
            place.display()
        );
    }
    let key = hex::encode(rand::random::<[u8; 32]>());
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    match made {
        Ok(mut made) => made
            .write_all(format!("{key}\n").as_bytes())
            .and_then(|()| made.sync_all())
            .with_context(|| format!("the seal key {} cannot be written", file.display())),
        // Somebody else was faster; theirs is the key.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("the seal key {} cannot be made", file.display()))
        }
    }
}

fn holds_anything(place: &Path) -> bool {
    fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_this_user_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("seal.key");
        let sealed = folder.path().join("ca");
        ensure(&file, &[&sealed]).unwrap();
        let key = fs::read_to_string(&file).unwrap();
        assert_eq!(key.trim().len(), 64);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        ensure(&file, &[&sealed]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), key);
    }

    #[tokio::test]
    async fn a_command_gives_the_key_or_there_is_none() {
        let key = "0123456789abcdef".repeat(4);
        assert!(Keys::of_command(&format!("echo {key}")).await.is_ok());
        for (command, why) in [
            ("echo no", "64 hexadecimal digits"),
            ("exit 3", "gave no key"),
            ("/no/such/program", "gave no key"),
            ("yes", "gave no key"),
        ] {
            let error = Keys::of_command(command).await.err().unwrap();
            let error = format!("{error:#}");
            assert!(error.contains(why), "{command}: {error}");
            assert!(!error.contains(&key), "{error}");
        }
    }

    #[test]
    fn a_variable_gives_the_key_or_there_is_none() {
        for (name, why) in [
            ("REEVE_NO_SUCH_KEY", "not found"),
            ("PATH", "64 hexadecimal"),
        ] {
            let error = format!("{:#}", Keys::of_environment(name).err().unwrap());
            assert!(error.contains(why) && error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_lost_key_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let sealed = folder.path().join("ca");
        fs::create_dir(&sealed).unwrap();
        fs::write(sealed.join("journal"), "sealed").unwrap();
        let file = folder.path().join("seal.key");
        let error = ensure(&file, &[&sealed]).unwrap_err().to_string();
        assert!(error.contains("bring the key back"), "{error}");
        assert!(!file.exists());
    }
}
