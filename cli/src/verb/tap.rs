//! `reeve tap`: requests and responses, live.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use reeve_control::instances::Instances;
use reeve_core::{InstanceName, UnixTime};
use reeve_proxy::TapFilter;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    http::{self, Target},
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    supervisor::logfile::timestamp,
    verb::{block_on, duration},
};

const EXAMPLES: &str = "\
Examples:
  reeve tap                                      every request of the mesh as it ends, at both of its sidecars
  reeve tap reviews-v1 --status 5xx              what one workload's sidecars see fail
  reeve tap --denied --for 30s                   what is denied within half a minute
  reeve tap --header end-user=jason --max 10 -o json | jq .path

Headers that carry credentials are shown as [redacted], and queries not at all. --body adds the first 16 KiB of JSON,
forms and text, redacted likewise, where MeshConfig.spec.tap.mode is BODIES. Opening and closing a tap are events in the
audit log (`reeve audit query`). A tap lasts an hour at most.

Exit codes: 0 = fine, 1 = nothing came by, 2 = no sidecar could be asked.";

/// Lines that wait to be printed; sidecars count and drop what does not fit into theirs.
const QUEUE: usize = 1024;

/// `reeve tap`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TapArgs {
    /// Only this workload or instance.
    #[arg(value_name = "WORKLOAD")]
    workload: Option<String>,
    /// Only requests with this method.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Only requests whose path begins so.
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Only answers with this status, such as 503 or 5xx.
    #[arg(long, value_name = "STATUS", value_parser = status)]
    status: Option<String>,
    /// Only callers whose SPIFFE ID contains this.
    #[arg(long, value_name = "TEXT")]
    peer: Option<String>,
    /// Only requests with this header, or with this value of it; may be given several times.
    #[arg(long, value_name = "NAME[=VALUE]")]
    header: Vec<String>,
    /// Only what was denied.
    #[arg(long)]
    denied: bool,
    /// Show bodies too, if configuration allows it.
    #[arg(long)]
    body: bool,
    /// Another header, member or field whose value is not shown; may be given several times.
    #[arg(long, value_name = "NAME")]
    redact: Vec<String>,
    /// End after so many requests.
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// End after this time.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    limit: Option<Duration>,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Watches.
pub(crate) fn run(args: &TapArgs) -> Verdict {
    block_on(watch(args))
}

async fn watch(args: &TapArgs) -> Verdict {
    let state = args.state.existing()?;
    let instances = Instances::read(&state.instances()).map_err(Problem::new)?;
    let wanted = instances.instances.iter().filter(|instance| {
        let named =
            |name: &str| instance.instance.as_str() == name || instance.workload.as_str() == name;
        instance.sidecar_pid.is_some() && args.workload.as_deref().is_none_or(named)
    });
    let body = Bytes::from(request(args).to_string());
    let (sender, mut lines) = mpsc::channel(QUEUE);
    let mut count = 0_usize;
    for instance in wanted {
        count += 1;
        let target = Target::Unix(state.admin_socket(&instance.instance));
        let (name, body, sender) = (instance.instance.clone(), body.clone(), sender.clone());
        tokio::spawn(async move { follow(name, target, body, sender).await });
    }
    drop(sender);
    if count == 0 {
        return Err(Problem::new("no sidecar of that name runs")
            .fix("see `reeve status` for the instances that run"));
    }
    let (mut shown, mut failed, mut last) = (0_u64, 0_usize, None);
    while let Some(line) = lines.recv().await {
        match line {
            Ok((name, event)) => {
                show(&name, event, args.output.output)?;
                shown += 1;
                if args.max == Some(shown) {
                    break;
                }
            }
            Err(problem) => {
                failed += 1;
                output::complain(&problem);
                last = Some(problem);
            }
        }
    }
    match last {
        Some(problem) if failed == count => Err(problem),
        _ => Ok(Answer::from_fine(shown > 0)),
    }
}

/// What each sidecar is asked.
fn request(args: &TapArgs) -> Value {
    let header = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_ascii_lowercase(), Some(value.to_owned())),
        None => (text.to_ascii_lowercase(), None),
    };
    let filter = TapFilter {
        method: args.method.clone(),
        path: args.path.clone(),
        status: args.status.clone(),
        peer: args.peer.clone(),
        headers: args.header.iter().map(header).collect(),
        denied: args.denied,
        redact: args
            .redact
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        body: args.body,
    };
    let for_ms = args
        .limit
        .map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    json!({"filter": filter, "max": args.max, "for_ms": for_ms})
}

type Line = Result<(InstanceName, Value), Problem>;

async fn follow(name: InstanceName, target: Target, body: Bytes, sender: mpsc::Sender<Line>) {
    let read = |line: &[u8]| {
        let event = serde_json::from_slice(line).ok()?;
        Some(Ok((name.clone(), event)))
    };
    if let Err(error) = http::post_lines(&target, "/tap", body, read, &sender).await {
        let problem = Problem::because(format!("{name} cannot be tapped"), &error);
        drop(sender.send(Err(problem)).await);
    }
}

fn show(name: &InstanceName, mut event: Value, format: Format) -> Result<(), Problem> {
    if format == Format::Json {
        if let Some(members) = event.as_object_mut() {
            members.insert("instance".to_owned(), json!(name));
        }
        return output::json_line(&event);
    }
    let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or("-");
    let number = |key: &str| event.get(key).and_then(Value::as_u64).unwrap_or_default();
    let took = event.get("duration_ms").and_then(Value::as_f64);
    output::line(&format!(
        "{} {name:<20} {:<8} {} {}{} {} {:.1}ms {} {} {}",
        timestamp(UnixTime::from_millis(number("time"))),
        text("direction"),
        text("method"),
        text("authority"),
        text("path"),
        number("response_code"),
        took.unwrap_or_default(),
        text("peer"),
        text("effect"),
        text("decision_id"),
    ))?;
    for (sign, key) in [('>', "request_body"), ('<', "response_body")] {
        if let Some(body) = event.get(key) {
            show_body(sign, body)?;
        }
    }
    Ok(())
}

/// Escaped, so that a body moves no cursor and begins no line of its own.
fn show_body(sign: char, body: &Value) -> Result<(), Problem> {
    let bytes = body
        .get("bytes")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let cut = if body.get("cut") == Some(&Value::Bool(true)) {
        ", cut"
    } else {
        ""
    };
    match (
        body.get("text").and_then(Value::as_str),
        body.get("hidden").and_then(Value::as_str),
    ) {
        (Some(text), _) => output::line(&format!(
            "  {sign} ({bytes} bytes{cut}) {}",
            text.escape_debug()
        )),
        (None, Some(why)) => output::line(&format!("  {sign} ({bytes} bytes, not shown: {why})")),
        (None, None) => Ok(()),
    }
}

fn status(text: &str) -> Result<String, String> {
    let digits = text
        .strip_suffix("xx")
        .map_or((text, 3), |class| (class, 1));
    let (digits, count) = digits;
    if digits.len() == count && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is no status; write a number such as 503, or a class such as 5xx"
    ))
}
