//! What it costs to decide on a request and to record that, flat out on one thread, as JSON on one line:
//! `cargo run --release -p reeve-proxy --example decide_and_record -- FOLDER [--calls N]`.
//!
//! 1,000 policies concern the one service; the last one's principal is the asker. Each request has a path that was never
//! seen before. The write-ahead log stands in FOLDER, at level `os`. With `--calls` nothing is timed: N requests are
//! decided (for those who count instructions).
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{error::Error, hint::black_box, path::Path, sync::Arc};

use reeve_audit::{
    AuthenticatedBy, DecisionRecord, Direction, Level, LookedFor, OutcomeRecord, Wal, WalOptions,
    WalWriter,
};
use reeve_authz::Engine;
use reeve_core::{
    Namespace, PolicyId, RecordId, SpiffeId, SystemClock, UnixTime,
    decision::{
        AccessRequest, Action, Decision, HttpContext, Principal, RequestContext, ResourceRef, User,
    },
    model::{Generation, MtlsMode, PathNormalization, PolicyMode, PolicySlice, PolicySource},
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const POLICIES: usize = 1_000;
/// Requests of one span.
const CALLS: u32 = 20_000;
/// Spans of each figure; the median counts.
const ROUNDS: usize = 7;

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let folder = args
        .next()
        .ok_or("usage: decide_and_record FOLDER [--calls N]")?;
    let engine = Engine::compile(&policies()?).map_err(|faults| format!("{faults:?}"))?;
    let mut asker = Asker::new()?;
    if !engine.decide(asker.next()).is_allow() {
        return Err("the last policy does not permit".into());
    }
    if args.next().as_deref() == Some("--calls") {
        for _ in 0..args.next().unwrap_or_default().parse()? {
            black_box(engine.decide(asker.next()));
        }
        return Ok(());
    }
    println!("{}", measured(&engine, &mut asker, Path::new(&folder))?);
    Ok(())
}

fn measured(engine: &Engine, asker: &mut Asker, folder: &Path) -> Outcome<serde_json::Value> {
    let place = tempfile::tempdir_in(folder)?;
    let place = place.path();
    let decide = median(place, |_| {
        black_box(engine.decide(asker.next()));
        Ok(())
    })?;
    let mut known = record(asker.next().clone(), engine.decide(&asker.0));
    let append = median(place, |writer| {
        known.request.clone_from(asker.next());
        writer.append(&known)?;
        Ok(())
    })?;
    let both = median(place, |writer| {
        let request = asker.next();
        writer.append(&record(request.clone(), engine.decide(request)))?;
        Ok(())
    })?;
    let with_outcome = median(place, |writer| {
        let request = asker.next();
        let decision = writer.append(&record(request.clone(), engine.decide(request)))?;
        writer.defer(&outcome(decision))?;
        Ok(())
    })?;
    Ok(serde_json::json!({
        "policies": POLICIES, "calls": CALLS, "rounds": ROUNDS, "level": "os",
        "file_system": file_system(place)?,
        "cpu_us": {
            "decide": decide, "record": append, "decide_and_record": both,
            "decide_and_record_with_outcome": with_outcome,
        },
    }))
}

/// Microseconds of processor time per call, each round on a log of its own.
fn median(place: &Path, mut call: impl FnMut(&WalWriter) -> Outcome<()>) -> Outcome<f64> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir_in(place)?;
        let options = WalOptions {
            level: Level::Os,
            ..WalOptions::default()
        };
        let clock = Arc::new(SystemClock);
        let wal = Wal::open(dir.path(), "reviews-v1-0".parse()?, options, clock)?;
        let writer = wal.writer(0)?;
        let before = processor_nanos()?;
        for _ in 0..CALLS {
            call(&writer)?;
        }
        rounds.push(processor_nanos()?.saturating_sub(before));
    }
    rounds.sort_unstable();
    let middle = rounds.get(ROUNDS / 2).copied().unwrap_or_default();
    let tens_of_nanos = u32::try_from(middle / u64::from(CALLS) / 10)?;
    Ok(f64::from(tens_of_nanos) / 100.0)
}

