//! Keys in a vault: found again, ended in the end, away and back, and not believed. The vault here is a map; a real token
//! is tried in reeve-pkcs11 and on a mesh.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rcgen::CertificateParams;
use reeve_core::{SpiffeId, clock::ManualClock};

use super::*;
use crate::{
    Attested, CaOptions, IssueError, KeyName, KeyVault, LogEvents, Rotate, SIGNATURE_BYTES,
    SealKey, Store, VaultError, VaultKey, VaultName, custody::memory::MemoryKey,
};

const START: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);
/// Root, intermediate, JWT-SVIDs.
const AT_REST: usize = 3;

#[derive(Default)]
struct Inside {
    keys: BTreeMap<String, Arc<MemoryKey>>,
    away: bool,
    garbles: bool,
    made: usize,
}

#[derive(Clone, Default)]
struct Map(Arc<Mutex<Inside>>);

impl Map {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap()
    }

    fn open(&self) -> Result<MutexGuard<'_, Inside>, VaultError> {
        let inside = self.lock();
        match inside.away {
            true => Err(VaultError::Away {
                vault: "the map".to_owned(),
                why: "unplugged".to_owned(),
            }),
            false => Ok(inside),
        }
    }

    fn count(&self) -> usize {
        self.lock().keys.len()
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Map")
    }
}

#[derive(Debug)]
struct MapKey(Map, String, Vec<u8>);

impl VaultKey for MapKey {
    fn public_key(&self) -> &[u8] {
        &self.2
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], VaultError> {
        let inside = self.0.open()?;
        let key = inside.keys.get(&self.1).ok_or(VaultError::Memory)?;
        let mut signature = key.sign(message)?;
        signature[40] ^= u8::from(inside.garbles);
        Ok(signature)
    }

    fn check(&self) -> Result<(), VaultError> {
        self.0.open().map(drop)
    }
}

impl KeyVault for Map {
    fn describe(&self) -> VaultName {
        VaultName {
            kind: "map",
            name: "the map".to_owned(),
        }
    }

    fn make(&self) -> Result<(KeyName, Arc<dyn VaultKey>), VaultError> {
        let mut inside = self.open()?;
        let (_, key) = MemoryKey::make()?;
        inside.made += 1;
        let (id, point) = (format!("{:032x}", inside.made), key.public_key().to_vec());
        inside.keys.insert(id.clone(), Arc::new(key));
        let name = KeyName {
            id: id.clone(),
            public_key: hex::encode(&point),
        };
        Ok((name, Arc::new(MapKey(self.clone(), id, point))))
    }

    fn find(&self, name: &KeyName) -> Result<Arc<dyn VaultKey>, VaultError> {
        let point = hex::decode(&name.public_key).unwrap();
        Ok(Arc::new(MapKey(self.clone(), name.id.clone(), point)))
    }

    fn destroy(&self, name: &KeyName) -> Result<(), VaultError> {
        self.open()?.keys.remove(&name.id);
        Ok(())
    }
}

struct World {
    dir: tempfile::TempDir,
    vault: Map,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            vault: Map::default(),
            clock: Arc::new(ManualClock::at(START)),
        }
    }

    fn try_open(
        &self,
        vault: Option<Arc<dyn KeyVault>>,
    ) -> Result<Arc<CertificateAuthority>, CaError> {
        let options = CaOptions {
            trust_domain: "mesh.local".parse().unwrap(),
            root_ttl: HOUR * 24 * 365,
            intermediate_ttl: HOUR * 24 * 30,
            svid_ttl: HOUR * 4,
            consumer_wait: Duration::from_secs(1),
            store: Store::Sealed {
                dir: self.dir.path().join("ca"),
                key: SealKey::from_hex(&"7".repeat(64)).unwrap(),
            },
            vault,
            upstream: None,
        };
        CertificateAuthority::open(options, Arc::clone(&self.clock) as _)
    }

    fn open(&self) -> Arc<CertificateAuthority> {
        self.try_open(Some(Arc::new(self.vault.clone()))).unwrap()
    }

    fn pass(&self, ca: &CertificateAuthority, seconds: u32) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            // While the vault is away, it may fail.
            drop(ca.maintain(&LogEvents));
        }
    }
}

fn issue(ca: &CertificateAuthority) -> Result<(), IssueError> {
    let id = SpiffeId::parse("spiffe://mesh.local/ns/default/sa/a").unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    ca.issue(&Attested::by_itself(id.clone()), csr.der())?;
    ca.issue_jwt(&Attested::by_itself(id), &["ledger".to_owned()])
        .map(drop)
}

#[test]
fn keys_of_a_vault_are_found_again_and_not_kept_here() {
    let world = World::new();
    let ca = world.open();
    issue(&ca).unwrap();
    assert_eq!(world.vault.count(), AT_REST);
    let status = ca.status();
    assert_eq!((status.custody.keys, status.custody.away), ("map", None));
    assert!(
        status
            .authorities
            .iter()
            .all(|authority| authority.key == "token")
    );
    drop(ca);
    let again = world.open();
    issue(&again).unwrap();
    assert_eq!(world.vault.count(), AT_REST, "none was made anew");
    // The journal, opened: names, no keys.
    let state = again.lock();
    let kept: Vec<_> = state
        .slots
        .keys()
        .map(|key| serde_json::to_value(&key.kept).unwrap())
        .collect();
    assert!(
        kept.iter()
            .all(|kept| kept["id"].is_string() && kept["pkcs8"].is_null()),
        "{kept:?}"
    );
    let error = world.try_open(None).unwrap_err();
    assert!(
        matches!(error, CaError::Vault(VaultError::NoVault(_))),
        "{error}"
    );
}

