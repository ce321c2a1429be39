//! Inquiries: another proxy holds a request and asks whether it may go on.
//!
//! The head is read, its path normalised, its tokens verified and the policies asked by the same code as for requests of
//! our own. Whoever calls this vouches for the peer, as its listener does in the data path, and records what came of it
//! before it answers.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use reeve_audit::{AuthenticatedBy, DecisionRecordRef, Direction, LookedFor, Redacted, Redaction};
use reeve_authz::{Engine, JwtVerifier, Verified};
use reeve_core::{
    UnixTime,
    decision::{
        AccessRequest, Action, Decision, Effect, Principal, Reason, RequestContext, ResourceRef,
        User, apply_state,
    },
    model::{Generation, MtlsMode, PathNormalization, ServiceState},
};

use crate::{
    gate::{Tokens, apply_tokens},
    head::{Head, HeadError, Rest},
    headers,
    judge::http_context,
    path::PathError,
    trace,
};

/// What one generation judges by.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The policies.
    pub engine: Arc<Engine>,
    /// Which configuration they are of.
    pub generation: Generation,
    /// SHA-256 in hex of the policies held here.
    pub projection_hash: String,
    /// Headers that policies read or records keep.
    pub headers: Vec<HeaderName>,
    /// The same, and query parameters, as records say it. Whether tokens are looked for depends on the subject.
    pub looked_for: LookedFor,
    /// What records do not keep.
    pub redaction: Redaction,
    /// How paths are normalised where nobody knows what is asked for.
    pub path_normalization: PathNormalization,
}

/// What is asked for, and the rules of the place.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The workload or service.
    pub resource: ResourceRef,
    /// Whether its policies bind.
    pub state: ServiceState,
    /// Who vouches for its end users.
    pub jwt: Arc<JwtVerifier>,
    /// How paths are normalised there.
    pub path_normalization: PathNormalization,
    /// The same by port, where it differs.
    pub port_normalization: BTreeMap<u16, PathNormalization>,
}

impl Subject {
    fn normalization(&self, asker: &Asker) -> PathNormalization {
        let of_port = self.port_normalization.get(&asker.port);
        of_port.copied().unwrap_or(self.path_normalization)
    }
}

/// Who asks, as the other proxy says.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The peer's identity, proved to the other proxy.
    pub principal: Principal,
    /// Its address.
    pub address: IpAddr,
    /// The port that it asked for.
    pub port: u16,
    /// The address that it asked for.
    pub destination: Option<IpAddr>,
    /// The server that its ClientHello named.
    pub sni: Option<String>,
}

/// An inquiry answered, not yet recorded.
#[derive(Debug)]
pub struct Judged {
    access: AccessRequest,
    redacted: Redacted,
    decision: Decision,
    /// What is to be done to the request before it goes on.
    changes: Changes,
    trace_id: Option<String>,
    request_id: Option<String>,
    path_normalization: PathNormalization,
    cost_us: u64,
}

/// What is to be done to an allowed request before it goes on, by the rules of tokens and since only the mesh may say
/// some things: it was judged so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Headers that go.
    pub remove: Vec<HeaderName>,
    /// Headers whose values are replaced.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Query parameters that go.
    pub remove_query: Vec<String>,
}

/// The head cannot be read; nothing is judged, as in the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct Unreadable(HeadError);

/// Judges a request that another proxy will send on as it is.
///
/// SECURITY: since the other proxy forwards the path that it holds, one that we would have written otherwise is refused:
/// else the upstream might see another path than was judged.
pub fn judge_request(
    rules: &Rules,
    subject: &Subject,
    asker: &Asker,
    parts: Parts,
    now: UnixTime,
) -> Result<Judged, Unreadable> {
    let (mut head, error) = match Head::read(parts, subject.normalization(asker)) {
        Ok(head) => (head, None),
        Err(unreadable) => match (unreadable.error, unreadable.rest) {
            (error @ HeadError::Path(PathError::Ambiguous), Rest::AllButPath(head)) => {
                (*head, Some(error))
            }
            (error, _) => return Err(Unreadable(error)),
        },
    };
    headers::remove_hop_by_hop(&mut head.headers);
    let received = head.headers.clone();
    headers::remove_reserved(&mut head.headers);
    head.trace_id = trace::trace_id(&head.headers);
    let asked = Asked {
        rules,
        subject,
        asker,
        now,
    };
    if error.is_some() || head.path != head.raw_path {
        return Ok(asked.refuse(Some(&head), Reason::AmbiguousPath));
    }
    let Ok(verified) = subject.jwt.verify(&Tokens(&head), now) else {
        return Ok(asked.refuse(Some(&head), Reason::InvalidToken));
    };
    apply_tokens(&mut head, &verified);
    Ok(Judged {
        changes: changes(&received, &head.headers, &verified),
        ..asked.judge(Some(&head), verified.user)
    })
}

/// Refuses what was clear before the policies were asked.
pub fn refuse(
    rules: &Rules,
    resource: ResourceRef,
    asker: &Asker,
    parts: Option<Parts>,
    (reason, now): (Reason, UnixTime),
) -> Result<Judged, Unreadable> {
    let subject = Subject {
        resource,
        state: ServiceState::Enforced,
        jwt: Arc::new(JwtVerifier::compile(&[])),
        path_normalization: rules.path_normalization,
        port_normalization: BTreeMap::new(),
    };
    let asked = Asked {
        rules,
        subject: &subject,
        asker,
        now,
    };
    let head = match parts.map(|parts| Head::read(parts, rules.path_normalization)) {
        None => None,
        Some(Ok(head)) => Some(head),
        Some(Err(unreadable)) => return Err(Unreadable(unreadable.error)),
    };
    Ok(asked.refuse(head.as_ref(), reason))
}

