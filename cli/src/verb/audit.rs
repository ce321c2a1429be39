//! `reeve audit`: reads and proves the audit log.

mod cosign;
mod describe;
mod export;
mod far;
mod inputs;
mod past;
mod prove;
mod read;
mod remote;
mod report;
mod rotate;
mod serve;
mod sql;
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
    /// Review access: who reached what, denials by cause, what nobody used
    #[command(after_help = report::EXAMPLES)]
    Report(report::ReportArgs),
    /// Decide recorded requests again, by the policies of their time
    #[command(after_help = past::REPLAY_EXAMPLES)]
    Replay(past::ReplayArgs),
    /// Say who could reach a service at some time, by the policies of that time
    #[command(after_help = past::WHO_COULD_EXAMPLES)]
    WhoCould(past::WhoCouldArgs),
    /// Write records for other tools: JSON lines, Parquet, OTLP logs
    #[command(after_help = export::EXAMPLES)]
    Export(export::ExportArgs),
    /// Prove that nothing was altered or left out
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::VerifyArgs),
    /// Prove that the log holds a record, in a file that stands by itself
    #[command(after_help = prove::PROVE_EXAMPLES)]
    Prove(prove::ProveArgs),
    /// Check such a file with the log's public key alone
    #[command(after_help = prove::CHECK_EXAMPLES)]
    CheckProof(prove::CheckArgs),
    /// Check bare proofs that trees have certain leaves
    #[command(after_help = inputs::INCLUSION_EXAMPLES)]
    VerifyInclusion(inputs::InputsArgs),
    /// Check bare proofs that trees are the beginnings of others
    #[command(after_help = inputs::CONSISTENCY_EXAMPLES)]
    VerifyConsistency(inputs::InputsArgs),
    /// Ask witnesses to cosign the log's checkpoint
    #[command(after_help = cosign::EXAMPLES)]
    Cosign(cosign::CosignArgs),
    /// Give the log a new key, which the old one signs for
    #[command(after_help = rotate::EXAMPLES)]
    RotateKey(rotate::RotateArgs),
    /// Run an audit replica: a log of its own under the log of a mesh
    #[command(after_help = serve::EXAMPLES)]
    Serve(Box<serve::ServeArgs>),
}

pub(crate) use describe::explained as in_words;
pub(crate) use prove::log_key;
pub(crate) use read::{LogArgs, columns, explained, open_live, unreadable};
pub(crate) use verify::verify_state;

/// Does it.
pub(crate) fn run(args: &AuditArgs) -> Verdict {
    match &args.verb {
        AuditVerb::Tail(args) => read::tail(args),
        AuditVerb::Show(args) => read::show(args),
        AuditVerb::Query(args) => read::query(args),
        AuditVerb::Explain(args) => read::explain(args),
        AuditVerb::Report(args) => report::run(args),
        AuditVerb::Replay(args) => past::replay(args),
        AuditVerb::WhoCould(args) => past::who_could(args),
        AuditVerb::Export(args) => export::run(args),
        AuditVerb::Verify(args) => verify::run(args),
        AuditVerb::Prove(args) => prove::prove(args),
        AuditVerb::CheckProof(args) => prove::check(args),
        AuditVerb::VerifyInclusion(args) => inputs::inclusion(args),
        AuditVerb::VerifyConsistency(args) => inputs::consistency(args),
        AuditVerb::Cosign(args) => cosign::run(args),
        AuditVerb::RotateKey(args) => rotate::run(args),
        AuditVerb::Serve(args) => serve::run(args),
    }
}
