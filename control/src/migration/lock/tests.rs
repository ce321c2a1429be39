use std::time::Duration;

use reeve_authz::break_glass::SigningKey;
use reeve_core::TrustDomain;

use super::*;
use crate::PolicyFolder;

const WORKLOADS: &str = "apiVersion: reeve.dev/v1alpha1
kind: LocalMesh
metadata: {name: local}
spec:
  workloads:
    - {name: web, namespace: shop, command: [x], labels: {app: web}}
    - {name: old, namespace: shop, command: [x], role: none}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, name: http}, {port: 81, name: http-b}]}
";

const STRICT: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

const EXEMPT: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: probes
  namespace: shop
  annotations: {reeve.dev/exempt-owner: payments, reeve.dev/exempt-until: \"2099-12-31\", reeve.dev/exempt-reason: old probe}
spec:
  selector: {matchLabels: {app: web}}
  portLevelMtls:
    \"81\": {mode: PERMISSIVE}
";

fn landscape(files: &[(&str, &str)]) -> Landscape {
    let mut folder = PolicyFolder::default();
    for (name, text) in files {
        folder.put(name, Some((*text).to_owned()));
    }
    Landscape::of(folder).unwrap()
}

fn now() -> UnixTime {
    UnixTime::from_secs(1_800_000_000)
}

fn shop() -> Namespace {
    "shop".parse().unwrap()
}

fn locked(files: &[(&str, &str)], approvers: &[&SigningKey]) -> Result<Lock, LockRefused> {
    let approvers = approvers.iter().map(|key| key.public()).collect();
    Lock::of(
        &shop(),
        &landscape(files),
        ("alice".to_owned(), approvers),
        now(),
    )
}

#[test]
fn what_is_open_on_purpose_may_stay_and_nothing_else_may_open() {
    let before = [
        ("a.yaml", WORKLOADS),
        ("b.yaml", STRICT),
        ("c.yaml", EXEMPT),
    ];
    let lock = locked(&before, &[]).unwrap();
    let open: Vec<_> = lock.open.iter().map(String::as_str).collect();
    assert_eq!(open, ["shop/old", "shop/web:81"]);
    assert_eq!(lock.breaches(&landscape(&before)), []);

    let more = EXEMPT.replace("\"81\"", "\"80\"");
    let bare = WORKLOADS.replace("labels: {app: web}}", "labels: {app: web}, role: none}");
    type Files<'a> = &'a [(&'a str, &'a str)];
    let table: [(&str, Files<'_>, &str); 4] = [
        (
            "the namespace's mode is gone",
            &[("a.yaml", WORKLOADS), ("c.yaml", EXEMPT)],
            "workloads to come in shop would let plaintext in",
        ),
        (
            "the namespace's mode is weaker",
            &[
                ("a.yaml", WORKLOADS),
                ("b.yaml", &STRICT.replace("STRICT", "PERMISSIVE")),
            ],
            "plaintext is let in at shop/web:80",
        ),
        (
            "another port is exempt",
            &[("a.yaml", WORKLOADS), ("b.yaml", STRICT), ("c.yaml", &more)],
            "plaintext is let in at shop/web:80",
        ),
        (
            "a sidecar is taken away",
            &[("a.yaml", &bare), ("b.yaml", STRICT)],
            "workload shop/web has no sidecar",
        ),
    ];
    for (name, files, text) in table {
        let faults = lock.breaches(&landscape(files));
        let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert!(
            told.iter().any(|told| told.contains(text)),
            "{name}: {told:?}"
        );
        assert!(faults.iter().all(Fault::is_error), "{name}");
    }
    let faults = lock.breaches(&landscape(table[2].1));
    assert_eq!((faults[0].file.as_str(), faults[0].line), ("c.yaml", 10));
    assert!(
        faults[0]
            .to_string()
            .contains("reeve mtls approve shop --lock shop-1800000000000")
    );
}

#[test]
fn only_a_strict_namespace_is_locked() {
    let open = locked(&[("a.yaml", WORKLOADS)], &[]);
    assert!(
        matches!(open, Err(LockRefused::NotStrict { .. })),
        "{open:?}"
    );
    let elsewhere = WORKLOADS.replace("namespace: shop", "namespace: other");
    let none = locked(&[("a.yaml", &elsewhere)], &[]);
    assert!(matches!(none, Err(LockRefused::Empty(_))), "{none:?}");

    let key = SigningKey::generate().unwrap();
    let lock = locked(&[("a.yaml", WORKLOADS), ("b.yaml", STRICT)], &[&key]).unwrap();
    let locks = Locks::default().with(lock.clone()).unwrap();
    assert!(matches!(
        locks.with(lock.clone()),
        Err(LockRefused::Already(_))
    ));
    let nobodys = Lock {
        approvers: Vec::new(),
        ..lock
    };
    assert!(matches!(
        Locks::default().with(nobodys),
        Err(LockRefused::Approvers)
    ));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_lock_opens_by_its_own_approvers_fresh_signature_alone() {
    let (key, other) = (
        SigningKey::generate().unwrap(),
        SigningKey::generate().unwrap(),
    );
    let lock = locked(&[("a.yaml", WORKLOADS), ("b.yaml", STRICT)], &[&key]).unwrap();
    let mesh: TrustDomain = "mesh.local".parse().unwrap();
    let hour = Duration::from_secs(3600);
    let approval = || {
        Approval::new(
            (shop(), lock.id.clone()),
            mesh.clone(),
            "4711".into(),
            now().plus(hour),
        )
    };
    let signed = |approval: Approval| approval.sign(&key).unwrap();
    let good = signed(approval());
    let read = SignedApproval::read(&serde_json::to_vec(&good).unwrap()).unwrap();
    assert_eq!(read.check(&lock, &mesh, now()), Ok(()));

    let altered = |change: fn(&mut Approval)| {
        let mut altered = good.clone();
        change(&mut altered.approval);
        altered.check(&lock, &mesh, now())
    };
    let forged = [
        altered(|a| a.reason.push('!')),
        altered(|a| a.expires_at = a.expires_at.plus(Duration::from_secs(1))),
        altered(|a| a.lock.push('0')),
        altered(|a| a.namespace = "other".parse().unwrap()),
        altered(|a| a.trust_domain = "other.test".parse().unwrap()),
    ];
    assert_eq!(forged, [const { Err(ApprovalRefused::BadSignature) }; 5]);
    let stolen = SignedApproval {
        signer: key.public(),
        ..approval().sign(&other).unwrap()
    };
    let cases = [
        (
            approval().sign(&other).unwrap(),
            ApprovalRefused::UnknownSigner(other.public()),
        ),
        (stolen, ApprovalRefused::BadSignature),
        (
            signed(Approval {
                lock: "shop-1".into(),
                ..approval()
            }),
            ApprovalRefused::OtherLock("shop-1".into()),
        ),
        (
            signed(Approval {
                trust_domain: "other.test".parse().unwrap(),
                ..approval()
            }),
            ApprovalRefused::OtherTrustDomain("other.test".parse().unwrap()),
        ),
        (
            signed(Approval {
                expires_at: now(),
                ..approval()
            }),
            ApprovalRefused::NotNow,
        ),
        (
            signed(Approval {
                expires_at: now().plus(25 * hour),
                ..approval()
            }),
            ApprovalRefused::NotNow,
        ),
    ];
    for (signed, why) in cases {
        assert_eq!(signed.check(&lock, &mesh, now()), Err(why));
    }
    let no_reason = Approval {
        reason: String::new(),
        ..approval()
    };
    assert!(matches!(
        no_reason.sign(&key),
        Err(ApprovalRefused::Malformed(_))
    ));
    for text in [
        b"{}".to_vec(),
        vec![b' '; 10_000],
        serde_json::to_vec(&good.approval).unwrap(),
    ] {
        assert!(matches!(
            SignedApproval::read(&text),
            Err(ApprovalRefused::Malformed(_))
        ));
    }
}

#[test]
fn what_is_locked_is_kept_and_a_file_that_is_no_list_of_locks_is_an_error() {
    let state = tempfile::tempdir().unwrap();
    assert_eq!(Locks::read(state.path()).unwrap(), Locks::default());
    let key = SigningKey::generate().unwrap();
    let lock = locked(&[("a.yaml", WORKLOADS), ("b.yaml", STRICT)], &[&key]).unwrap();
    let locks = Locks::default().with(lock).unwrap();
    locks.write(state.path()).unwrap();
    assert_eq!(Locks::read(state.path()).unwrap(), locks);
    assert!(locks.without(&shop()).is_empty());
    std::fs::write(state.path().join(FILE), b"[{}]").unwrap();
    assert!(Locks::read(state.path()).is_err());
}
