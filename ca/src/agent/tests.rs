use std::sync::{
    Mutex,
    atomic::{AtomicI64, AtomicU32, Ordering},
};

use tokio::time::{Instant, sleep};

use super::*;
use crate::{Attested, CaOptions, CertificateAuthority, LogEvents, Rotate, RotationStep, Store};

const ID: &str = "spiffe://mesh.local/ns/default/sa/reviews";
const HOUR: Duration = Duration::from_secs(3600);

/// The paused time of `tokio` as a clock.
#[derive(Debug)]
struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> UnixTime {
        UnixTime::from_secs(1_800_000_000).plus(self.0.elapsed())
    }
}

/// A certificate authority that can be away, and can issue nonsense.
#[derive(Debug)]
struct Issuer {
    ca: Arc<CertificateAuthority>,
    local: LocalIssuer,
    mood: Mutex<Mood>,
    asked: AtomicU32,
    followed: AtomicU32,
    tokens: Mutex<Vec<Option<String>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    Away,
    Unreachable,
    WrongIdentity,
    WrongBundle,
    AnothersKey,
}

#[tonic::async_trait]
impl IssuerClient for Issuer {
    async fn issue(
        &self,
        id: &SpiffeId,
        csr_der: &[u8],
        join_token: Option<&str>,
        held: Option<Arc<Credentials>>,
    ) -> Result<Issued, AgentError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.tokens
            .lock()
            .unwrap()
            .push(join_token.map(str::to_owned));
        let mood = *self.mood.lock().unwrap();
        let issue = |id: &SpiffeId, csr: &[u8]| {
            let issued = self
                .ca
                .issue(&Attested::by_itself(id.clone()), csr)
                .unwrap();
            let bundle = Arc::clone(&self.ca.bundle().borrow());
            Ok(Issued {
                chain: issued.chain_der,
                bundle,
                renewal: issued.renewal,
            })
        };
        match mood {
            Mood::Well => self.local.issue(id, csr_der, join_token, held).await,
            Mood::Away => Err(AgentError::Refused("away".to_owned())),
            Mood::Unreachable => {
                let nowhere = IssuerChannel::unix("/nonexistent/mesh.sock".into());
                let issuer = GrpcIssuer::new(nowhere, self.ca.trust_domain().clone());
                issuer.issue(id, csr_der, join_token, held).await
            }
            Mood::WrongIdentity => issue(&"spiffe://mesh.local/other".parse().unwrap(), csr_der),
            Mood::AnothersKey => issue(id, &new_request().unwrap().1),
            Mood::WrongBundle => {
                let issued = issue(id, csr_der)?;
                let other = issuer(HOUR, &PausedClock(Instant::now()));
                let bundle = Arc::clone(&other.ca.bundle().borrow());
                Ok(Issued { bundle, ..issued })
            }
        }
    }

    async fn issue_jwt(
        &self,
        id: &SpiffeId,
        audience: &[String],
        held: Option<Arc<Credentials>>,
    ) -> Result<JwtIssued, AgentError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.local.issue_jwt(id, audience, held).await
    }

    async fn follow(
        &self,
        held: Option<Arc<Credentials>>,
        reports: ReportStream,
    ) -> Result<TrustStream, AgentError> {
        self.followed.fetch_add(1, Ordering::SeqCst);
        self.local.follow(held, reports).await
    }
}

impl Issuer {
    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }
}

fn issuer(life: Duration, clock: &PausedClock) -> Arc<Issuer> {
    issuer_by(life, Arc::new(PausedClock(clock.0)))
}

fn issuer_by(life: Duration, clock: Arc<dyn Clock>) -> Arc<Issuer> {
    let options = CaOptions {
        trust_domain: "mesh.local".parse().unwrap(),
        root_ttl: HOUR * 24,
        intermediate_ttl: HOUR * 12,
        svid_ttl: life,
        consumer_wait: Duration::ZERO,
        store: Store::DangerMemory,
        vault: None,
        upstream: None,
    };
    let ca = CertificateAuthority::open(options, clock).unwrap();
    Arc::new(Issuer {
        local: LocalIssuer::new(Arc::clone(&ca)),
        ca,
        mood: Mutex::new(Mood::Well),
        asked: AtomicU32::new(0),
        followed: AtomicU32::new(0),
        tokens: Mutex::default(),
    })
}

fn start(life: Duration) -> (Arc<Issuer>, CredentialsWatch, AgentHandle, Arc<PausedClock>) {
    let clock = Arc::new(PausedClock(Instant::now()));
    let issuer = issuer(life, &clock);
    let (watch, handle) = start_with(&issuer, &clock);
    (issuer, watch, handle, clock)
}

