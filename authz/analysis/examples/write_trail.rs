//! Writes a trail to try replays on, by the audit crate's own writer, and a folder of policies that it rests on:
//! `cargo run --release -p reeve-analysis --example write_trail -- FOLDER [DECISIONS]`.
//!
//! Thirty services in three namespaces call each other along sixty edges, some far more often than others. Each request
//! has an id of its own (a recorded header), most paths hold ids, every fifth carries a token with claims that no other
//! has. Three in a hundred are denied; the others have an outcome.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt::Write as _,
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use reeve_audit::{
    AuditLog, AuthenticatedBy, BatchKey, BatchSigner, DecisionRecord, Direction, LogOptions,
    LookedFor, OutcomeRecord, ShipOptions, SigningIdentity, Wal, WalOptions, batch::BoxError,
    seal::SealKey, ship_local,
};
use reeve_core::{
    Clock, RecordId, UnixTime,
    clock::ManualClock,
    decision::{
        AccessRequest, Action, Decision, Effect, HttpContext, Principal, Reason, RequestContext,
        ResourceRef, User,
    },
    model::{Generation, MtlsMode, PathNormalization},
};

type Failure = Box<dyn Error + Send + Sync>;

const SERVICES: u64 = 30;
const EDGES: u64 = 60;
const PROXIES: u64 = 8;
const DAY: u64 = 24 * 60 * 60 * 1000;
const START: UnixTime = UnixTime::from_secs(1_790_000_000);
/// A proxy waits for shipping when so many records wait.
const WAITING_AT_MOST: u64 = 100_000;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("name a folder")?;
    let folder = Path::new(&folder);
    let decisions: u64 = args.next().map_or(Ok(1_000_000), |n| n.parse())?;
    write_mesh(&folder.join("mesh"))?;
    let clock = Arc::new(ManualClock::at(START));
    let log = AuditLog::open(
        &folder.join("audit"),
        LogOptions::new("mesh.local/audit", SealKey::from_hex(&"5a".repeat(32))?),
    )?;
    let signer = Arc::new(Signer(Arc::new(Key(Ed25519KeyPair::generate()?))));
    let mut writing = Vec::new();
    for proxy in 0..PROXIES {
        let shared: Arc<dyn Clock> = clock.clone();
        let name = format!("proxy-{proxy}").parse()?;
        let dir = folder.join("wal").join(format!("proxy-{proxy}"));
        let wal = Arc::new(Wal::open(&dir, name, WalOptions::default(), shared)?);
        let shipping = tokio::spawn(ship_local(
            wal.clone(),
            log.clone(),
            signer.clone(),
            ShipOptions {
                interval: Duration::from_millis(100),
                ..ShipOptions::default()
            },
        ));
        let clock = clock.clone();
        let share = decisions / PROXIES + u64::from(proxy < decisions % PROXIES);
        writing.push(tokio::spawn(async move {
            let written = write(&wal, &clock, share, proxy).await;
            shipping.abort();
            written
        }));
    }
    for proxy in writing {
        proxy.await??;
    }
    println!("{}: {} records", folder.display(), log.status().records);
    Ok(())
}

/// One proxy's share.
async fn write(wal: &Arc<Wal>, clock: &ManualClock, share: u64, seed: u64) -> Result<(), Failure> {
    let writer = wal.writer(0)?;
    let mut dice = Dice(seed + 1);
    for number in 0..share {
        if number % 512 == 0 {
            if seed == 0 {
                clock.advance(Duration::from_millis(DAY * 512 / share.max(1)));
            }
            while wal.status().backlog > WAITING_AT_MOST {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::task::yield_now().await;
        }
        let record = decision(&mut dice, clock.now())?;
        let allowed = record.decision.is_allow();
        let id = writer.append(&record)?;
        if allowed {
            writer.append(&outcome(id))?;
        }
    }
    writer.flush()?;
    while wal.status().backlog > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Numbers that look like chance, the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Small numbers far more often than large ones.
    fn skewed(&mut self, bound: u64) -> u64 {
        let widest = self.below(bound) + 1;
        let middle = self.below(widest) + 1;
        self.below(middle)
    }
}

fn namespace(service: u64) -> &'static str {
    match service % 3 {
        0 => "default",
        1 => "shop",
        _ => "pay",
    }
}

