//! The key that seals keys at rest.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, bail};

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
