//! External authorization: requests that a mesh's configuration names are asked about at a server of Envoy's `ext_authz`
//! before anything else is decided (Istio's `AuthorizationPolicy` with action `CUSTOM`, then `DENY`, then `ALLOW`).
//!
//! Flow: [`External::ask`] has an engine of its own say whether a request is asked about, [`Asking::send`] puts the question
//! as the workload itself would call the service, [`grpc`] and [`http`] are the two forms, and the answer changes the head
//! before tokens are verified and policies asked, so that what is judged and recorded is what is sent.
//!
//! Invariants:
//! - No answer is a refusal, unless the provider's own `failOpen` says otherwise; that is told in the record.
//! - An answer that allows only lets the request go on to the policies.

mod connection;
mod content;
mod grpc;
mod head;
mod http;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use ::http::{HeaderMap, HeaderName, Method, StatusCode, Version, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use reeve_authz::Engine;
use reeve_core::{
    PolicyId, UnixTime,
    decision::{AskedExternally, Decision, ExternalAnswer, Reason},
    model::{
        ExternalAuthorization, OnFailure, PolicyMode, PolicySlice, PolicySource, ProviderForm,
        ServiceState, WorkloadConfig,
    },
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    body::{Source, Upload},
    cluster::Cluster,
    end::End,
    explain::ExplainedAsking,
    forward::Outgoing,
    head::Head,
    headers,
    judge::{Peer, Place, Question, Verdict},
    life::dialect,
    limits::{MAX_EXTERNAL_ANSWER_BYTES, MAX_EXTERNAL_QUESTIONS},
    metrics::Metrics,
    permit::{self, Changes, Permit},
    route::RetryOn,
    snapshot::{Snapshot, SnapshotError},
    worker::Worker,
};

use self::content::Shown;
pub(crate) use self::{connection::ask_about_connection, content::Content};

/// Tells a server whether it is shown the beginning of a body alone.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";
/// What is not asked about; everything, but for what a forbid matches.
const NOT_ASKED: &str = "permit (principal, action, resource);";

/// The servers that a workload's proxy asks, in order of their names.
#[derive(Debug, Default)]
pub(crate) struct External(Vec<Arc<Asking>>);

/// One server, and what it is asked about.
#[derive(Debug)]
pub(crate) struct Asking {
    rule: ExternalAuthorization,
    /// Denies what is asked about.
    engine: Engine,
    /// Headers that the engine looks at.
    wanted: Vec<HeaderName>,
    /// Questions that may yet be under way.
    room: Arc<Semaphore>,
}

/// What servers said of a request that goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// For the record.
    pub(crate) asked: Vec<AskedExternally>,
    /// What the caller gets with the response.
    pub(crate) told: HeaderMap,
}

/// A request that does not go on.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) reason: Reason,
    /// For the record.
    pub(crate) asked: Vec<AskedExternally>,
    /// What the caller gets.
    pub(crate) refusal: Refusal,
}

/// An answer that denies.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What a server says.
#[derive(Debug)]
enum Ruling {
    /// It may go on, changed so.
    Allowed(Box<head::Edits>),
    /// It may not.
    Denied(Box<Refusal>),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("the service is not known to this workload")]
    NoWay,
    #[error("too many questions wait for the server")]
    Full,
    #[error("this workload's policies do not let it call the server")]
    Forbidden,
    #[error("no answer within the time allowed")]
    Late,
    #[error("the server could not be reached")]
    Failed,
    #[error("the server answers with status {0}")]
    Status(u16),
    #[error("the server answers with gRPC status {0:?}")]
    Grpc(String),
    #[error("the answer cannot be read")]
    Unreadable,
    #[error("a connection cannot be asked about by HTTP")]
    Connection,
}

/// Whose question is put, and for whom.
#[derive(Clone, Copy)]
struct Site<'a> {
    worker: &'a Worker,
    snapshot: &'a Snapshot,
    /// Most bytes of a body that any server is shown.
    most: u32,
}

