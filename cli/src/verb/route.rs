//! `reeve route`: explains where a request goes, with the proxy's own matching.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use clap::{Args, Subcommand, ValueEnum};
use reeve_audit::Direction;
use reeve_control::{Mesh, TokenKeys, instances::Instances};
use reeve_core::{
    Clock, InstanceName, SpiffeId, SystemClock, UnixTime, decision::User, model::ProxyConfig,
};
use reeve_proxy::explain::{
    ExplainRequest, ExplainedAsking, ExplainedDestination, Explanation, explain,
};
use serde_json::{Value, json};

use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    supervisor::{load, logfile::timestamp},
    verb::policy::pair,
};

const EXAMPLES: &str = "\
Examples:
  reeve route explain -f mesh --instance productpage-v1-0 --authority reviews:9080 --port 9080 --path /reviews/0
  reeve route explain -f mesh --instance ratings-v1-0 --direction inbound --port 9080 --path /ratings/0 \\
      --peer spiffe://mesh.local/ns/default/sa/bookinfo-reviews
  reeve route explain -f mesh --requests - -o json < requests.jsonl

A request in JSON is {\"instance\", \"direction\", \"port\", \"address\", \"method\", \"authority\", \"path\",
\"headers\": {name: [values]}, \"peer\", \"source_ip\", \"remote_ip\", \"user\", \"time\"}; all but the first three may be left out.

Exit codes: 0 = every request is served, 1 = one is refused, denied or has no route, 2 = it could not be said.";

/// The base of addresses in explanations, where no mesh runs.
const BASE: u8 = 77;

/// `reeve route`.
#[derive(Args, Debug)]
pub(crate) struct RouteArgs {
    #[command(subcommand)]
    verb: RouteVerb,
}

#[derive(Debug, Subcommand)]
enum RouteVerb {
    /// Say which listener, route, backends and policies a request meets
    #[command(after_help = EXAMPLES)]
    Explain(Box<ExplainArgs>),
}

/// `reeve route explain`.
#[derive(Args, Debug)]
struct ExplainArgs {
    /// The folder of YAML files.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: PathBuf,
    /// A file of requests (JSON, one per line), or - for standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["instance", "port"])]
    requests: Option<PathBuf>,
    /// The instance whose proxy is asked, such as productpage-v1-0.
    #[arg(long, required_unless_present = "requests")]
    instance: Option<InstanceName>,
    /// Whether the request comes to the instance, or from it (or from outside, at a gateway).
    #[arg(long, value_enum, default_value_t = Way::Outbound)]
    direction: Way,
    /// The port that the request comes in at.
    #[arg(long, required_unless_present = "requests")]
    port: Option<u16>,
    /// The address that it comes in at; any listener of that port if absent.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// The server name in the ClientHello, where TLS is passed through.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// The method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// The authority (Host).
    #[arg(long, default_value = "")]
    authority: String,
    /// The path, with a query if there is one.
    #[arg(long, default_value = "/")]
    path: String,
    /// A header, as NAME=VALUE; repeat for several.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    header: Vec<(String, String)>,
    /// The peer's SPIFFE ID, proved by mTLS; plaintext if absent.
    #[arg(long, value_name = "SPIFFE_ID")]
    peer: Option<SpiffeId>,
    /// The peer's address.
    #[arg(long, value_name = "IP")]
    source_ip: Option<IpAddr>,
    /// The client's address, where a trusted proxy says another one.
    #[arg(long, value_name = "IP")]
    remote_ip: Option<IpAddr>,
    /// A claim of the verified end user, as NAME=VALUE (iss and sub included); repeat for several.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    claim: Vec<(String, String)>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    Inbound,
    Outbound,
}

/// Explains.
pub(crate) fn run(args: &RouteArgs) -> Verdict {
    match &args.verb {
        RouteVerb::Explain(args) => explain_all(args),
    }
}

fn explain_all(args: &ExplainArgs) -> Verdict {
    let mesh = load(&args.folder)?;
    let instances = everything_runs(&mesh)?;
    let requests = match &args.requests {
        Some(file) => input::json_values(file)?
            .into_iter()
            .map(from_json)
            .collect::<Result<_, _>>()?,
        None => vec![from_flags(args)?],
    };
    let mut configs: BTreeMap<InstanceName, ProxyConfig> = BTreeMap::new();
    let mut all_served = true;
    for (instance, request) in &requests {
        if !configs.contains_key(instance) {
            configs.insert(instance.clone(), config_of(&mesh, &instances, instance)?);
        }
        let Some(config) = configs.get(instance) else {
            continue;
        };
        let explanation = explain(config, request).map_err(|error| {
            Problem::because("the proxy would refuse this configuration", &error).at(instance)
        })?;
        all_served &= is_served(&explanation);
        match args.output.output {
            Format::Json => output::json_line(&explanation)?,
            Format::Human => output::line(&describe(&explanation))?,
        }
    }
    Ok(Answer::from_fine(all_served))
}

/// Where everything would run if it were started now, and all of it healthy.
fn everything_runs(mesh: &Mesh) -> Result<Instances, Problem> {
    let mut instances = Instances::new(BASE);
    instances
        .plan(&mesh.workloads, mesh.services.keys())
        .map_err(|error| Problem::new(error).into_answer())?;
    for instance in &mut instances.instances {
        instance.healthy = true;
    }
    Ok(instances)
}

/// What the instance's proxy would be told.
fn config_of(
    mesh: &Mesh,
    instances: &Instances,
    instance: &InstanceName,
) -> Result<ProxyConfig, Problem> {
    mesh.proxy_config(instances, &TokenKeys::default(), instance)
        .ok_or_else(|| {
            let known: Vec<_> = instances
                .instances
                .iter()
                .map(|i| i.instance.to_string())
                .collect();
            Problem::new(format!("there is no proxy {instance}"))
                .fix(format!("name one of: {}", known.join(", ")))
        })
}

fn from_flags(args: &ExplainArgs) -> Result<(InstanceName, ExplainRequest), Problem> {
    let (Some(instance), Some(port)) = (args.instance.clone(), args.port) else {
        return Err(
            Problem::new("name an instance and a port").fix("see `reeve route explain --help`")
        );
    };
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in &args.header {
        headers.entry(name.clone()).or_default().push(value.clone());
    }
    let request = ExplainRequest {
        direction: match args.direction {
            Way::Inbound => Direction::Inbound,
            Way::Outbound => Direction::Outbound,
        },
        address: args.address,
        port,
        sni: args.sni.clone(),
        method: args.method.clone(),
        authority: args.authority.clone(),
        path: args.path.clone(),
        headers,
        peer: args.peer.clone(),
        source_ip: args.source_ip,
        remote_ip: args.remote_ip,
        user: user(&args.claim),
        time: SystemClock.now(),
    };
    Ok((instance, request))
}

fn user(claims: &[(String, String)]) -> Option<User> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, value) in claims {
        all.entry(name.clone()).or_default().insert(value.clone());
    }
    let one = |name: &str| all.get(name).and_then(|values| values.first()).cloned();
    (!all.is_empty()).then(|| User {
        issuer: one("iss").unwrap_or_default(),
        subject: one("sub").unwrap_or_default(),
        claims: all.clone(),
        expires_at: None,
    })
}

