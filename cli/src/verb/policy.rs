//! `reeve policy`: evaluates, checks, formats, tests, explains and replays Cedar policies with the data path's own code.

mod access;
mod apply;
mod check;
mod diff;
mod eval;
mod explain;
mod files;
mod fmt;
mod history;
mod import;
mod new;
mod place;
mod schema;
mod suggest;
mod test;
pub(crate) mod told;
mod trail;
mod verify;
mod whatif;
mod world;

pub(crate) use apply::{finish_interrupted, who};
pub(crate) use explain::{full_name, pair};

use clap::{Args, Subcommand};

use crate::problem::Verdict;

/// `reeve policy`.
#[derive(Args, Debug)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    verb: PolicyVerb,
}

/// Where the cases of a folder's policies are kept, within it: configuration is not read from hidden folders.
const CASES: &str = ".reeve/policy-tests";

#[derive(Debug, Subcommand)]
enum PolicyVerb {
    /// Write a policy for a common intent, and cases that try it
    #[command(after_help = new::EXAMPLES)]
    New(Box<new::NewArgs>),
    /// Evaluate {policies, schema, entities, request} in Cedar's JSON
    #[command(after_help = eval::EXAMPLES)]
    Eval(eval::EvalArgs),
    /// Check Cedar policies against the mesh's schema
    #[command(after_help = check::EXAMPLES)]
    Check(check::CheckArgs),
    /// Lay out Cedar text, in .cedar files and inside YAML
    #[command(after_help = fmt::EXAMPLES)]
    Fmt(fmt::FmtArgs),
    /// Try cases (a request, and the answer it must get) on policies
    #[command(after_help = test::EXAMPLES)]
    Test(test::TestArgs),
    /// List everyone who can call a service, with the policies that say so
    #[command(after_help = access::WHO_CAN_EXAMPLES)]
    WhoCan(Box<access::WhoCanArgs>),
    /// List everything that an identity can reach, with the policies that say so
    #[command(after_help = access::CAN_REACH_EXAMPLES)]
    CanReach(Box<access::CanReachArgs>),
    /// Replay recorded decisions against the policies of a folder: what would come out otherwise
    #[command(after_help = whatif::EXAMPLES)]
    Whatif(Box<whatif::WhatIfArgs>),
    /// Make least-privilege policies, and their cases, of recorded traffic
    #[command(after_help = suggest::EXAMPLES)]
    Suggest(Box<suggest::SuggestArgs>),
    /// Prove properties of policies for all requests, or show a request that refutes them
    #[command(after_help = verify::EXAMPLES)]
    Verify(Box<verify::VerifyArgs>),
    /// Translate Istio's authorization policies, old and new
    #[command(after_help = import::EXAMPLES)]
    Import(import::ImportArgs),
    /// Compare two sets of policies, and who can reach what by each
    #[command(after_help = diff::EXAMPLES)]
    Diff(diff::DiffArgs),
    /// Put policies into the mesh's folder, and wait until they bind
    #[command(after_help = apply::APPLY_EXAMPLES)]
    Apply(Box<apply::ApplyArgs>),
    /// List the sets of policies that were applied
    #[command(after_help = history::EXAMPLES)]
    History(history::HistoryArgs),
    /// Put an earlier set of policies back
    #[command(after_help = apply::ROLLBACK_EXAMPLES)]
    Rollback(Box<apply::RollbackArgs>),
    /// Print the mesh's Cedar schema
    #[command(after_help = schema::EXAMPLES)]
    Schema(schema::SchemaArgs),
    /// Say what the policies of a folder answer to a request, and why
    #[command(after_help = explain::EXAMPLES)]
    Explain(Box<explain::ExplainArgs>),
}

/// Does it.
pub(crate) fn run(args: &PolicyArgs) -> Verdict {
    match &args.verb {
        PolicyVerb::New(args) => new::run(args),
        PolicyVerb::Eval(args) => eval::run(args),
        PolicyVerb::Check(args) => check::run(args),
        PolicyVerb::Fmt(args) => fmt::run(args),
        PolicyVerb::Test(args) => test::run(args),
        PolicyVerb::WhoCan(args) => access::who_can(args),
        PolicyVerb::CanReach(args) => access::can_reach(args),
        PolicyVerb::Whatif(args) => whatif::run(args),
        PolicyVerb::Suggest(args) => suggest::run(args),
        PolicyVerb::Verify(args) => verify::run(args),
        PolicyVerb::Import(args) => import::run(args),
        PolicyVerb::Diff(args) => diff::run(args),
        PolicyVerb::Apply(args) => apply::apply(args),
        PolicyVerb::History(args) => history::run(args),
        PolicyVerb::Rollback(args) => apply::rollback(args),
        PolicyVerb::Schema(args) => schema::run(args),
        PolicyVerb::Explain(args) => explain::run(args),
    }
}
