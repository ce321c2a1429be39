//! Every refusal by its reason, and what comes out of a grant that is taken.

use reeve_core::{
    decision::{Effect, Principal},
    model::PolicySlice,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::*;
use crate::{Engine, fixtures};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const CONSOLE: &str = "spiffe://mesh.local/ns/ops/sa/console";
const PERMIT: &str = r#"@owner("on-call")
permit (
  principal == Workload::"spiffe://mesh.local/ns/ops/sa/console",
  action == Action::"GET",
  resource in Service::"ledger.pay.svc.cluster.local"
);"#;

fn now() -> UnixTime {
    UnixTime::from_secs(1_900_000_000)
}

fn grant() -> Grant {
    Grant {
        expires_at: now().plus(24 * HOUR),
        id: "pay-admin".to_owned(),
        issuer: "on-call lead".to_owned(),
        longest_seconds: 900,
        namespace: "pay".parse().unwrap(),
        not_before: now().minus(HOUR),
        policy: PERMIT.to_owned(),
        reason: "unblock the ledger".to_owned(),
        schema: SCHEMA.to_owned(),
        trust_domain: "mesh.local".parse().unwrap(),
    }
}

fn key() -> SigningKey {
    SigningKey::generate().unwrap()
}

fn trust(keys: &[&SigningKey]) -> BreakGlass {
    BreakGlass {
        signers: keys.iter().map(|key| key.public()).collect(),
        mesh_signers: Vec::new(),
        revoked: vec!["lost-one".to_owned()],
    }
}

/// Signs whatever it says, as a signer's other software might.
fn forced(grant: Grant, key: &SigningKey) -> SignedGrant {
    SignedGrant {
        signer: key.public(),
        signature: key.sign(&grant.message().unwrap()),
        grant,
    }
}

struct At<'a> {
    trust: &'a BreakGlass,
    namespace: &'a str,
    domain: &'a str,
    now: UnixTime,
    lasting: Duration,
}

impl<'a> At<'a> {
    fn new(trust: &'a BreakGlass) -> Self {
        Self {
            trust,
            namespace: "pay",
            domain: "mesh.local",
            now: now(),
            lasting: 10 * MINUTE,
        }
    }

    fn admit(&self, signed: &SignedGrant) -> Result<Admitted, GrantRefused> {
        signed.clone().admit(Terms {
            trust: self.trust,
            trust_domain: &self.domain.parse().unwrap(),
            namespace: &self.namespace.parse().unwrap(),
            now: self.now,
            lasting: self.lasting,
        })
    }
}

#[test]
fn a_signed_grant_is_taken_for_its_time() {
    let key = key();
    let trust = trust(&[&key]);
    let signed = SignedGrant::sign(grant(), &key).unwrap();
    let file = serde_json::to_vec_pretty(&signed).unwrap();
    let read = SignedGrant::read(&file).unwrap();
    assert_eq!(read, signed);
    let admitted = At::new(&trust).admit(&read).unwrap();
    assert_eq!(admitted.until, now().plus(10 * MINUTE));
    assert_eq!(admitted.policy.id.as_str(), "break-glass/pay-admin");
    assert!(is_break_glass(&admitted.policy.id));
    assert_eq!(admitted.policy.scope, Some("pay".parse().unwrap()));
    assert!(
        admitted
            .policy
            .text
            .starts_with("@until(\"2030-03-17T17:56:40.000Z\")")
    );
}

#[test]
fn it_never_lasts_beyond_the_end_of_the_grant() {
    let key = key();
    let trust = trust(&[&key]);
    let signed = SignedGrant::sign(grant(), &key).unwrap();
    let late = At {
        now: grant().expires_at.minus(MINUTE),
        ..At::new(&trust)
    };
    assert_eq!(late.admit(&signed).unwrap().until, grant().expires_at);
}