/// `{"instance": …}` and the rest an [`ExplainRequest`]; without a time, now.
fn from_json(mut value: Value) -> Result<(InstanceName, ExplainRequest), Problem> {
    let wrong = |what: String| {
        Problem::new(what).fix("see `reeve route explain --help` for what a request holds")
    };
    let Some(object) = value.as_object_mut() else {
        return Err(wrong("a request is a JSON object".to_owned()));
    };
    let instance = object.remove("instance").unwrap_or_default();
    let instance: InstanceName = serde_json::from_value(instance)
        .map_err(|error| wrong(format!("a request names an instance: {error}")))?;
    let now = json!(UnixTime::as_millis(SystemClock.now()));
    object.entry("time").or_insert(now);
    let request = serde_json::from_value(value)
        .map_err(|error| wrong(format!("a request cannot be read: {error}")))?;
    Ok((instance, request))
}

fn is_served(explanation: &Explanation) -> bool {
    let allowed = explanation
        .decision
        .as_ref()
        .is_none_or(|d| d.decision.is_allow());
    let answered = explanation.answer.is_none_or(|status| status < 400);
    allowed && answered && explanation.refused.is_none()
}

fn describe(explanation: &Explanation) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<13} {value}"));
    if let Some(listener) = &explanation.listener {
        line("listener", listener.to_string());
    }
    for (name, value) in places(explanation) {
        line(name, value);
    }
    if let Some(origin) = &explanation.allowed_origin {
        line("origin", format!("{origin} may read the answer"));
    }
    for one in &explanation.transformations {
        let until = timestamp(one.expires);
        let what = one.changes.join("; ");
        line(
            "transformed",
            format!("by {} of {} until {until}: {what}", one.name, one.owner),
        );
    }
    for edit in &explanation.request_headers {
        line("request", format!("header {edit}"));
    }
    for edit in &explanation.response_headers {
        line("response", format!("header {edit}"));
    }
    for to in &explanation.destinations {
        line("to", place(to, &format!("weight {}", to.weight)));
        for edit in &to.headers {
            line("", edit.clone());
        }
    }
    for mirror in &explanation.mirrors {
        let share = format!("for {} %", mirror.percent);
        line("mirror", place(&mirror.to, &share));
        if !mirror.without_headers.is_empty() {
            line("", format!("without {}", mirror.without_headers.join(", ")));
        }
    }
    if !explanation.destinations.is_empty() {
        let timeout = explanation
            .timeout_ms
            .map_or("none".to_owned(), |ms| format!("{ms} ms"));
        line(
            "tries",
            format!("{} after the first, timeout {timeout}", explanation.retries),
        );
    }
    for fault in &explanation.faults {
        line("fault", fault.clone());
    }
    if let Some(status) = explanation.answer {
        line("answer", status.to_string());
    }
    if let Some(refused) = &explanation.refused {
        line("refused", refused.clone());
    }
    for asked in &explanation.asked {
        line("asked", asking(asked));
    }
    if let Some(decision) = &explanation.decision {
        line("decision", decision.to_string());
    }
    lines.join("\n")
}

