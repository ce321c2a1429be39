//! Unix sockets that this process serves.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, bail};
use tokio::net::UnixListener;

/// Longest path of a Unix socket on Linux, without its end (unix(7)).
const MAX_PATH: usize = 107;

/// Listens at `path`, for this user only. A socket that nobody answers at any more is replaced; anything else that
/// stands there is left alone and is an error.
pub fn bind(path: &Path, what: &str) -> anyhow::Result<UnixListener> {
    prepare(path, what, || {
        std::os::unix::net::UnixStream::connect(path).is_ok()
    })?;
    let listener = UnixListener::bind(path)
        .with_context(|| format!("{what} cannot be made at {}", path.display()))?;
    make_private(path, what)?;
    Ok(listener)
}

/// Makes sure that a socket can be made at `path`; `served` tells whether somebody answers there.
pub(crate) fn prepare(
    path: &Path,
    what: &str,
    served: impl FnOnce() -> bool,
) -> anyhow::Result<()> {
    let length = path.as_os_str().len();
    if length > MAX_PATH {
        bail!(
            "the path of {what}, {}, is {length} bytes long, and a Unix socket's can have {MAX_PATH}; use a shorter state directory (--state DIR)",
            path.display()
        );
    }
    make_room(path, what, served)
}

/// Keeps others than this user away from the socket at `path`.
pub(crate) fn make_private(path: &Path, what: &str) -> anyhow::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("{what} at {} cannot be made private", path.display()))
}

fn make_room(path: &Path, what: &str, served: impl FnOnce() -> bool) -> anyhow::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", path.display()));
        }
    };
    if !metadata.file_type().is_socket() {
        bail!(
            "{what} cannot be made: something that is not a socket stands at {}; move it away or use another state directory",
            path.display()
        );
    }
    if served() {
        bail!(
            "{what} cannot be made: another process serves {}; stop it or use another state directory",
            path.display()
        );
    }
    fs::remove_file(path)
        .with_context(|| format!("the stale socket {} cannot be removed", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        drop(bind(&path, "the socket").unwrap());
        assert!(path.exists(), "a closed listener leaves its socket behind");
        let again = bind(&path, "the socket").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(again);
    }

    #[tokio::test]
    async fn a_socket_that_is_served_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let _served = bind(&path, "the socket").unwrap();
        let error = bind(&path, "the mesh socket").unwrap_err().to_string();
        assert!(error.contains("another process serves"), "{error}");
        assert!(error.starts_with("the mesh socket"), "{error}");
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        fs::write(&path, "mine").unwrap();
        assert!(bind(&path, "the socket").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_said_to_be() {
        let path = Path::new("/tmp").join("x".repeat(120));
        let error = bind(&path, "the socket").unwrap_err().to_string();
        assert!(error.contains("107"), "{error}");
    }
}
