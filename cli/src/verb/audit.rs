//! `reeve audit`: reads and proves the audit log.

use clap::Args;

use crate::problem::{Problem, Verdict};

/// `reeve audit`.
#[derive(Args, Debug)]
pub(crate) struct AuditArgs {}

/// Does it.
pub(crate) fn run(_args: &AuditArgs) -> Verdict {
    Err(Problem::new("this verb is not part of this build"))
}
