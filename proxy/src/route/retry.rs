//! Envoy's `retry_on` words.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use reeve_core::model::RetryPolicy;

use crate::limits::MAX_ATTEMPTS;

/// How a try failed before there was any response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection could be made.
    Connect,
    /// The stream was refused, or never sent: the peer did not process it (RFC 9113 section 8.7).
    Refused,
    /// The connection or stream ended after the request was sent.
    Reset,
    /// The per-try timeout passed.
    Timeout,
}

/// When to try again, compiled.
#[derive(Clone, Debug, Default)]
pub(crate) struct RetryOn {
    /// Tries after the first.
    pub(crate) attempts: u32,
    /// Bound on one try.
    pub(crate) per_try_timeout: Option<Duration>,
    connect_failure: bool,
    refused_stream: bool,
    reset: bool,
    reset_before_request: bool,
    gateway_error: bool,
    server_error: bool,
    retriable_4xx: bool,
    statuses: Vec<u16>,
    grpc: Vec<u16>,
}

impl RetryOn {
    /// Reads a policy; words it does not know are left out (`control` has refused them).
    pub(crate) fn compile(policy: &RetryPolicy) -> Self {
        let mut on = Self {
            attempts: policy.attempts.min(MAX_ATTEMPTS),
            per_try_timeout: policy.per_try_timeout,
            ..Self::default()
        };
        for word in &policy.on {
            on.add(word.trim());
        }
        on
    }

    fn add(&mut self, word: &str) {
        match word {
            "connect-failure" => self.connect_failure = true,
            "refused-stream" => self.refused_stream = true,
            "reset" => self.reset = true,
            "reset-before-request" => self.reset_before_request = true,
            "gateway-error" => self.gateway_error = true,
            "5xx" => self.server_error = true,
            "retriable-4xx" => self.retriable_4xx = true,
            "retriable-status-codes" => {}
            "cancelled" => self.grpc.push(1),
            "deadline-exceeded" => self.grpc.push(4),
            "resource-exhausted" => self.grpc.push(8),
            "internal" => self.grpc.push(13),
            "unavailable" => self.grpc.push(14),
            status => self.statuses.extend(status.parse::<u16>().ok()),
        }
    }

    /// Whether a try that failed in this way may be repeated.
    pub(crate) fn covers(&self, failure: Failure) -> bool {
        match failure {
            Failure::Connect => self.connect_failure || self.gateway_error || self.server_error,
            Failure::Refused => {
                self.refused_stream || self.reset_before_request || self.reset || self.server_error
            }
            Failure::Reset => self.reset || self.server_error,
            Failure::Timeout => self.gateway_error || self.server_error,
        }
    }

    /// Whether a response with this head is as bad as none.
    pub(crate) fn covers_response(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let code = status.as_u16();
        let grpc = || headers.get("grpc-status")?.to_str().ok()?.parse().ok();
        self.statuses.contains(&code)
            || (self.server_error && status.is_server_error())
            || (self.gateway_error && matches!(code, 502..=504))
            || (self.retriable_4xx && code == 409)
            || (!self.grpc.is_empty() && grpc().is_some_and(|code| self.grpc.contains(&code)))
    }
}
