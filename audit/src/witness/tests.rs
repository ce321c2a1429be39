use reeve_core::decision::Effect;
use tempfile::TempDir;

use super::*;
use crate::{
    AuditLog,
    fixture::{clock, decision, drain, fast, log_options, open_wal},
};

struct Scene {
    dir: TempDir,
    log: Arc<AuditLog>,
    audit: PathBuf,
}

impl Scene {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let audit = dir.path().join("audit");
        let log = AuditLog::open(&audit, log_options()).unwrap();
        let scene = Self { dir, log, audit };
        scene.grow().await;
        scene
    }

    async fn grow(&self) {
        let wal = open_wal(&self.dir.path().join("wal"), "a");
        wal.append(decision("/", Effect::Allow)).unwrap();
        drain(&wal, &self.log, fast()).await;
    }

    fn witness(&self) -> Witness {
        let keys = [self.log.status().verifier_key];
        let seal = log_options().seal_key;
        let dir = self.dir.path().join("witness");
        Witness::open(&dir, "witness.example/w1", &seal, &keys, clock()).unwrap()
    }

    fn body(&self, old: u64) -> (String, Vec<u8>) {
        request(&self.audit, old).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_only_grows_is_cosigned_across_restarts_of_the_witness() {
    let scene = Scene::new().await;
    let key = CosignerKey::parse(scene.witness().verifier_key()).unwrap();
    let mut old = 0;
    for size in 1..=5 {
        let witness = scene.witness();
        let (note, body) = scene.body(old);
        let answer = witness.add_checkpoint(&body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let all = cosigned(&note, &answer.body, &key).unwrap();
        assert_eq!(cosigned_at(all.as_bytes(), &key), Ok(1_700_000_000));
        assert!(open_checkpoint(all.as_bytes(), &scene.log.status().verifier_key).is_ok());
        assert!(cosigned_at(note.as_bytes(), &key).is_err());
        // The same once more.
        assert_eq!(witness.add_checkpoint(&scene.body(size).1).status, 200);
        old = size;
        scene.grow().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_witness_must_refuse_it_refuses_with_c2sps_status() {
    let scene = Scene::new().await;
    let witness = scene.witness();
    let status = |body: &[u8]| witness.add_checkpoint(body).status;
    let (_, first) = scene.body(0);
    assert_eq!(status(&first), 200);
    let stale = witness.add_checkpoint(&first);
    assert_eq!(
        (stale.status, stale.content_type, stale.body.as_str()),
        (409, "text/x.tlog.size", "1\n")
    );
    scene.grow().await;
    let text = |old| String::from_utf8(scene.body(old).1).unwrap();
    let good = text(1);
    assert_eq!(
        status(good.replace("mesh.local/audit\n", "other\n").as_bytes()),
        404
    );
    assert_eq!(status(good.replace("\n2\n", "\n3\n").as_bytes()), 403);
    assert_eq!(status(good.replace("old 1", "old 9").as_bytes()), 400);
    assert_eq!(status(good.replace("old 1", "old 01").as_bytes()), 400);
    let path = good.lines().nth(1).unwrap();
    assert_eq!(
        status(
            good.replacen(path, &BASE64_STANDARD.encode([7; 32]), 1)
                .as_bytes()
        ),
        422
    );
    assert_eq!(
        status(good.replacen(&format!("{path}\n"), "", 1).as_bytes()),
        422
    );
    for junk in [
        &b""[..],
        b"old 1\n",
        b"\xff\n\n",
        &[b'a'; MAX_WITNESS_REQUEST + 1],
    ] {
        assert_eq!(status(junk), 400);
    }
    assert_eq!(status(good.as_bytes()), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_rewritten_gets_no_cosignature_though_its_key_signs() {
    let scene = Scene::new().await;
    let witness = scene.witness();
    scene.grow().await;
    assert_eq!(witness.add_checkpoint(&scene.body(0).1).status, 200);
    // The operator begins again, with the same key.
    let other = scene.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::copy(scene.audit.join("log.key"), other.join("log.key")).unwrap();
    let log = AuditLog::open(&other, log_options()).unwrap();
    let wal = open_wal(&scene.dir.path().join("other-wal"), "b");
    for size in 1..=3u64 {
        wal.append(decision("/rewritten", Effect::Allow)).unwrap();
        drain(&wal, &log, fast()).await;
        let (_, body) = request(&other, size.min(2)).unwrap();
        let answer = witness.add_checkpoint(&body);
        assert!(matches!(answer.status, 409 | 422), "{size}: {answer:?}");
    }
}

#[test]
fn keys_are_of_their_kind() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
    let key = CosignerKey::of("w", &pair);
    assert_eq!(CosignerKey::parse(key.text()), Ok(key.clone()));
    for bad in [
        "",
        "w",
        "w+00000000+AAAA",
        &key.text().replace("w+", "v+"),
        &key.text().replacen('+', "+0", 1),
    ] {
        assert!(CosignerKey::parse(bad).is_err(), "{bad}");
    }
}
