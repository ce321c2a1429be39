//! Times decisions and compilation by the number of policies, and token checks:
//! `cargo run --release -p reeve-authz --example decide_speed`.
//!
//! All policies concern one service; their principals differ and the last one is the asker's.

use std::{
    error::Error,
    hint::black_box,
    io::{Write, stdout},
    time::{Duration, Instant},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reeve_authz::{Engine, JwtVerifier, TokenLookup};
use reeve_core::{
    Namespace, PolicyId, ServiceName, SpiffeId, UnixTime,
    decision::{AccessRequest, Action, HttpContext, Principal, RequestContext, ResourceRef, User},
    model::{JwksDocument, JwtRule, PolicyMode, PolicySlice, PolicySource},
};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
/// How long one figure is measured.
const PERIOD: Duration = Duration::from_millis(700);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut out = stdout().lock();
    for (name, condition) in [
        ("identity", ""),
        (
            "identity and user",
            r#" when { context has user && context.user.hasTag("groups") && context.user.getTag("groups").contains("staff") }"#,
        ),
        (
            "identity, method and path",
            r#" when { context.mtls && context.method == "GET" && context.path like "/reviews/*" }"#,
        ),
    ] {
        for count in [1, 3, 100, 1_000, 10_000] {
            let slice = slice(count, condition)?;
            let started = Instant::now();
            let engine = Engine::compile(&slice).map_err(|faults| format!("{faults:?}"))?;
            let compiled = started.elapsed();
            let request = request(count)?;
            if !engine.decide(&request).is_allow() {
                return Err("the last policy does not permit".into());
            }
            let again = time(|| drop(black_box(engine.decide(black_box(&request)))));
            // A path that was never seen before.
            let mut other = request;
            let mut number = 0;
            let each = time(|| {
                number += 1;
                if let Some(http) = &mut other.context.http {
                    http.path = format!("/reviews/{number}");
                }
                black_box(engine.decide(black_box(&other)));
            });
            writeln!(
                out,
                "{name}: {count} policies: {each} ns per decision, {again} ns when nothing it reads is new, compiled in {compiled:.1?}"
            )?;
        }
    }
    tokens(&mut out)
}

/// Nanoseconds per call, the best of ten spans.
fn time(mut call: impl FnMut()) -> u128 {
    let mut best = u128::MAX;
    for _ in 0..10 {
        let started = Instant::now();
        let mut calls = 0;
        while started.elapsed() < PERIOD / 10 {
            for _ in 0..100 {
                call();
            }
            calls += 100;
        }
        best = best.min(started.elapsed().as_nanos() / calls);
    }
    best
}

fn workload(number: usize) -> String {
    format!("spiffe://mesh.local/ns/default/sa/client-{number}")
}

fn slice(count: usize, condition: &str) -> Outcome<PolicySlice> {
    let policy = |number| {
        let principal = workload(number);
        Ok::<_, Box<dyn Error>>(PolicySource {
            id: PolicyId::parse(&format!("default/p{number:05}"))?,
            scope: Some(Namespace::parse("default")?),
            mode: PolicyMode::Enforce,
            text: format!(
                r#"permit (principal == Workload::"{principal}", action in Action::"http", resource in Service::"reviews.default.svc.cluster.local"){condition};"#
            ),
        })
    };
    Ok(PolicySlice {
        mesh_hash: String::new(),
        policies: (1..=count).map(policy).collect::<Outcome<_>>()?,
        ..PolicySlice::default()
    })
}

fn request(asker: usize) -> Outcome<AccessRequest> {
    Ok(AccessRequest {
        principal: Principal::Workload(SpiffeId::parse(&workload(asker))?),
        user: Some(std::sync::Arc::new(User {
            issuer: "https://issuer.example".into(),
            subject: "alice".into(),
            claims: [("groups".into(), ["staff".into(), "admin".into()].into())].into(),
            expires_at: None,
        })),
        action: Action::Get,
        resource: ResourceRef {
            workload: Some(SpiffeId::parse(
                "spiffe://mesh.local/ns/default/sa/reviews",
            )?),
            namespace: Namespace::parse("default")?,
            services: vec![ServiceName::parse("reviews.default.svc.cluster.local")?],
            address: None,
        },
        context: RequestContext {
            destination_ip: None,
            remote_ip: None,
            sni: None,
            source_ip: "10.1.2.3".parse()?,
            port: 9080,
            mtls: true,
            time: NOW,
            http: Some(HttpContext {
                method: "GET".into(),
                host: "reviews".into(),
                path: "/reviews/7".into(),
                grpc: None,
                headers: [].into(),
                query: [].into(),
            }),
        },
    })
}

struct Bearer(String);

impl TokenLookup for Bearer {
    fn header_values(&self, name: &str) -> Vec<&[u8]> {
        let value = (name == "authorization").then_some(self.0.as_bytes());
        value.into_iter().collect()
    }

    fn query_values(&self, _: &str) -> Vec<String> {
        Vec::new()
    }
}

/// One token again and again, and a new one each time.
fn tokens(out: &mut impl Write) -> Outcome<()> {
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.as_ref())?;
    let point = pair.public_key().as_ref();
    let coordinate = |range: std::ops::Range<usize>| {
        point
            .get(range)
            .map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
            .ok_or("a short point")
    };
    let jwks = format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"k","x":"{}","y":"{}"}}]}}"#,
        coordinate(1..33)?,
        coordinate(33..65)?
    );
    let rule = JwtRule {
        name: "rule".into(),
        issuer: "i".into(),
        jwks: Some(JwksDocument {
            generation: 1,
            json: jwks,
        }),
        ..JwtRule::default()
    };
    let verifier = JwtVerifier::compile(&[rule]);
    let sign = |number: usize| {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"k"}"#);
        let claims = format!(
            r#"{{"iss":"i","sub":"s{number}","aud":"a","exp":1900000000,"groups":["staff","admin"]}}"#
        );
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature = pair.sign(&random, signed.as_bytes())?;
        let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
        Ok::<_, Box<dyn Error>>(Bearer(format!("Bearer {signed}.{signature}")))
    };
    let again = sign(0)?;
    verifier.verify(&again, NOW)?;
    let each = time(|| drop(black_box(verifier.verify(black_box(&again), NOW))));
    writeln!(out, "one token again: {each} ns")?;
    let fresh = (1..=5_000).map(sign).collect::<Outcome<Vec<_>>>()?;
    let started = Instant::now();
    for token in &fresh {
        verifier.verify(token, NOW)?;
    }
    let each = started.elapsed().as_nanos() / 5_000;
    writeln!(out, "a fresh ES256 token: {each} ns")?;
    Ok(())
}
