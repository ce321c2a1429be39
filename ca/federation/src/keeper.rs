//! The bundles of other trust domains: which are held, which are due, which are refused.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use reeve_core::{
    TrustDomain, UnixTime,
    model::{EndpointProfile, FederatedDomain, FederationSettings},
};
use reeve_svid::{BundleDocument, Federated, MAX_FEDERATED, TrustBundle};
use serde::{Deserialize, Serialize};

use crate::{ChangeKind, FederationChange, fetch::Judge, fetch::Question};

/// How often a bundle is fetched whose publisher does not say (SPIFFE Federation, section 4.1).
const USUAL_REFRESH: Duration = Duration::from_secs(300);
/// The most and the least often, whatever its publisher says.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);
const LONGEST_REFRESH: Duration = Duration::from_secs(3600);
/// First wait after a failure; doubles up to the refresh.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Where a bundle that is in force came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BundleSource {
    /// From the configuration.
    Configured,
    /// From the domain's endpoint.
    Fetched,
}

/// How one trust domain stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainStatus {
    /// Its name.
    pub trust_domain: TrustDomain,
    /// Its bundle's sequence; none while there is no bundle, and its workloads are refused.
    pub sequence: Option<u64>,
    /// How many authorities it has.
    pub authorities: usize,
    /// How many keys of JWT-SVIDs.
    pub jwt_keys: usize,
    /// Where the bundle came from.
    pub source: Option<BundleSource>,
    /// When it was last fetched, or configured.
    pub as_of: Option<UnixTime>,
    /// How often it is fetched.
    pub refresh_ms: u64,
    /// Where from, if from anywhere.
    pub endpoint: Option<String>,
    /// How that is known: `https_web`, `https_spiffe`.
    pub profile: Option<String>,
    /// By which SPIFFE ID.
    pub endpoint_spiffe_id: Option<String>,
    /// How often in a row fetching has failed.
    pub failures: u32,
    /// Why it did last.
    pub error: Option<String>,
}

/// A bundle in force.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) document: BundleDocument,
    bundle: Arc<TrustBundle>,
    pub(crate) source: BundleSource,
    pub(crate) at: UnixTime,
    /// The configuration's text when it was taken up: another one takes its place.
    pub(crate) configured: Option<Arc<str>>,
}

#[derive(Debug)]
struct Domain {
    wanted: FederatedDomain,
    held: Option<Held>,
    failures: u32,
    error: Option<String>,
    due: UnixTime,
    /// The number of the question that is under way.
    fetching: Option<u64>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Keeper {
    domains: BTreeMap<TrustDomain, Domain>,
    /// What an earlier process held, until it is known what is wanted.
    kept: BTreeMap<TrustDomain, Held>,
    /// How many questions were asked.
    asked: u64,
}

impl Held {
    pub(crate) fn new(
        document: BundleDocument,
        (source, at): (BundleSource, UnixTime),
        configured: Option<Arc<str>>,
    ) -> Self {
        let bundle = Arc::new(document.bundle.clone());
        Self {
            document,
            bundle,
            source,
            at,
            configured,
        }
    }

    fn of_configuration(wanted: &FederatedDomain, now: UnixTime) -> Option<Self> {
        let text = wanted.bundle.clone()?;
        let document = BundleDocument::parse_any(wanted.trust_domain.clone(), &text).ok()?;
        Some(Self::new(
            document,
            (BundleSource::Configured, now),
            Some(text),
        ))
    }

    fn change(&self) -> FederationChange {
        FederationChange {
            trust_domain: self.bundle.trust_domain().clone(),
            what: ChangeKind::Bundle {
                sequence: self.bundle.sequence(),
                authorities: self.bundle.authorities().len(),
            },
        }
    }
}

impl Keeper {
    pub(crate) fn new(kept: Vec<Held>) -> Self {
        let named = kept.into_iter().take(MAX_FEDERATED);
        let named = named.map(|held| (held.bundle.trust_domain().clone(), held));
        Self {
            domains: BTreeMap::new(),
            kept: named.collect(),
            asked: 0,
        }
    }

