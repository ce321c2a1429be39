//! `reeve identity`: parses, verifies, fetches and shows identities.

use clap::Args;

use crate::problem::{Problem, Verdict};

/// `reeve identity`.
#[derive(Args, Debug)]
pub(crate) struct IdentityArgs {}

/// Does it.
pub(crate) fn run(_args: &IdentityArgs) -> Verdict {
    Err(Problem::new("this verb is not part of this build"))
}
