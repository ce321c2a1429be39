//! `reeve policy who-can` and `reeve policy can-reach`.

mod change;
mod condition;
mod graph;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use reeve_authz::{Engine, Explanation, PolicyVerdict, Verdict as PolicyAnswer};
use reeve_control::{LocalWorkload, Mesh, Service};
use reeve_core::{
    Clock as _, PolicyId, SpiffeId, SystemClock, UnixTime,
    decision::{
        AccessRequest, Action, Effect, HttpContext, Principal, RequestContext, ResourceRef, User,
    },
    model::PolicyMode,
};
use serde::Serialize;

pub(super) use self::change::{AccessChange, changes};
use self::condition::{Condition, Conditions};
use super::{
    explain::{self, full_name, pair},
    place,
};
use crate::{
    output,
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
};

pub(super) const WHO_CAN_EXAMPLES: &str = "\
Examples:
  reeve policy who-can reviews -f mesh                           who could, by any method, and on what conditions
  reeve policy who-can reviews -f mesh --method GET --path /reviews/0
  reeve policy who-can spiffe://mesh.local/ns/default/sa/ingress -f mesh -o json
  reeve policy who-can ratings --method POST                     of the running mesh
  reeve policy who-can ratings --issuer https://issuer.example --claim roles=editor
  reeve policy who-can reviews -f mesh -o svg > who-can-reviews.svg

Each identity of the mesh, and `unauthenticated`, is asked about with each method, on one path (and header, port, user).
`yes` is the engine's answer to just that; `if` means that it denies, but only because of conditions, which are shown (such
as an end user with a certain claim); `unless` and `only` name a forbid. Without --folder, the folder of the running mesh is
meant. The policies are judged as if every service were enforced; PeerAuthentication and routes are not looked at.

A picture: -o svg for browsers, -o mermaid for Markdown (GitHub, GitLab), -o dot for Graphviz; dashed lines are `if`.

Exit codes: 0 = somebody can, 1 = nobody can, 2 = it could not be said.";

pub(super) const CAN_REACH_EXAMPLES: &str = "\
Examples:
  reeve policy can-reach spiffe://mesh.local/ns/default/sa/bookinfo-productpage -f mesh
  reeve policy can-reach unauthenticated -f mesh --method GET --path /productpage -o json
  reeve policy can-reach spiffe://mesh.local/ns/default/sa/bookinfo-productpage -o mermaid

The answers are those of `reeve policy who-can`, for each service and each workload of the mesh.

Exit codes: 0 = it can reach something, 1 = nothing, 2 = it could not be said.";

/// What of HTTP is asked about unless methods are named.
const METHODS: [Action; 6] = [
    Action::Get,
    Action::Head,
    Action::Post,
    Action::Put,
    Action::Patch,
    Action::Delete,
];

/// `reeve policy who-can`.
#[derive(Args, Debug)]
pub(super) struct WhoCanArgs {
    /// A service (`reviews`, `reviews.shop`), or a workload's SPIFFE ID.
    #[arg(value_name = "SERVICE")]
    target: String,
    #[command(flatten)]
    asked: AskedArgs,
}

/// `reeve policy can-reach`.
#[derive(Args, Debug)]
pub(super) struct CanReachArgs {
    /// A SPIFFE ID, or `unauthenticated`.
    #[arg(value_name = "IDENTITY")]
    identity: String,
    #[command(flatten)]
    asked: AskedArgs,
}

/// What is asked about each pair.
#[derive(Args, Debug, Default)]
struct AskedArgs {
    /// The folder of YAML files [default: the running mesh's].
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: Option<PathBuf>,
    /// A method, `other` or `connect`; repeat for several. By default, those that the target's ports speak.
    #[arg(long, value_name = "METHOD")]
    method: Vec<Action>,
    /// The path.
    #[arg(long, default_value = "/")]
    path: String,
    /// A header, as NAME=VALUE; repeat for several.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    header: Vec<(String, String)>,
    /// The port; by default, the target's first one.
    #[arg(long)]
    port: Option<u16>,
    /// A claim of the end user, as NAME=VALUE; repeat for several. Without any of these three, there is no user.
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    claim: Vec<(String, String)>,
    /// The issuer of the end user's token.
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
    /// The subject of the end user's token.
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    #[command(flatten)]
    state: StateArgs,
    /// How to print the answer.
    #[arg(short = 'o', long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Form,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A table.
    #[default]
    #[value(alias = "table")]
    Human,
    /// For programs.
    Json,
    /// A picture that browsers show.
    Svg,
    /// A flowchart for Markdown.
    Mermaid,
    /// A graph for Graphviz.
    Dot,
}