    /// Takes up the trust domains that are wanted and no others.
    pub(crate) fn follow(
        &mut self,
        wanted: &[FederatedDomain],
        now: UnixTime,
    ) -> Vec<FederationChange> {
        let mut changes = Vec::new();
        let is_wanted = |domain: &TrustDomain| wanted.iter().any(|w| w.trust_domain == *domain);
        let kept = std::mem::take(&mut self.kept);
        let known = self.domains.keys().chain(kept.keys());
        for trust_domain in known.filter(|domain| !is_wanted(domain)) {
            changes.push(FederationChange {
                trust_domain: trust_domain.clone(),
                what: ChangeKind::Withdrawn,
            });
        }
        self.domains.retain(|domain, _| is_wanted(domain));
        for wanted in wanted {
            let kept = kept.get(&wanted.trust_domain);
            changes.extend(self.follow_one(wanted, kept, now));
        }
        changes
    }

    fn follow_one(
        &mut self,
        wanted: &FederatedDomain,
        kept: Option<&Held>,
        now: UnixTime,
    ) -> Option<FederationChange> {
        let domain = self.domains.get_mut(&wanted.trust_domain);
        if domain.as_ref().is_some_and(|known| known.wanted == *wanted) {
            return None;
        }
        let before = match domain {
            Some(known) => known.held.take(),
            None => kept.cloned(),
        };
        // What the operator says anew takes the place of what was fetched.
        let same = before.filter(|held| held.configured == wanted.bundle);
        let was_held = same.is_some();
        let held = same.or_else(|| Held::of_configuration(wanted, now));
        let change = held.as_ref().filter(|_| !was_held).map(Held::change);
        let known = Domain {
            wanted: wanted.clone(),
            held,
            failures: 0,
            error: None,
            due: now,
            // SECURITY: what answers a question under way was asked where, and judged as, nobody wants any more.
            fetching: None,
        };
        self.domains.insert(wanted.trust_domain.clone(), known);
        change
    }

    /// At most `most` questions whose time has come, numbered.
    pub(crate) fn due(
        &mut self,
        (now, most): (UnixTime, usize),
        own: &Arc<TrustBundle>,
        settings: &FederationSettings,
    ) -> Vec<(u64, Question)> {
        let held = self.federated();
        let bundle_of = |domain: &TrustDomain| match domain == own.trust_domain() {
            true => Some(Arc::clone(own)),
            false => held.get(domain).cloned(),
        };
        let mut questions = Vec::new();
        for domain in self.domains.values_mut() {
            let Some(endpoint) = domain.wanted.endpoint.as_ref() else {
                continue;
            };
            if domain.fetching.is_some() || domain.due > now || questions.len() >= most {
                continue;
            }
            let judge = match &endpoint.profile {
                EndpointProfile::Web => Judge::Web(settings.authorities.clone()),
                EndpointProfile::Spiffe(id) => match bundle_of(&id.trust_domain()) {
                    Some(bundle) => Judge::Svid(bundle, id.clone()),
                    None => {
                        let text = format!("there is no bundle to know {id} by");
                        domain.fail(text, now);
                        continue;
                    }
                },
            };
            let question = Question {
                trust_domain: domain.wanted.trust_domain.clone(),
                url: endpoint.url.clone(),
                judge,
                internal: settings.danger_allow_internal_endpoints,
            };
            self.asked = self.asked.saturating_add(1);
            domain.fetching = Some(self.asked);
            questions.push((self.asked, question));
        }
        questions
    }

    /// Notes what came of question `number`, of a trust domain that may be wanted otherwise by now, or no more.
    pub(crate) fn settle(
        &mut self,
        (trust_domain, number): (&TrustDomain, u64),
        fetched: Result<BundleDocument, String>,
        now: UnixTime,
    ) -> Option<FederationChange> {
        let domain = self.domains.get_mut(trust_domain);
        let domain = domain.filter(|domain| domain.fetching == Some(number))?;
        domain.fetching = None;
        match fetched.and_then(|document| domain.newer(document)) {
            Ok(document) => domain.take(document, now),
            Err(error) => {
                domain.fail(error, now);
                None
            }
        }
    }