/// What this thread has used of a processor: the first number of `schedstat`, in nanoseconds (proc(5)).
fn processor_nanos() -> Outcome<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// The type of the file system below `place`, from the longest mount point above it (proc_pid_mountinfo(5)).
fn file_system(place: &Path) -> Outcome<String> {
    let place = place.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let above = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = Path::new(mount.split(' ').nth(4)?);
        let depth = point.components().count();
        place.starts_with(point).then_some((depth, kind))
    });
    let nearest = above.max_by_key(|(depth, _)| *depth);
    let kind = nearest.and_then(|(_, kind)| kind.split(' ').next());
    Ok(kind.ok_or("the folder is below no mount point")?.to_owned())
}

fn workload(number: usize) -> String {
    format!("spiffe://mesh.local/ns/default/sa/client-{number}")
}

fn policies() -> Outcome<PolicySlice> {
    let policy = |number| {
        let principal = workload(number);
        Ok::<_, Box<dyn Error + Send + Sync>>(PolicySource {
            id: PolicyId::parse(&format!("default/p{number:05}"))?,
            scope: Some(Namespace::parse("default")?),
            mode: PolicyMode::Enforce,
            text: format!(
                r#"permit (principal == Workload::"{principal}", action == Action::"GET", resource in Service::"reviews.default.svc.cluster.local") when {{ context.path like "/reviews/*" && context has user && context.user.issuer == "https://issuer.example" }};"#
            ),
        })
    };
    Ok(PolicySlice {
        mesh_hash: String::new(),
        policies: (1..=POLICIES).map(policy).collect::<Outcome<_>>()?,
        ..PolicySlice::default()
    })
}

/// Asks for another path each time.
struct Asker(AccessRequest, u64);

impl Asker {
    fn new() -> Outcome<Self> {
        let user = User {
            issuer: "https://issuer.example".into(),
            subject: "alice".into(),
            claims: [("groups".into(), ["staff".into(), "admin".into()].into())].into(),
            expires_at: None,
        };
        let request = AccessRequest {
            principal: Principal::Workload(SpiffeId::parse(&workload(POLICIES))?),
            user: Some(Arc::new(user)),
            action: Action::Get,
            resource: ResourceRef {
                workload: Some("spiffe://mesh.local/ns/default/sa/reviews".parse()?),
                namespace: "default".parse()?,
                services: vec!["reviews.default.svc.cluster.local".parse()?],
                address: None,
            },
            context: RequestContext {
                destination_ip: None,
                remote_ip: None,
                sni: None,
                source_ip: [127, 77, 3, 1].into(),
                port: 9080,
                mtls: true,
                time: UnixTime::from_secs(1_800_000_000),
                http: Some(HttpContext {
                    method: "GET".into(),
                    host: "reviews".into(),
                    path: String::new(),
                    grpc: None,
                    headers: [].into(),
                    query: [].into(),
                }),
            },
        };
        Ok(Self(request, 0))
    }

    fn next(&mut self) -> &AccessRequest {
        self.1 += 1;
        if let Some(http) = &mut self.0.context.http {
            http.path = format!("/reviews/{}", self.1);
        }
        &self.0
    }
}

fn outcome(decision: RecordId) -> OutcomeRecord {
    OutcomeRecord {
        decision,
        status: Some(200),
        grpc_status: None,
        bytes_in: 0,
        bytes_out: 1024,
        duration_us: 731,
        upstream: Some("127.77.4.2:9080".to_owned()),
        flags: String::new(),
        transformations: vec![],
    }
}

fn record(request: AccessRequest, decision: Decision) -> DecisionRecord {
    DecisionRecord {
        request,
        decision,
        authenticated_by: AuthenticatedBy::Mtls,
        direction: Direction::Inbound,
        generation: Some(Generation(7)),
        policy_hash: "5a".repeat(32),
        projection_hash: "a5".repeat(32),
        looked_for: LookedFor::default(),
        redacted: Default::default(),
        mtls_mode: MtlsMode::Strict,
        strict_would_refuse: false,
        path_normalization: PathNormalization::RefuseAmbiguous,
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        request_id: Some("9f1c2d8e-7a54-4c9e-8a35-2f0d9c1b6e77".to_owned()),
        transformations: vec![],
        cost_us: 9,
    }
}