#[test]
fn a_rotation_makes_keys_in_the_vault_and_ends_the_old_ones() {
    let world = World::new();
    let ca = world.open();
    ca.rotate(Rotate::Intermediate, &LogEvents).unwrap();
    world.pass(&ca, 10);
    assert_eq!(
        world.vault.count(),
        AT_REST,
        "the old intermediate's is gone"
    );
    ca.rotate(Rotate::Root, &LogEvents).unwrap();
    assert_eq!(world.vault.count(), AT_REST + 1);
    drop(ca);
    let ca = world.open();
    world.pass(&ca, 60);
    world.clock.advance(HOUR * 5);
    world.pass(&ca, 60);
    assert!(ca.status().rotation.is_none());
    assert_eq!((world.vault.count(), world.vault.lock().made), (AT_REST, 6));
    ca.rotate(Rotate::Emergency, &LogEvents).unwrap();
    world.pass(&ca, 10);
    assert_eq!(world.vault.count(), AT_REST, "all of before are gone");
    issue(&ca).unwrap();
}

#[test]
fn a_vault_that_is_away_is_told_and_used_again_and_nothing_is_left_in_it() {
    let world = World::new();
    let ca = world.open();
    world.vault.lock().away = true;
    let error = issue(&ca).unwrap_err();
    assert!(
        matches!(
            &error,
            IssueError::Authority(CaError::Vault(VaultError::Away { .. }))
        ),
        "{error:?}"
    );
    world.pass(&ca, 10);
    let away = ca.status().custody.away.unwrap();
    assert!(away.contains("unplugged"), "{away}");
    ca.rotate(Rotate::Root, &LogEvents).unwrap_err();
    assert!(ca.status().rotation.is_none(), "what failed has not begun");
    // An intermediate that is due meanwhile, and a restart.
    world.clock.advance(HOUR * 24 * 16);
    world.pass(&ca, 30);
    drop(ca);
    let ca = world.open();
    world.pass(&ca, 10);
    assert!(ca.status().custody.away.is_some());
    world.vault.lock().away = false;
    world.pass(&ca, 10);
    issue(&ca).unwrap();
    assert_eq!(ca.status().custody.away, None);
    assert_eq!(ca.status().custody.to_be_destroyed, 0);
    assert_eq!(
        world.vault.count(),
        AT_REST + 1,
        "the next JWT key is prepared; nothing else is left"
    );
}

#[test]
fn keys_that_cannot_be_ended_now_are_ended_later_even_after_a_restart() {
    let world = World::new();
    let ca = world.open();
    ca.rotate(Rotate::Intermediate, &LogEvents).unwrap();
    assert_eq!(ca.status().custody.to_be_destroyed, 1);
    world.vault.lock().away = true;
    world.pass(&ca, 10);
    drop(ca);
    let ca = world.open();
    assert_eq!(ca.status().custody.to_be_destroyed, 1);
    world.vault.lock().away = false;
    world.pass(&ca, 10);
    assert_eq!(
        (ca.status().custody.to_be_destroyed, world.vault.count()),
        (0, AT_REST)
    );
}

/// A vault is not believed: each of its signatures is verified before anything leaves. (Keys in memory are, once one of
/// their signatures has verified.)
#[test]
fn a_signature_that_does_not_verify_does_not_leave() {
    let world = World::new();
    let ca = world.open();
    issue(&ca).unwrap();
    world.vault.lock().garbles = true;
    let error = issue(&ca).unwrap_err();
    assert!(matches!(error, IssueError::Recheck(_)), "{error:?}");
    world.vault.lock().garbles = false;
    issue(&ca).unwrap();
}

#[test]
fn from_the_sealed_file_to_a_vault_by_a_rotation() {
    let world = World::new();
    let ca = world.try_open(None).unwrap();
    drop(ca);
    let ca = world.open();
    issue(&ca).unwrap();
    assert_eq!(world.vault.count(), 0, "what is there goes on");
    ca.rotate(Rotate::Root, &LogEvents).unwrap();
    world.pass(&ca, 60);
    let keys: Vec<_> = ca
        .status()
        .authorities
        .iter()
        .map(|a| (a.kind, a.slot, a.key))
        .collect();
    assert!(keys.contains(&("root", "active", "token")), "{keys:?}");
    assert!(
        keys.contains(&("intermediate", "active", "token")),
        "{keys:?}"
    );
}

#[test]
fn a_failed_save_leaves_no_key_in_the_vault() {
    let world = World::new();
    let ca = world.open();
    let journal = world.dir.path().join("ca");
    fs::rename(&journal, world.dir.path().join("elsewhere")).unwrap();
    ca.rotate(Rotate::Root, &LogEvents).unwrap_err();
    assert_eq!(world.vault.count(), AT_REST);
    fs::rename(world.dir.path().join("elsewhere"), &journal).unwrap();
    issue(&ca).unwrap();
}
