//! What issuing costs, for `make bench-ca` (tests/bench/ca.py), in three roles; each prints one line of JSON at its end.
//!
//! `issue SECONDS`: certificates per second on one thread through the authority (request proven, template, signature,
//! check before release), and beside it what the same library verifies and signs by itself.
//!
//! `serve FOLDER AGENTS SECONDS`: an authority over gRPC and TLS whose certificates live so long, with join tokens for so many
//! agents when it begins for the first time; tells its memory and CPU time for each line of its input, ends with its input.
//!
//! `herd FOLDER AGENTS`: so many agents in one process, each with a connection of its own, which all join; after the line
//! `watch` it prints how often each second somebody had a new certificate, until everybody has.

use std::{
    collections::BTreeMap,
    error::Error,
    io::{BufRead, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
        Signature, UnparsedPublicKey,
    },
};
use rcgen::{CertificateParams, KeyPair};
use reeve_ca::{
    Agent, AgentHandle, AgentOptions, Attested, Attestors, CaOptions, CertificateAuthority,
    GrpcIssuer, IdentityEvents, IssuedIdentity, IssuerChannel, IssuerService, JoinTokens,
    LocalIssuer, RefusedIdentity, RevocationEvent, RotationEvent, SealKey, Store, tls_incoming,
};
use reeve_core::{Clock, SpiffeId, SystemClock, TrustDomain};
use reeve_svid::TrustBundle;
use tokio::{net::TcpListener, sync::mpsc};
use zeroize::Zeroizing;

/// The mesh process's: how much memory an agent takes is its doing, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn options(svid_ttl: Duration, store: Store) -> Outcome<CaOptions> {
    Ok(CaOptions {
        trust_domain: TrustDomain::parse("mesh.local")?,
        root_ttl: Duration::from_secs(365 * 24 * 3600),
        intermediate_ttl: Duration::from_secs(30 * 24 * 3600),
        svid_ttl,
        consumer_wait: Duration::ZERO,
        store,
        vault: None,
        upstream: None,
    })
}

fn main() -> Outcome<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
    };
    match words.as_slice() {
        ["issue", seconds] => issue(Duration::from_secs_f64(seconds.parse()?)),
        ["serve", folder, agents, ttl] => {
            let ttl = Duration::from_secs(ttl.parse()?);
            runtime()?.block_on(serve(folder.into(), agents.parse()?, ttl))
        }
        ["herd", folder, agents] => runtime()?.block_on(herd(folder.into(), agents.parse()?)),
        _ => Err("issue SECONDS | serve FOLDER AGENTS SECONDS | herd FOLDER AGENTS".into()),
    }
}

/// How often `act` is done in a second, over `time`.
fn per_second(time: Duration, mut act: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let began = Instant::now();
    let mut count = 0_u32;
    while began.elapsed() < time {
        act()?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

fn issue(time: Duration) -> Outcome<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ca = CertificateAuthority::open(
        options(Duration::from_secs(4 * 3600), Store::DangerMemory)?,
        clock,
    )?;
    let id = SpiffeId::parse("spiffe://mesh.local/ns/default/sa/reviews")?;
    // Many of each: a processor learns the steps of the one signature that it verifies again and again.
    const DIFFERENT: usize = 64;
    let request = |_| Ok(CertificateParams::default().serialize_request(&KeyPair::generate()?)?);
    let requests: Outcome<Vec<_>> = (0..DIFFERENT).map(request).collect();
    let mut requests = requests?.into_iter().cycle();
    let caller = Attested::by_itself(id);
    let random = SystemRandom::new();
    let message = [7; 400];
    let signed: Outcome<Vec<_>> = (0..DIFFERENT).map(|_| signed(&random, &message)).collect();
    let mut signed = signed?.into_iter().cycle();
    let raw = new_key(&random)?;
    // In turns, so that what else the machine does meets both alike.
    const TURNS: u32 = 8;
    let mut found = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        let turn = time / TURNS / 3;
        let rates = [
            per_second(turn, || {
                let request = requests.next().ok_or("no request")?;
                ca.issue(&caller, request.der())?;
                Ok(())
            })?,
            per_second(turn, || {
                let (public, signature) = signed.next().ok_or("no signature")?;
                Ok(public.verify(&message, signature.as_ref())?)
            })?,
            per_second(turn, || {
                raw.sign(&random, &message)?;
                Ok(())
            })?,
        ];
        for (found, rate) in found.iter_mut().zip(rates) {
            found.push(rate);
        }
    }
    let [issued, verified, made] = found.map(|mut all| {
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    });
    say(&format!(
        r#"{{"issued_per_s": {issued:.0}, "verified_per_s": {verified:.0}, "signed_per_s": {made:.0}}}"#
    ))
}

