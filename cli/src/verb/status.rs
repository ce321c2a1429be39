//! `reeve status`: which configuration is in force where.

use std::time::Duration;

use clap::Args;
use reeve_console::ReplicaFacts;
use reeve_control::KeyStatus;
use reeve_core::{
    Clock as _, SystemClock, UnixTime,
    model::{Generation, OpenCircuit},
};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    output::{self, Format, OutputArgs, plain_table},
    problem::{Answer, Problem, Verdict},
    state::{StateArgs, StateDir},
    verb::{
        block_on, break_glass, duration,
        mesh_api::{MeshApi, Status},
    },
};

const EXAMPLES: &str = "\
Examples:
  reeve status                      a table of proxies
  reeve status -o json | jq .generation
  reeve status --wait 7             return when generation 7 is in force everywhere
  reeve status --wait latest        the same for the newest one

Exit codes: 0 = fine, 1 = --wait ran out of time, or a proxy refused that generation, 2 = the mesh could not be asked.";

/// `reeve status`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    /// Wait until every proxy runs this generation (a number, or `latest`).
    #[arg(long, value_name = "GENERATION")]
    pub(crate) wait: Option<String>,
    /// How long to wait.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) state: StateArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// How often the mesh process is asked while waiting.
const ASK: Duration = Duration::from_millis(100);

/// Asks the mesh process.
pub(crate) fn run(args: &StatusArgs) -> Verdict {
    block_on(answer(args))
}

async fn answer(args: &StatusArgs) -> Verdict {
    let state = args.state.existing()?;
    let api = MeshApi::of(&state)?;
    let mut fine = true;
    if let Some(wanted) = &args.wait {
        let wanted = Wanted::parse(wanted)?;
        fine = wait(&api, wanted, args.timeout).await?;
    }
    let mut value = api.status_value().await?;
    // From the sidecars themselves: the mesh process knows nothing of it.
    let (grants, _) = break_glass::in_force(&break_glass::takers(&state)?).await;
    match args.output.output {
        Format::Json => {
            if let Some(members) = value.as_object_mut() {
                members.insert("break_glass".to_owned(), json!(grants));
            }
            output::json(&value)?;
        }
        Format::Human => {
            let mut text = describe(&api.status().await?, &state);
            if !grants.is_empty() {
                text = format!("{}\n\n{text}", break_glass::table(&grants));
            }
            output::line(&text)?;
        }
    }
    Ok(Answer::from_fine(fine))
}

/// Which generation is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Latest,
    Number(Generation),
}

impl Wanted {
    fn parse(text: &str) -> Result<Self, Problem> {
        match (text, text.parse()) {
            ("latest", _) => Ok(Self::Latest),
            (_, Ok(number)) => Ok(Self::Number(Generation(number))),
            (_, Err(_)) => {
                Err(Problem::new(format!("{text:?} is no generation"))
                    .fix("write a number, or latest"))
            }
        }
    }
}

/// Waits until the generation is in force everywhere; false if a proxy refused it or time ran out.
pub(super) async fn wait(api: &MeshApi, wanted: Wanted, limit: Duration) -> Result<bool, Problem> {
    let deadline = Instant::now() + limit;
    loop {
        // A mesh process that is being restarted is waited for like a slow proxy.
        let status = match api.status().await {
            Ok(status) => Some(status),
            Err(problem) if Instant::now() >= deadline => return Err(problem),
            Err(_) => None,
        };
        match status.as_ref().map(|status| progress(status, wanted)) {
            Some(Progress::Everywhere) => return Ok(true),
            Some(Progress::Refused(why)) => {
                output::note(&why);
                return Ok(false);
            }
            Some(Progress::Pending(who)) if Instant::now() >= deadline => {
                output::note(&format!(
                    "not in force within {} s on: {}",
                    limit.as_secs(),
                    who.join(", ")
                ));
                return Ok(false);
            }
            Some(Progress::Pending(_)) | None => tokio::time::sleep(ASK).await,
        }
    }
}

/// Whether the newest generation is in force everywhere.
pub(super) fn is_everywhere(status: &Status) -> bool {
    progress(status, Wanted::Latest) == Progress::Everywhere
}

/// How far a generation has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Everywhere,
    Pending(Vec<String>),
    Refused(String),
}

