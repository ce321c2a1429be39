//! The command line.

use clap::{Parser, Subcommand};

use crate::{mesh, verb};

const FIRST_STEPS: &str = "\
Examples:
  reeve demo                                   a whole mesh of Bookinfo, with traffic
  reeve up -f deploy/bookinfo/mesh             your own mesh from a folder of YAML
  reeve config check -f deploy/bookinfo/mesh   what is wrong with that folder
  reeve audit tail -f                          every decision as it is taken
  reeve audit verify                           prove that none was altered or left out

Exit codes: 0 = fine, 1 = the answer is no (invalid, denied, tampered), 2 = it could not be answered.";

/// A service mesh for people who must answer: who may reach what, who did, and can you prove it?
#[derive(Debug, Parser)]
#[command(name = "reeve", version, after_help = FIRST_STEPS, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the Bookinfo mesh with traffic and a live table
    Demo(verb::demo::DemoArgs),
    /// Run the mesh that a folder of YAML describes
    Up(verb::up::UpArgs),
    /// Show which configuration is in force on which proxy
    Status(verb::status::StatusArgs),
    /// Show application output and access log lines together
    Logs(verb::logs::LogsArgs),
    /// Check a folder of configuration
    Config(verb::config::ConfigArgs),
    /// Explain where a request goes
    Route(verb::route::RouteArgs),
    /// Move traffic from one version to another, as long as the new one does well
    Rollout(verb::rollout::RolloutArgs),
    /// Judge two versions on the same mirrored requests
    Compare(verb::compare::CompareArgs),
    /// Serve global rate limits to proxies
    #[command(name = "ratelimit")]
    RateLimit(verb::ratelimit::RateLimitArgs),
    /// Check, format, test and explain Cedar policies
    Policy(verb::policy::PolicyArgs),
    /// Sign permits for the worst hour, and use them when the mesh process is away
    BreakGlass(verb::break_glass::BreakGlassArgs),
    /// Decide for other proxies: Envoy's external authorization
    Authz(verb::authz::AuthzArgs),
    /// Verify JSON Web Tokens
    Jwt(verb::jwt::JwtArgs),
    /// Read and prove the audit log
    Audit(verb::audit::AuditArgs),
    /// Cosign logs that only grow, so that their operator cannot rewrite them
    #[command(after_help = verb::witness::EXAMPLES)]
    Witness(verb::witness::WitnessArgs),
    /// Parse, verify, fetch and show identities
    Identity(verb::identity::IdentityArgs),
    /// Look at the certificate authority and let new members join
    Ca(verb::ca::CaArgs),
    /// Give processes of another machine the identities of their registration entries
    Agent(Box<verb::agent::AgentArgs>),
    /// Rotate, take away and break on purpose, and watch what is lost
    Drill(verb::drill::DrillArgs),
    /// Move a mesh from permissive to strict mTLS, and take that back
    Mtls(verb::mtls::MtlsArgs),
    /// Run a sidecar, or ask one how it is
    Proxy(verb::proxy::ProxyArgs),
    /// Watch requests and responses as they pass
    Tap(verb::tap::TapArgs),
    /// List the faults that are put into traffic on purpose, and switch them off
    Chaos(verb::chaos::ChaosArgs),
    /// Show what is in force in a sidecar: listeners, routes, clusters, endpoints, policies, certificates
    #[command(visible_alias = "pc")]
    ProxyConfig(verb::proxy_config::ProxyConfigArgs),
    /// Put in place, show and take away the rules that bring traffic to the proxy
    Intercept(verb::intercept::InterceptArgs),
    /// Run the mesh process: CA, control plane, audit log and HTTP API
    Control(ControlCommand),
    /// Replace this process by a command that dies with its parent
    #[command(hide = true)]
    Run(verb::run::RunArgs),
    /// End a mesh's processes when its supervisor is gone
    #[command(hide = true)]
    Guard(verb::guard::GuardArgs),
    /// Print a completion script for a shell
    Completion(verb::completion::CompletionArgs),
}

/// `reeve control`.
#[derive(Debug, clap::Args)]
pub(crate) struct ControlCommand {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: ControlVerb,
}

/// The verbs of `reeve control`.
#[derive(Debug, Subcommand)]
pub(crate) enum ControlVerb {
    /// Run the mesh process in the foreground
    #[command(after_help = "\
Examples:
  reeve control run --state /var/lib/reeve -f mesh --grpc 10.0.0.5:15012 --api 127.0.0.1:15014

`reeve up` runs it for you, together with sidecars and applications.")]
    Run(mesh::MeshArgs),
}

#[cfg(test)]
mod tests;