/// What was found on the way, by name.
fn places(explanation: &Explanation) -> Vec<(&'static str, String)> {
    let mode = explanation.path_normalization.map(|mode| json!(mode));
    let mode = mode.as_ref().and_then(Value::as_str);
    let all = [
        ("path", explanation.path.as_deref()),
        ("normalised", mode),
        ("virtual host", explanation.virtual_host.as_deref()),
        ("route", explanation.route.as_deref()),
        ("new path", explanation.rewritten_path.as_deref()),
        ("new authority", explanation.rewritten_authority.as_deref()),
        ("counted as", explanation.stat_prefix.as_deref()),
        ("location", explanation.location.as_deref()),
    ];
    let found = all.map(|(name, value)| Some((name, value?.to_owned())));
    found.into_iter().flatten().collect()
}

/// `service:port`, its subset, its share, and where it is.
/// A server that is asked before the policies are.
fn asking(asked: &ExplainedAsking) -> String {
    let ExplainedAsking {
        provider,
        service,
        port,
        policies,
        shadow,
    } = asked;
    let policies: Vec<&str> = policies.iter().map(|id| id.as_str()).collect();
    let by = policies.join(", ");
    match shadow {
        false => format!("{provider} ({service}:{port}) before the policies, by {by}"),
        true => format!("nobody: {provider} would be, but for the dry run of {by}"),
    }
}

fn place(to: &ExplainedDestination, share: &str) -> String {
    let subset = to.subset.as_ref();
    let subset = subset.map(|subset| format!(" subset {subset}"));
    let endpoints: Vec<_> = to.endpoints.iter().map(ToString::to_string).collect();
    format!(
        "{}:{}{} {share} at {}",
        to.service,
        to.port,
        subset.unwrap_or_default(),
        endpoints.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_in_json_names_its_instance_and_gets_the_time() {
        let (instance, request) =
            from_json(json!({"instance": "a-0", "direction": "inbound", "port": 80})).unwrap();
        assert_eq!(
            (instance.as_str(), request.port, request.path.as_str()),
            ("a-0", 80, "/")
        );
        assert!(request.time > UnixTime::default());
        for bad in [
            json!([]),
            json!({"port": 80}),
            json!({"instance": "a-0", "direction": "inbound", "prt": 80}),
        ] {
            assert!(from_json(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn claims_make_a_user() {
        assert_eq!(user(&[]), None);
        let pairs = [("sub", "ann"), ("role", "a"), ("role", "b")];
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let user = user(&pairs).unwrap();
        assert_eq!(
            (user.subject.as_str(), user.claims["role"].len()),
            ("ann", 2)
        );
    }
}