fn identity(service: u64) -> String {
    let namespace = namespace(service);
    format!("spiffe://mesh.local/ns/{namespace}/sa/svc-{service}")
}

fn host(service: u64) -> String {
    format!("svc-{service}.{}.svc.cluster.local", namespace(service))
}

/// Who calls whom.
fn edge(number: u64) -> (u64, u64) {
    let caller = number * 7 % SERVICES;
    (
        caller,
        (caller + 1 + number * 11 % (SERVICES - 1)) % SERVICES,
    )
}

fn decision(dice: &mut Dice, now: UnixTime) -> Result<DecisionRecord, Failure> {
    let number = dice.skewed(EDGES);
    let denied = dice.below(100) < 3;
    let unique = dice.next();
    let request_id = format!("{unique:016x}-{:08x}", dice.below(1 << 32));
    let request = request(dice, now, number, denied, &request_id)?;
    let decision = if denied {
        Decision::without_policy(Effect::Deny, Reason::NoPermit)
    } else {
        Decision {
            policies: vec![format!("{}/edge-{number}", request.resource.namespace).parse()?],
            ..Decision::without_policy(Effect::Allow, Reason::Permitted)
        }
    };
    Ok(DecisionRecord {
        request,
        decision,
        authenticated_by: AuthenticatedBy::Mtls,
        direction: Direction::Inbound,
        generation: Some(Generation(7)),
        policy_hash: "5a".repeat(32),
        projection_hash: "a5".repeat(32),
        looked_for: LookedFor::new(["end-user", "x-request-id"], [], true),
        redacted: Default::default(),
        mtls_mode: MtlsMode::Strict,
        strict_would_refuse: false,
        path_normalization: PathNormalization::RefuseAmbiguous,
        trace_id: Some(format!("{:032x}", u128::from(unique))),
        request_id: Some(request_id),
        transformations: vec![],
        cost_us: 4 + dice.below(9),
    })
}

/// A request along an edge.
fn request(
    dice: &mut Dice,
    now: UnixTime,
    number: u64,
    denied: bool,
    request_id: &str,
) -> Result<AccessRequest, Failure> {
    let (caller, callee) = edge(number);
    let id = dice.skewed(50_000);
    let (method, path) = match dice.below(20) {
        0..=9 => ("GET", format!("/api/v1/orders/{id}")),
        10..=13 => ("GET", format!("/api/v1/users/{id}/cart")),
        14 | 15 => ("GET", "/api/v1/search".to_owned()),
        16 => ("GET", "/healthz".to_owned()),
        17 | 18 => ("POST", "/api/v1/orders".to_owned()),
        _ => ("DELETE", format!("/api/v1/orders/{id}")),
    };
    let path = if denied {
        format!("/admin{path}")
    } else {
        path
    };
    let mut headers = BTreeMap::from([(
        "x-request-id".to_owned(),
        BTreeSet::from([request_id.to_owned()]),
    )]);
    if dice.below(10) < 3 {
        let user = format!("user-{}", dice.skewed(1000));
        headers.insert("end-user".to_owned(), BTreeSet::from([user]));
    }
    Ok(AccessRequest {
        action: Action::from_method(method),
        context: RequestContext {
            destination_ip: None,
            remote_ip: None,
            sni: None,
            http: Some(HttpContext {
                grpc: None,
                headers,
                host: format!("svc-{callee}"),
                method: method.to_owned(),
                path,
                query: BTreeMap::new(),
            }),
            mtls: true,
            port: 9080,
            source_ip: [10, 1, u8::try_from(caller)?, u8::try_from(dice.below(3))?].into(),
            time: now,
        },
        principal: Principal::Workload(identity(caller).parse()?),
        resource: ResourceRef {
            address: None,
            namespace: namespace(callee).parse()?,
            services: vec![host(callee).parse()?],
            workload: Some(identity(callee).parse()?),
        },
        user: (dice.below(5) == 0).then(|| Arc::new(user(dice, now))),
    })
}

