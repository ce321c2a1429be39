//! What a proxy tells of its traffic, and of its application.

use serde::{Deserialize, Serialize};

use crate::access_log::AccessLogConfig;

/// Access log, application metrics and live taps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TelemetryConfig {
    /// What access log lines look like.
    pub access_log: AccessLogConfig,
    /// Where the application serves its own metrics, which the proxy's port 15020 serves with its own.
    pub app_metrics: Option<AppMetrics>,
    /// What live taps may show of its traffic.
    pub tap: TapMode,
}

/// What a live tap may show, from nothing to everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TapMode {
    /// There are no taps.
    Off,
    /// Heads, headers and decisions.
    #[default]
    Heads,
    /// Bodies as well.
    Bodies,
}

/// Where an application serves metrics (`prometheus.io/port`, `prometheus.io/path`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppMetrics {
    /// The application's own address.
    pub address: std::net::SocketAddr,
    /// Begins with a slash.
    pub path: String,
}
