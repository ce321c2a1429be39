//! The certificate authority: root → intermediate → X.509-SVID.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rcgen::{KeyPair, PublicKeyData};
use reeve_core::{Clock, RegistrationEntry, SpiffeId, TrustDomain, UnixTime};
use reeve_svid::{Federated, TrustBundle, X509Svid};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::{
    AuthorityFault, Faults, IdentityEvents, MemberStatus,
    csr::{self, ProvenKey},
    custody::Keyring,
    members::{Holding, MemberName, Members, Session, TooManyMembers},
};

mod custody;
mod error;
mod federation;
#[cfg(test)]
mod fixture;
mod journal;
mod jwt;
mod options;
mod published;
mod recheck;
mod revocation;
mod rotate;
mod rotation;
mod slots;
mod status;
mod steps;
mod template;
mod upstream;

use custody::Custody;
pub use custody::CustodyStatus;
use error::Recheck;
pub use error::{CaError, IssueError, RotateError};
pub use jwt::IssuedJwt;
pub use options::{CaOptions, Store};
pub use revocation::{Revocation, RevokeError, RevokeTarget};
pub use rotate::Rotate;
pub use rotation::{Rotation, RotationCause, RotationStatus, RotationStep, Waiting};
pub use status::{AuthorityEnd, AuthorityStatus};
pub use steps::ClockStep;
pub use upstream::{UpstreamError, UpstreamStatus};

use journal::{Journal, Loaded};
use published::Published;
use rotate::tell;
use slots::{Authority, Slot, Slots};
use steps::Steps;
pub(crate) use template::Standing;

/// Signs X.509-SVIDs for one trust domain.
pub struct CertificateAuthority {
    options: CaOptions,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    members: Arc<Members>,
    bundle: watch::Sender<Arc<TrustBundle>>,
    renewal: watch::Sender<u64>,
    faults: Faults,
    issued: AtomicU64,
}

struct State {
    slots: Slots,
    journal: Journal,
    published: Published,
    /// The bundles of other trust domains, which go out with ours.
    federated: Arc<Federated>,
    /// The longest life of a certificate that may be in use.
    longest_svid_ttl: Duration,
    /// The members as they were last kept, and when.
    kept: (Vec<MemberStatus>, UnixTime),
    custody: Custody,
    /// When authorities that are due are tried for again, after a failure.
    retry_at: UnixTime,
    steps: Steps,
}

/// A certificate that was granted, before it is signed.
struct Issuance<'c> {
    issuer: Authority,
    bundle: Arc<TrustBundle>,
    renewal: u64,
    meant: template::Leaf<'c>,
}

/// A caller that was attested: what it is entitled to. Making one asserts that the check was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The identity to issue.
    pub id: SpiffeId,
    /// The registration entry that says so, and on which terms; none for who has the identity by itself.
    pub entry: Option<Box<RegistrationEntry>>,
}

impl Attested {
    /// Entitled to `id` by itself.
    pub fn by_itself(id: SpiffeId) -> Self {
        Self { id, entry: None }
    }

    /// Entitled by `entry`.
    pub fn by_entry(entry: RegistrationEntry) -> Self {
        Self {
            id: entry.id.clone(),
            entry: Some(Box::new(entry)),
        }
    }
}

/// An X.509-SVID, ready to be handed to whoever has its key.
#[derive(Clone, Debug)]
pub struct IssuedSvid {
    /// Leaf first, then the intermediate, then what the operator's authority has above it, the root apart.
    pub chain_der: Vec<CertificateDer<'static>>,
    /// The last second at which it is valid.
    pub not_after: UnixTime,
    /// The leaf's serial number in hexadecimal.
    pub serial: String,
    /// The renewal that it was issued for.
    pub renewal: u64,
}