fn start_with(
    issuer: &Arc<Issuer>,
    clock: &Arc<impl Clock + 'static>,
) -> (CredentialsWatch, AgentHandle) {
    let options = AgentOptions {
        id: ID.parse().unwrap(),
        join_token: Some(Zeroizing::new("token".to_owned())),
        instance: "reviews-v1-0".parse().unwrap(),
        installed: None,
    };
    Agent::start(options, Arc::clone(issuer) as _, Arc::clone(clock) as _)
}

#[tokio::test(start_paused = true)]
async fn an_agent_renews_two_second_certificates_in_time_for_ever() {
    let (_issuer, mut watch, handle, clock) = start(Duration::from_secs(2));
    watch.wait_for(Option::is_some).await.unwrap();
    let mut serials = std::collections::BTreeSet::new();
    let end = clock.now().plus(Duration::from_secs(60));
    while clock.now() < end {
        let held = watch.borrow_and_update().clone().unwrap();
        assert!(
            clock.now() < held.svid.not_after().plus(Duration::from_secs(1)),
            "never expired"
        );
        assert_eq!(held.svid.id().as_str(), ID);
        serials.insert(held.svid.serial().to_owned());
        watch.changed().await.unwrap();
    }
    let status = handle.status();
    assert!(status.rotations >= 60, "{status:?}");
    assert!(serials.len() >= 60);
    assert_eq!((status.failures, status.last_error), (0, None));
}

#[tokio::test(start_paused = true)]
async fn each_certificate_has_a_key_of_its_own() {
    let (_issuer, mut watch, _handle, _) = start(Duration::from_secs(10));
    let mut keys = std::collections::BTreeSet::new();
    for _ in 0..5 {
        watch.changed().await.unwrap();
        let held = watch.borrow_and_update().clone().unwrap();
        assert!(keys.insert(held.svid.key_pkcs8_der().to_vec()));
    }
}

#[tokio::test(start_paused = true)]
async fn renewal_comes_at_half_life() {
    let (_issuer, mut watch, _handle, clock) = start(HOUR * 4);
    watch.changed().await.unwrap();
    watch.borrow_and_update();
    let first = clock.now();
    watch.changed().await.unwrap();
    let after = clock.now().since(first);
    assert!(
        after <= HOUR * 2 && after >= Duration::from_secs(5600),
        "{after:?}"
    );
}

/// A machine's clock, which may be set.
#[derive(Debug)]
struct SteppedClock {
    paused: PausedClock,
    ahead_s: AtomicI64,
}

impl Clock for SteppedClock {
    fn now(&self) -> UnixTime {
        let ahead = self.ahead_s.load(Ordering::SeqCst);
        let by = Duration::from_secs(ahead.unsigned_abs());
        match ahead < 0 {
            true => self.paused.now().minus(by),
            false => self.paused.now().plus(by),
        }
    }

