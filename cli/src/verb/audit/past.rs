//! `reeve audit replay` and `reeve audit who-could`: the trail asked again by the policies of its time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64},
};

use clap::Args;
use reeve_analysis::{Again, Candidate, Place, Places, Sets, Wanted, again};
use reeve_audit::{EventKind, Reader, query::Filter};
use reeve_authz::{Engine, Explanation};
use reeve_core::{
    Clock, ServiceName, SpiffeId, SystemClock, UnixTime,
    decision::{
        AccessRequest, Action, Effect, HttpContext, Principal, Reason, RequestContext, ResourceRef,
    },
    model::{PolicyMode, PolicySlice, ServiceState},
};
use serde::Serialize;

use super::read::{LogArgs, broken, unreadable};
use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    supervisor::logfile::timestamp,
    verb::policy::full_name,
};

pub(super) const REPLAY_EXAMPLES: &str = "\
Examples:
  reeve audit replay                       every decision in the log, by the policies that it rested on
  reeve audit replay --since 24h --service reviews
  reeve audit replay --dir backup/audit -o json | jq .differences

Each decision is asked again of the policy set that its record names, as the log's blobs keep it, at the time of the record.
The same must come out: effect, reason and policies. Undetermined is what depends on what the record lacks.

Exit codes: 0 = nothing came out otherwise, 1 = something did, 2 = the log could not be read.";

pub(super) const WHO_COULD_EXAMPLES: &str = "\
Examples:
  reeve audit who-could reviews --at 2026-11-01T12:00:00Z
  reeve audit who-could ratings --at 7d --path /ratings/7 -o json

The policy set in force at that time is asked, for each identity that the log knew by then and for `unauthenticated`, with
each method. `if` is what is denied only because of conditions of a permit. The service's workload and port are those of its last
recorded decision before that time.

Exit codes: 0 = somebody could, 1 = nobody could, 2 = it could not be said.";

/// Identities that are asked about.
const MAX_CALLERS: usize = 10_000;
/// Policy sets that are compiled for one replay.
const MAX_SETS: usize = 256;
/// The parts of a policy before its conditions: principal, action, resource.
const SCOPE: usize = 3;
/// What of HTTP is asked about.
const METHODS: [Action; 6] = [
    Action::Get,
    Action::Head,
    Action::Post,
    Action::Put,
    Action::Patch,
    Action::Delete,
];

