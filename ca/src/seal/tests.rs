use std::os::unix::fs::PermissionsExt;

use super::*;

fn key(digit: &str) -> SealKey {
    SealKey::from_hex(&digit.repeat(64)).unwrap()
}

#[test]
fn what_is_sealed_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sealed");
    assert!(read(&path, &key("1"), "x").unwrap().is_none());
    for content in [b"first".as_slice(), b"", b"third"] {
        write(&path, &key("1"), "x", content).unwrap();
        assert_eq!(
            read(&path, &key("1"), "x").unwrap().unwrap().as_slice(),
            content
        );
    }
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[test]
fn another_key_or_purpose_does_not_open_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sealed");
    write(&path, &key("1"), "x", b"secret").unwrap();
    for (key, purpose) in [(key("2"), "x"), (key("1"), "y")] {
        let error = read(&path, &key, purpose).unwrap_err();
        assert!(matches!(error, SealError::Refused(_)), "{error}");
    }
}

#[test]
fn no_flipped_bit_opens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sealed");
    write(&path, &key("1"), "x", b"secret").unwrap();
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&path, bad).unwrap();
        assert!(read(&path, &key("1"), "x").is_err(), "byte {at}");
    }
}

#[test]
fn the_same_content_is_sealed_differently_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sealed");
    let sealed = || {
        write(&path, &key("1"), "x", b"secret").unwrap();
        fs::read(&path).unwrap()
    };
    assert_ne!(sealed(), sealed());
}

#[test]
fn a_key_file_is_made_once_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seal.key");
    let made = SealKey::from_file_or_new(&path).unwrap();
    let again = SealKey::from_file_or_new(&path).unwrap();
    assert_eq!(*made.0, *again.0);
    assert_eq!(format!("{made:?}"), "SealKey(..)");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = SealKey::from_file(&path).unwrap_err();
    assert!(matches!(error, SealError::KeyNotPrivate(_)));
}

#[test]
fn what_is_no_key_is_refused() {
    for text in ["", "12", &"g".repeat(64), &"1".repeat(63), &"1".repeat(66)] {
        assert!(
            matches!(SealKey::from_hex(text), Err(SealError::BadKey)),
            "{text}"
        );
    }
    assert!(SealKey::from_hex(&format!(" {}\n", "a".repeat(64))).is_ok());
}