impl External {
    /// Compiles those of `workload`; what has not changed since `before` is kept.
    pub(crate) fn compile(
        workload: &WorkloadConfig,
        slice: &PolicySlice,
        before: Option<&Self>,
    ) -> Result<Self, SnapshotError> {
        let compile = |rule: &ExternalAuthorization| {
            let same = |known: &&Arc<Asking>| known.rule == *rule;
            match before.and_then(|before| before.0.iter().find(same)) {
                Some(known) => Ok(known.clone()),
                None => Asking::compile(rule, workload, slice).map(Arc::new),
            }
        };
        let rules = workload.external_authorizations.iter();
        rules.map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// Whether any policy that says what is asked about looks at the server name of a connection.
    pub(crate) fn looks_at_sni(&self) -> bool {
        self.0.iter().any(|asking| asking.engine.needs().sni)
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks each server that is to be asked about this request; what they say changes its head.
    pub(crate) async fn ask(
        &self,
        (worker, snapshot): (&Worker, &Snapshot),
        (peer, place): (&Peer, &Arc<Place>),
        request: &mut Head,
        mut content: Content<'_>,
    ) -> Result<Said, Box<Stopped>> {
        let most = self.most_shown();
        let site = Site {
            worker,
            snapshot,
            most,
        };
        let mut said = Said::default();
        for asking in &self.0 {
            // Each sees what the one before it has changed.
            let question = Question {
                peer: peer.clone(),
                place: place.clone(),
                user: None,
                head: Some(Arc::new(request.clone())),
                transformed: None,
                said: None,
            };
            let asked = asking.ask(site, &question, &mut content, &mut said);
            let Some(edits) = asked.await? else {
                continue;
            };
            edits.apply(request, &mut said.told);
        }
        // Who waited for it has been told to send the body.
        if content.was_read() {
            request.headers.remove(header::EXPECT);
        }
        Ok(said)
    }

    /// Which servers are asked about this, without asking them. What they would change of it is not known.
    pub(crate) fn explain(&self, question: &Question, now: UnixTime) -> Vec<ExplainedAsking> {
        let asked = self.0.iter().filter(|asking| asking.takes(question));
        let asked = asked.filter_map(|asking| {
            let (decision, shadow) = match asking.matched(question, now)? {
                Matched::Asked(decision) => (decision, false),
                Matched::Shadow(decision) => (decision, true),
            };
            let provider = &asking.rule.provider;
            Some(ExplainedAsking {
                provider: provider.name.clone(),
                service: provider.service.to_string(),
                port: provider.port,
                policies: decision.policies,
                shadow,
            })
        });
        asked.collect()
    }

    /// Most bytes of a body that any server is shown.
    fn most_shown(&self) -> u32 {
        let bodies = self.0.iter().filter_map(|a| a.rule.provider.body.as_ref());
        bodies.map(|body| body.max_bytes).max().unwrap_or_default()
    }
}

impl Asking {
    fn compile(
        rule: &ExternalAuthorization,
        workload: &WorkloadConfig,
        slice: &PolicySlice,
    ) -> Result<Self, SnapshotError> {
        let mut policies = rule.policies.clone();
        let id = PolicyId::parse("external/not-asked");
        policies.extend(id.ok().map(|id| PolicySource {
            id,
            scope: None,
            mode: PolicyMode::Enforce,
            text: NOT_ASKED.to_owned(),
        }));
        policies.sort_by(|a, b| a.id.cmp(&b.id));
        let slice = PolicySlice {
            policies,
            ..slice.clone()
        };
        let engine = Engine::compile(&slice).map_err(SnapshotError::Policies)?;
        let named = engine.needs().headers.iter();
        let wanted = named.filter_map(|name| HeaderName::try_from(name).ok());
        Ok(Self {
            rule: rule.clone(),
            wanted: wanted.collect(),
            engine: engine.in_trust_domain(workload.identity.trust_domain()),
            room: Arc::new(Semaphore::new(MAX_EXTERNAL_QUESTIONS)),
        })
    }

    /// Whether it can be asked about such a thing: as in Istio, an HTTP server is not asked about a connection to a port of TCP.
    fn takes(&self, question: &Question) -> bool {
        let by_http = matches!(self.rule.provider.form, ProviderForm::Http(_));
        question.head.is_some() || !by_http || question.place.protocol.is_http()
    }

    /// Asks, if there is to be asked; how the head changes, or what is answered instead.
    async fn ask(
        &self,
        site: Site<'_>,
        question: &Question,
        content: &mut Content<'_>,
        said: &mut Said,
    ) -> Result<Option<head::Edits>, Box<Stopped>> {
        let Some(matched) = self.matched(question, site.worker.ledger.now()) else {
            return Ok(None);
        };
        let provider = &self.rule.provider;
        let mut asked = AskedExternally {
            provider: provider.name.clone(),
            answer: ExternalAnswer::NotAsked,
            policies: Vec::new(),
            took_us: 0,
        };
        let decision = match matched {
            Matched::Shadow(decision) => {
                asked.policies = decision.policies;
                said.asked.push(asked);
                return Ok(None);
            }
            Matched::Asked(decision) => decision,
        };
        asked.policies = decision.policies;
        let metrics = &site.worker.proxy.metrics;
        let started = Instant::now();
        let shown = match (&self.rule.provider.body, &question.head) {
            (Some(rule), Some(_)) => content.shown(rule, site.most).await.map(Some),
            (None, _) | (_, None) => Ok(None),
        };
        let (answer, stop, edits) = match shown {
            Ok(shown) => {
                let ruling = self.send(site, question, shown.as_ref()).await;
                self.weigh(ruling, metrics)
            }
            // As in Envoy, before `failOpen`: nobody could be asked about such a body.
            Err(status) => {
                metrics.external_authorization("error");
                let stop = (Reason::ExternallyUnanswered, Refusal::of(status));
                (ExternalAnswer::Unanswered, Some(stop), None)
            }
        };
        asked.took_us = micros(started.elapsed());
        asked.answer = answer;
        said.asked.push(asked);
        match stop {
            None => Ok(edits),
            Some((reason, refusal)) => Err(Box::new(Stopped {
                reason,
                asked: std::mem::take(&mut said.asked),
                refusal,
            })),
        }
    }

    /// Whether the policies want this asked about. What fails to evaluate, or is too much, is asked about too.
    fn matched(&self, question: &Question, now: UnixTime) -> Option<Matched> {
        if question.place.state != ServiceState::Enforced {
            return None;
        }
        let access = question.access_for(&self.engine, &self.wanted, now);
        let decision = match question.is_opaque() {
            true => self.engine.decide_opaque(&access),
            false => self.engine.decide(&access),
        };
        if !decision.is_allow() {
            return Some(Matched::Asked(decision));
        }
        let shadow = decision.shadow.filter(|shadow| !shadow.is_allow());
        shadow.map(|shadow| Matched::Shadow(*shadow))
    }

    /// What a ruling comes to, its lack as well.
    fn weigh(
        &self,
        ruling: Result<Ruling, Unanswered>,
        metrics: &Metrics,
    ) -> (
        ExternalAnswer,
        Option<(Reason, Refusal)>,
        Option<head::Edits>,
    ) {
        let provider = &self.rule.provider;
        match ruling {
            Ok(Ruling::Allowed(edits)) => {
                metrics.external_authorization("allowed");
                (ExternalAnswer::Allowed, None, Some(*edits))
            }
            Ok(Ruling::Denied(refusal)) => {
                metrics.external_authorization("denied");
                let stop = (Reason::ExternallyDenied, *refusal);
                (ExternalAnswer::Denied, Some(stop), None)
            }
            Err(error) => {
                tracing::debug!(provider = %provider.name, %error, "a provider does not answer");
                metrics.external_authorization("error");
                if provider.on_failure == OnFailure::Allow {
                    metrics.external_authorization("failure_mode_allowed");
                    return (ExternalAnswer::FailedOpen, None, None);
                }
                let status = StatusCode::from_u16(provider.status_on_error);
                let refusal = Refusal::of(status.unwrap_or(StatusCode::FORBIDDEN));
                let stop = (Reason::ExternallyUnanswered, refusal);
                (ExternalAnswer::Unanswered, Some(stop), None)
            }
        }
    }

    async fn send(
        &self,
        site: Site<'_>,
        question: &Question,
        shown: Option<&Shown>,
    ) -> Result<Ruling, Unanswered> {
        let _place = self.room.try_acquire().map_err(|_| Unanswered::Full)?;
        let asking = async {
            match &self.rule.provider.form {
                ProviderForm::Grpc => grpc::ask(self, site, question, shown).await,
                ProviderForm::Http(check) => http::ask(self, check, site, (question, shown)).await,
            }
        };
        let answer = timeout(self.rule.provider.timeout, asking).await;
        answer.map_err(|_| Unanswered::Late)?
    }

    /// Calls the service as the workload itself would: within the mesh its own proxy judges that, elsewhere this one does.
    async fn call(
        &self,
        site: Site<'_>,
        request: Head,
        body: Bytes,
    ) -> Result<Answered, Unanswered> {
        let provider = &self.rule.provider;
        let key = (provider.service.clone(), None, provider.port);
        let cluster = site.snapshot.clusters.get(&key);
        let cluster = cluster.ok_or(Unanswered::NoWay)?;
        let request = Arc::new(request);
        let plain = site.judge_outside(cluster, provider.port, &request).await?;
        let upload = Upload::new(Source::Whole(Some(body)), Arc::default(), End::default());
        let own = site.snapshot.own_header.clone();
        let own = own.filter(|_| cluster.is_meshed);
        let dialect = dialect(cluster.protocol, &request);
        let sent = Outgoing {
            cluster,
            permit: &Permit::for_mesh_hop(request),
            plain: plain.as_ref(),
            changes: &Changes {
                header: own.map(|value| (headers::PEER, value)),
                ..Changes::default()
            },
            upload: &upload,
            retry: &RetryOn::default(),
            dialect,
            hash: None,
            original: None,
        }
        .send_copy(site.worker)
        .await;
        let (response, lease) = sent.ok_or(Unanswered::Failed)?;
        let (parts, body) = response.into_parts();
        let read = Limited::new(body, MAX_EXTERNAL_ANSWER_BYTES)
            .collect()
            .await;
        let read = read.map_err(|_| Unanswered::Unreadable)?;
        if let Some(lease) = lease {
            lease.give_back();
        }
        Ok(Answered {
            status: parts.status,
            headers: parts.headers,
            trailers: read.trailers().cloned().unwrap_or_default(),
            body: read.to_bytes(),
        })
    }
}

/// A server's answer, as it came.
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    trailers: HeaderMap,
    body: Bytes,
}

/// What an engine said.
enum Matched {
    /// It is asked about.
    Asked(Decision),
    /// It would be, were the policies not in shadow.
    Shadow(Decision),
}

impl Stopped {
    /// The refusal as it is recorded, and what the caller gets.
    pub(crate) fn verdict(
        self,
        question: &Question,
        snapshot: &Snapshot,
        now: UnixTime,
    ) -> (Verdict, Refusal) {
        let mut verdict = question.refuse(snapshot, now, self.reason);
        let last = self.asked.last();
        verdict.decision.policies = last.map(|last| last.policies.clone()).unwrap_or_default();
        verdict.decision.asked = self.asked;
        (verdict, self.refusal)
    }
}

impl Refusal {
    fn of(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }
}

impl Site<'_> {
    /// Where an endpoint has no proxy that judges, this one does: the question is a request of its own.
    async fn judge_outside(
        &self,
        cluster: &Cluster,
        port: u16,
        head: &Arc<Head>,
    ) -> Result<Option<Permit<permit::Recorded>>, Unanswered> {
        if !cluster.hops.iter().any(|hop| hop.security.is_outside()) {
            return Ok(None);
        }
        let question = Question {
            peer: Peer::workload(self.snapshot.workload()),
            place: Arc::new(Place::outside_service(&cluster.service, port)),
            user: None,
            head: Some(head.clone()),
            transformed: None,
            said: None,
        };
        let ledger = &self.worker.ledger;
        let now = ledger.now();
        let permit = permit::permit_request(&question, head, self.snapshot, ledger, now).await;
        permit.map(Some).map_err(|_| Unanswered::Forbidden)
    }
}

/// A head of our own, with what tells whose question it is.
fn own_head(about: Option<&Head>, method: Method, version: Version, to: (String, String)) -> Head {
    let (authority, path) = to;
    let mut own = HeaderMap::new();
    let kept = ["x-request-id", "traceparent", "tracestate"];
    for name in about.into_iter().flat_map(|_| kept) {
        if let Some(value) = about.and_then(|about| about.headers.get(name)) {
            own.insert(HeaderName::from_static(name), value.clone());
        }
    }
    Head {
        method,
        version,
        authority,
        raw_path: path.clone(),
        path,
        query: None,
        headers: own,
        trace_id: about.and_then(|about| about.trace_id.clone()),
        normalization: about.map(|about| about.normalization).unwrap_or_default(),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