/// `reeve audit replay`.
#[derive(Args, Debug)]
pub(super) struct ReplayArgs {
    /// Not before this time: RFC 3339, seconds since 1970, or 5m for five minutes ago.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The service asked (`reviews`, `reviews.shop`).
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// `reeve audit who-could`.
#[derive(Args, Debug)]
pub(super) struct WhoCouldArgs {
    /// A service (`reviews`, `reviews.shop`).
    #[arg(value_name = "SERVICE")]
    service: String,
    /// When: RFC 3339, seconds since 1970, or 7d for seven days ago.
    #[arg(long, value_name = "TIME")]
    at: String,
    /// The path.
    #[arg(long, default_value = "/")]
    path: String,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    output: OutputArgs,
}

fn time(text: &str) -> Result<UnixTime, Problem> {
    input::time(text, SystemClock.now()).map_err(Problem::new)
}

fn service(text: &str) -> Result<ServiceName, Problem> {
    ServiceName::parse(&full_name(text)).map_err(Problem::new)
}

/// Records themselves say which state a service was in.
#[derive(Debug)]
struct Enforced;

impl Places for Enforced {
    fn place(&self, _resource: &ResourceRef, _port: u16) -> Place {
        Place {
            state: ServiceState::Enforced,
            http: false,
            tokens: true,
        }
    }
}

pub(super) fn replay(args: &ReplayArgs) -> Verdict {
    let wanted = Wanted {
        since: args.since.as_deref().map(time).transpose()?,
        until: args.until.as_deref().map(time).transpose()?,
        service: args.service.as_deref().map(service).transpose()?,
        ..Wanted::default()
    };
    let reader = args.log.open()?;
    let sets = sets(&reader)?;
    let scan = reader.scan(wanted.since).map_err(|e| unreadable(&e))?;
    let found = again(&scan, &wanted, &sets, &AtomicU64::new(0)).map_err(|e| broken(&e))?;
    args.log.tell(found.decisions);
    match args.output.output {
        Format::Json => output::json(&found)?,
        Format::Human => output::line(&described(&found))?,
    }
    Ok(Answer::from_fine(found.different == 0))
}

/// Every policy set that the log keeps, by its hash.
fn sets(reader: &Reader) -> Result<Sets, Problem> {
    let mut sets = Sets::new();
    for configuration in reader.configurations().map_err(|e| unreadable(&e))? {
        let hash = configuration.policy_hash;
        if sets.contains_key(&hash) || sets.len() >= MAX_SETS {
            continue;
        }
        let blob = configuration.policy_set.and_then(|blob| reader.blob(&blob));
        if let Some(engine) = blob.as_deref().and_then(engine) {
            sets.insert(hash, Arc::new(Candidate::new(engine, Box::new(Enforced))));
        }
    }
    Ok(sets)
}

fn engine(set: &str) -> Option<Engine> {
    Engine::compile(&serde_json::from_str::<PolicySlice>(set).ok()?).ok()
}

fn described(found: &Again) -> String {
    let mut lines: Vec<_> = (found.differences.iter())
        .map(|d| format!("{} {}: was {}, is {}", timestamp(d.time), d.id, d.was, d.is))
        .collect();
    let missing = found.missing.iter();
    lines.extend(
        missing.map(|(what, count)| format!("{count} depend on {what}, which the record lacks")),
    );
    lines.push(format!(
        "{} decisions: {} the same, {} different, {} undetermined, {} not decided by policies, {} whose policy set is not in the log",
        found.decisions,
        found.same,
        found.different,
        found.undetermined,
        found.not_by_policy,
        found.without_policies
    ));
    lines.join("\n")
}

/// A caller's methods with one answer.
#[derive(Debug, Serialize)]
struct Could {
    caller: String,
    answer: &'static str,
    methods: Vec<Action>,
    policies: Vec<String>,
}

/// What is asked about.
struct Then {
    at: UnixTime,
    resource: ResourceRef,
    port: u16,
    mtls: bool,
    http: bool,
}

pub(super) fn who_could(args: &WhoCouldArgs) -> Verdict {
    let (at, service) = (time(&args.at)?, service(&args.service)?);
    let reader = args.log.open()?;
    let configuration = reader.configuration_at(at).map_err(|e| unreadable(&e))?;
    let configuration = configuration.ok_or_else(|| {
        Problem::new("the log tells of no configuration in force at that time")
            .fix("`reeve audit query --event config_applied` shows which there were")
    })?;
    let blob = configuration
        .policy_set
        .as_deref()
        .and_then(|blob| reader.blob(blob));
    let engine = blob.as_deref().and_then(engine).ok_or_else(|| {
        Problem::new(format!(
            "the log does not keep the policy set {}",
            configuration.policy_hash
        ))
    })?;
    let then = then(&reader, &service, at)?;
    let mut could = Vec::new();
    for caller in callers(&reader, at)? {
        could.extend(asked(&engine, &then, &caller, &args.path));
    }
    args.log.tell(could.len());
    match args.output.output {
        Format::Json => output::json(&serde_json::json!({
            "at": at, "configuration": configuration, "service": service, "could": could,
        }))?,
        Format::Human => {
            let mut table = output::plain_table(["CALLER", "COULD", "METHODS", "POLICIES"]);
            for row in &could {
                let methods: Vec<_> = row.methods.iter().map(|m| m.as_str()).collect();
                let (methods, policies) = (methods.join(","), row.policies.join(", "));
                table.add_row([row.caller.as_str(), row.answer, &methods, &policies]);
            }
            output::line(&format!(
                "{service} at {}, under generation {} and policy set {}\n{table}",
                timestamp(at),
                configuration.generation,
                configuration.policy_hash
            ))?;
        }
    }
    Ok(Answer::from_fine(!could.is_empty()))
}

/// The service as its last decision before then has it.
fn then(reader: &Reader, service: &ServiceName, at: UnixTime) -> Result<Then, Problem> {
    let filter = Filter {
        service: Some(service.clone()),
        until: Some(at),
        limit: 1,
        ..Filter::default()
    };
    let last = reader.query(&filter).map_err(|e| unreadable(&e))?.pop();
    let decision = last
        .as_ref()
        .and_then(|found| found.record.entry.as_decision());
    let decision = decision.ok_or_else(|| {
        Problem::new(format!("nobody had asked {service} before that time"))
            .fix("name a service as decisions have it, and a time after its first request")
    })?;
    let request = &decision.request;
    Ok(Then {
        at,
        resource: request.resource.clone(),
        port: request.context.port,
        mtls: true,
        http: request.context.http.is_some(),
    })
}

/// Every identity that the log knew by then, and nobody.
fn callers(reader: &Reader, at: UnixTime) -> Result<Vec<Principal>, Problem> {
    let mut known: BTreeSet<SpiffeId> = BTreeSet::new();
    for (event, kind) in [
        (Some(EventKind::IdentityIssued), "event"),
        (None, "decision"),
    ] {
        let filter = Filter {
            event,
            kind: Some(kind.to_owned()),
            until: Some(at),
            ..Filter::default()
        };
        for found in reader.query(&filter).map_err(|e| unreadable(&e))? {
            let subject = match &found.record.entry {
                reeve_audit::Entry::Event(event) => event.subject.clone(),
                reeve_audit::Entry::Decision(d) => d.request.principal.spiffe_id().cloned(),
                reeve_audit::Entry::Outcome(_) | reeve_audit::Entry::Aggregate(_) => None,
            };
            known.extend(subject.filter(|_| known.len() < MAX_CALLERS));
        }
    }
    let known = known.into_iter().map(Principal::Workload);
    Ok(known.chain([Principal::Unauthenticated]).collect())
}

/// What a caller could, by answer and policies.
fn asked(engine: &Engine, then: &Then, caller: &Principal, path: &str) -> Vec<Could> {
    let actions = if then.http {
        METHODS.as_slice()
    } else {
        &[Action::Connect]
    };
    let mut answers: BTreeMap<(&'static str, Vec<String>), Vec<Action>> = BTreeMap::new();
    for action in actions {
        let http = HttpContext {
            grpc: None,
            headers: BTreeMap::new(),
            host: then
                .resource
                .services
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
            method: action.as_str().to_owned(),
            path: path.to_owned(),
            query: BTreeMap::new(),
        };
        let request = AccessRequest {
            action: *action,
            context: RequestContext {
                destination_ip: None,
                remote_ip: None,
                sni: None,
                http: then.http.then_some(http),
                mtls: then.mtls && caller.spiffe_id().is_some(),
                port: then.port,
                source_ip: std::net::Ipv4Addr::LOCALHOST.into(),
                time: then.at,
            },
            principal: caller.clone(),
            resource: then.resource.clone(),
            user: None,
        };
        if let Some(answer) = answer(&engine.explain(&request)) {
            answers.entry(answer).or_default().push(*action);
        }
    }
    let could = answers
        .into_iter()
        .map(|((answer, policies), methods)| Could {
            caller: caller.to_string(),
            answer,
            methods,
            policies,
        });
    could.collect()
}

/// `yes` with what permits it; `if` with permits of which only conditions do not hold.
fn answer(explanation: &Explanation) -> Option<(&'static str, Vec<String>)> {
    let decision = &explanation.decision;
    if decision.is_allow() {
        let by = decision.policies.iter().map(ToString::to_string).collect();
        return Some(("yes", by));
    }
    if decision.reason != Reason::NoPermit {
        return None;
    }
    let near = explanation.policies.iter().filter(|policy| {
        let binds = policy.effect == Effect::Allow && policy.mode == PolicyMode::Enforce;
        binds && policy.resource_fits && (SCOPE..policy.parts).contains(&policy.matched)
    });
    let near: Vec<_> = near.map(|policy| policy.id.to_string()).collect();
    (!near.is_empty()).then_some(("if", near))
}
