//! `reeve jwt`: verifies JSON Web Tokens.

use clap::Args;

use crate::problem::{Problem, Verdict};

/// `reeve jwt`.
#[derive(Args, Debug)]
pub(crate) struct JwtArgs {}

/// Does it.
pub(crate) fn run(_args: &JwtArgs) -> Verdict {
    Err(Problem::new("this verb is not part of this build"))
}
