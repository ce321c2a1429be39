//! `reeve ca`: looks at the certificate authority and lets new members join.

use clap::Args;

use crate::problem::{Problem, Verdict};

/// `reeve ca`.
#[derive(Args, Debug)]
pub(crate) struct CaArgs {}

/// Does it.
pub(crate) fn run(_args: &CaArgs) -> Verdict {
    Err(Problem::new("this verb is not part of this build"))
}
