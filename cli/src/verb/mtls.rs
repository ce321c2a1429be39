//! `reeve mtls`: from permissive to strict, on what the audit trail says, wave by wave, and back by itself.

mod drive;
mod journal;
mod live;
mod lock;
mod migrate;
mod plan;
mod report;
mod rollback;
mod stage;
mod status;
mod world;

use clap::{Args, Subcommand};

use crate::problem::Verdict;

/// `reeve mtls`.
#[derive(Args, Debug)]
pub(crate) struct MtlsArgs {
    #[command(subcommand)]
    verb: MtlsVerb,
}

/// The verbs of `reeve mtls`.
#[derive(Debug, Subcommand)]
enum MtlsVerb {
    /// Show per port who speaks mTLS and who does not, and whether it can be flipped
    #[command(after_help = status::EXAMPLES)]
    Status(status::StatusArgs),
    /// Write a plan: what is flipped in which order, and what stands in the way of the rest
    #[command(after_help = plan::EXAMPLES)]
    Plan(plan::PlanArgs),
    /// Carry out a plan, wave by wave; a wave that does harm is taken back by itself
    #[command(after_help = migrate::EXAMPLES)]
    Migrate(Box<migrate::MigrateArgs>),
    /// Take a migration back, wholly or to an earlier wave
    #[command(after_help = rollback::EXAMPLES)]
    Rollback(rollback::RollbackArgs),
    /// Keep a namespace strict until a second person has signed otherwise
    #[command(after_help = lock::LOCK_EXAMPLES)]
    Lock(lock::LockArgs),
    /// Sign that a locked namespace may be opened
    #[command(after_help = lock::APPROVE_EXAMPLES)]
    Approve(lock::ApproveArgs),
    /// Open a locked namespace with somebody's approval
    #[command(after_help = lock::UNLOCK_EXAMPLES)]
    Unlock(lock::UnlockArgs),
    /// Show what a migration did: before, after, evidence and proof
    #[command(after_help = report::EXAMPLES)]
    Report(report::ReportArgs),
}

/// Does it.
pub(crate) fn run(args: &MtlsArgs) -> Verdict {
    match &args.verb {
        MtlsVerb::Status(args) => status::run(args),
        MtlsVerb::Plan(args) => plan::run(args),
        MtlsVerb::Migrate(args) => migrate::run(args),
        MtlsVerb::Rollback(args) => rollback::run(args),
        MtlsVerb::Lock(args) => lock::lock(args),
        MtlsVerb::Approve(args) => lock::approve(args),
        MtlsVerb::Unlock(args) => lock::unlock(args),
        MtlsVerb::Report(args) => report::run(args),
    }
}