/// Parses `NAME=VALUE`; claims are case-sensitive.
fn claim(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Who can do what to whom.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Access {
    caller: String,
    /// The services that the workload is behind.
    services: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<SpiffeId>,
    methods: Vec<Action>,
    answer: Can,
    /// The policies that permit it.
    policies: Vec<PolicyId>,
    /// What else would have to hold (`if`), or might keep it from being allowed (`yes`).
    conditions: Vec<Condition>,
}

/// Whether it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Can {
    Yes,
    If,
    No,
}

pub(super) fn who_can(args: &WhoCanArgs) -> Verdict {
    let survey = Survey::new(&args.asked)?;
    let targets = survey.targets(&args.target)?;
    survey.tell(&survey.callers(), &targets, "nobody can")
}

pub(super) fn can_reach(args: &CanReachArgs) -> Verdict {
    let survey = Survey::new(&args.asked)?;
    let caller = explain::principal(&args.identity)?;
    if let Principal::Workload(id) = &caller
        && !survey.identities().contains(id)
    {
        output::note(&format!("note: no workload of the mesh is {id}"));
    }
    survey.tell(&[caller], &survey.all_targets(), "it can reach nothing")
}

/// What can be asked for, and how.
struct Target {
    resource: ResourceRef,
    /// Action → port.
    asked: Vec<(Action, u16)>,
}

struct Survey<'a> {
    args: &'a AskedArgs,
    mesh: Mesh,
    engine: Engine,
    conditions: Conditions,
    time: UnixTime,
}

impl<'a> Survey<'a> {
    fn new(args: &'a AskedArgs) -> Result<Self, Problem> {
        let (mesh, folder) = place::mesh(args.folder.as_deref(), &args.state)?;
        Self::of(args, mesh, &folder)
    }

    fn of(args: &'a AskedArgs, mesh: Mesh, folder: &Path) -> Result<Self, Problem> {
        let engine = explain::engine(&mesh, folder)?;
        Ok(Self {
            conditions: Conditions::of(&engine),
            engine,
            mesh,
            args,
            time: SystemClock.now(),
        })
    }

    /// Every identity of the mesh, and nobody known.
    fn callers(&self) -> Vec<Principal> {
        let workloads = self.identities().into_iter().map(Principal::Workload);
        workloads.chain([Principal::Unauthenticated]).collect()
    }

    fn identities(&self) -> BTreeSet<SpiffeId> {
        let workloads = self.mesh.workloads.iter();
        workloads.filter_map(|w| w.identity.clone()).collect()
    }

    /// The workloads that `text` names: each that differs in identity or services.
    fn targets(&self, text: &str) -> Result<Vec<Target>, Problem> {
        if let Ok(id) = SpiffeId::parse(text) {
            let found = self
                .mesh
                .workloads
                .iter()
                .filter(|w| w.identity.as_ref() == Some(&id));
            let found = distinct(found.map(|w| self.workload(w)));
            return match found.is_empty() {
                true => Err(Problem::new(format!("no workload of the mesh is {id}"))),
                false => Ok(found),
            };
        }
        let host = full_name(text);
        let service = self
            .mesh
            .services
            .values()
            .find(|s| s.host.as_str() == host);
        match service {
            Some(service) => Ok(self.behind(service)),
            // It says which there are.
            None => explain::resource(text, &self.mesh).map(|_| Vec::new()),
        }
    }

    fn all_targets(&self) -> Vec<Target> {
        let behind = self.mesh.services.values().flat_map(|s| self.behind(s));
        let alone = self.mesh.workloads.iter().map(|w| self.workload(w));
        distinct(behind.chain(alone).collect::<Vec<_>>().into_iter())
    }