impl CertificateAuthority {
    /// Opens the authority: from its sealed file if there is one, else with a new root and intermediate.
    pub fn open(options: CaOptions, clock: Arc<dyn Clock>) -> Result<Arc<Self>, CaError> {
        options.check_lives()?;
        let now = clock.now();
        let journal = Journal::open(&options.store)?;
        let ring = Keyring::new(options.vault.clone());
        let loaded = journal.load(&options.trust_domain, ring.clone())?;
        let (mut slots, before, members) = match loaded {
            Some(Loaded {
                slots,
                longest_svid_ttl,
                members,
            }) => (slots, longest_svid_ttl, members),
            None => (Slots::new(ring), Duration::ZERO, Vec::new()),
        };
        slots.follows_upstream = options.upstream.is_some();
        let mut custody = Custody::new(options.upstream.clone(), options.store.folder());
        Self::first_look(&mut custody, &options, &mut slots, now)?;
        let longest_svid_ttl = before.max(options.svid_ttl);
        if slots.is_due(now) || longest_svid_ttl != before {
            let before = slots.clone();
            match slots.ensure(&options, now) {
                Err(error) if before.can_sign(now) => {
                    tracing::error!(%error, "authorities are due for replacement; the present ones go on");
                    slots = before;
                }
                done => done?,
            }
            journal.save(&options.trust_domain, &slots, longest_svid_ttl)?;
        }
        let bundle = Arc::new(slots.bundle(&options.trust_domain)?);
        let renewal = slots.renewal;
        // Certificates that were issued before this start and that nobody reports end by then.
        let members = Members::new(Arc::clone(&clock), members, now.plus(before));
        let state = State {
            slots,
            journal,
            published: Published::default(),
            federated: Arc::default(),
            longest_svid_ttl,
            kept: (members.list(), now),
            custody,
            retry_at: now,
            steps: Steps::of(&*clock),
        };
        Ok(Arc::new(Self {
            options,
            clock,
            state: Mutex::new(state),
            members: Arc::new(members),
            bundle: watch::Sender::new(bundle),
            renewal: watch::Sender::new(renewal),
            faults: Faults::default(),
            issued: AtomicU64::new(0),
        }))
    }

    /// The trust bundle, now and as it changes.
    pub fn bundle(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.bundle.subscribe()
    }

    /// Keeps the trust bundle in a file as well, in PEM, from now on, and beside it `roots.pem`: every root there was,
    /// which admits nobody, but verifies what was signed in its time. The file has a new root before that root signs
    /// anything; while it cannot be written, no root is replaced as long as the present ones can sign.
    pub fn publish_to(&self, path: PathBuf) -> Result<(), CaError> {
        let mut state = self.lock();
        let bundle = Arc::clone(&self.bundle.borrow());
        let history = state.slots.history(&self.options.trust_domain)?;
        state.published = Published::at(path, &bundle, &history)?;
        Ok(())
    }

