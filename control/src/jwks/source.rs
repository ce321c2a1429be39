//! One place's keys, and when it is asked again.

use std::{sync::Arc, time::Duration};

use reeve_core::{UnixTime, model::JwksDocument};

use super::{EARLY, FIRST_RETRY, KeyStatus, MAX_STALE, REFRESH, check_document, document};
use crate::mesh::KeyPlace;

/// Keys, as they were last fetched.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub(super) document: Arc<JwksDocument>,
    pub(super) at: UnixTime,
    /// How many can be used.
    usable: usize,
}

impl Fetched {
    /// `json`, if it is a key set.
    pub(super) fn check(json: &str, at: UnixTime) -> Result<Self, String> {
        let usable = check_document(json)?;
        Ok(Self {
            document: Arc::new(document(json)),
            at,
            usable,
        })
    }

    pub(super) fn is_usable(&self, now: UnixTime) -> bool {
        now.since(self.at) <= MAX_STALE
    }
}

/// A place that keys are fetched from.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) keys: Option<Fetched>,
    /// Bound on one fetch.
    pub(super) timeout: Duration,
    pub(super) due: UnixTime,
    failures: u32,
    error: Option<String>,
    /// A fetch is under way.
    asked: bool,
    /// A token came with a key that is not here.
    wanted: bool,
    /// When it was last asked because of one.
    early_at: Option<UnixTime>,
}

impl Source {
    /// With what an earlier process fetched; it is asked at once all the same.
    pub(super) fn new(keys: Option<Fetched>) -> Self {
        Self {
            keys,
            ..Self::default()
        }
    }

    /// A token came with a key that is not here.
    ///
    /// SECURITY: whoever may send requests can make this happen; hence no more than one fetch in [`EARLY`], and none while
    /// the place fails.
    pub(super) fn want(&mut self, now: UnixTime) {
        let rests = self.early_at.is_some_and(|at| now.since(at) < EARLY);
        self.wanted |= !rests && self.failures == 0;
    }

    pub(super) fn is_due(&self, now: UnixTime) -> bool {
        !self.asked && (self.wanted || now >= self.due)
    }

    pub(super) fn begin(&mut self, now: UnixTime) {
        self.asked = true;
        if std::mem::take(&mut self.wanted) {
            self.early_at = Some(now);
        }
    }

    pub(super) fn settle(&mut self, uri: &str, fetched: Result<String, String>, now: UnixTime) {
        self.asked = false;
        match fetched.and_then(|json| Fetched::check(&json, now)) {
            Ok(keys) => {
                if self.failures > 0 {
                    tracing::info!(uri, "token keys can be fetched again");
                }
                self.keys = Some(keys);
                self.failures = 0;
                self.error = None;
                self.due = now.plus(REFRESH);
            }
            Err(reason) => {
                let wait = FIRST_RETRY
                    .saturating_mul(1 << self.failures.min(16))
                    .min(REFRESH);
                self.failures = self.failures.saturating_add(1);
                self.due = now.plus(wait);
                let ended = self.keys.take_if(|keys| !keys.is_usable(now)).is_some();
                tracing::warn!(
                    uri,
                    reason,
                    ended,
                    kept = self.keys.is_some(),
                    "token keys could not be fetched"
                );
                self.error = Some(reason);
            }
        }
    }

    pub(super) fn status(&self, place: &KeyPlace, issuers: Vec<String>) -> KeyStatus {
        let keys = self.keys.as_ref();
        KeyStatus {
            uri: place.uri().to_owned(),
            issuers,
            fetched_at: keys.map(|k| k.at),
            keys: keys.map(|k| k.usable).unwrap_or_default(),
            failures: self.failures,
            error: self.error.clone(),
            usable_until: keys.map(|k| k.at.plus(MAX_STALE)),
        }
    }
}