    fn behind(&self, service: &Service) -> Vec<Target> {
        let selected = self.mesh.workloads.iter().filter(|w| service.selects(w));
        let found = distinct(selected.map(|w| self.workload(w)));
        if !found.is_empty() {
            return found;
        }
        let resource = ResourceRef {
            address: None,
            namespace: service.namespace.clone(),
            services: vec![service.host.clone()],
            workload: None,
        };
        let ports = service.ports.iter().map(|p| (p.port, p.protocol.is_http()));
        vec![self.target(resource, ports.collect())]
    }

    fn workload(&self, workload: &LocalWorkload) -> Target {
        let services = self.mesh.services.values().filter(|s| s.selects(workload));
        let services: Vec<_> = services.collect();
        let served = services
            .iter()
            .flat_map(|s| s.ports.iter().map(|p| (p.port, p.protocol)));
        let own = workload.ports.iter().map(|p| (p.port, p.protocol));
        let ports = served
            .chain(own)
            .map(|(port, protocol)| (port, protocol.is_http()));
        let resource = ResourceRef {
            address: None,
            namespace: workload.namespace.clone(),
            services: services.iter().map(|s| s.host.clone()).collect(),
            workload: workload.identity.clone(),
        };
        self.target(resource, ports.collect())
    }

    fn target(&self, resource: ResourceRef, ports: Vec<(u16, bool)>) -> Target {
        let first = |http| {
            ports
                .iter()
                .find(|(_, is)| *is == http)
                .map(|(port, _)| *port)
        };
        let mut actions = self.args.method.clone();
        if actions.is_empty() {
            if first(true).is_some() || ports.is_empty() {
                actions.extend(METHODS);
            }
            if first(false).is_some() {
                actions.push(Action::Connect);
            }
        }
        let port = |action: Action| {
            let own = first(action != Action::Connect).or(ports.first().map(|(port, _)| *port));
            self.args.port.or(own).unwrap_or(80)
        };
        Target {
            asked: actions
                .into_iter()
                .map(|action| (action, port(action)))
                .collect(),
            resource,
        }
    }

    fn tell(&self, callers: &[Principal], targets: &[Target], none: &str) -> Verdict {
        let mut all = Vec::new();
        for (caller, target) in callers
            .iter()
            .flat_map(|c| targets.iter().map(move |t| (c, t)))
        {
            all.extend(self.access(caller, target));
        }
        match self.args.output {
            Form::Json => output::json(&all)?,
            Form::Svg => output::line(&graph::svg(&all))?,
            Form::Mermaid => output::line(&graph::mermaid(&all))?,
            Form::Dot => output::line(&graph::dot(&all))?,
            Form::Human if all.is_empty() => output::line(none)?,
            Form::Human => {
                let mut table =
                    output::plain_table(["CALLER", "TARGET", "METHODS", "ANSWER", "POLICIES"]);
                for access in &all {
                    table.add_row(access.row());
                }
                output::line(&table.to_string())?;
            }
        }
        Ok(Answer::from_fine(!all.is_empty()))
    }

    /// What `caller` can do to `target`, methods with the same answer together.
    fn access(&self, caller: &Principal, target: &Target) -> Vec<Access> {
        let mut all: Vec<Access> = Vec::new();
        for (action, port) in &target.asked {
            let request = self.request(caller, target, *action, *port);
            let (answer, policies, conditions) =
                judged(&self.engine.explain(&request), &self.conditions);
            let same = |a: &&mut Access| {
                a.answer == answer && a.policies == policies && a.conditions == conditions
            };
            if answer == Can::No {
                continue;
            }
            if let Some(known) = all.iter_mut().find(same) {
                known.methods.push(*action);
                continue;
            }
            all.push(Access {
                caller: caller.to_string(),
                services: target
                    .resource
                    .services
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                workload: target.resource.workload.clone(),
                methods: vec![*action],
                answer,
                policies,
                conditions,
            });
        }
        all
    }

