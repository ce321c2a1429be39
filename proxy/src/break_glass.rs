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
use reeve_authz::break_glass::{Admitted, GrantRefused, SignedGrant, Terms, is_break_glass};
use reeve_core::{
    Namespace, PolicyId, UnixTime,
    decision::Decision,
    error_chain,
    model::{BreakGlass, PolicySource, SignerKey},
};
use serde::Serialize;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    ledger::lock,
    limits::{BREAK_GLASS_SHOUT, BREAK_GLASS_TICK, MAX_BREAK_GLASS},
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
    /// The namespace that it opens.
    pub namespace: Namespace,
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

/// The grants of one proxy.
#[derive(Debug, Default)]
pub(crate) struct Grants(Mutex<Vec<Held>>);

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
    pub(crate) fn policies(&self) -> Arc<[PolicySource]> {
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
    pub(crate) fn withdraw(&self, trust: &BreakGlass, shared: &Shared) {
        let lost = |held: &Held| !held.is_under(trust);
        self.end_where(lost, "withdrawn by configuration", shared);
    }

    /// Ends all, since the proxy does.
    pub(crate) fn leave(&self, shared: &Shared) {
        self.end_where(|_| true, "the proxy stopped", shared);
    }

    /// Takes out those that `ends` says, and tells of it. Their policies are in force until the snapshot is made anew.
    fn end_where(&self, ends: impl Fn(&Held) -> bool, cause: &str, shared: &Shared) -> usize {
        let mut held = lock(&self.0);
        let (ended, kept): (Vec<_>, Vec<_>) = held.drain(..).partition(&ends);
        *held = kept;
        shared.metrics.break_glass(held.len());
        drop(held);
        for one in &ended {
            one.tell_end(cause, shared);
        }
        ended.len()
    }

    /// Says again what is in force, once in a while.
    fn shout(&self) {
        let now = Instant::now();
        for held in lock(&self.0).iter_mut().filter(|held| held.shout <= now) {
            held.shout = now + BREAK_GLASS_SHOUT;
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
            shout: began + BREAK_GLASS_SHOUT,
        }
    }

    fn is_under(&self, trust: &BreakGlass) -> bool {
        trust.signers.contains(&self.grant.signer) && !trust.revoked.contains(&self.grant.id)
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
            .with("namespace", grant.namespace.as_str())
            .with("issuer", &grant.issuer)
            .with("signer", grant.signer.to_string())
            .with("purpose", &grant.purpose)
            .with("reason", &grant.reason)
            .with("until_ms", grant.until.as_millis().to_string());
        with_all(event, &self.by)
    }

    fn tell_end(&self, cause: &str, shared: &Shared) {
        self.warn(&format!("break-glass has ended: {cause}"));
        let event = self.event(EventKind::BreakGlassEnded).with("cause", cause);
        if let Err(error) = shared.ledger.required_event(&event) {
            tracing::error!(%error, grant = self.grant.id, "the end of break-glass could not be recorded");
        }
    }

    fn warn(&self, what: &str) {
        let grant = &self.grant;
        tracing::warn!(
            grant = grant.id,
            policy = %grant.policy,
            namespace = %grant.namespace,
            issuer = grant.issuer,
            purpose = grant.purpose,
            reason = grant.reason,
            by = ?self.by,
            until_ms = grant.until.as_millis(),
            "{what}"
        );
    }
}

fn with_all(event: EventRecord, details: &[(&'static str, String)]) -> EventRecord {
    let add = |event: EventRecord, (name, value): &(&'static str, String)| event.with(name, value);
    details.iter().fold(event, add)
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
            let admitted = signed.admit(Terms {
                trust: &workload.break_glass,
                trust_domain: &trust_domain,
                namespace: &workload.namespace,
                now,
                lasting: asked.lasting,
            })?;
            let held = Held::new(admitted, asked, now);
            self.hold(held)
        });
        if let Err(BreakGlassRefused::Switch(_)) = &begun {
            let failed = |held: &Held| held.grant.id == id;
            shared
                .break_glass
                .end_where(failed, "it could not be put in force", shared);
        }
        begun
    }

    /// Records a grant and lists it.
    fn hold(&self, held: Held) -> Result<BreakGlassGrant, BreakGlassRefused> {
        let shared = self.shared();
        let mut all = lock(&shared.break_glass.0);
        if all.iter().any(|other| other.grant.id == held.grant.id) {
            return Err(BreakGlassRefused::InForce(held.grant.id));
        }
        if all.len() >= MAX_BREAK_GLASS {
            return Err(BreakGlassRefused::TooMany);
        }
        // SECURITY: before it decides anything.
        shared
            .ledger
            .required_event(&held.event(EventKind::BreakGlassStarted))
            .map_err(BreakGlassRefused::Unrecorded)?;
        held.warn("break-glass begins");
        let grant = held.grant.clone();
        all.push(held);
        shared.metrics.break_glass(all.len());
        Ok(grant)
    }

    /// Ends a grant before its time.
    pub fn end_break_glass(
        &self,
        id: &str,
        by: &[(&'static str, String)],
    ) -> Result<(), BreakGlassRefused> {
        let shared = self.shared();
        let who: Vec<_> = by
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let cause = format!("ended by {}", who.join(", "));
        self.switching(|_| {
            let named = |held: &Held| held.grant.id == id;
            match shared.break_glass.end_where(named, &cause, shared) {
                0 => Err(BreakGlassRefused::Unknown(id.to_owned())),
                _ => Ok(()),
            }
        })
    }

    /// The grants in force.
    pub fn break_glass(&self) -> Vec<BreakGlassGrant> {
        let now = self.shared().clock.now();
        let held = lock(&self.shared().break_glass.0);
        let live = held.iter().filter(|held| !held.is_over(now));
        live.map(|held| held.grant.clone()).collect()
    }

    /// Ends what is over.
    fn end_what_is_over(&self) {
        let shared = self.shared();
        let now = shared.clock.now();
        if !lock(&shared.break_glass.0)
            .iter()
            .any(|held| held.is_over(now))
        {
            return;
        }
        let ended = self.switching(|_| {
            let over = |held: &Held| held.is_over(now);
            shared
                .break_glass
                .end_where(over, "its time was over", shared);
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
