//! `reeve mtls lock`, `approve` and `unlock`: a namespace stays strict until a second person has signed otherwise.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use reeve_authz::break_glass::{SigningKey, parse_public_key};
use reeve_console::{LockRequest, UnlockRequest};
use reeve_control::migration::{Approval, Lock, PortStand, Verdict as Ready};
use reeve_core::{
    Clock as _, Namespace, SystemClock, TrustDomain,
    model::{MtlsMode, SignerKey},
};

use super::world::World;
use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::{StateArgs, StateDir},
    supervisor::logfile::timestamp,
    verb::{block_on, break_glass::create, confirm::confirm, duration, operator, policy::who},
};

/// How long the mesh process may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is looked at for how often somebody comes; nothing of it is judged here.
const CYCLE: Duration = Duration::from_secs(1);

pub(super) const LOCK_EXAMPLES: &str = "\
Examples:
  reeve break-glass keygen --out security.key                          whoever is to approve keeps security.key
  reeve mtls lock shop --approver security.key.pub
  reeve mtls lock shop --approver security.key.pub --approver lead.key.pub --clean-for 30d

Every port of the namespace must be STRICT, or exempt, and nobody may have come without mTLS for so long. From then on no
configuration comes into force that lets plaintext in there again, in whatever way; a lock is kept in the mesh's state.

Exit codes: 0 = it is locked, 1 = it is not clean, 2 = it could not be done.";

pub(super) const APPROVE_EXAMPLES: &str = "\
Examples:
  reeve mtls approve shop --lock shop-1795342500000 --key security.key --reason 'change 4711' --out shop.approval

Needs no mesh. `reeve mtls lock` and `reeve mtls status` tell the lock's id.

Exit codes: 0 = signed, 2 = it could not be done.";

pub(super) const UNLOCK_EXAMPLES: &str = "\
Examples:
  reeve mtls unlock --approval shop.approval

The approval's signer, reason and end, and who brings it, are on record (`mtls_unlocked`), also where it is refused.

Exit codes: 0 = it is open, 1 = the approval does not do, 2 = it could not be done.";

/// `reeve mtls lock`.
#[derive(Args, Debug)]
pub(super) struct LockArgs {
    /// The namespace
    #[arg(value_parser = Namespace::parse)]
    namespace: Namespace,
    /// Public key (Ed25519) of somebody whose approval opens it; several times for several
    #[arg(long = "approver", value_name = "FILE", required = true)]
    approvers: Vec<PathBuf>,
    /// How long nobody may have come without mTLS
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = duration)]
    clean_for: Duration,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// `reeve mtls approve`.
