//! `reeve up`: runs the mesh that a folder describes.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use clap::Args;
use reeve_bucket::BucketUrl;
use tokio_util::sync::CancellationToken;

use crate::{
    mesh::CustodyArgs,
    output,
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    supervisor::{BaseClaim, Notices, Options, Roster, Supervisor, load, obey_signals},
    verb::{block_on, intercept::Mode},
};

const EXAMPLES: &str = "\
Examples:
  reeve up -f deploy/bookinfo/mesh               run it; edits to the folder apply live
  reeve up -f mesh --state /tmp/one --base 78    a second mesh beside the first

  sudo reeve up -f mesh --intercept              each instance in a network namespace, its traffic captured

Every instance gets loopback addresses of its own (127.BASE.SLOT.*); no root is needed. Processes are not
isolated from each other in this form: anyone on this machine can reach an application around its sidecar.
With --intercept each has a network namespace (10.BASE.SLOT.1), its sidecar a user of its own, and every TCP connection
passes the sidecar; it needs root, ip (iproute2) and nft (nftables).
Ctrl-C drains and ends everything; a second Ctrl-C ends it at once.

Exit codes: 0 = stopped as asked, 1 = the configuration is invalid, 2 = the mesh could not run.";

/// `reeve up`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UpArgs {
    /// The folder of YAML files that describes the mesh.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Use addresses 127.X.*.
    #[arg(long, value_name = "X", default_value_t = 77, value_parser = clap::value_parser!(u8).range(1..=254))]
    pub(crate) base: u8,
    /// Give each instance a network namespace of its own and capture its traffic (needs root)
    #[arg(long, value_enum, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "redirect")]
    pub(crate) intercept: Option<Mode>,
    #[command(flatten)]
    pub(crate) custody: CustodyArgs,
    /// Keep the audit log in a bucket too, s3://BUCKET/PREFIX; credentials from AWS's environment variables.
    #[arg(long, value_name = "URL")]
    pub(crate) audit_store: Option<BucketUrl>,
}

/// Runs the mesh until it is told to stop.
pub(crate) fn run(args: UpArgs) -> Verdict {
    // The supervisor needs one thread that lives as long as itself (see `supervisor::process::start`).
    block_on(supervise(args))
}

async fn supervise(args: UpArgs) -> Verdict {
    if !args.custody.environment().is_empty() {
        // A secret in our environment stays there for as long as we run: only the kernel can keep others from it.
        let hidden = reeve_sidecar::hardening::hide_from_others();
        hidden.map_err(|error| Problem::new(format!("{error:#}")))?;
    }
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    obey_signals(stop.clone(), abort.clone())?;
    let (notices, mut told) = Notices::new();
    let printing = tokio::spawn(async move {
        while let Some(text) = told.recv().await {
            output::note(&text);
        }
    });
    crate::verb::policy::finish_interrupted(&args.folder)?;
    // The configuration first: its faults are what people most likely came for.
    load(&args.folder)?;
    let stopped = stop.clone();
    let options = Options {
        folder: args.folder,
        state: args.state.dir().claim()?,
        base: BaseClaim::take(args.base)?,
        intercept: args.intercept.map(Into::into),
        custody: args.custody,
        audit_store: args.audit_store,
        temporary: false,
        notices,
        stop,
        abort,
    };
    let supervisor = Supervisor::start(options).await?;
    greet(&supervisor);
    let roster = supervisor.roster();
    tokio::spawn(async move {
        // Cancel-safe: it only tells. That nothing is healthy in the end goes without saying.
        tokio::select! {
            () = tell_health(roster) => {}
            () = stopped.cancelled() => {}
        }
    });
    supervisor.run().await.finish();
    printing.abort();
    Ok(Answer::Yes)
}

fn greet(supervisor: &Supervisor) {
    let instances = supervisor.roster().instances();
    let (network, isolation) = match instances.mesh.capture {
        None => (
            127,
            "Processes are not isolated from each other in this form.",
        ),
        Some(_) => (
            10,
            "Each instance has a network namespace, and its TCP traffic is captured.",
        ),
    };
    output::note(&format!(
        "{} instances at {network}.{}.*; the mesh's HTTP API is at http://{}\n{isolation} Ctrl-C ends everything.",
        instances.instances.len(),
        instances.mesh.base,
        instances.mesh.api,
    ));
}

/// Tells each instance's change of health.
async fn tell_health(roster: Arc<Roster>) {
    let mut changed = roster.subscribe();
    let mut before = BTreeMap::new();
    loop {
        let now: BTreeMap<_, _> = roster
            .instances()
            .instances
            .into_iter()
            .map(|i| (i.instance, (i.healthy, i.address)))
            .collect();
        for (name, (healthy, address)) in &now {
            if before.get(name).map(|(was, _)| was) != Some(healthy) {
                let word = if *healthy { "healthy" } else { "not healthy" };
                let (name, address) = (name.as_str(), address.to_string());
                output::note(&format!("{name:<24} {address:<14} {word}"));
            }
        }
        before = now;
        if changed.changed().await.is_err() {
            return;
        }
    }
}