fn new_key(random: &SystemRandom) -> Outcome<EcdsaKeyPair> {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, random)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref())?;
    Ok(pair)
}

/// A signature by a new key, and what it is verified with.
fn signed(
    random: &SystemRandom,
    message: &[u8],
) -> Outcome<(UnparsedPublicKey<Vec<u8>>, Signature)> {
    let pair = new_key(random)?;
    let public = pair.public_key().as_ref().to_vec();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public);
    Ok((public, pair.sign(random, message)?))
}

fn say(line: &str) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Events are counted by nobody here: what they cost is the audit trail's, measured there.
#[derive(Debug, Default)]
struct Quiet {
    sent_away: AtomicU64,
}

impl IdentityEvents for Quiet {
    fn issued(&self, _: IssuedIdentity) {}
    fn refused(&self, _: RefusedIdentity) {}
    fn rotated(&self, _: &RotationEvent) {}
    fn revoked(&self, _: &RevocationEvent) {}
    fn overloaded(&self) {
        self.sent_away.fetch_add(1, Ordering::Relaxed);
    }
}

fn agent_id(n: usize) -> Outcome<SpiffeId> {
    Ok(SpiffeId::parse(&format!(
        "spiffe://mesh.local/ns/default/sa/agent-{n}"
    ))?)
}

/// Lines of our input, as they come.
fn input() -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel(8);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receive
}

async fn serve(folder: PathBuf, agents: usize, ttl: Duration) -> Outcome<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = Store::Sealed {
        dir: folder.join("ca"),
        key: SealKey::from_file_or_new(&folder.join("seal.key"))?,
    };
    let ca = CertificateAuthority::open(options(ttl, store)?, Arc::clone(&clock))?;
    ca.publish_to(folder.join("bundle.pem"))?;
    let own = AgentOptions {
        id: SpiffeId::parse("spiffe://mesh.local/ns/reeve-system/sa/control")?,
        join_token: None,
        instance: "mesh-0".parse()?,
        installed: None,
    };
    let local = Arc::new(LocalIssuer::new(Arc::clone(&ca)));
    let (mut credentials, _agent) = Agent::start(own, local, Arc::clone(&clock));
    credentials.wait_for(Option::is_some).await?;
    let tokens = Arc::new(JoinTokens::new(Arc::clone(&clock)));
    let events = Arc::new(Quiet::default());
    let service = IssuerService::server(
        Arc::clone(&ca),
        // Join tokens only.
        Arc::new(Attestors::default()),
        Arc::clone(&tokens),
        Arc::default(),
        Arc::clone(&events) as _,
        Arc::clone(&clock),
    );
    let before = std::fs::read_to_string(folder.join("address"));
    let first = before.is_err();
    let listener = TcpListener::bind(before.unwrap_or("127.0.0.1:0".to_owned())).await?;
    let address = listener.local_addr()?;
    let incoming = tls_incoming(listener, credentials, clock);
    // As the mesh process serves (cli/src/mesh/start.rs).
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(64)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(service)
        .serve_with_incoming(incoming);
    let serving = tokio::spawn(server);
    if first {
        std::fs::write(folder.join("address"), address.to_string())?;
    }
    let mut admitting = tokio::spawn(admit(folder, if first { agents } else { 0 }, tokens));
    let mut admitted = false;
    let mut input = input();
    let mut maintain = tokio::time::interval(Duration::from_secs(1));
    loop {
        // Cancel safety: all branches are.
        tokio::select! {
            done = &mut admitting, if !admitted => {
                done??;
                admitted = true;
                continue;
            }
            line = input.recv() => if line.is_none() { break },
            _ = maintain.tick() => {
                ca.maintain(&*events)?;
                continue;
            }
        }
        let (rss, cpu) = usage()?;
        say(&format!(
            r#"{{"rss_kib": {rss}, "cpu_s": {cpu}, "members": {}, "issued": {}, "sent_away": {}}}"#,
            ca.members().len(),
            ca.status().issued,
            events.sent_away.load(Ordering::Relaxed)
        ))?;
    }
    serving.abort();
    Ok(())
}

