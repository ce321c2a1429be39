//! `reeve break-glass sign`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args};
use reeve_authz::break_glass::{Extent, Grant, SignedGrant, SigningKey};
use reeve_core::{
    Clock as _, Namespace, ServiceAccount, ServiceName, SpiffeId, SystemClock, TrustDomain,
    decision::Action,
};
use serde::Serialize as _;

use super::keygen::create;
use crate::{
    input, output,
    problem::{Answer, Problem, Verdict},
    supervisor::logfile::timestamp,
    verb::duration,
};

/// `reeve break-glass sign`.
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("what").required(true).args(["policy", "to"]),
    group = ArgGroup::new("where").required(true).args(["namespace", "mesh_wide"]),
    after_help = "\
Examples:
  reeve break-glass sign --key signer.key --id pay-admin --namespace pay --issuer \"on-call lead\" \\
    --from ops/console --to ledger --action POST --reason \"unblock the ledger\" --out pay.grant
  reeve break-glass sign --key signer.key --id pay-read --namespace pay --issuer \"on-call lead\" \\
    --policy read.cedar --reason \"read the books\" --longest 5m --valid-for 365d --out read.grant

  reeve break-glass sign --key highest.key --id all-read --mesh-wide --issuer \"head of operations\" \\
    --policy read.cedar --reason \"find what is broken\" --longest 5m --out all.grant

The policy is one Cedar `permit`; it decides resources of the namespace alone. With --mesh-wide it decides those of every
namespace, for 15m at most, and the key must be among MeshConfig.spec.breakGlass.meshPublicKeys. Whoever has the file and may use the mesh's
admin sockets can use it, so it belongs in a safe.

Exit codes: 0 = signed, 1 = it can be none, 2 = it could not be written."
)]
pub(super) struct SignArgs {
    /// The signer's private key.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Names the grant: lower-case letters, digits and -.
    #[arg(long, value_name = "ID")]
    id: String,
    /// The namespace that it opens.
    #[arg(long, value_name = "NAMESPACE", value_parser = Namespace::parse)]
    namespace: Option<Namespace>,
    /// It opens every namespace.
    #[arg(long)]
    mesh_wide: bool,
    /// The mesh that it is for.
    #[arg(long, value_name = "NAME", default_value = "mesh.local", value_parser = TrustDomain::parse)]
    trust_domain: TrustDomain,
    /// Who vouches for it.
    #[arg(long, value_name = "NAME")]
    issuer: String,
    /// What it is for.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The Cedar `permit`, in a file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to", "action"])]
    policy: Option<PathBuf>,
    /// A caller: a SPIFFE ID, or a service account (`console`, `ops/console`).
    #[arg(long, value_name = "CALLER", requires = "to")]
    from: Option<String>,
    /// The service that may be called, by its name or its host.
    #[arg(long, value_name = "SERVICE", requires = "from", requires = "action")]
    to: Option<String>,
    /// What may be done: HTTP methods, `other`, `connect`; commas between several.
    #[arg(long, value_name = "ACTION", value_delimiter = ',', requires = "to")]
    action: Vec<Action>,
    /// The longest time that it may be in force at once, at most 1h.
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration)]
    longest: Duration,
    /// It cannot be used before this: RFC 3339 or seconds since 1970 [default: now].
    #[arg(long, value_name = "TIME")]
    not_before: Option<String>,
    /// How long it can be used, from --not-before on; at most 400d.
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = duration)]
    valid_for: Duration,
    /// Where it goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(args: &SignArgs) -> Verdict {
    let pem = zeroize::Zeroizing::new(input::text(&args.key)?);
    let key =
        SigningKey::from_pem(&pem).map_err(|error| Problem::new(error).at(args.key.display()))?;
    let now = SystemClock.now();
    let not_before = match &args.not_before {
        Some(text) => input::time(text, now).map_err(Problem::new)?,
        None => now,
    };
    let grant = Grant {
        expires_at: not_before.plus(args.valid_for),
        id: args.id.clone(),
        issuer: args.issuer.clone(),
        longest_seconds: args.longest.as_secs(),
        namespace: args
            .namespace
            .clone()
            .map_or(Extent::Mesh, Extent::Namespace),
        not_before,
        policy: match &args.policy {
            Some(file) => input::text(file)?,
            None => simple(args)?,
        },
        reason: args.reason.clone(),
        schema: String::new(),
        trust_domain: args.trust_domain.clone(),
    };
    let signed = SignedGrant::sign(grant, &key).map_err(|e| Problem::new(e).into_answer())?;
    create(&args.out, &text(&signed)?, 0o600)?;
    let grant = &signed.grant;
    output::line(&format!(
        "{}: grant {} for {}, usable from {} to {}, {} s at once\n{}",
        args.out.display(),
        grant.id,
        match grant.namespace.namespace() {
            Some(namespace) => format!("namespace {namespace}"),
            None => "EVERY NAMESPACE".to_owned(),
        },
        timestamp(grant.not_before),
        timestamp(grant.expires_at),
        grant.longest_seconds,
        grant.policy.trim_end()
    ))?;
    Ok(Answer::Yes)
}

/// Indented, for people.
fn text(signed: &SignedGrant) -> Result<Vec<u8>, Problem> {
    let mut text = Vec::new();
    let mut writer = serde_json::Serializer::pretty(&mut text);
    signed
        .serialize(&mut writer)
        .map_err(|error| Problem::because("the grant cannot be written as JSON", &error))?;
    text.push(b'\n');
    Ok(text)
}

/// The policy of `--from`, `--to` and `--action`.
fn simple(args: &SignArgs) -> Result<String, Problem> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| {
        Problem::new(format!("{what}: {error}")).into_answer()
    };
    let from = args.from.as_deref().unwrap_or_default();
    let to = args.to.as_deref().unwrap_or_default();
    let principal = if from.starts_with("spiffe://") {
        let id = SpiffeId::parse(from).map_err(|e| wrong("--from", &e))?;
        format!("principal == Workload::{:?}", id.as_str())
    } else {
        let home = args.namespace.as_ref().map(|home| (home.as_str(), from));
        let named = from.split_once('/').or(home);
        let (namespace, account) =
            named.ok_or_else(|| wrong("--from", &"name its namespace, as in ops/console"))?;
        let namespace = Namespace::parse(namespace).map_err(|e| wrong("--from", &e))?;
        let account = ServiceAccount::parse(account).map_err(|e| wrong("--from", &e))?;
        let id = format!("{}/ns/{namespace}/sa/{account}", args.trust_domain);
        format!("principal in ServiceAccount::{id:?}")
    };
    let host = match &args.namespace {
        _ if to.contains('.') => to.to_owned(),
        Some(namespace) => format!("{to}.{namespace}.svc.cluster.local"),
        None => return Err(wrong("--to", &"name the service by its host")),
    };
    let host = ServiceName::parse(&host).map_err(|e| wrong("--to", &e))?;
    let actions: Vec<_> = args
        .action
        .iter()
        .map(|a| format!("Action::\"{a}\""))
        .collect();
    Ok(format!(
        "permit (\n  {principal},\n  action in [{}],\n  resource in Service::{:?}\n);\n",
        actions.join(", "),
        host.as_str()
    ))
}
