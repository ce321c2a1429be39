//! `reeve policy explain`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use clap::Args;
use reeve_audit::query::Explained;
use reeve_authz::{Engine, Explanation};
use reeve_control::Mesh;
use reeve_core::{
    Clock, Namespace, ServiceName, SpiffeId, SystemClock,
    decision::{AccessRequest, Action, HttpContext, Principal, RequestContext, ResourceRef},
    model::PolicySlice,
};

use serde::Serialize;

use super::{place, told};
use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    supervisor::load,
    verb::audit::{self, LogArgs},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy explain d-04005m…                       a decision of the running mesh: what decided, what came closest
  reeve policy explain d-04005m… -f mesh               and what the policies of a folder say of the same request now
  reeve policy explain -f mesh --from spiffe://mesh.local/ns/default/sa/web --to reviews --path /reviews/0
  reeve policy explain -f mesh --from unauthenticated --to ratings --action POST --header end-user=jason
  reeve audit query -o json | jq -c .request | reeve policy explain -f mesh -o json --requests -

Without --folder, the folder of the running mesh is meant. A denial is shown with the permits that came closest: the first
part of each that did not hold, and the values that it looked at.
The policies are judged as if every service were enforced; `reeve route explain` says what a service's state makes of it.

Exit codes: 0 = every request is allowed, 1 = one is denied, or there is no such decision, 2 = it could not be said.";

/// `reeve policy explain`.
#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// A recorded decision: its record's id, or the opaque id that the caller got.
    #[arg(value_name = "DECISION_ID", conflicts_with_all = ["requests", "from", "to"])]
    decision: Option<String>,
    /// The folder of YAML files [default: the running mesh's].
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Say of a recorded decision's request, too, what the policies of the running mesh's folder make of it now.
    #[arg(long, requires = "decision")]
    now: bool,
    /// A file of requests as the audit records hold them (JSON, one per line), or - for standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to"])]
    requests: Option<PathBuf>,
    /// Who asks: a SPIFFE ID, or `unauthenticated`.
    #[arg(long, value_name = "SPIFFE_ID", required_unless_present_any = ["requests", "decision"])]
    from: Option<String>,
    /// Whom: a service (`reviews`, `reviews.shop`), or a workload's SPIFFE ID.
    #[arg(long, value_name = "SERVICE", required_unless_present_any = ["requests", "decision"])]
    to: Option<String>,
    /// What for: an HTTP method, `other` or `connect`.
    #[arg(long, default_value = "GET")]
    action: Action,
    /// The path.
    #[arg(long, default_value = "/")]
    path: String,
    /// The port.
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// A header, as NAME=VALUE; repeat for several.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    header: Vec<(String, String)>,
    /// The caller's address.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    source_ip: IpAddr,
    /// The client's address, where a trusted proxy says another one.
    #[arg(long, value_name = "IP")]
    remote_ip: Option<IpAddr>,
    /// The address that the connection was made to.
    #[arg(long, value_name = "IP")]
    destination_ip: Option<IpAddr>,
    /// The server name in the connection's ClientHello.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Parses `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}

/// The namespace of policies for the whole mesh, where no `MeshConfig` names another.
pub(super) fn root_namespace() -> Result<Namespace, Problem> {
    Namespace::parse("reeve-system").map_err(Problem::new)
}

pub(super) fn run(args: &ExplainArgs) -> Verdict {
    if let Some(id) = &args.decision {
        return recorded(args, id);
    }
    let folder = place::folder(args.folder.as_deref(), args.log.state())?;
    let mesh = load(&folder)?;
    let engine = engine(&mesh, &folder)?;
    let requests = match &args.requests {
        Some(file) => input::json_values(file)?,
        None => vec![from_flags(args, &mesh)?],
    };
    let mut all_allowed = true;
    for request in &requests {
        let explanation = engine.explain(request);
        all_allowed &= explanation.decision.is_allow();
        match args.output.output {
            Format::Json => output::json_line(&explanation)?,
            Format::Human => output::line(&told::explanation(&explanation))?,
        }
    }
    Ok(Answer::from_fine(all_allowed))
}

/// A recorded decision, as it was made and as it would be made now.
#[derive(Serialize)]
struct Recorded<'a> {
    #[serde(flatten)]
    explained: &'a Explained,
    /// What the policies of then said; absent if they are not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    then: Option<Explanation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<Explanation>,
}

fn recorded(args: &ExplainArgs, id: &str) -> Verdict {
    let Some(explained) = audit::explained(&args.log, id)? else {
        return Ok(Answer::No);
    };
    let entry = &explained.found.record.entry;
    let decision = entry.as_decision().ok_or_else(|| {
        Problem::new(format!("{id} is no decision")).fix("`reeve audit show` shows the record")
    })?;
    let now = match (&args.folder, args.now) {
        (None, false) => None,
        (folder, _) => {
            let folder = place::folder(folder.as_deref(), args.log.state())?;
            let engine = engine(&load(&folder)?, &folder)?;
            Some(engine.explain(&decision.request))
        }
    };
    match args.output.output {
        Format::Human => {
            output::line(&audit::in_words(&explained))?;
            if let Some(now) = &now {
                output::line(&format!("now      {}", told::explanation(now)))?;
            }
        }
        Format::Json => {
            let policies = explained.policies.as_deref();
            output::json_line(&Recorded {
                then: policies.and_then(|set| told::by_recorded(set, &decision.request)),
                explained: &explained,
                now,
            })?;
        }
    }
    Ok(Answer::from_fine(decision.decision.is_allow()))
}

