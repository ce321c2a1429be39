//! SoftHSM of Debian as the token. Its configuration is an environment variable, which a process cannot safely change for
//! itself: each test runs once more as a process of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use super::*;
use crate::PinSource;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const FOLDER: &str = "REEVE_TEST_SOFTHSM";

/// Runs the test called `name` with a token of its own, whose PIN is 1234; `None` in the process that started it.
fn softhsm(name: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return Some(folder.into());
    }
    assert!(
        Path::new(MODULE).exists(),
        "SoftHSM is missing; tests/tools/install.sh installs it"
    );
    let folder = tempfile::tempdir().unwrap();
    let (conf, tokens) = (folder.path().join("conf"), folder.path().join("tokens"));
    fs::create_dir(&tokens).unwrap();
    let text = format!(
        "directories.tokendir = {}\nlog.level = ERROR\n",
        tokens.display()
    );
    fs::write(&conf, text).unwrap();
    pin(folder.path(), "1234");
    let util = Command::new("softhsm2-util")
        .args([
            "--init-token",
            "--free",
            "--label",
            "ours",
            "--pin",
            "1234",
            "--so-pin",
            "5678",
        ])
        .env("SOFTHSM2_CONF", &conf)
        .output()
        .unwrap();
    assert!(util.status.success(), "{util:?}");
    let own = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("token::tests::{name}"), "--nocapture"])
        .env("SOFTHSM2_CONF", &conf)
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    assert!(
        own.status.success(),
        "{}",
        String::from_utf8_lossy(&own.stderr)
    );
    None
}

fn pin(folder: &Path, pin: &str) {
    let path = folder.join("pin");
    fs::write(&path, pin).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn token(folder: &Path) -> Token {
    Token::new(TokenAddress {
        token: "ours".to_owned(),
        module: MODULE.into(),
        pin: PinSource::File(folder.join("pin")),
    })
    .unwrap()
}

fn signs(key: &dyn VaultKey) -> bool {
    let signature = key.sign(b"message").unwrap();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key());
    public.verify(b"another", &signature).is_err() && public.verify(b"message", &signature).is_ok()
}

#[test]
fn keys_are_made_sign_are_found_again_and_end() {
    let Some(folder) = softhsm("keys_are_made_sign_are_found_again_and_end") else {
        return;
    };
    let token_of_before = token(&folder);
    let (name, key) = token_of_before.make().unwrap();
    let (other, _) = token_of_before.make().unwrap();
    assert!(signs(&*key) && key.check().is_ok());
    assert_ne!(name, other);
    drop((key, token_of_before));
    let token = token(&folder);
    let key = token.find(&name).unwrap();
    assert!(signs(&*key), "found again by its name");
    token.destroy(&name).unwrap();
    token.destroy(&name).unwrap();
    let gone = VaultError::NoSuchKey {
        vault: token.describe().name,
        id: name.id,
    };
    assert_eq!(key.sign(b"message"), Err(gone.clone()));
    assert_eq!(key.check(), Err(gone));
    assert!(signs(&*token.find(&other).unwrap()), "the other one stays");
    let nothing = KeyName {
        id: String::new(),
        ..other.clone()
    };
    token.destroy(&nothing).unwrap();
    assert!(
        signs(&*token.find(&other).unwrap()),
        "no name is not every name"
    );
}

#[test]
fn a_token_that_is_away_says_so_and_is_used_again_when_it_is_back() {
    let Some(folder) = softhsm("a_token_that_is_away_says_so_and_is_used_again_when_it_is_back")
    else {
        return;
    };
    let token = token(&folder);
    let (_, key) = token.make().unwrap();
    let (here, there) = (folder.join("tokens"), folder.join("elsewhere"));
    fs::rename(&here, &there).unwrap();
    let error = key.check().unwrap_err();
    assert!(matches!(error, VaultError::Away { .. }), "{error}");
    assert!(error.to_string().contains("token ours of"), "{error}");
    assert!(key.sign(b"message").is_err());
    assert!(token.make().is_err());
    fs::rename(&there, &here).unwrap();
    assert!(key.check().is_ok() && signs(&*key));
}

#[test]
fn a_wrong_pin_is_tried_once_and_shown_never() {
    let Some(folder) = softhsm("a_wrong_pin_is_tried_once_and_shown_never") else {
        return;
    };
    pin(&folder, "98765");
    let token = token(&folder);
    let refused = token.make().err().unwrap();
    for _ in 0..3 {
        let again = token.make().err().unwrap();
        assert!(again.to_string().contains("not tried again"), "{again}");
    }
    for shown in [format!("{refused} {refused:?}"), format!("{token:?}")] {
        assert!(!shown.contains("98765"), "{shown}");
    }
    pin(&folder, "1234");
    assert!(token.make().is_ok(), "another one is tried");
}

#[test]
fn a_token_that_hangs_holds_up_one_call_and_no_other() {
    let Some(folder) = softhsm("a_token_that_hangs_holds_up_one_call_and_no_other") else {
        return;
    };
    let hung = Token {
        address: Arc::new(TokenAddress {
            token: "ours".to_owned(),
            module: MODULE.into(),
            pin: PinSource::Command("sleep 12; echo 1234".to_owned()),
        }),
        ..token(&folder)
    };
    let began = std::time::Instant::now();
    assert!(
        hung.make()
            .err()
            .unwrap()
            .to_string()
            .contains("no answer within")
    );
    assert!(hung.line.hangs.load(Ordering::Acquire));
    let first = began.elapsed();
    assert!(hung.make().is_err());
    assert!(
        began.elapsed() - first < ANSWER,
        "the next one does not wait"
    );
    while hung.line.hangs.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(hung.make().is_ok(), "it is back");
}