    fn passed(&self) -> Duration {
        self.paused.0.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_renews_when_it_wakes() {
    let began = Instant::now();
    let issuer = issuer(HOUR * 4, &PausedClock(began));
    let clock = Arc::new(SteppedClock {
        paused: PausedClock(began),
        ahead_s: AtomicI64::new(0),
    });
    let (mut watch, handle) = start_with(&issuer, &clock);
    watch.changed().await.unwrap();
    let minute = Duration::from_secs(60);
    // What clocks are corrected by is no sleep.
    clock.ahead_s.store(9, Ordering::SeqCst);
    sleep(minute).await;
    assert_eq!(handle.status().rotations, 0);
    clock.ahead_s.store(3 * 3600, Ordering::SeqCst);
    sleep(minute).await;
    assert_eq!(handle.status().rotations, 1, "{:?}", handle.status());
    sleep(minute).await;
    assert_eq!(handle.status().rotations, 1, "once");
}

/// Agent and authority on one machine: what both have is of the future when its clock is set back.
#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_not_valid_yet_is_replaced_when_the_clock_is_set_back() {
    let clock = Arc::new(SteppedClock {
        paused: PausedClock(Instant::now()),
        ahead_s: AtomicI64::new(0),
    });
    let issuer = issuer_by(HOUR * 4, Arc::clone(&clock) as _);
    sleep(HOUR).await;
    let (mut watch, handle) = start_with(&issuer, &clock);
    watch.changed().await.unwrap();
    let minute = Duration::from_secs(60);
    clock.ahead_s.store(-1800, Ordering::SeqCst);
    sleep(minute).await;
    assert_eq!(handle.status().rotations, 1, "{:?}", handle.status());
    let held = watch.borrow_and_update().clone().unwrap();
    assert!(held.svid.not_before() <= clock.now(), "it is valid now");
    sleep(minute).await;
    assert_eq!(handle.status().rotations, 1, "once");
}

#[tokio::test(start_paused = true)]
async fn while_the_issuer_is_away_the_old_certificate_stays_and_it_is_asked_again() {
    let (issuer, mut watch, handle, clock) = start(Duration::from_secs(120));
    watch.changed().await.unwrap();
    let before = watch.borrow_and_update().clone().unwrap();
    issuer.is(Mood::Away);
    sleep(Duration::from_secs(90)).await;
    let still = watch.borrow().clone().unwrap();
    assert_eq!(before.svid.serial(), still.svid.serial());
    let status = handle.status();
    assert!(status.failures >= 3, "{status:?}");
    assert_eq!(
        status.last_error.as_deref(),
        Some("the issuer refused: away")
    );
    let asked = issuer.asked.load(Ordering::SeqCst);
    assert!(asked < 40, "it backs off: {asked}");
    issuer.is(Mood::Well);
    watch.changed().await.unwrap();
    assert!(clock.now() < before.svid.not_after(), "in time");
    assert_eq!(
        (handle.status().failures, handle.status().last_error),
        (0, None)
    );
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_cannot_be_reached_is_not_asked_twice_at_a_time() {
    let (issuer, mut watch, handle, _clock) = start(Duration::from_secs(120));
    watch.changed().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(issuer.followed.load(Ordering::SeqCst), 1);
    issuer.is(Mood::Unreachable);
    sleep(Duration::from_secs(90)).await;
    assert!(handle.status().failures >= 3, "{:?}", handle.status());
    assert_eq!(issuer.followed.load(Ordering::SeqCst), 1);
    issuer.is(Mood::Well);
    watch.changed().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(issuer.followed.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_before_its_issuer_waits_for_it() {
    let clock = Arc::new(PausedClock(Instant::now()));
    let issuer = issuer(HOUR, &clock);
    issuer.is(Mood::Away);
    let (mut watch, handle) = start_with(&issuer, &clock);
    sleep(Duration::from_secs(30)).await;
    assert!(watch.borrow().is_none());
    assert!(handle.status().failures > 3);
    issuer.is(Mood::Well);
    watch.changed().await.unwrap();
    assert_eq!(handle.status().rotations, 0, "the first is no rotation");
}

#[tokio::test(start_paused = true)]
async fn certificates_that_are_not_what_was_asked_for_are_not_used() {
    for (mood, error) in [
        (
            Mood::WrongIdentity,
            "the peer is spiffe://mesh.local/other, which is not expected here",
        ),
        (
            Mood::AnothersKey,
            "the private key is not that of the leaf certificate",
        ),
        (
            Mood::WrongBundle,
            "no authority of the trust bundle issued the chain",
        ),
    ] {
        let clock = Arc::new(PausedClock(Instant::now()));
        let issuer = issuer(HOUR, &clock);
        issuer.is(mood);
        let (watch, handle) = start_with(&issuer, &clock);
        sleep(Duration::from_secs(1)).await;
        assert!(watch.borrow().is_none(), "{mood:?}");
        let expected = format!("the certificate issued is not acceptable: {error}");
        assert_eq!(handle.status().last_error, Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_join_token_is_shown_until_it_has_worked() {
    let clock = Arc::new(PausedClock(Instant::now()));
    let issuer = issuer(Duration::from_secs(10), &clock);
    issuer.is(Mood::Away);
    let (mut watch, _handle) = start_with(&issuer, &clock);
    sleep(Duration::from_millis(50)).await;
    issuer.is(Mood::Well);
    watch.changed().await.unwrap();
    watch.changed().await.unwrap();
    let shown = issuer.tokens.lock().unwrap().clone();
    let token = Some("token".to_owned());
    assert_eq!(shown, [token.clone(), token, None]);
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_is_pushed_is_installed_at_once() {
    let (issuer, mut watch, handle, _) = start(HOUR * 12);
    watch.changed().await.unwrap();
    let before = watch.borrow_and_update().clone().unwrap();
    assert_eq!(before.bundle.sequence(), 1);
    // Half of the root's life: the next root joins the bundle.
    sleep(HOUR * 12 - Duration::from_secs(1)).await;
    sleep(Duration::from_secs(1)).await;
    issuer.ca.maintain(&LogEvents).unwrap();
    let new = watch
        .wait_for(|held| {
            held.as_ref()
                .is_some_and(|h| h.bundle.authorities().len() == 2)
        })
        .await;
    assert!(new.unwrap().as_ref().unwrap().bundle.sequence() > 1);
    assert_eq!(handle.status().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn an_agent_ends_with_its_handle() {
    let (issuer, mut watch, handle, _) = start(Duration::from_secs(2));
    watch.changed().await.unwrap();
    drop(handle);
    let asked = issuer.asked.load(Ordering::SeqCst);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(issuer.asked.load(Ordering::SeqCst), asked);
    assert!(watch.borrow().is_some(), "what it held stays");
}

#[tokio::test(start_paused = true)]
async fn an_agent_renews_when_the_authority_says_so() {
    let (issuer, mut watch, handle, clock) = start(HOUR);
    watch.changed().await.unwrap();
    let before = clock.now();
    issuer.ca.rotate(Rotate::Workloads, &LogEvents).unwrap();
    let mut status = handle.watch_status();
    status
        .wait_for(|status| status.rotations == 1)
        .await
        .unwrap();
    assert!(
        clock.now().since(before) <= Duration::from_secs(60),
        "spread over a minute"
    );
    sleep(Duration::from_secs(60)).await;
    assert_eq!(handle.status().rotations, 1, "once");
    assert_eq!(issuer.ca.members()[0].holding.renewal, 1);
}

#[tokio::test(start_paused = true)]
async fn the_authority_hears_what_new_connections_use_and_not_what_the_agent_holds() {
    let clock = Arc::new(PausedClock(Instant::now()));
    let issuer = issuer(HOUR, &clock);
    let (proxy, installed) = watch::channel(None);
    let options = AgentOptions {
        id: ID.parse().unwrap(),
        join_token: None,
        instance: "reviews-v1-0".parse().unwrap(),
        installed: Some(installed),
    };
    let issuers = Arc::clone(&issuer) as _;
    let (mut watch, handle) = Agent::start(options, issuers, Arc::clone(&clock) as _);
    watch.changed().await.unwrap();
    proxy.send_replace(watch.borrow_and_update().clone());
    sleep(Duration::from_secs(1)).await;
    issuer.ca.rotate(Rotate::Root, &LogEvents).unwrap();
    watch.changed().await.unwrap();
    let step = || {
        issuer.ca.maintain(&LogEvents).unwrap();
        issuer.ca.status().rotation.map(|now| now.rotation.step)
    };
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        step(),
        Some(RotationStep::Spread),
        "the proxy has not installed it"
    );
    proxy.send_replace(watch.borrow_and_update().clone());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(step(), Some(RotationStep::Renew));
    handle.leave().await;
    assert!(
        issuer.ca.members().is_empty(),
        "who leaves is not waited for"
    );
}

#[tokio::test(start_paused = true)]
async fn a_jwt_svid_is_kept_until_half_of_its_life_is_over() {
    let (issuer, mut watch, _handle, clock) = start(HOUR);
    watch.wait_for(Option::is_some).await.unwrap();
    let source = JwtSource::new(
        ID.parse().unwrap(),
        Arc::clone(&issuer) as _,
        watch,
        clock as _,
    );
    let audience = |name: &str| vec![name.to_owned()];
    let before = issuer.asked.load(Ordering::SeqCst);
    let first = source.token(&audience("ledger")).await.unwrap();
    assert_eq!(source.token(&audience("ledger")).await.unwrap(), first);
    assert_ne!(source.token(&audience("pay")).await.unwrap(), first);
    assert_eq!(issuer.asked.load(Ordering::SeqCst), before + 2);
    tokio::time::advance(Duration::from_secs(151)).await;
    assert_ne!(source.token(&audience("ledger")).await.unwrap(), first);
    assert_eq!(issuer.asked.load(Ordering::SeqCst), before + 3);
}

#[tokio::test(start_paused = true)]
async fn the_tokens_that_are_kept_are_bounded() {
    let (issuer, mut watch, _handle, clock) = start(HOUR);
    watch.wait_for(Option::is_some).await.unwrap();
    let id = ID.parse().unwrap();
    let source = JwtSource::new(id, Arc::clone(&issuer) as _, watch, clock as _);
    for at in 0..300 {
        source.token(&[format!("audience-{at}")]).await.unwrap();
        assert!(source.kept_tokens() <= 128);
    }
}
