//! The authority's keys over time: the operator's authority is followed, vaults are looked at, and keys of authorities
//! that are no more are ended.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reeve_core::{UnixTime, error_chain};
use serde::Serialize;

use super::{
    CaError, CertificateAuthority, RotationCause, State, Waiting,
    slots::{Slot, Slots},
    tell,
    upstream::{Upstream, UpstreamError, UpstreamStatus, Watch},
};
use crate::{
    IdentityEvents,
    custody::{KeptKey, VaultName},
};

/// How often it is asked whether the keys that sign can be used.
const CHECK: Duration = Duration::from_secs(5);

/// Where the keys are, and whether they can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CustodyStatus {
    /// `sealed`, `memory`, or the kind of the vault.
    pub keys: &'static str,
    /// The vault or the folder that new keys are kept in.
    pub place: Option<String>,
    /// Why the keys that sign cannot be used; none: they can.
    pub away: Option<String>,
    /// Keys of past authorities that their vault has not ended yet.
    pub to_be_destroyed: usize,
    /// The operator's authority, if there is one.
    pub upstream: Option<UpstreamStatus>,
}

/// What is remembered of the keys' places.
pub(super) struct Custody {
    pub(super) upstream: Option<Watch>,
    folder: Option<PathBuf>,
    checked_at: UnixTime,
    pub(super) away: Option<String>,
}

impl Custody {
    pub(super) fn new(upstream: Option<PathBuf>, folder: Option<PathBuf>) -> Self {
        Self {
            upstream: upstream.map(Watch::new),
            folder,
            checked_at: UnixTime::default(),
            away: None,
        }
    }

    pub(super) fn status(&self, slots: &Slots) -> CustodyStatus {
        let folder = self
            .folder
            .as_ref()
            .map(|folder| folder.display().to_string());
        let (keys, place) = match (slots.ring.name(), folder) {
            (Some(VaultName { kind, name }), _) => (kind, Some(name)),
            (None, Some(folder)) => ("sealed", Some(folder)),
            (None, None) => ("memory", None),
        };
        CustodyStatus {
            keys,
            place,
            away: self.away.clone(),
            to_be_destroyed: slots.doomed.len(),
            upstream: self.upstream.as_ref().map(Watch::status),
        }
    }
}

impl CertificateAuthority {
    /// The operator's files at the start: without an authority of an earlier start they must be in order.
    pub(super) fn first_look(
        custody: &mut Custody,
        options: &super::CaOptions,
        slots: &mut Slots,
        now: UnixTime,
    ) -> Result<(), UpstreamError> {
        let Some(watch) = &mut custody.upstream else {
            return Ok(());
        };
        match watch.judge(options, now) {
            Ok(upstream) => slots.attach(upstream),
            Err(error) if slots.root(Slot::Active).is_none() => return Err(error),
            // It was told, and stands in the status.
            Err(_) => {}
        }
        Ok(())
    }

    /// Takes over what the operator has put there.
    pub(super) fn follow_upstream(
        &self,
        state: &mut State,
        events: &dyn IdentityEvents,
        now: UnixTime,
    ) -> Result<(), CaError> {
        let looked = state.custody.upstream.as_mut();
        if let Some(upstream) = looked.and_then(|watch| watch.look(&self.options, now)) {
            state.slots.attach(upstream);
        }
        if state.slots.intermediate_is_anothers() {
            self.change(state, now, |slots, _| {
                slots.order_renewal();
                Ok(())
            })?;
            tell(state, events, None, Waiting::default());
        }
        if state.slots.rotation.is_none() && state.slots.root_is_anothers() {
            let cause = RotationCause::Upstream;
            self.change(state, now, |slots, options| {
                slots.begin_rotation(options, now, cause)
            })?;
            tell(state, events, None, Waiting::default());
        }
        Ok(())
    }

    /// Looks whether the keys that sign can be used, and ends those of authorities that are no more.
    pub(super) fn look_after_keys(&self, state: &mut State, now: UnixTime) {
        if now.since(state.custody.checked_at) < CHECK && state.custody.away.is_none() {
            return;
        }
        state.custody.checked_at = now;
        let intermediate = state.slots.intermediate.as_ref();
        let checked = intermediate.map_or(Ok(()), |i| i.key().check());
        let away = checked.err().map(|error| error_chain(&error));
        match (&state.custody.away, &away) {
            (None, Some(why)) => tracing::error!(why, "nothing can be signed"),
            (Some(_), None) => tracing::info!("the keys can be used again"),
            _ => {}
        }
        state.custody.away = away;
        if state.custody.away.is_none() && !state.slots.doomed.is_empty() {
            self.destroy_doomed(state);
        }
    }

    fn destroy_doomed(&self, state: &mut State) {
        let ring = state.slots.ring.clone();
        let before = state.slots.doomed.len();
        state.slots.doomed.retain(|name| {
            let ended = ring.destroy(name);
            if let Err(error) = &ended {
                tracing::warn!(%error, key = name.id, "the key of a past authority is still there");
            }
            ended.is_err()
        });
        if state.slots.doomed.len() == before {
            return;
        }
        let domain = &self.options.trust_domain;
        if let Err(error) = state
            .journal
            .save(domain, &state.slots, state.longest_svid_ttl)
        {
            // Nothing is lost: a key that is gone is no error the next time.
            tracing::warn!(%error, "that keys are gone is not kept");
        }
    }
}

impl Slots {
    /// What the operator has put there is used from now on; a root that is its own gets its key.
    pub(super) fn attach(&mut self, upstream: Upstream) {
        let upstream = Arc::new(upstream);
        for root in self
            .roots
            .iter_mut()
            .filter(|r| r.certificate == upstream.root)
        {
            match root.with_upstream(&upstream) {
                Ok(attached) => *root = attached,
                Err(error) => tracing::error!(%error, "the upstream authority cannot be used"),
            }
        }
        self.upstream = Some(upstream);
    }

    /// Whether the operator's authority has another certificate under the root that signs than signed the intermediate.
    fn intermediate_is_anothers(&self) -> bool {
        let above = |a: &super::slots::Authority| a.above.clone();
        let root = self.root(Slot::Active).map(above);
        self.upstream.is_some() && root != self.intermediate.as_ref().map(above)
    }

    /// Whether the root that signs is not the one that is to.
    fn root_is_anothers(&self) -> bool {
        let Some(active) = self.root(Slot::Active) else {
            return false;
        };
        match &self.upstream {
            Some(upstream) => active.certificate != upstream.root,
            None => !self.follows_upstream && matches!(active.key().kept, KeptKey::Upstream { .. }),
        }
    }
}

#[cfg(test)]
mod tests;