#[derive(Args, Debug)]
pub(super) struct ApproveArgs {
    /// The namespace
    #[arg(value_parser = Namespace::parse)]
    namespace: Namespace,
    /// The lock's id
    #[arg(long, value_name = "ID")]
    lock: String,
    /// The approver's private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Why; it stays on record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How long it can be used, at most 24h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    valid_for: Duration,
    /// The mesh that it is for
    #[arg(long, value_name = "NAME", default_value = "mesh.local", value_parser = TrustDomain::parse)]
    trust_domain: TrustDomain,
    /// Where it goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// `reeve mtls unlock`.
#[derive(Args, Debug)]
pub(super) struct UnlockArgs {
    /// What `reeve mtls approve` wrote
    #[arg(long, value_name = "FILE")]
    approval: PathBuf,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn lock(args: &LockArgs) -> Verdict {
    let approvers = args.approvers.iter().map(|path| public_key(path));
    let approvers = approvers.collect::<Result<Vec<_>, _>>()?;
    let world = World::of(None, &args.state)?;
    let now = SystemClock.now();
    let since = now.minus(args.clean_for);
    let evidence = world.evidence(since, CYCLE)?;
    let watched = evidence.asked.window.from;
    if watched > since {
        return Err(unclean(&format!(
            "the trail begins at {}, less than {} s ago",
            timestamp(watched),
            args.clean_for.as_secs()
        )));
    }
    let own = |port: &&PortStand| port.workload.namespace == args.namespace;
    if let Some(why) = evidence.ports.iter().filter(own).find_map(unclean_port) {
        return Err(unclean(&why));
    }
    let warning = format!(
        "namespace {} stays strict until one of {} approvers has signed otherwise",
        args.namespace,
        approvers.len()
    );
    confirm(args.yes, &warning, "nothing was changed")?;
    let request = LockRequest {
        namespace: args.namespace.clone(),
        approvers,
        by: who(),
        why: format!("clean for {} s", args.clean_for.as_secs()),
    };
    let refused = |why: &str| Problem::new(why).into_answer();
    let asked = operator::post(
        &world.state,
        "/admin/mtls-lock",
        &request,
        PATIENCE,
        refused,
    );
    let lock = told(&block_on(asked)?)?;
    show(
        args.output.output,
        &lock,
        &format!(
            "namespace {} is locked: {}\nto open it: `reeve mtls approve {} --lock {}`, then `reeve mtls unlock`",
            lock.namespace, lock.id, lock.namespace, lock.id
        ),
    )
}

pub(super) fn approve(args: &ApproveArgs) -> Verdict {
    let pem = zeroize::Zeroizing::new(input::text(&args.key)?);
    let key =
        SigningKey::from_pem(&pem).map_err(|error| Problem::new(error).at(args.key.display()))?;
    let until = SystemClock.now().plus(args.valid_for);
    let approval = Approval::new(
        (args.namespace.clone(), args.lock.clone()),
        args.trust_domain.clone(),
        args.reason.clone(),
        until,
    );
    let signed = approval.sign(&key).map_err(Problem::new)?;
    let mut text = serde_json::to_vec_pretty(&signed)
        .map_err(|error| Problem::because("the approval cannot be written as JSON", &error))?;
    text.push(b'\n');
    create(&args.out, &text, 0o644)?;
    output::line(&format!(
        "{}: opens lock {} of namespace {} until {}",
        args.out.display(),
        args.lock,
        args.namespace,
        timestamp(until)
    ))?;
    Ok(Answer::Yes)
}

pub(super) fn unlock(args: &UnlockArgs) -> Verdict {
    let state: StateDir = args.state.existing()?;
    let request = UnlockRequest {
        approval: input::text(&args.approval)?,
        by: who(),
    };
    let refused = |why: &str| Problem::new(why).into_answer();
    let asked = operator::post(&state, "/admin/mtls-unlock", &request, PATIENCE, refused);
    let lock = told(&block_on(asked)?)?;
    show(
        args.output.output,
        &lock,
        &format!(
            "namespace {} is open: lock {} is gone",
            lock.namespace, lock.id
        ),
    )
}

/// Why a port is not clean. Whoever was refused is no reason.
fn unclean_port(port: &PortStand) -> Option<String> {
    let at = format!("{}:{}", port.workload, port.port);
    if port.verdict == Ready::Exempt {
        return None;
    }
    if port.mode != MtlsMode::Strict {
        return Some(format!("{at} is not STRICT ({})", port.origin));
    }
    let call = port.calls.iter().find(|call| call.strict_would_refuse())?;
    let last = timestamp(call.last);
    Some(format!(
        "{} came without mTLS to {at} until {last}",
        call.caller
    ))
}

fn unclean(why: &str) -> Problem {
    Problem::new(why)
        .fix("`reeve mtls status` tells who; or ask for less with --clean-for")
        .into_answer()
}

fn public_key(path: &Path) -> Result<SignerKey, Problem> {
    parse_public_key(&input::text(path)?).map_err(|error| Problem::new(error).at(path.display()))
}

fn told(body: &[u8]) -> Result<Lock, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::because("the mesh process's answer is no lock", &error))
}

fn show(format: Format, lock: &Lock, text: &str) -> Verdict {
    match format {
        Format::Json => output::json(lock)?,
        Format::Human => output::line(text)?,
    }
    Ok(Answer::Yes)
}
