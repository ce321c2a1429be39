//! `reeve audit`: reads and proves the audit log.

mod describe;
mod read;
mod verify;

use clap::{Args, Subcommand};

use crate::problem::Verdict;

/// `reeve audit`.
#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    verb: AuditVerb,
}

#[derive(Debug, Subcommand)]
enum AuditVerb {
    /// Show the newest records
    #[command(after_help = read::TAIL_EXAMPLES)]
    Tail(read::TailArgs),
    /// Show one record as it was written
    #[command(after_help = read::SHOW_EXAMPLES)]
    Show(read::ShowArgs),
    /// Find records
    #[command(after_help = read::QUERY_EXAMPLES)]
    Query(Box<read::QueryArgs>),
    /// Explain a decision: who asked what, which policies were in force, what came of it
    #[command(after_help = read::EXPLAIN_EXAMPLES)]
    Explain(read::ShowArgs),
    /// Prove that nothing was altered or left out
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::VerifyArgs),
}

pub(crate) use describe::explained as in_words;
pub(crate) use read::{LogArgs, explained, unreadable};
pub(crate) use verify::verify_state;

/// Does it.
pub(crate) fn run(args: &AuditArgs) -> Verdict {
    match &args.verb {
        AuditVerb::Tail(args) => read::tail(args),
        AuditVerb::Show(args) => read::show(args),
        AuditVerb::Query(args) => read::query(args),
        AuditVerb::Explain(args) => read::explain(args),
        AuditVerb::Verify(args) => verify::run(args),
    }
}