fn progress(status: &Status, wanted: Wanted) -> Progress {
    let wanted = match wanted {
        Wanted::Latest => status.generation.max(Generation(1)),
        Wanted::Number(number) => number,
    };
    if status.generation < wanted {
        return Progress::Pending(vec![format!(
            "the mesh process (at generation {})",
            status.generation
        )]);
    }
    let refused = status
        .proxies
        .iter()
        .find_map(|p| Some((&p.instance, p.nack.as_ref()?)));
    if let Some((instance, why)) = refused {
        return Progress::Refused(format!(
            "{instance} refused generation {}: {why}",
            status.generation
        ));
    }
    let late: Vec<_> = status
        .proxies
        .iter()
        .filter(|p| p.generation < wanted || !p.connected)
        .map(|p| p.instance.to_string())
        .collect();
    if late.is_empty() {
        Progress::Everywhere
    } else {
        Progress::Pending(late)
    }
}

/// The circuits that are open, if any are.
fn circuits(open: &[OpenCircuit]) -> String {
    if open.is_empty() {
        return String::new();
    }
    let mut table = plain_table(["OPEN CIRCUIT", "ENDPOINT", "CAUSE", "FOR", "HELD BY"]);
    for circuit in open {
        let subset = circuit.subset.as_ref();
        let subset = subset.map(|s| format!(" subset {s}")).unwrap_or_default();
        let held_by: Vec<_> = circuit.held_by.iter().map(ToString::to_string).collect();
        table.add_row([
            format!("{}:{}{subset}", circuit.service, circuit.port),
            circuit.endpoint.map(|e| e.to_string()).unwrap_or_default(),
            circuit.cause.clone(),
            format!("{} s", circuit.left_ms.div_ceil(1000)),
            held_by.join(", "),
        ]);
    }
    format!("\n{}", table.trim_fmt())
}

/// The issuers whose keys cannot be fetched, if there are any.
fn token_keys(all: &[KeyStatus], now: UnixTime) -> String {
    let failing: Vec<_> = all
        .iter()
        .filter(|k| k.failures > 0 || k.keys == 0)
        .collect();
    if failing.is_empty() {
        return String::new();
    }
    let mut table = plain_table(["TOKEN KEYS", "ISSUERS", "STATE", "WHY"]);
    for keys in failing {
        let age = keys.fetched_at.map(|at| now.since(at).as_secs());
        let left = keys.usable_until.map(|end| end.since(now).as_secs() / 60);
        let state = match (age, left) {
            (Some(age), Some(left)) => {
                format!("stale: {age} s old, refused in {left} min")
            }
            _ => "none: tokens are refused".to_owned(),
        };
        let why = keys.error.as_deref().unwrap_or("not fetched yet");
        let tries = match keys.failures {
            0 => String::new(),
            n => format!(" ({n} failures)"),
        };
        table.add_row([
            keys.uri.clone(),
            keys.issuers.join(", "),
            state,
            format!("{why}{tries}"),
        ]);
    }
    format!("\n{}", table.trim_fmt())
}

fn describe(status: &Status, state: &StateDir) -> String {
    let mut text = format!(
        "generation {}, policy set {}, state {}\n",
        status.generation,
        short(&status.policy_hash),
        state.path().display()
    );
    let mut table = plain_table(["INSTANCE", "WORKLOAD", "IDENTITY", "GENERATION", "STATE"]);
    for proxy in &status.proxies {
        let state = match (&proxy.nack, proxy.connected) {
            (Some(why), _) => format!("refused: {why}"),
            (None, false) => "not connected".to_owned(),
            (None, true) if proxy.generation < status.generation => "behind".to_owned(),
            (None, true) => "in force".to_owned(),
        };
        table.add_row([
            proxy.instance.to_string(),
            proxy.workload.to_string(),
            proxy.identity.to_string(),
            proxy.generation.to_string(),
            state,
        ]);
    }
    for job in &status.jobs {
        let state = match job.exit_code {
            0 => "Completed".to_owned(),
            code => format!("Failed: exit code {code}"),
        };
        table.add_row([
            job.instance.to_string(),
            job.workload.to_string(),
            String::new(),
            String::new(),
            state,
        ]);
    }
    text.push_str(&table.trim_fmt());
    text.push_str(&circuits(&status.circuits));
    text.push_str(&token_keys(&status.token_keys, SystemClock.now()));
    for (name, value) in [
        ("mesh", &status.mesh),
        ("ca", &status.ca),
        ("audit", &status.audit),
    ] {
        text.push_str(&facts(name, value));
    }
    text.push_str(&replicas(&status.audit));
    if !status.config.faults.is_empty() {
        text.push_str("\nThe folder as it stands is refused; the generation above stays in force:");
        for fault in &status.config.faults {
            text.push_str(&format!("\n  {fault}"));
        }
    }
    let unprotected = status
        .mesh
        .get("unprotected")
        .and_then(|list| list.as_array());
    if let Some(unprotected) = unprotected.filter(|list| !list.is_empty()) {
        text.push_str("\nUnprotected:");
        for what in unprotected.iter().filter_map(|what| what.as_str()) {
            text.push_str(&format!("\n  - {what}"));
        }
    }
    text
}

