//! Reading the audit trail over the mesh's TLS port: who may see what of it is a question to the mesh's own policies, and
//! every answer is recorded before it is given (`log_read`).
//!
//! Reading the records of a namespace is a `GET` of `/audit/records/<namespace>` at the mesh process, and seeing the values in
//! them (headers, query parameters, the end user, addresses) one of `/audit/values/<namespace>`: a policy of the root
//! namespace permits it like any other request. SECURITY: nothing but a `permit` opens the trail, whatever state services
//! are in.

mod reader;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::{Query, RawQuery, State},
    http::{Extensions, HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use reeve_audit::{
    Entry, EventKind, EventRecord, Record, Redaction, Wal,
    query::{Filter, Found},
};
use reeve_authz::Engine;
use reeve_control::{Mesh, MeshSettings};
use reeve_core::{
    Namespace, ServiceName, SpiffeId, TrustDomain, UnixTime,
    decision::{AccessRequest, Action, Effect, HttpContext, Reason, RequestContext, ResourceRef},
};
use serde::Deserialize;
use tokio::sync::Semaphore;

use self::reader::{Asker, Strangers, asker};
use super::view::View;
use crate::verb::audit::open_live;

/// The most records that one answer holds.
const MAX_ANSWER_RECORDS: usize = 1000;
/// The most that are looked through for it, the newest that match.
const MAX_LOOKED_THROUGH: usize = 20_000;
/// Answers that are made at a time; whoever comes meanwhile is told to come again.
const MAX_READERS: usize = 2;

/// What the routes need.
#[derive(Clone)]
pub(super) struct Trail {
    view: Arc<View>,
    wal: Arc<Wal>,
    /// The state directory.
    state: PathBuf,
    readers: Arc<Semaphore>,
    judge: Arc<Mutex<Option<Arc<Engine>>>>,
    strangers: Arc<Strangers>,
}

/// What is asked for; times are milliseconds since 1970.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    since: Option<u64>,
    until: Option<u64>,
    from: Option<SpiffeId>,
    workload: Option<SpiffeId>,
    service: Option<ServiceName>,
    namespace: Option<Namespace>,
    effect: Option<Effect>,
    reason: Option<Reason>,
    trace: Option<String>,
    path: Option<String>,
    kind: Option<String>,
    event: Option<EventKind>,
    limit: Option<usize>,
}

/// The routes; for the port where members prove who they are.
pub(super) fn routes(view: &Arc<View>, wal: &Arc<Wal>, state: PathBuf) -> Router {
    let trail = Trail {
        view: Arc::clone(view),
        wal: Arc::clone(wal),
        state,
        readers: Arc::new(Semaphore::new(MAX_READERS)),
        judge: Arc::default(),
        strangers: Arc::new(Strangers::new(Arc::clone(wal), Arc::clone(&view.clock))),
    };
    Router::new()
        .route("/audit/records", get(records))
        .with_state(trail)
}