    fn request(
        &self,
        caller: &Principal,
        target: &Target,
        action: Action,
        port: u16,
    ) -> AccessRequest {
        let mut headers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, value) in &self.args.header {
            headers
                .entry(name.clone())
                .or_default()
                .insert(value.clone());
        }
        let host = target.resource.services.first().map(ToString::to_string);
        let http = (action != Action::Connect).then(|| HttpContext {
            grpc: None,
            headers,
            host: host.unwrap_or_default(),
            method: action.as_str().to_owned(),
            path: self.args.path.clone(),
            query: BTreeMap::new(),
        });
        AccessRequest {
            action,
            context: RequestContext {
                destination_ip: None,
                remote_ip: None,
                sni: None,
                http,
                mtls: caller.spiffe_id().is_some(),
                port,
                source_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
                time: self.time,
            },
            principal: caller.clone(),
            resource: target.resource.clone(),
            user: self.user().filter(|_| action != Action::Connect),
        }
    }

    /// The end user that is asked about.
    fn user(&self) -> Option<Arc<User>> {
        let AskedArgs {
            claim,
            issuer,
            subject,
            ..
        } = self.args;
        if claim.is_empty() && issuer.is_none() && subject.is_none() {
            return None;
        }
        let mut claims: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, value) in claim {
            claims
                .entry(name.clone())
                .or_default()
                .insert(value.clone());
        }
        Some(Arc::new(User {
            claims,
            expires_at: None,
            issuer: issuer.clone().unwrap_or_default(),
            subject: subject.clone().unwrap_or_default(),
        }))
    }
}

fn distinct(targets: impl Iterator<Item = Target>) -> Vec<Target> {
    let mut all: Vec<Target> = Vec::new();
    for target in targets {
        match all
            .iter_mut()
            .find(|known| known.resource == target.resource)
        {
            None => all.push(target),
            Some(known) => {
                let new = target.asked.into_iter();
                let new = new.filter(|(action, _)| known.asked.iter().all(|(a, _)| a != action));
                let new: Vec<_> = new.collect();
                known.asked.extend(new);
            }
        }
    }
    all
}

/// What an explanation says of requests like the one that was asked: with the same scope, and any conditions.
fn judged(
    explanation: &Explanation,
    conditions: &Conditions,
) -> (Can, Vec<PolicyId>, Vec<Condition>) {
    let in_scope = |p: &&PolicyVerdict| {
        p.mode == PolicyMode::Enforce && p.is_in_scope() && !p.is_out_of_reach()
    };
    let (permits, forbids): (Vec<_>, Vec<_>) = explanation
        .policies
        .iter()
        .filter(in_scope)
        .partition(|p| p.effect == Effect::Allow);
    let condition = |p: &&PolicyVerdict| conditions.of_policy(p);
    if explanation.decision.is_allow() {
        let policies = explanation.decision.policies.clone();
        return (Can::Yes, policies, forbids.iter().map(condition).collect());
    }
    let always =
        |p: &&PolicyVerdict| p.verdict == PolicyAnswer::Satisfied && conditions.are_none(&p.id);
    if permits.is_empty() || forbids.iter().any(always) {
        return (Can::No, Vec::new(), Vec::new());
    }
    // With a permit that applies, only the forbids stand in the way; without, its own conditions, too.
    let applies = |p: &&PolicyVerdict| p.verdict == PolicyAnswer::Satisfied;
    let policies = permits
        .iter()
        .filter(|p| applies(p))
        .map(|p| p.id.clone())
        .collect();
    let wanting = permits.iter().filter(|p| !applies(p));
    let conditions = wanting.chain(&forbids).map(condition).collect();
    (Can::If, policies, conditions)
}

impl Access {
    fn row(&self) -> [String; 5] {
        let policies = self.policies.iter().map(ToString::to_string);
        let conditions = self.conditions.iter().map(ToString::to_string);
        let why: Vec<_> = policies.chain(conditions).collect();
        [
            self.caller.clone(),
            self.target(),
            self.methods(),
            self.answer.as_str().to_owned(),
            why.join("\n"),
        ]
    }

    fn target(&self) -> String {
        let services = self.services.join(", ");
        match &self.workload {
            Some(workload) if services.is_empty() => workload.to_string(),
            Some(workload) => format!("{services} ({workload})"),
            None => services,
        }
    }

    fn methods(&self) -> String {
        let methods: Vec<_> = self.methods.iter().map(|m| m.as_str()).collect();
        methods.join(" ")
    }
}

impl Can {
    fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::If => "if",
            Self::No => "no",
        }
    }
}

#[cfg(test)]
mod tests;
