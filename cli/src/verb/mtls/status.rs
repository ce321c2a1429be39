//! `reeve mtls status`.

use std::{thread, time::Duration};

use clap::Args;
use reeve_control::migration::{Locks, PortStand, Verdict as Ready};
use reeve_core::{Clock as _, SystemClock, UnixTime, model::MtlsMode};

use super::world::WorldArgs;
use crate::{
    evidence::Evidence,
    output::{self, Format, OutputArgs, plain_table},
    problem::{Answer, Problem, Verdict},
    supervisor::logfile::timestamp,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve mtls status                         every port: mode, who speaks what, ready or why not
  reeve mtls status --since 1h --cycle 10m  rests on the last hour, and on nothing coming less often than every 10 minutes
  reeve mtls status -n shop --watch
  reeve mtls status -o json | jq '.ports[] | select(.verdict == \"blocked\").obstacles'

Callers are told apart by identity, else by the workload that held their address then, else by network. The mesh's API has
the same under /api/mtls.

Exit codes: 0 = every port is strict, exempt or ready, 1 = some are not, 2 = it cannot be told.";

/// How often --watch looks.
const LOOK: Duration = Duration::from_secs(2);

/// `reeve mtls status`.
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// Only ports of this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Look again and again.
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    world: WorldArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &StatusArgs) -> Verdict {
    let mut told = false;
    loop {
        let mut evidence = args.world.evidence()?;
        if !told {
            // Once: a trail that is watched would be full of it.
            args.world.tell(&evidence);
            told = true;
        }
        if let Some(namespace) = &args.namespace {
            let own = |p: &PortStand| p.workload.namespace.as_str() == namespace;
            evidence.ports.retain(own);
        }
        show(args, &evidence)?;
        if !args.watch {
            let fine = |p: &PortStand| !matches!(p.verdict, Ready::Blocked | Ready::Unproven);
            return Ok(Answer::from_fine(evidence.ports.iter().all(fine)));
        }
        thread::sleep(LOOK);
    }
}

fn show(args: &StatusArgs, evidence: &Evidence) -> Result<(), Problem> {
    let locks = Locks::read(args.world.state.existing()?.path())
        .map_err(|error| Problem::because("the locks cannot be read", &error))?;
    match (args.output.output, args.watch) {
        (Format::Json, false) => output::json(&evidence.shown(&locks)),
        (Format::Json, true) => output::json_line(&evidence.shown(&locks)),
        (Format::Human, watch) => {
            let clear = match watch && output::is_terminal() {
                true => "\x1b[2J\x1b[H",
                false => "",
            };
            output::line(&format!("{clear}{}", describe(evidence, &locks)))
        }
    }
}

/// A table of ports, and beneath it what stands in the way.
fn describe(evidence: &Evidence, locks: &Locks) -> String {
    let now = SystemClock.now();
    let mut table = plain_table([
        "NAMESPACE",
        "WORKLOAD",
        "PORT",
        "MODE",
        "FROM",
        "MTLS",
        "OWN TLS",
        "PLAINTEXT",
        "LAST PLAINTEXT",
        "VERDICT",
    ]);
    for port in &evidence.ports {
        let last = port.last_plaintext.as_ref();
        let last = last.map(|(at, by)| format!("{} ago, {by}", ago(now, *at)));
        let denied = match port.denied_by.is_empty() {
            true => String::new(),
            false => {
                let names: Vec<_> = port.denied_by.iter().map(String::as_str).collect();
                format!(" (denied by {})", names.join(", "))
            }
        };
        table.add_row([
            port.workload.namespace.to_string(),
            port.workload.workload.to_string(),
            port.port.to_string(),
            mode(port.mode).to_owned(),
            port.origin.to_string(),
            share(port, port.share.mtls),
            share(port, port.share.own_tls),
            share(port, port.share.plaintext),
            format!("{}{denied}", last.unwrap_or_else(|| "-".to_owned())),
            format!("{}: {}", port.verdict, port.reason),
        ]);
    }
    let mut text = format!(
        "since {} ({}), cycle {}\n{}",
        timestamp(evidence.asked.window.from),
        ago(now, evidence.asked.window.from),
        ago(now, now.minus(evidence.asked.cycle)),
        table.trim_fmt()
    );
    for port in &evidence.ports {
        for obstacle in &port.obstacles {
            text.push_str(&format!(
                "\n\n{}:{}  {}\n  → {}",
                port.workload, port.port, obstacle.what, obstacle.remedy
            ));
        }
    }
    text.push_str(&exemptions(evidence));
    text.push_str(&locked(locks));
    text
}

fn locked(locks: &Locks) -> String {
    if locks.is_empty() {
        return String::new();
    }
    let mut table = plain_table(["LOCKED", "SINCE", "BY", "LOCK"]);
    for lock in locks.iter() {
        table.add_row([
            lock.namespace.to_string(),
            timestamp(lock.locked_at),
            lock.by.clone(),
            lock.id.clone(),
        ]);
    }
    format!("\n\n{}", table.trim_fmt())
}

fn exemptions(evidence: &Evidence) -> String {
    let exempt = evidence
        .ports
        .iter()
        .filter_map(|p| Some((p, p.exemption.as_ref()?)));
    let exempt: Vec<_> = exempt.filter(|(p, _)| p.mode != MtlsMode::Strict).collect();
    if exempt.is_empty() {
        return String::new();
    }
    let mut table = plain_table(["EXEMPT", "OWNER", "UNTIL", "REASON"]);
    for (port, exemption) in exempt {
        table.add_row([
            format!("{}:{}", port.workload, port.port),
            exemption.owner.clone(),
            timestamp(exemption.until),
            exemption.reason.clone(),
        ]);
    }
    format!("\n\n{}", table.trim_fmt())
}

pub(super) fn mode(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Disable => "DISABLE",
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Strict => "STRICT",
    }
}

fn share(port: &PortStand, part: u64) -> String {
    let all = port.share.mtls + port.share.own_tls + port.share.plaintext;
    match (all, part) {
        (0, _) | (_, 0) => "-".to_owned(),
        (all, part) => format!("{} %", part.saturating_mul(100).div_ceil(all)),
    }
}

fn ago(now: UnixTime, then: UnixTime) -> String {
    let secs = now.since(then).as_secs();
    match secs {
        0..=119 => format!("{secs} s"),
        120..=7_199 => format!("{} min", secs / 60),
        7_200..=172_799 => format!("{} h", secs / 3_600),
        _ => format!("{} days", secs / 86_400),
    }
}
