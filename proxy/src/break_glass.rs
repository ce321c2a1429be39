//! Break-glass: signed grants in force beside the configuration, for when nobody is there who could change it.
//!
//! A grant becomes one more policy of the engine, and its beginning and end are changes of the snapshot like any other:
//! open streams are judged again. Its policy carries its end, so that it decides nothing past its time even if this
//! module does not run.
//!
//! SECURITY: no grant is in force that is not recorded, and none that configuration has ceased to trust. Grants live in
//! memory: a proxy that starts again has none.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use reeve_audit::{AppendError, EventKind, EventRecord};
use reeve_authz::break_glass::{
    Admitted, Extent, GrantRefused, SignedGrant, Terms, is_break_glass,
};
use reeve_core::{
    PolicyId, UnixTime,
    decision::Decision,
    error_chain,
    model::{BreakGlass, PolicySource, SignerKey},
};
use serde::Serialize;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    ledger::lock,
    limits::{BREAK_GLASS_MESH_SHOUT, BREAK_GLASS_SHOUT, BREAK_GLASS_TICK, MAX_BREAK_GLASS},
    proxy::{Proxy, Shared, SwitchError},
};

/// How a grant is to be used, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakGlassAsked {
    /// How long.
    pub lasting: Duration,
    /// Why now.
    pub reason: String,
    /// Whatever tells who asks, by name.
    pub by: Vec<(&'static str, String)>,
}

/// A grant in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BreakGlassGrant {
    /// Its id.
    pub id: String,
    /// The policy that it is in force as.
    pub policy: PolicyId,
    /// The namespace that it opens; `*` for every one.
    pub namespace: Extent,
    /// Who vouches for it.
    pub issuer: String,
    /// Who signed it.
    pub signer: SignerKey,
    /// What it is for.
    pub purpose: String,
    /// Why it was used.
    pub reason: String,
    /// Since when.
    pub began: UnixTime,
    /// Until when.
    pub until: UnixTime,
}