#[test]
fn the_policy_decides_in_its_namespace_until_its_end_and_a_forbid_wins() {
    let key = key();
    let trust = trust(&[&key]);
    let signed = SignedGrant::sign(grant(), &key).unwrap();
    let policy = At::new(&trust).admit(&signed).unwrap().policy;
    let engine = |more: &[PolicySource]| {
        let mut policies = vec![policy.clone()];
        policies.extend_from_slice(more);
        let mesh_hash = String::new();
        Engine::compile(&PolicySlice {
            mesh_hash,
            policies,
            ..PolicySlice::default()
        })
        .unwrap()
    };
    let alone = engine(&[]);
    let effect = |engine: &Engine, namespace, at| {
        let mut request = fixtures::request();
        request.principal = Principal::Workload(fixtures::id(CONSOLE));
        request.resource.workload = None;
        request.resource.namespace = fixtures::namespace(namespace);
        request.resource.services = vec!["ledger.pay.svc.cluster.local".parse().unwrap()];
        request.context.time = at;
        engine.decide(&request).effect
    };
    assert_eq!(effect(&alone, "pay", now()), Effect::Allow);
    let last = now().plus(10 * MINUTE).minus(Duration::from_millis(1));
    assert_eq!(effect(&alone, "pay", last), Effect::Allow);
    assert_eq!(effect(&alone, "pay", now().plus(10 * MINUTE)), Effect::Deny);
    assert_eq!(effect(&alone, "other", now()), Effect::Deny);
    let forbid = PolicySource {
        id: "pay/never".parse().unwrap(),
        scope: Some("pay".parse().unwrap()),
        mode: PolicyMode::Enforce,
        text: "forbid (principal, action, resource);".to_owned(),
    };
    assert_eq!(effect(&engine(&[forbid]), "pay", now()), Effect::Deny);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_refusal_has_its_reason() {
    let (key, stranger) = (key(), key());
    let trust = trust(&[&key]);
    let at = At::new(&trust);
    let good = SignedGrant::sign(grant(), &key).unwrap();

    let nobody = BreakGlass::default();
    assert_eq!(At::new(&nobody).admit(&good), Err(GrantRefused::NoSigners));
    let foreign = SignedGrant::sign(grant(), &stranger).unwrap();
    assert_eq!(
        at.admit(&foreign),
        Err(GrantRefused::UnknownSigner(stranger.public()))
    );
    let claimed = SignedGrant {
        signer: key.public(),
        ..foreign
    };
    assert_eq!(at.admit(&claimed), Err(GrantRefused::BadSignature));
    let cut = SignedGrant {
        signature: good.signature.get(..40).unwrap().to_owned(),
        ..good.clone()
    };
    assert_eq!(at.admit(&cut), Err(GrantRefused::BadSignature));
    let garbled = SignedGrant {
        signature: "?".to_owned(),
        ..good.clone()
    };
    assert_eq!(at.admit(&garbled), Err(GrantRefused::BadSignature));

    let lost = SignedGrant::sign(
        Grant {
            id: "lost-one".to_owned(),
            ..grant()
        },
        &key,
    )
    .unwrap();
    assert_eq!(
        at.admit(&lost),
        Err(GrantRefused::Revoked("lost-one".to_owned()))
    );
    let other = At {
        domain: "partner.example",
        ..At::new(&trust)
    };
    assert_eq!(
        other.admit(&good),
        Err(GrantRefused::OtherTrustDomain(
            "mesh.local".parse().unwrap()
        ))
    );
    let other = At {
        namespace: "default",
        ..At::new(&trust)
    };
    assert_eq!(
        other.admit(&good),
        Err(GrantRefused::OtherNamespace("pay".parse().unwrap()))
    );
    let early = At {
        now: grant().not_before.minus(MINUTE),
        ..At::new(&trust)
    };
    assert_eq!(
        early.admit(&good),
        Err(GrantRefused::NotYet(grant().not_before))
    );
    let late = At {
        now: grant().expires_at,
        ..At::new(&trust)
    };
    assert_eq!(
        late.admit(&good),
        Err(GrantRefused::Expired(grant().expires_at))
    );
    let long = At {
        lasting: Duration::from_millis(900_001),
        ..At::new(&trust)
    };
    let too_long = GrantRefused::TooLong {
        longest_seconds: 900,
        asked_seconds: 901,
    };
    assert_eq!(long.admit(&good), Err(too_long));
    let none = At {
        lasting: Duration::ZERO,
        ..At::new(&trust)
    };
    assert_eq!(none.admit(&good), Err(GrantRefused::NoTime));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_is_out_of_bounds_is_neither_signed_nor_taken() {
    let key = key();
    let trust = trust(&[&key]);
    let text = |policy: &str| Grant {
        policy: policy.to_owned(),
        ..grant()
    };
    let all = [
        (
            Grant {
                id: String::new(),
                ..grant()
            },
            "id",
        ),
        (
            Grant {
                id: "a/b".to_owned(),
                ..grant()
            },
            "id",
        ),
        (
            Grant {
                id: "a".repeat(64),
                ..grant()
            },
            "id",
        ),
        (
            Grant {
                reason: " ".to_owned(),
                ..grant()
            },
            "reason",
        ),
        (
            Grant {
                reason: "x".repeat(513),
                ..grant()
            },
            "reason",
        ),
        (
            Grant {
                issuer: "a\nb".to_owned(),
                ..grant()
            },
            "issuer",
        ),
        (
            Grant {
                longest_seconds: 0,
                ..grant()
            },
            "in force for",
        ),
        (
            Grant {
                longest_seconds: 3601,
                ..grant()
            },
            "in force for",
        ),
        (
            Grant {
                expires_at: grant().not_before,
                ..grant()
            },
            "expires before",
        ),
        (
            Grant {
                expires_at: now().plus(401 * 24 * HOUR),
                ..grant()
            },
            "400 days",
        ),
        (
            text(&"/".repeat(MAX_GRANT_POLICY_BYTES + 1)),
            "policy is longer",
        ),
        (
            text("forbid (principal, action, resource);"),
            "forbids nothing",
        ),
        (
            text(&format!("{PERMIT}\nforbid (principal, action, resource);")),
            "cannot be used",
        ),
        (
            text(&format!("@until(\"2099-01-01\") {PERMIT}")),
            "@description",
        ),
        (text(&format!("@mode(\"shadow\") {PERMIT}")), "@description"),
        (text(&format!("@id(\"x\") {PERMIT}")), "@description"),
        (
            text("permit (principal == ?principal, action, resource);"),
            "cannot be used",
        ),
        (
            text("permit (principal, action, resource) when { context.nonsense };"),
            "cannot be used",
        ),
        (
            text("permit (principal, action, resource"),
            "cannot be used",
        ),
        (text(""), "cannot be used"),
    ];
    for (grant, word) in all {
        let refused = SignedGrant::sign(grant.clone(), &key).unwrap_err();
        assert!(refused.to_string().contains(word), "{word}: {refused}");
        assert_eq!(
            At::new(&trust).admit(&forced(grant, &key)),
            Err(refused),
            "{word}"
        );
    }
}

#[test]
fn what_is_no_grant_is_not_read() {
    let signed = SignedGrant::sign(grant(), &key()).unwrap();
    let text = serde_json::to_string(&signed).unwrap();
    let longer = format!("{text}{}", " ".repeat(MAX_GRANT_BYTES));
    assert_eq!(
        SignedGrant::read(longer.as_bytes()),
        Err(GrantRefused::TooLarge)
    );
    let changed = [
        text.replacen("\"id\":", "\"id\":\"x\",\"id\":", 1),
        text.replacen("\"id\":", "\"more\":1,\"id\":", 1),
        text.replace("break-glass/v1", "break-glass/v2"),
        text.replace(".000Z", "Z"),
        text.replace("\"pay\"", "\"PAY\""),
        text.get(..text.len() - 1).unwrap().to_owned(),
        String::new(),
    ];
    for text in changed {
        let refused = SignedGrant::read(text.as_bytes()).unwrap_err();
        assert!(
            matches!(refused, GrantRefused::Malformed(_)),
            "{text}: {refused}"
        );
    }
}

#[test]
fn no_byte_of_a_grant_can_be_changed() {
    let key = key();
    let trust = trust(&[&key]);
    let at = At::new(&trust);
    let text = serde_json::to_vec(&SignedGrant::sign(grant(), &key).unwrap()).unwrap();
    for place in 0..text.len() {
        for change in [1, 0x20] {
            let mut tampered = text.clone();
            tampered[place] ^= change;
            if let Ok(signed) = SignedGrant::read(&tampered) {
                assert!(at.admit(&signed).is_err(), "byte {place} ^ {change}");
            }
        }
    }
}

#[test]
fn keys_round_trip_and_others_are_refused() {
    let key = key();
    let again = SigningKey::from_pem(&key.to_pem().unwrap()).unwrap();
    assert_eq!(again.public(), key.public());
    assert_eq!(parse_public_key(&key.public_pem()), Ok(key.public()));
    let bare = BASE64_STANDARD.encode(key.public().0);
    assert_eq!(parse_public_key(&bare), Ok(key.public()));
    assert!(!format!("{key:?}").contains("PRIVATE"));
    let identity = BASE64_STANDARD.encode([[1].as_slice(), &[0; 31]].concat());
    let zero = BASE64_STANDARD.encode([0; 32]);
    for bad in [
        "",
        "x",
        bare.get(..40).unwrap(),
        &identity,
        &zero,
        &key.to_pem().unwrap(),
    ] {
        assert_eq!(parse_public_key(bad), Err(KeyFault::Public), "{bad}");
    }
    for bad in ["", &key.public_pem(), &"A".repeat(5000)] {
        assert_eq!(
            SigningKey::from_pem(bad).err(),
            Some(KeyFault::Private),
            "{bad}"
        );
    }
}

/// Keys that `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` wrote (RFC 8410 section 10.3 has the private
/// one).
#[test]
fn keys_of_other_software_are_read() {
    let private = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    let public = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
        -----END PUBLIC KEY-----\n";
    let key = SigningKey::from_pem(private).unwrap();
    assert_eq!(parse_public_key(public), Ok(key.public()));
    assert_eq!(key.public_pem(), public);
    assert_eq!(key.to_pem().unwrap().as_str(), private);
}

#[test]
fn only_who_may_open_the_whole_mesh_can() {
    let (ordinary, highest) = (key(), key());
    let trust = BreakGlass {
        mesh_signers: vec![highest.public()],
        ..trust(&[&ordinary])
    };
    let wide = || Grant {
        namespace: Extent::Mesh,
        ..grant()
    };
    let by = |grant: Grant, key: &SigningKey| {
        let signed = SignedGrant::sign(grant, key).unwrap();
        let file = serde_json::to_vec(&signed).unwrap();
        let elsewhere = At {
            namespace: "shop",
            ..At::new(&trust)
        };
        elsewhere.admit(&SignedGrant::read(&file).unwrap())
    };
    // Who may open single namespaces may not open another's by writing a star.
    assert_eq!(
        by(wide(), &ordinary),
        Err(GrantRefused::NotForMesh(ordinary.public()))
    );
    let admitted = by(wide(), &highest).unwrap();
    assert_eq!(admitted.policy.scope, None, "it decides everywhere");
    assert!(is_break_glass(&admitted.policy.id));
    // Who may open all may open one, and that one alone.
    let one = SignedGrant::sign(grant(), &highest).unwrap();
    assert!(At::new(&trust).admit(&one).is_ok());
    assert!(matches!(
        by(grant(), &highest),
        Err(GrantRefused::OtherNamespace(_))
    ));
    // Neither can be made of the other.
    let mut widened = one;
    widened.grant.namespace = Extent::Mesh;
    assert_eq!(
        At::new(&trust).admit(&widened),
        Err(GrantRefused::BadSignature)
    );
}

#[test]
fn a_mesh_wide_grant_is_shorter_and_looks_like_one() {
    let key = key();
    let wide = Grant {
        namespace: Extent::Mesh,
        ..grant()
    };
    assert!(SignedGrant::sign(wide.clone(), &key).is_ok());
    let text = serde_json::to_string(&wide).unwrap();
    assert!(text.contains("\"namespace\":\"*\""), "{text}");
    let long = Grant {
        longest_seconds: 901,
        ..wide
    };
    let refused = SignedGrant::sign(long, &key);
    assert!(matches!(refused, Err(GrantRefused::OutOfBounds(said)) if said.contains("1 to 900 s")));
    // What is no namespace is no star either.
    for bad in ["", "**", "pay*", "Pay"] {
        assert!(bad.parse::<Extent>().is_err(), "{bad:?}");
    }
}