/// Judges a connection of which nothing is read.
pub fn judge_connection(rules: &Rules, subject: &Subject, asker: &Asker, now: UnixTime) -> Judged {
    let asked = Asked {
        rules,
        subject,
        asker,
        now,
    };
    asked.judge(None, None)
}

/// What tells the head that was received from the one that was judged.
fn changes(received: &HeaderMap, judged: &HeaderMap, verified: &Verified) -> Changes {
    let gone = received.keys().filter(|name| !judged.contains_key(*name));
    // The other proxy may have headers that it did not show.
    let stripped = verified.strip_headers.iter();
    let stripped = stripped.filter_map(|name| HeaderName::try_from(name.as_str()).ok());
    let stripped = stripped.filter(|name| !judged.contains_key(name));
    let mut remove: Vec<HeaderName> = gone.cloned().chain(stripped).collect();
    remove.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    remove.dedup();
    let same = |name: &HeaderName| received.get_all(name).iter().eq(judged.get_all(name));
    let changed = judged.keys().filter(|name| !same(name));
    Changes {
        remove,
        set: changed.filter_map(|name| joined(judged, name)).collect(),
        remove_query: verified.strip_query.clone(),
    }
}

/// All lines of a header as one.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<(HeaderName, HeaderValue)> {
    let separator: &[u8] = match *name == header::COOKIE {
        true => b"; ",
        false => b", ",
    };
    let lines: Vec<&[u8]> = headers
        .get_all(name)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let value = HeaderValue::from_bytes(&lines.join(separator)).ok()?;
    Some((name.clone(), value))
}

/// A question with everything that it is answered by.
struct Asked<'a> {
    rules: &'a Rules,
    subject: &'a Subject,
    asker: &'a Asker,
    now: UnixTime,
}

impl Asked<'_> {
    fn judge(&self, head: Option<&Head>, user: Option<Arc<User>>) -> Judged {
        let started = tokio::time::Instant::now();
        let access = self.access(head, user);
        let engine = &self.rules.engine;
        let decide = || match head {
            Some(_) => engine.decide(&access),
            // SECURITY: nobody says whether it could have been read as HTTP.
            None => engine.decide_opaque(&access),
        };
        let decision = match self.subject.state {
            ServiceState::Open => Decision::without_policy(Effect::Allow, Reason::ServiceOpen),
            state @ (ServiceState::Shadow | ServiceState::Enforced) => apply_state(state, decide()),
        };
        let cost = started.elapsed().as_micros();
        self.judged(head, access, decision)
            .costing(u64::try_from(cost).unwrap_or(u64::MAX))
    }

    fn refuse(&self, head: Option<&Head>, reason: Reason) -> Judged {
        let decision = Decision::without_policy(Effect::Deny, reason);
        self.judged(head, self.access(head, None), decision)
    }

    fn judged(&self, head: Option<&Head>, access: AccessRequest, decision: Decision) -> Judged {
        Judged {
            access,
            redacted: Redacted::NONE,
            decision,
            changes: Changes::default(),
            trace_id: head.and_then(|head| head.trace_id.clone()),
            request_id: head.and_then(Head::request_id).map(str::to_owned),
            path_normalization: match head {
                Some(head) => head.normalization,
                None => self.subject.normalization(self.asker),
            },
            cost_us: 0,
        }
    }

    fn access(&self, head: Option<&Head>, user: Option<Arc<User>>) -> AccessRequest {
        let asker = self.asker;
        AccessRequest {
            principal: asker.principal.clone(),
            user,
            action: head.map_or(Action::Connect, |head| {
                Action::from_method(head.method.as_str())
            }),
            resource: self.subject.resource.clone(),
            context: RequestContext {
                destination_ip: asker.destination,
                remote_ip: None,
                sni: asker.sni.as_deref().map(Into::into),
                source_ip: asker.address,
                port: asker.port,
                mtls: asker.principal.spiffe_id().is_some(),
                time: self.now,
                http: head
                    .map(|head| http_context(head, self.rules.engine.needs(), &self.rules.headers)),
            },
        }
    }
}

impl Judged {
    fn costing(self, cost_us: u64) -> Self {
        Self { cost_us, ..self }
    }

    /// What was decided.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// What is to be done to the request if it is allowed.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Its record, made under `rules`. What must not be recorded is taken out of the question first.
    pub fn record<'a>(&'a mut self, rules: &'a Rules) -> DecisionRecordRef<'a> {
        self.redacted = rules.redaction.apply(&mut self.access);
        let authenticated = self.access.principal.spiffe_id().is_some();
        DecisionRecordRef {
            request: &self.access,
            decision: &self.decision,
            authenticated_by: match authenticated {
                true => AuthenticatedBy::ExtAuthz,
                false => AuthenticatedBy::Nothing,
            },
            direction: Direction::Inbound,
            generation: Some(rules.generation),
            policy_hash: rules.engine.mesh_hash(),
            projection_hash: &rules.projection_hash,
            looked_for: &rules.looked_for,
            redacted: &self.redacted,
            mtls_mode: MtlsMode::Disable,
            strict_would_refuse: !authenticated,
            path_normalization: self.path_normalization,
            trace_id: self.trace_id.as_deref(),
            request_id: self.request_id.as_deref(),
            transformations: &[],
            cost_us: self.cost_us,
        }
    }
}