fn user(dice: &mut Dice, now: UnixTime) -> User {
    let claim = |name: &str, value: String| (name.to_owned(), BTreeSet::from([value]));
    let number = dice.skewed(1000);
    User {
        claims: BTreeMap::from([
            claim("exp", (now.as_secs() + 3600).to_string()),
            claim("groups", format!("group-{}", number % 7)),
            claim("iat", now.as_secs().to_string()),
            claim("iss", "https://issuer.example".to_owned()),
            claim("jti", format!("{:016x}", dice.next())),
            claim("sub", format!("user-{number}")),
        ]),
        expires_at: Some(now.plus(Duration::from_secs(3600))),
        issuer: "https://issuer.example".to_owned(),
        subject: format!("user-{number}"),
    }
}

fn outcome(decision: RecordId) -> OutcomeRecord {
    OutcomeRecord {
        bytes_in: 0,
        bytes_out: 1024,
        duration_us: 1731,
        status: Some(200),
        grpc_status: None,
        upstream: Some("10.1.4.2:9080".to_owned()),
        flags: String::new(),
        transformations: vec![],
        decision,
    }
}

/// Policies that permit the edges, all but one method of one of them, and one more that asks for a group.
fn write_mesh(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder)?;
    let mut text = String::from(
        "apiVersion: reeve.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\n\
         spec: {trustDomain: mesh.local, rootNamespace: reeve-system, audit: {recordedHeaders: [x-request-id, end-user]}}\n",
    );
    for service in 0..SERVICES {
        let namespace = namespace(service);
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: svc-{service}, namespace: {namespace}}}\n\
             spec: {{selector: {{app: svc-{service}}}, ports: [{{port: 9080, name: http}}]}}\n"
        )?;
    }
    for number in 0..EDGES {
        let (caller, callee) = edge(number);
        let (namespace, host, caller) = (namespace(callee), host(callee), identity(caller));
        let actions = if number == 9 {
            "[Action::\"GET\", Action::\"POST\"]"
        } else {
            "[Action::\"GET\", Action::\"POST\", Action::\"DELETE\"]"
        };
        let condition = match number % 10 {
            3 => {
                "context.path like \"/api/*\" || context.path == \"/healthz\" || (context has user && \
                  context.user.hasTag(\"groups\") && context.user.getTag(\"groups\").contains(\"group-1\"))"
            }
            6 => {
                "context.path like \"/api/*\" || (context.headers.hasTag(\"end-user\") && \
                  context.headers.getTag(\"end-user\").contains(\"user-1\")) || context.path == \"/healthz\""
            }
            _ => "context.path like \"/api/v1/*\" || context.path == \"/healthz\"",
        };
        write!(
            text,
            "---\napiVersion: reeve.dev/v1alpha1\nkind: AccessPolicy\n\
             metadata: {{name: edge-{number}, namespace: {namespace}}}\nspec:\n  cedar: |\n    \
             permit (principal == Workload::\"{caller}\", action in {actions}, resource in Service::\"{host}\")\n    \
             when {{ {condition} }};\n"
        )?;
    }
    fs::write(folder.join("mesh.yaml"), text)?;
    Ok(())
}

#[derive(Debug)]
struct Signer(Arc<Key>);

struct Key(Ed25519KeyPair);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl BatchKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl BatchSigner for Signer {
    fn identity(&self) -> Option<SigningIdentity> {
        Some(SigningIdentity {
            chain_der: vec![self.0.0.public_key().as_ref().to_vec()],
            key: self.0.clone(),
        })
    }
}
