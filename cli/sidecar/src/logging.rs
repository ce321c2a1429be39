//! The process's own log: JSON lines on standard error. `RUST_LOG` chooses what is told; the default is `info`.

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Installs the log, unless the process has one already.
pub fn start() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    let log = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if log.try_init().is_err() {
        tracing::debug!("this process has a log already");
    }
}
