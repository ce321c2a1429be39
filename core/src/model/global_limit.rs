//! Global rate limits: what a workload's proxy asks a rate limit service, so that many proxies count together.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ServiceName, model::RouteMatch};

/// Limits that a service of Envoy's rate limit protocol keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalRateLimit {
    /// For people: `namespace/object`.
    pub name: String,
    /// Who is asked.
    pub server: LimitServer,
    /// Which limits of the server's.
    pub domain: String,
    /// How long the answer may take.
    pub timeout: Duration,
    /// What becomes of a request when there is no answer.
    pub on_failure: OnFailure,
    /// What is asked.
    pub descriptors: Vec<DescriptorRule>,
    /// The service that the workload stands behind.
    pub service: ServiceName,
}

/// A rate limit server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitServer {
    /// At an address, in plaintext.
    At(SocketAddr),
    /// A service of the mesh and its port, asked as the workload itself would ask it.
    Service(ServiceName, u16),
}

/// What becomes of a request when the rate limit server does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It passes (Envoy's default).
    #[default]
    Allow,
    /// It is answered 500 (Envoy's `failure_mode_deny`).
    Deny,
}

/// One descriptor: a list of keys and values that the server counts under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorRule {
    /// Requests that it is sent for.
    #[serde(default)]
    pub when: RouteMatch,
    /// Its entries, in order.
    pub entries: Vec<DescriptorEntry>,
}

/// A key and where its value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorEntry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: DescriptorValue,
    /// Left out where the request has no such value; else the whole descriptor is not sent.
    pub optional: bool,
}

/// Where a descriptor's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DescriptorValue {
    /// It is always the same.
    Fixed(String),
    /// The calling workload's verified identity.
    Identity,
    /// The caller's address.
    Address,
    /// The service that is asked.
    Service,
    /// The method.
    Method,
    /// The path, normalised, without its query.
    Path,
    /// A header.
    Header(String),
    /// A claim of the verified token.
    Claim(String),
}