/// Why a grant is not in force.
#[derive(Debug, thiserror::Error)]
pub enum BreakGlassRefused {
    /// It may not be.
    #[error(transparent)]
    Grant(#[from] GrantRefused),
    /// No reason is given.
    #[error("a reason must be given")]
    NoReason,
    /// It is already.
    #[error("grant {0} is in force already")]
    InForce(String),
    /// Others are in force.
    #[error("{MAX_BREAK_GLASS} grants are in force already; end one of them")]
    TooMany,
    /// There is none of that id.
    #[error("no grant {0} is in force")]
    Unknown(String),
    /// SECURITY: nothing is opened in secret.
    #[error("it cannot be recorded, so it is not in force")]
    Unrecorded(#[source] AppendError),
    /// The proxy cannot take it up.
    #[error(transparent)]
    Switch(#[from] SwitchError),
}

/// Whoever is told what becomes of grants.
pub trait Witness {
    /// Records it; when this returns, it is recorded.
    fn record(&self, event: &EventRecord) -> Result<(), AppendError>;
    /// Exports how many grants are in force, and how many of them open every namespace.
    fn count(&self, grants: usize, mesh_wide: usize);
}

impl Witness for Shared {
    fn record(&self, event: &EventRecord) -> Result<(), AppendError> {
        self.ledger.required_event(event).map(drop)
    }

    fn count(&self, grants: usize, mesh_wide: usize) {
        self.metrics.break_glass(grants, mesh_wide);
    }
}

/// The grants in force at one place: a proxy, or a server that decides for others. Its owner makes their policies decide,
/// and takes them out.
#[derive(Debug, Default)]
pub struct Grants(Mutex<Vec<Held>>);

#[derive(Debug)]
struct Held {
    grant: BreakGlassGrant,
    source: PolicySource,
    by: Vec<(&'static str, String)>,
    /// A clock that is set back prolongs nothing.
    ends: Instant,
    shout: Instant,
}

impl Grants {
    /// Their policies, ordered by id.
    pub fn policies(&self) -> Arc<[PolicySource]> {
        let mut all: Vec<_> = lock(&self.0).iter().map(|h| h.source.clone()).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all.into()
    }

    /// Those of grants that `trust` lets be.
    pub(crate) fn policies_under(&self, trust: &BreakGlass) -> Arc<[PolicySource]> {
        let all = lock(&self.0);
        let kept = all.iter().filter(|held| held.is_under(trust));
        let mut kept: Vec<_> = kept.map(|held| held.source.clone()).collect();
        kept.sort_by(|a, b| a.id.cmp(&b.id));
        kept.into()
    }

    /// Ends those that `trust` no longer lets be, once a snapshot without their policies is in force.
    pub fn withdraw(&self, trust: &BreakGlass, witness: &impl Witness) -> usize {
        let lost = |held: &Held| !held.is_under(trust);
        self.end_where(lost, "withdrawn by configuration", witness)
    }

    /// Ends all, since the proxy does.
    pub fn leave(&self, witness: &impl Witness) {
        self.end_where(|_| true, "the proxy stopped", witness);
    }

    /// Those that are in force at `now`.
    pub fn in_force(&self, now: UnixTime) -> Vec<BreakGlassGrant> {
        let held = lock(&self.0);
        let live = held.iter().filter(|held| !held.is_over(now));
        live.map(|held| held.grant.clone()).collect()
    }

    /// Records a grant and lists it; its policy is yet to be put in force.
    pub fn begin(
        &self,
        signed: SignedGrant,
        terms: Terms<'_>,
        asked: &BreakGlassAsked,
        witness: &impl Witness,
    ) -> Result<BreakGlassGrant, BreakGlassRefused> {
        let now = terms.now;
        let held = Held::new(signed.admit(terms)?, asked, now);
        self.hold(held, witness)
    }

    fn hold(
        &self,
        mut held: Held,
        witness: &impl Witness,
    ) -> Result<BreakGlassGrant, BreakGlassRefused> {
        let mut all = lock(&self.0);
        if all.iter().any(|other| other.grant.id == held.grant.id) {
            return Err(BreakGlassRefused::InForce(held.grant.id));
        }
        if all.len() >= MAX_BREAK_GLASS {
            return Err(BreakGlassRefused::TooMany);
        }
        // SECURITY: before it decides anything.
        witness
            .record(&held.event(EventKind::BreakGlassStarted))
            .map_err(BreakGlassRefused::Unrecorded)?;
        held.warn("break-glass begins");
        held.shout += held.pause();
        let grant = held.grant.clone();
        all.push(held);
        count(&all, witness);
        Ok(grant)
    }

    /// Takes one out before its time; its policy is yet to be taken out.
    pub fn end(
        &self,
        id: &str,
        by: &[(&'static str, String)],
        witness: &impl Witness,
    ) -> Result<(), BreakGlassRefused> {
        let who: Vec<_> = by
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let cause = format!("ended by {}", who.join(", "));
        let named = |held: &Held| held.grant.id == id;
        match self.end_where(named, &cause, witness) {
            0 => Err(BreakGlassRefused::Unknown(id.to_owned())),
            _ => Ok(()),
        }
    }

    /// Whether one is over at `now`.
    pub fn is_any_over(&self, now: UnixTime) -> bool {
        lock(&self.0).iter().any(|held| held.is_over(now))
    }

    /// Takes out what is over at `now`.
    pub fn end_what_is_over(&self, now: UnixTime, witness: &impl Witness) -> usize {
        self.end_where(|held| held.is_over(now), "its time was over", witness)
    }

    /// Takes out those that `ends` says, and tells of it. Their policies are in force until the snapshot is made anew.
    fn end_where(
        &self,
        ends: impl Fn(&Held) -> bool,
        cause: &str,
        witness: &impl Witness,
    ) -> usize {
        let mut held = lock(&self.0);
        let (ended, kept): (Vec<_>, Vec<_>) = held.drain(..).partition(&ends);
        *held = kept;
        count(&held, witness);
        drop(held);
        for one in &ended {
            one.tell_end(cause, witness);
        }
        ended.len()
    }

    /// Says again what is in force, once in a while.
    pub fn shout(&self) {
        let now = Instant::now();
        for held in lock(&self.0).iter_mut().filter(|held| held.shout <= now) {
            held.shout = now + held.pause();
            held.warn("break-glass is in force");
        }
    }
}

impl Held {
    fn new(admitted: Admitted, asked: &BreakGlassAsked, now: UnixTime) -> Self {
        let Admitted {
            grant,
            signer,
            until,
            policy,
        } = admitted;
        let began = Instant::now();
        Self {
            grant: BreakGlassGrant {
                policy: policy.id.clone(),
                id: grant.id,
                namespace: grant.namespace,
                issuer: grant.issuer,
                signer,
                purpose: grant.reason,
                reason: asked.reason.clone(),
                began: now,
                until,
            },
            source: policy,
            by: asked.by.clone(),
            ends: began + until.since(now),
            shout: began,
        }
    }

    /// How long it is in force in silence.
    fn pause(&self) -> Duration {
        match self.grant.namespace.is_mesh() {
            true => BREAK_GLASS_MESH_SHOUT,
            false => BREAK_GLASS_SHOUT,
        }
    }

    fn is_under(&self, trust: &BreakGlass) -> bool {
        let grant = &self.grant;
        grant.namespace.may_be_signed_by(&grant.signer, trust) && !trust.revoked.contains(&grant.id)
    }

    fn is_over(&self, now: UnixTime) -> bool {
        now >= self.grant.until || Instant::now() >= self.ends
    }

    fn event(&self, kind: EventKind) -> EventRecord {
        let grant = &self.grant;
        let event = EventRecord::new(kind)
            .with("grant", &grant.id)
            .with("policy", grant.policy.as_str())
            .with("cedar", &self.source.text)
            .with("namespace", grant.namespace.to_string())
            .with("issuer", &grant.issuer)
            .with("signer", grant.signer.to_string())
            .with("purpose", &grant.purpose)
            .with("reason", &grant.reason)
            .with("until_ms", grant.until.as_millis().to_string());
        with_all(event, &self.by)
    }

    fn tell_end(&self, cause: &str, witness: &impl Witness) {
        self.warn(&format!("break-glass has ended: {cause}"));
        let event = self.event(EventKind::BreakGlassEnded).with("cause", cause);
        if let Err(error) = witness.record(&event) {
            tracing::error!(%error, grant = self.grant.id, "the end of break-glass could not be recorded");
        }
    }

    fn warn(&self, what: &str) {
        let grant = &self.grant;
        macro_rules! say {
            ($level:ident, $text:literal) => {
                tracing::$level!(
                    grant = grant.id,
                    policy = %grant.policy,
                    namespace = %grant.namespace,
                    issuer = grant.issuer,
                    purpose = grant.purpose,
                    reason = grant.reason,
                    by = ?self.by,
                    until_ms = grant.until.as_millis(),
                    $text
                )
            };
        }
        match grant.namespace.is_mesh() {
            true => say!(error, "MESH-WIDE {what}"),
            false => say!(warn, "{what}"),
        }
    }
}

fn with_all(event: EventRecord, details: &[(&'static str, String)]) -> EventRecord {
    let add = |event: EventRecord, (name, value): &(&'static str, String)| event.with(name, value);
    details.iter().fold(event, add)
}

/// Exports how many are in force.
fn count(held: &[Held], witness: &impl Witness) {
    let wide = held.iter().filter(|held| held.grant.namespace.is_mesh());
    witness.count(held.len(), wide.count());
}

/// Whether a decision rests on break-glass alone: without it, the answer would have been no.
pub(crate) fn permits_alone(decision: &Decision) -> bool {
    decision.is_allow()
        && !decision.policies.is_empty()
        && decision.policies.iter().all(is_break_glass)
}

impl Proxy {
    /// Takes up a signed grant. Returns when requests are judged by it.
    pub fn begin_break_glass(
        &self,
        grant: &[u8],
        asked: &BreakGlassAsked,
    ) -> Result<BreakGlassGrant, BreakGlassRefused> {
        let began = self.try_begin(grant, asked);
        if let Err(error) = &began {
            let why = error_chain(error);
            tracing::warn!(%why, by = ?asked.by, "break-glass was refused");
            let event = EventRecord::new(EventKind::BreakGlassRefused)
                .with("reason", &asked.reason)
                .with("cause", why);
            self.shared().ledger.event(&with_all(event, &asked.by));
        }
        began
    }

    fn try_begin(
        &self,
        grant: &[u8],
        asked: &BreakGlassAsked,
    ) -> Result<BreakGlassGrant, BreakGlassRefused> {
        if asked.reason.trim().is_empty() {
            return Err(BreakGlassRefused::NoReason);
        }
        let signed = SignedGrant::read(grant)?;
        let shared = self.shared();
        let id = signed.grant.id.clone();
        let begun = self.switching(|snapshot| {
            let workload = snapshot.workload();
            let now = shared.clock.now();
            let trust_domain = workload.identity.trust_domain();
            let terms = Terms {
                trust: &workload.break_glass,
                trust_domain: &trust_domain,
                namespace: &workload.namespace,
                now,
                lasting: asked.lasting,
            };
            shared.break_glass.begin(signed, terms, asked, shared)
        });
        if let Err(BreakGlassRefused::Switch(_)) = &begun {
            let failed = |held: &Held| held.grant.id == id;
            shared
                .break_glass
                .end_where(failed, "it could not be put in force", shared);
        }
        begun
    }

    /// Ends a grant before its time.
    pub fn end_break_glass(
        &self,
        id: &str,
        by: &[(&'static str, String)],
    ) -> Result<(), BreakGlassRefused> {
        let shared = self.shared();
        self.switching(|_| shared.break_glass.end(id, by, shared))
    }

    /// The grants in force.
    pub fn break_glass(&self) -> Vec<BreakGlassGrant> {
        let shared = self.shared();
        shared.break_glass.in_force(shared.clock.now())
    }

    /// Ends what is over.
    fn end_what_is_over(&self) {
        let shared = self.shared();
        let now = shared.clock.now();
        if !shared.break_glass.is_any_over(now) {
            return;
        }
        let ended = self.switching(|_| {
            shared.break_glass.end_what_is_over(now, shared);
            Ok::<_, SwitchError>(())
        });
        if let Err(error) = ended {
            let error = error_chain(&error);
            tracing::error!(%error, "what break-glass opened could not be taken out");
        }
    }
}

/// Ends grants in time, and says again and again that they are in force.
pub(crate) async fn watch(proxy: Proxy, stop: CancellationToken) {
    let mut look = interval(BREAK_GLASS_TICK);
    while stop.run_until_cancelled(look.tick()).await.is_some() {
        let grants = &proxy.shared().break_glass;
        if lock(&grants.0).is_empty() {
            continue;
        }
        grants.shout();
        let ending = proxy.clone();
        let looking = tokio::task::spawn_blocking(move || ending.end_what_is_over());
        if let Err(error) = looking.await {
            tracing::error!(%error, "break-glass could not be looked after");
        }
    }
}
