//! `reeve policy`: evaluates, checks and explains Cedar policies.

use clap::Args;

use crate::problem::{Problem, Verdict};

/// `reeve policy`.
#[derive(Args, Debug)]
pub(crate) struct PolicyArgs {}

/// Does it.
pub(crate) fn run(_args: &PolicyArgs) -> Verdict {
    Err(Problem::new("this verb is not part of this build"))
}
