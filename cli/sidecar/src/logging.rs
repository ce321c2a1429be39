//! The process's own log: JSON lines on standard error. `RUST_LOG` chooses what is told; the default is `info`, and
//! the admin interface changes it while the process runs.

use tracing_subscriber::{
    EnvFilter, Registry, filter::LevelFilter, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// Longest filter that is accepted.
const MAX_FILTER_BYTES: usize = 1024;

/// What the log tells. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogFilter(Option<reload::Handle<EnvFilter, Registry>>);

/// Why a filter is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It cannot be read.
    #[error(
        "{0:?} is no log filter; write a level (error, warn, info, debug, trace, off) or directives such as info,reeve_proxy=debug"
    )]
    Malformed(String),
    /// The log is somebody else's.
    #[error("this process's log was installed by something else and cannot be changed")]
    Foreign,
}

/// Installs the log, unless the process has one already.
pub fn start() -> LogFilter {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(std::io::stderr);
    let log = tracing_subscriber::registry().with(filter).with(lines);
    if log.try_init().is_err() {
        tracing::debug!("this process has a log already");
        return LogFilter(None);
    }
    LogFilter(Some(handle))
}

impl LogFilter {
    /// What is told at present.
    pub fn get(&self) -> String {
        let now = self.0.as_ref().map(|h| h.with_current(ToString::to_string));
        match now {
            Some(Ok(filter)) => filter,
            Some(Err(_)) | None => String::new(),
        }
    }

    /// Tells something else from now on. A bare level holds for everything.
    pub fn set(&self, text: &str) -> Result<(), FilterError> {
        let malformed = || FilterError::Malformed(text.chars().take(MAX_FILTER_BYTES).collect());
        if text.is_empty() || text.len() > MAX_FILTER_BYTES {
            return Err(malformed());
        }
        let filter = EnvFilter::builder().parse(text).map_err(|_| malformed())?;
        let handle = self.0.as_ref().ok_or(FilterError::Foreign)?;
        handle.reload(filter).map_err(|_| FilterError::Foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that nobody installed, with its filter.
    fn filter() -> (reload::Layer<EnvFilter, Registry>, LogFilter) {
        let (layer, handle) = reload::Layer::new(EnvFilter::new("info"));
        (layer, LogFilter(Some(handle)))
    }

    #[test]
    fn the_filter_changes_while_the_log_runs() {
        let (_layer, filter) = filter();
        assert_eq!(filter.get(), "info");
        filter.set("warn,reeve_proxy=debug").unwrap();
        assert_eq!(filter.get(), "reeve_proxy=debug,warn");
    }

    #[test]
    fn what_is_no_filter_changes_nothing() {
        let (_layer, filter) = filter();
        for bad in ["", "reeve_proxy=loud", &"x".repeat(2000)] {
            assert!(
                matches!(filter.set(bad), Err(FilterError::Malformed(_))),
                "{bad}"
            );
        }
        assert_eq!(filter.get(), "info");
        assert_eq!(LogFilter(None).set("debug"), Err(FilterError::Foreign));
    }
}
