//! `reeve proxy`: runs a sidecar, or asks one how it is.

use clap::Args;

use crate::problem::{Problem, Verdict};

/// `reeve proxy`.
#[derive(Args, Debug)]
pub(crate) struct ProxyArgs {}

/// Does it.
pub(crate) fn run(_args: ProxyArgs) -> Verdict {
    Err(Problem::new("this verb is not part of this build"))
}