/// The logs of audit replicas, and whether the mesh log has them.
fn replicas(audit: &serde_json::Value) -> String {
    let all = audit.get("replicas").cloned().unwrap_or_default();
    let all: Vec<ReplicaFacts> = serde_json::from_value(all).unwrap_or_default();
    if all.is_empty() {
        return String::new();
    }
    let mut table = plain_table([
        "AUDIT REPLICA",
        "LOG",
        "RECORDS",
        "BATCHES",
        "IN THE MESH LOG",
    ]);
    for replica in all {
        table.add_row([
            replica.replica.to_string(),
            replica.log,
            replica.records.to_string(),
            replica.tree_size.to_string(),
            match replica.noted_ms_ago {
                Some(ms) => format!("since {} s", ms / 1000),
                None => "nothing heard of it".to_owned(),
            },
        ]);
    }
    format!("\n{}", table.trim_fmt())
}

/// One line of simple values: `ca: not_after 2026…, rotations 3`.
fn facts(name: &str, value: &serde_json::Value) -> String {
    let Some(object) = value.as_object() else {
        return String::new();
    };
    let simple = object.iter().filter_map(|(key, value)| match value {
        serde_json::Value::String(text) => Some(format!("{key} {}", first_line(text))),
        serde_json::Value::Number(number) => Some(format!("{key} {number}")),
        serde_json::Value::Bool(flag) => Some(format!("{key} {flag}")),
        serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
            None
        }
    });
    let simple: Vec<_> = simple.collect();
    if simple.is_empty() {
        String::new()
    } else {
        format!("\n{name}: {}", simple.join(", "))
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(generation: u64, proxies: &[(&str, u64, bool, Option<&str>)]) -> Status {
        let proxies: Vec<_> = proxies
            .iter()
            .map(|(instance, generation, connected, nack)| {
                serde_json::json!({
                    "instance": instance, "workload": "w", "identity": "spiffe://td/ns/d/sa/w",
                    "generation": generation, "policy_hash": "", "acked_at": null,
                    "nack": nack, "connected": connected,
                })
            })
            .collect();
        let value =
            serde_json::json!({"generation": generation, "policy_hash": "abc", "proxies": proxies});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_generation_is_everywhere_when_every_proxy_has_it() {
        let seven = Wanted::Number(Generation(7));
        let all = status(7, &[("a", 7, true, None), ("b", 8, true, None)]);
        assert_eq!(progress(&all, seven), Progress::Everywhere);
        let late = status(
            7,
            &[
                ("a", 7, true, None),
                ("b", 6, true, None),
                ("c", 7, false, None),
            ],
        );
        assert_eq!(
            progress(&late, seven),
            Progress::Pending(vec!["b".into(), "c".into()])
        );
        assert!(matches!(
            progress(&status(6, &[]), seven),
            Progress::Pending(_)
        ));
    }

    #[test]
    fn a_refusal_ends_the_wait() {
        let refused = status(7, &[("a", 6, true, Some("no room")), ("b", 7, true, None)]);
        let Progress::Refused(why) = progress(&refused, Wanted::Latest) else {
            panic!("not refused");
        };
        assert_eq!(why, "a refused generation 7: no room");
    }

    #[test]
    fn nothing_is_in_force_before_the_first_generation() {
        assert!(matches!(
            progress(&status(0, &[]), Wanted::Latest),
            Progress::Pending(_)
        ));
    }
}