/// The data path's engine with all policies of `mesh`, which was read from `folder`.
pub(super) fn engine(mesh: &Mesh, folder: &Path) -> Result<Engine, Problem> {
    let engine = compiled(&mesh.all_policies(), folder)?;
    Ok(engine.in_trust_domain(mesh.settings.trust_domain.clone()))
}

/// The engine with these policies, which stand at `place`.
pub(super) fn compiled(slice: &PolicySlice, place: &Path) -> Result<Engine, Problem> {
    Engine::compile(slice).map_err(|faults| {
        let faults: Vec<_> = faults
            .iter()
            .map(|f| format!("{}: {}", f.policy, f.message))
            .collect();
        Problem::new(faults.join("\n"))
            .at(place.display())
            .into_answer()
    })
}

fn from_flags(args: &ExplainArgs, mesh: &Mesh) -> Result<AccessRequest, Problem> {
    let principal = principal(args.from.as_deref().unwrap_or("unauthenticated"))?;
    let resource = resource(args.to.as_deref().unwrap_or_default(), mesh)?;
    let host = resource.services.first().map(ToString::to_string);
    let mut headers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, value) in &args.header {
        headers
            .entry(name.clone())
            .or_default()
            .insert(value.clone());
    }
    let http = (args.action != Action::Connect).then(|| HttpContext {
        method: args.action.as_str().to_owned(),
        host: host.unwrap_or_default(),
        path: args.path.clone(),
        grpc: None,
        headers,
        query: BTreeMap::new(),
    });
    Ok(AccessRequest {
        context: RequestContext {
            destination_ip: args.destination_ip,
            remote_ip: args.remote_ip,
            sni: args
                .sni
                .as_ref()
                .map(|name| name.to_ascii_lowercase().into()),
            source_ip: args.source_ip,
            port: args.port,
            mtls: principal.spiffe_id().is_some(),
            time: SystemClock.now(),
            http,
        },
        principal,
        user: None,
        action: args.action,
        resource,
    })
}

/// Who `text` is: a SPIFFE ID, or `unauthenticated`.
pub(super) fn principal(text: &str) -> Result<Principal, Problem> {
    if text == "unauthenticated" {
        return Ok(Principal::Unauthenticated);
    }
    let id = SpiffeId::parse(text).map_err(|error| {
        Problem::because(format!("{text} is no SPIFFE ID"), &error)
            .fix("write spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or unauthenticated")
    })?;
    Ok(Principal::Workload(id))
}

/// The workload that `text` names, with its services; by service, the first one behind it.
pub(super) fn resource(text: &str, mesh: &Mesh) -> Result<ResourceRef, Problem> {
    if let Ok(id) = SpiffeId::parse(text) {
        let namespace = id.namespace_and_account().map(|(namespace, _)| namespace);
        let namespace = namespace.ok_or_else(|| {
            Problem::new(format!("{text} has no namespace"))
                .fix("write spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT")
        })?;
        let workload = mesh
            .workloads
            .iter()
            .find(|w| w.identity.as_ref() == Some(&id));
        let services = mesh
            .services
            .values()
            .filter(|s| workload.is_some_and(|w| s.selects(w)));
        return Ok(ResourceRef {
            services: services.map(|service| service.host.clone()).collect(),
            workload: Some(id),
            namespace,
            address: None,
        });
    }
    let host = full_name(text);
    let service = mesh
        .services
        .values()
        .find(|service| service.host.as_str() == host);
    let service = service.ok_or_else(|| {
        let known: Vec<_> = mesh.services.keys().map(ServiceName::as_str).collect();
        Problem::new(format!("there is no service {text}"))
            .fix(format!("name one of: {}", known.join(", ")))
    })?;
    let behind = mesh
        .workloads
        .iter()
        .find(|workload| service.selects(workload));
    let services = mesh.services.values().filter(|other| match behind {
        Some(workload) => other.selects(workload),
        None => other.host == service.host,
    });
    Ok(ResourceRef {
        workload: behind.and_then(|workload| workload.identity.clone()),
        namespace: service.namespace.clone(),
        services: services.map(|other| other.host.clone()).collect(),
        address: None,
    })
}

/// `reviews` and `reviews.shop` in full.
pub(crate) fn full_name(service: &str) -> String {
    match service.split('.').count() {
        1 => format!("{service}.default.svc.cluster.local"),
        2 => format!("{service}.svc.cluster.local"),
        _ => service.to_owned(),
    }
}