    /// The bundles in force.
    pub(crate) fn federated(&self) -> Arc<Federated> {
        let held = self.domains.values().filter_map(|d| d.held.as_ref());
        let held = held.chain(self.kept.values());
        // There are not too many by their number, and one of each by their map.
        let federated = Federated::new(held.map(|held| Arc::clone(&held.bundle)));
        Arc::new(federated.unwrap_or_default())
    }

    pub(crate) fn kept(&self) -> Vec<&Held> {
        let held = self.domains.values().filter_map(|d| d.held.as_ref());
        held.chain(self.kept.values()).collect()
    }

    pub(crate) fn status(&self) -> Vec<DomainStatus> {
        self.domains.values().map(Domain::status).collect()
    }
}

impl Domain {
    /// The document, unless it is older than what is held.
    fn newer(&self, document: BundleDocument) -> Result<BundleDocument, String> {
        let found = document.bundle.sequence();
        let held = self.held.as_ref().map(|held| held.bundle.sequence());
        match held.filter(|held| found < *held) {
            Some(held) => Err(format!(
                "the bundle's sequence went back from {held} to {found}; \
                 if the trust domain was made anew, give its bundle as trustDomainBundle"
            )),
            None => Ok(document),
        }
    }

    fn take(&mut self, document: BundleDocument, now: UnixTime) -> Option<FederationChange> {
        let configured = self.wanted.bundle.clone();
        let new = Held::new(document, (BundleSource::Fetched, now), configured);
        let before = self.held.replace(new);
        (self.failures, self.error) = (0, None);
        self.due = now.plus(self.refresh());
        let held = self.held.as_mut()?;
        let same = before.filter(|before| {
            before.bundle.admits_as(&held.bundle)
                && before.bundle.jwt_keys() == held.bundle.jwt_keys()
                && before.bundle.sequence() == held.bundle.sequence()
        });
        match same {
            // The very same value, with the chains that it remembers.
            Some(before) => {
                held.bundle = before.bundle;
                None
            }
            None => Some(held.change()),
        }
    }

    fn fail(&mut self, error: String, now: UnixTime) {
        if self.error.as_ref() != Some(&error) {
            let domain = self.wanted.trust_domain.as_str();
            tracing::warn!(
                domain,
                error,
                "the bundle of another trust domain cannot be fetched"
            );
        }
        let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(12));
        self.failures = self.failures.saturating_add(1);
        self.error = Some(error);
        self.due = now.plus(wait.min(self.refresh()));
    }

    fn refresh(&self) -> Duration {
        let hint = self
            .held
            .as_ref()
            .and_then(|held| held.document.refresh_hint);
        let hint = hint.unwrap_or(USUAL_REFRESH);
        hint.clamp(SHORTEST_REFRESH, LONGEST_REFRESH)
    }

    fn status(&self) -> DomainStatus {
        let bundle = self.held.as_ref().map(|held| &held.bundle);
        let endpoint = self.wanted.endpoint.as_ref();
        let id = endpoint.and_then(|e| match &e.profile {
            EndpointProfile::Web => None,
            EndpointProfile::Spiffe(id) => Some(id.to_string()),
        });
        DomainStatus {
            trust_domain: self.wanted.trust_domain.clone(),
            sequence: bundle.map(|bundle| bundle.sequence()),
            authorities: bundle.map_or(0, |bundle| bundle.authorities().len()),
            jwt_keys: bundle.map_or(0, |bundle| bundle.jwt_keys().len()),
            source: self.held.as_ref().map(|held| held.source),
            as_of: self.held.as_ref().map(|held| held.at),
            refresh_ms: u64::try_from(self.refresh().as_millis()).unwrap_or(u64::MAX),
            endpoint: endpoint.map(|e| e.url.clone()),
            profile: endpoint.map(|e| e.profile.to_string()),
            endpoint_spiffe_id: id,
            failures: self.failures,
            error: self.error.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