async fn records(
    State(trail): State<Trail>,
    extensions: Extensions,
    headers: HeaderMap,
    RawQuery(raw): RawQuery,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let rules = trail.view.controller.token_rules();
    let reader = match asker(&extensions, &headers, &rules, trail.view.clock.now()) {
        Ok(reader) => reader,
        Err(stranger) => {
            trail.strangers.refused(stranger);
            return refused(StatusCode::UNAUTHORIZED, &stranger.to_string());
        }
    };
    let asked = match asked {
        Ok(Query(asked)) => asked,
        Err(error) => return refused(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let Ok(_turn) = trail.readers.clone().try_acquire_owned() else {
        let busy = "others read the trail now; come again";
        return refused(StatusCode::TOO_MANY_REQUESTS, busy);
    };
    let filter = raw.unwrap_or_default();
    let answered =
        tokio::task::spawn_blocking(move || trail.answer(&reader, &asked, &filter)).await;
    match answered {
        Ok(Ok(lines)) => ([(CONTENT_TYPE, "application/jsonl")], lines).into_response(),
        Ok(Err((status, what))) => refused(status, &what),
        Err(_panic) => refused(StatusCode::INTERNAL_SERVER_ERROR, "it could not be read"),
    }
}

fn refused(status: StatusCode, what: &str) -> Response {
    (status, format!("{what}\n")).into_response()
}

type Failure = (StatusCode, String);

impl Trail {
    /// The records that the reader may see, a line each, once it is on record that they are seen.
    fn answer(&self, reader: &Asker, asked: &Asked, filter: &str) -> Result<String, Failure> {
        let mesh = self.view.controller.mesh().borrow().clone();
        let mesh = mesh.ok_or_else(|| unavailable("there is no configuration yet"))?;
        let rights = Rights {
            engine: self.engine(&mesh)?,
            settings: &mesh.settings,
            reader,
            now: self.view.clock.now(),
            known: BTreeMap::new(),
        };
        let found = self.find(asked)?;
        let chosen = choose(rights, &mesh, found, asked);
        if chosen.may_nothing {
            self.note(reader, &mesh.settings, filter, &chosen, "denied")?;
            return Err((
                StatusCode::FORBIDDEN,
                "no policy permits you to read that".to_owned(),
            ));
        }
        self.note(reader, &mesh.settings, filter, &chosen, "answered")?;
        Ok(chosen.lines.concat())
    }

    /// The mesh's policies, compiled once for each set.
    fn engine(&self, mesh: &Mesh) -> Result<Arc<Engine>, Failure> {
        let mut judge = self.judge.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = judge.as_ref().filter(|e| e.mesh_hash() == mesh.policy_hash) {
            return Ok(Arc::clone(engine));
        }
        let engine = Engine::compile(&mesh.all_policies())
            .map_err(|_faults| unavailable("the policies cannot be read"))?;
        let engine = engine.in_trust_domain(mesh.settings.trust_domain.clone());
        Ok(Arc::clone(judge.insert(Arc::new(engine))))
    }

    fn find(&self, asked: &Asked) -> Result<Vec<Found>, Failure> {
        let filter = Filter {
            since: asked.since.map(UnixTime::from_millis),
            until: asked.until.map(UnixTime::from_millis),
            principal: asked.from.clone(),
            workload: asked.workload.clone(),
            service: asked.service.clone(),
            effect: asked.effect,
            reason: asked.reason,
            trace: asked.trace.clone(),
            path: asked.path.clone(),
            kind: asked.kind.clone(),
            event: asked.event,
            limit: MAX_LOOKED_THROUGH,
            ..Filter::default()
        };
        let dir = self.state.join("audit");
        let read = open_live(&dir).and_then(|reader| reader.query(&filter));
        read.map_err(|error| {
            tracing::error!(
                error = reeve_core::error_chain(&error),
                "the trail cannot be read"
            );
            unavailable("the trail cannot be read now")
        })
    }

    /// SECURITY: what cannot be recorded is not shown.
    fn note(
        &self,
        reader: &Asker,
        settings: &MeshSettings,
        filter: &str,
        chosen: &Chosen,
        outcome: &str,
    ) -> Result<(), Failure> {
        let namespaces: Vec<_> = chosen.namespaces.iter().map(Namespace::as_str).collect();
        let mut event = EventRecord::new(EventKind::LogRead);
        if let Some(member) = &reader.member {
            event = event.about(member.clone());
        }
        if let Some(user) = &reader.user {
            let redaction = Redaction::new(&settings.field_classes, [], []);
            event = event
                .with("issuer", &user.issuer)
                .with("user", redaction.subject(user));
        }
        let event = event
            .with("filter", filter)
            .with("outcome", outcome)
            .with("shown", chosen.lines.len().to_string())
            .with("withheld", chosen.withheld.to_string())
            .with("without_values", chosen.redacted.to_string())
            .with("namespaces", namespaces.join(" "));
        self.wal.append(event).map(drop).map_err(|error| {
            tracing::error!(%error, "a reading of the trail could not be recorded");
            unavailable("it cannot be recorded that the trail is read")
        })
    }
}

fn unavailable(what: &str) -> Failure {
    (StatusCode::SERVICE_UNAVAILABLE, what.to_owned())
}

/// What comes of a reading.
#[derive(Default)]
struct Chosen {
    /// Oldest first.
    lines: Vec<String>,
    namespaces: BTreeSet<Namespace>,
    withheld: usize,
    redacted: usize,
    may_nothing: bool,
}

/// The newest records that may be seen.
fn choose(mut rights: Rights<'_>, mesh: &Mesh, found: Vec<Found>, asked: &Asked) -> Chosen {
    let mut chosen = Chosen::default();
    // SECURITY: not by what was found, which would tell whether there is any.
    let root = [&mesh.settings.root_namespace];
    let all = mesh.workloads.iter().map(|workload| &workload.namespace);
    chosen.may_nothing = match &asked.namespace {
        Some(namespace) => !rights.of(namespace).records,
        None => !all
            .chain(root)
            .any(|namespace| rights.of(namespace).records),
    };
    if chosen.may_nothing {
        return chosen;
    }
    let limit = asked.limit.unwrap_or(100).clamp(1, MAX_ANSWER_RECORDS);
    for Found { mut record, .. } in found.into_iter().rev() {
        let namespace = namespace_of(&record, mesh);
        if asked
            .namespace
            .as_ref()
            .is_some_and(|wanted| *wanted != namespace)
        {
            continue;
        }
        let may = rights.of(&namespace);
        if !may.records {
            chosen.withheld += 1;
            continue;
        }
        if !may.values {
            strip(&mut record);
            chosen.redacted += 1;
        }
        if let Ok(line) = serde_json::to_string(&record) {
            chosen.lines.push(line + "\n");
            chosen.namespaces.insert(namespace);
        }
        if chosen.lines.len() >= limit {
            break;
        }
    }
    chosen.lines.reverse();
    chosen
}

/// Whose a record is: the namespace of what was asked for, or of whom or whose proxy it is about; the mesh's own are the root
/// namespace's.
fn namespace_of(record: &Record, mesh: &Mesh) -> Namespace {
    let subject = match &record.entry {
        Entry::Decision(decision) => return decision.request.resource.namespace.clone(),
        Entry::Event(event) => event
            .subject
            .as_ref()
            .and_then(|id| home(id, &mesh.settings.trust_domain)),
        Entry::Outcome(_) | Entry::Aggregate(_) => None,
    };
    let of_proxy = || Some(mesh.workload_of(&record.id.proxy)?.namespace.clone());
    subject
        .or_else(of_proxy)
        .unwrap_or_else(|| mesh.settings.root_namespace.clone())
}

/// The namespace of one of `ours`: what another trust domain calls `ns/pay` is not our `pay`.
fn home(id: &SpiffeId, ours: &TrustDomain) -> Option<Namespace> {
    let of_ours = id.trust_domain() == *ours;
    let (namespace, _) = id.namespace_and_account().filter(|_| of_ours)?;
    Some(namespace)
}

/// Takes out the values that only some may see.
fn strip(record: &mut Record) {
    match &mut record.entry {
        Entry::Decision(decision) => {
            let request = &mut decision.request;
            request.context.source_ip = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            if let Some(user) = request.user.as_mut().map(Arc::make_mut) {
                user.claims.clear();
                user.subject.clear();
            }
            if let Some(http) = &mut request.context.http {
                http.headers.clear();
                http.query.clear();
            }
            decision.redacted = Default::default();
        }
        Entry::Event(event) => {
            for name in ["address", "text"] {
                event.detail.remove(name);
            }
        }
        Entry::Outcome(_) | Entry::Aggregate(_) => {}
    }
}

/// What a reader may see of a namespace.
#[derive(Clone, Copy)]
struct May {
    records: bool,
    values: bool,
}

/// What a reader may see, asked of the policies once for each namespace.
struct Rights<'a> {
    engine: Arc<Engine>,
    settings: &'a MeshSettings,
    reader: &'a Asker,
    now: UnixTime,
    known: BTreeMap<Namespace, May>,
}

impl Rights<'_> {
    fn of(&mut self, namespace: &Namespace) -> May {
        if let Some(known) = self.known.get(namespace) {
            return *known;
        }
        let may = May {
            records: self.permits("records", namespace),
            values: self.permits("values", namespace),
        };
        self.known.insert(namespace.clone(), may);
        may
    }

    fn permits(&self, what: &str, namespace: &Namespace) -> bool {
        let root = &self.settings.root_namespace;
        let request = AccessRequest {
            principal: self.reader.principal(),
            user: self.reader.user.clone(),
            action: Action::Get,
            resource: ResourceRef {
                address: None,
                namespace: root.clone(),
                services: Vec::new(),
                workload: Some(self.settings.trust_domain.mesh_process(root)),
            },
            context: RequestContext {
                destination_ip: None,
                remote_ip: None,
                sni: None,
                source_ip: self.reader.address,
                port: 15012,
                mtls: self.reader.member.is_some(),
                time: self.now,
                http: Some(HttpContext {
                    method: "GET".to_owned(),
                    host: "audit".to_owned(),
                    path: format!("/audit/{what}/{}", namespace.as_str()),
                    grpc: None,
                    headers: BTreeMap::new(),
                    query: BTreeMap::new(),
                }),
            },
        };
        let decision = self.engine.decide(&request);
        decision.is_allow() && decision.reason == Reason::Permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_trust_domains_namespace_is_none_of_ours() {
        let ours = "mesh.local".parse().unwrap();
        let of = |id: &str| home(&id.parse().unwrap(), &ours);
        assert_eq!(
            of("spiffe://mesh.local/ns/pay/sa/a"),
            Some("pay".parse().unwrap())
        );
        assert_eq!(of("spiffe://other.org/ns/pay/sa/a"), None);
    }
}