/// Agents that join together: more tokens than these are not out at one time.
const BATCH: usize = 500;

/// The file of the tokens of a batch.
fn batch(folder: &Path, n: usize) -> PathBuf {
    folder.join(format!("tokens-{n}"))
}

/// Makes the tokens of a batch when those of the one before are used.
async fn admit(folder: PathBuf, agents: usize, tokens: Arc<JoinTokens>) -> Outcome<()> {
    for from in (0..agents).step_by(BATCH) {
        let made = (from..agents.min(from + BATCH)).map(|n| {
            let life = Duration::from_secs(600);
            Ok(tokens.create(agent_id(n)?, life)?.to_string())
        });
        let made: Outcome<Vec<_>> = made.collect();
        let path = batch(&folder, from / BATCH);
        let new = path.with_extension("new");
        std::fs::write(&new, made?.join("\n"))?;
        std::fs::rename(&new, &path)?;
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

/// Resident memory in KiB, and CPU time in seconds, of this process.
fn usage() -> Outcome<(u64, f64)> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or("no VmRSS")?;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    // utime and stime are fields 14 and 15 (proc(5)); after the name they are the 12th and 13th.
    let ticks = |n: usize| -> Outcome<f64> { Ok(fields.get(n).ok_or("a short stat")?.parse()?) };
    Ok((rss.parse()?, (ticks(11)? + ticks(12)?) / 100.0))
}

async fn herd(folder: PathBuf, agents: usize) -> Outcome<()> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name));
    let address: std::net::SocketAddr = read("address")?.parse()?;
    let domain = TrustDomain::parse("mesh.local")?;
    let pem = read("bundle.pem")?;
    let bundle = Arc::new(TrustBundle::from_pem(domain.clone(), pem.as_bytes(), 1)?);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let expected = SpiffeId::parse("spiffe://mesh.local/ns/reeve-system/sa/control")?;
    let channel = IssuerChannel::tls(address, expected, bundle, Arc::clone(&clock));
    let issuer = Arc::new(GrpcIssuer::new(channel, domain));
    let mut herd: Vec<AgentHandle> = Vec::new();
    while herd.len() < agents {
        let path = batch(&folder, herd.len() / BATCH);
        let Ok(tokens) = std::fs::read_to_string(&path) else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        for token in tokens.lines() {
            let n = herd.len();
            let options = AgentOptions {
                id: agent_id(n)?,
                join_token: Some(Zeroizing::new(token.to_owned())),
                instance: format!("agent-{n}").parse()?,
                installed: None,
            };
            let (_, handle) = Agent::start(options, issuer.clone(), Arc::clone(&clock));
            herd.push(handle);
            // Joining is not what is measured: of strangers at one address few are heard at a time.
            while n % 4 == 3
                && herd
                    .iter()
                    .rev()
                    .take(4)
                    .any(|a| a.status().issued_at.is_none())
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        std::fs::remove_file(&path)?;
    }
    say("joined")?;
    let mut input = input();
    while let Some(line) = input.recv().await {
        if line == "watch" {
            say(&watch(&herd).await)?;
        }
    }
    Ok(())
}

/// Waits until everybody has one certificate more, and tells when each came.
async fn watch(herd: &[AgentHandle]) -> String {
    let before: Vec<_> = herd.iter().map(|agent| agent.status().rotations).collect();
    let began = Instant::now();
    let mut seen = vec![false; herd.len()];
    let mut seconds = BTreeMap::<u64, u64>::new();
    let mut failures = 0_u64;
    let mut first = None;
    while seen.iter().any(|seen| !seen) {
        for ((agent, before), seen) in herd.iter().zip(&before).zip(&mut seen) {
            if *seen {
                continue;
            }
            let status = agent.status();
            failures = failures.max(u64::from(status.failures));
            if status.rotations > *before {
                *seen = true;
                first.get_or_insert_with(|| began.elapsed());
                *seconds.entry(began.elapsed().as_secs()).or_default() += 1;
            }
        }
        // Not more often: it is done by the processors that the agents need.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let per_second: Vec<_> = seconds
        .iter()
        .map(|(at, count)| format!("[{at},{count}]"))
        .collect();
    format!(
        r#"{{"took_s": {:.2}, "first_s": {:.2}, "most_failures_in_a_row": {failures}, "per_second": [{}]}}"#,
        began.elapsed().as_secs_f64(),
        first.unwrap_or_default().as_secs_f64(),
        per_second.join(",")
    )
}