    /// Whose identities are issued here.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.options.trust_domain
    }

    /// Whether members are cut off until they have renewed.
    pub(crate) fn is_emergency(&self) -> bool {
        let state = self.lock();
        let rotation = state.slots.rotation.as_ref();
        rotation.is_some_and(|rotation| rotation.cause == RotationCause::Emergency)
    }

    pub(crate) fn svid_ttl(&self) -> Duration {
        self.options.svid_ttl
    }

    /// The faults on purpose, which those see who ask from outside this process.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Issues to an attested caller. Of the request only the proven public key counts.
    pub fn issue(&self, caller: &Attested, csr_der: &[u8]) -> Result<IssuedSvid, IssueError> {
        let proven = csr::proven_key(csr_der)?;
        self.sign(caller, &proven, &proven.spki_der, self.clock.now())
    }

    /// The same, as faulty as the authority is made to be.
    pub(crate) fn issue_outside(
        &self,
        caller: &Attested,
        proven: &ProvenKey,
    ) -> Result<IssuedSvid, IssueError> {
        let now = self.clock.now();
        let dated = match self.faults.now() {
            Some(AuthorityFault::Skew { ahead_ms }) => {
                let by = Duration::from_millis(ahead_ms.unsigned_abs());
                match ahead_ms < 0 {
                    true => UnixTime::default().plus(now.since(UnixTime::default().plus(by))),
                    false => now.plus(by),
                }
            }
            Some(AuthorityFault::Away | AuthorityFault::NoRenewal) | None => now,
        };
        self.sign(caller, proven, &proven.spki_der, dated)
    }

    /// Issues to this process itself; the key is made here and stays in memory.
    pub fn issue_self(&self, id: &SpiffeId) -> Result<X509Svid, IssueError> {
        let key = KeyPair::generate().map_err(CaError::Sign)?;
        let caller = Attested::by_itself(id.clone());
        let spki = key.subject_public_key_info();
        let issued = self.sign(&caller, &key, &spki, self.clock.now())?;
        let pkcs8 = Zeroizing::new(key.serialize_der());
        let svid = X509Svid::parse(
            issued.chain_der,
            PrivatePkcs8KeyDer::from(pkcs8.as_slice()).into(),
        );
        svid.map_err(|error| IssueError::Recheck(error.into()))
    }

    /// Refuses an identity that is none of a workload of our trust domain.
    fn ours<'i>(&self, id: &'i SpiffeId) -> Result<&'i SpiffeId, IssueError> {
        match id.is_member_of(&self.options.trust_domain) && !id.path().is_empty() {
            true => Ok(id),
            false => Err(IssueError::NotOurs(id.clone())),
        }
    }

    /// Counts the times that everybody was told to renew, now and as it changes.
    pub(crate) fn renewal(&self) -> watch::Receiver<u64> {
        self.renewal.subscribe()
    }

    /// A member follows from now on.
    pub(crate) fn join(
        &self,
        name: MemberName,
        holding: Holding,
    ) -> Result<Session, TooManyMembers> {
        self.members.join(name, holding)
    }

    /// Everybody who follows, or did so with a certificate that has not ended.
    pub fn members(&self) -> Vec<MemberStatus> {
        self.members.list()
    }

    /// Replaces authorities whose time has come, and takes the steps of a rotation that nobody is missing for. To be
    /// called every second or so.
    pub fn maintain(&self, events: &dyn IdentityEvents) -> Result<(), CaError> {
        let state = &mut *self.lock();
        let now = self.clock.now();
        self.look_after_keys(state, now);
        self.keep_members(state, now);
        self.follow_upstream(state, events, now)?;
        self.ensure(state)?;
        if state.steps.look(&*self.clock) {
            return Ok(());
        }
        self.end_revocations(state, events, now)?;
        let root_is_due = || {
            let root = state.slots.root(Slot::Active);
            !state.slots.follows_upstream && root.is_some_and(|r| r.is_due(now))
        };
        match state.slots.under_way(&self.options, &self.members, now) {
            Some(step) if step.waiting.is_over() => {
                self.change(state, now, |slots, options| slots.next_step(options, now))?;
                tell(state, events, None, Waiting::default());
            }
            None if root_is_due() => {
                let cause = RotationCause::Due;
                self.change(state, now, |slots, options| {
                    slots.begin_rotation(options, now, cause)
                })?;
                tell(state, events, None, Waiting::default());
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// Keeps the list of members when it has changed, but not all the time.
    fn keep_members(&self, state: &mut State, now: UnixTime) {
        const EVERY: Duration = Duration::from_secs(5);
        if now.since(state.kept.1) < EVERY {
            return;
        }
        let members = self.members.list();
        if members != state.kept.0
            && let Err(error) = state.journal.save_members(&members)
        {
            tracing::error!(%error, "the list of members cannot be kept");
        }
        state.kept = (members, now);
    }

    fn sign(
        &self,
        caller: &Attested,
        key: &impl PublicKeyData,
        spki_der: &[u8],
        now: UnixTime,
    ) -> Result<IssuedSvid, IssueError> {
        let Issuance {
            issuer,
            bundle,
            renewal,
            meant,
        } = self.issuance(caller, now)?;
        let leaf = template::leaf(&meant)?
            .signed_by(key, &issuer.issuer)
            .map_err(|error| issuer.key().explain(error))?;
        let mut chain_der = vec![leaf.into(), issuer.certificate];
        chain_der.extend(issuer.above);
        let serial = recheck::before_release(&chain_der, &bundle, &meant, spki_der, now)
            .map_err(IssueError::Recheck)?;
        self.issued.fetch_add(1, Ordering::Relaxed);
        Ok(IssuedSvid {
            chain_der,
            not_after: meant.life.not_after,
            serial,
            renewal,
        })
    }

    /// What `caller` is to get, and from whom. Signing is done without the lock: a vault may take its time, and processors
    /// sign beside one another.
    fn issuance<'c>(
        &self,
        caller: &'c Attested,
        now: UnixTime,
    ) -> Result<Issuance<'c>, IssueError> {
        let id = self.ours(&caller.id)?;
        let mut state = self.lock();
        self.ensure(&mut state)?;
        let bundle = Arc::clone(&self.bundle.borrow());
        if bundle.revoked().covers_id(id) {
            return Err(IssueError::Revoked(id.clone()));
        }
        let issuer = state.slots.intermediate.clone().ok_or(CaError::Content)?;
        let meant = template::Leaf::of(caller, now, self.options.svid_ttl, issuer.not_after);
        let renewal = state.slots.renewal;
        // INVARIANT: under the lock, and before it is signed: who retires the root waits for the end of all it vouches for.
        self.members.issued(renewal, meant.life.not_after);
        Ok(Issuance {
            issuer,
            bundle,
            renewal,
            meant,
        })
    }

    /// Does what signing needs by the clock.
    fn ensure(&self, state: &mut State) -> Result<(), CaError> {
        const AGAIN: Duration = Duration::from_secs(1);
        let now = self.clock.now();
        let can_wait = now < state.retry_at && state.slots.can_sign(now);
        // What a root vouched for that the clock says has ended fails the check before release.
        let held = state.steps.look(&*self.clock) && state.slots.a_root_has_ended(now);
        if can_wait || held || !state.slots.is_due(now) {
            return Ok(());
        }
        match self.change(state, now, |slots, options| slots.ensure(options, now)) {
            Err(error) if state.slots.can_sign(now) => {
                let why = reeve_core::error_chain(&error);
                tracing::error!(
                    why,
                    "authorities are due for replacement; the present ones go on"
                );
                state.retry_at = now.plus(AGAIN);
                Ok(())
            }
            result => result,
        }
    }

    /// Changes the slots, keeps them, then shows them: in this order, so that a crash forgets nothing that was seen.
    fn change(
        &self,
        state: &mut State,
        now: UnixTime,
        change: impl FnOnce(&mut Slots, &CaOptions) -> Result<(), CaError>,
    ) -> Result<(), CaError> {
        let mut next = state.slots.clone();
        let kept = self.keep_changed(state, &mut next, now, change);
        let bundle = kept.inspect_err(|_| {
            // Keys that were made for nothing; where they cannot be ended now, they have signed nothing that left.
            for name in next.beyond(&state.slots) {
                drop(next.ring.destroy(&name));
            }
        })?;
        state.slots = next;
        let renewal = state.slots.renewal;
        // The bundle first: who renews must trust what it gets.
        self.bundle.send_if_modified(|shown| {
            let newer = bundle.sequence() > shown.sequence();
            if newer {
                *shown = bundle;
            }
            newer
        });
        self.renewal
            .send_if_modified(|shown| std::mem::replace(shown, renewal) != renewal);
        Ok(())
    }

    fn keep_changed(
        &self,
        state: &State,
        next: &mut Slots,
        now: UnixTime,
        change: impl FnOnce(&mut Slots, &CaOptions) -> Result<(), CaError>,
    ) -> Result<Arc<TrustBundle>, CaError> {
        change(next, &self.options)?;
        next.ensure(&self.options, now)?;
        next.doomed.extend(state.slots.beyond(next));
        let domain = &self.options.trust_domain;
        let bundle = next.bundle(domain)?;
        let bundle = Arc::new(bundle.with_federated(Arc::clone(&state.federated))?);
        // INVARIANT: what signs from here on stands in the journal, and its root in the published file.
        state.journal.save(domain, next, state.longest_svid_ttl)?;
        if bundle.sequence() > self.bundle.borrow().sequence() {
            state.published.renew(&bundle, &next.history(domain)?)?;
        }
        Ok(bundle)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("trust_domain", &self.options.trust_domain)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
