//! The state directory: where it is, what lies in it, and who may use it.

use std::path::PathBuf;

use clap::Args;

/// `--state`.
#[derive(Args, Clone, Debug)]
pub(crate) struct StateArgs {
    /// The mesh's state directory [default: $XDG_RUNTIME_DIR/reeve-UID, or /tmp/reeve-UID].
    #[arg(long, env = "REEVE_STATE", value_name = "DIR", hide_env_values = true)]
    pub(crate) state: Option<PathBuf>,
}
