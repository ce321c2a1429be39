//! Envoy's `retry_on` words.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use reeve_core::model::RetryPolicy;

use crate::{
    body::Upload,
    head::Head,
    limits::{BASE_RETRY_BACKOFF, MAX_ATTEMPTS, MAX_RETRIABLE_HEADERS, RETRY_BACKOFF_GROWTH},
};

/// Names of response headers that make a response worth another try, by comma (Envoy).
const RETRIABLE_HEADER_NAMES: &str = "x-envoy-retriable-header-names";
/// On a response that a rate limit made.
const RATE_LIMITED: &str = "x-envoy-ratelimited";

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
    /// A circuit breaker is open: never tried again, as in Envoy.
    Overflow,
}

impl Failure {
    /// Whether the endpoint surely did not act on the request.
    pub(crate) fn is_harmless(self) -> bool {
        match self {
            Self::Connect | Self::Refused | Self::Overflow => true,
            Self::Reset | Self::Timeout => false,
        }
    }
}

/// When to try again, compiled.
#[derive(Clone, Debug, Default)]
pub(crate) struct RetryOn {
    /// Tries after the first.
    pub(crate) attempts: u32,
    /// Bound on one try.
    pub(crate) per_try_timeout: Option<Duration>,
    /// Whether endpoints tried already are passed over; `None` = unless a hash says where to go.
    pub(crate) ignore_previous: Option<bool>,
    /// Whether localities tried already are passed over.
    pub(crate) remote_localities: bool,
    /// Whether bodies are kept for another try.
    keeps_bodies: bool,
    backoff: Option<Duration>,
    connect_failure: bool,
    refused_stream: bool,
    reset: bool,
    reset_before_request: bool,
    gateway_error: bool,
    server_error: bool,
    retriable_4xx: bool,
    rate_limited: bool,
    retriable_headers: bool,
    statuses: Vec<u16>,
    grpc: Vec<u16>,
}

impl RetryOn {
    /// Reads a policy; words it does not know are left out (`control` has refused them).
    pub(crate) fn compile(policy: &RetryPolicy) -> Self {
        let mut on = Self {
            attempts: policy.attempts.min(MAX_ATTEMPTS),
            per_try_timeout: policy.per_try_timeout,
            ignore_previous: policy.ignore_previous,
            remote_localities: policy.remote_localities,
            keeps_bodies: policy.explicit && policy.attempts > 0,
            backoff: policy.backoff,
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
            "envoy-ratelimited" => self.rate_limited = true,
            "retriable-headers" => self.retriable_headers = true,
            "retriable-status-codes" => {}
            "cancelled" => self.grpc.push(1),
            "deadline-exceeded" => self.grpc.push(4),
            "resource-exhausted" => self.grpc.push(8),
            "internal" => self.grpc.push(13),
            "unavailable" => self.grpc.push(14),
            status => self.statuses.extend(status.parse::<u16>().ok()),
        }
    }

    /// Has a body kept for other tries: where the route asks for them, and for gRPC, whose failures come after it.
    pub(crate) fn prepare(&self, upload: &Upload, head: &Head) {
        if self.keeps_bodies || self.attempts > 0 && head.is_grpc() {
            upload.keep_for_retries();
        }
    }

    /// Whether a try that failed in this way may be repeated. A reset counts as the 5xx that it makes, as in Envoy.
    pub(crate) fn covers(&self, failure: Failure) -> bool {
        let as_5xx = self.gateway_error || self.server_error;
        match failure {
            Failure::Connect => self.connect_failure || self.reset || as_5xx,
            Failure::Refused => {
                self.refused_stream || self.reset_before_request || self.reset || as_5xx
            }
            Failure::Reset | Failure::Timeout => self.reset || as_5xx,
            Failure::Overflow => false,
        }
    }

    /// Whether a response with this head is as bad as none; `asked` are the request's headers.
    pub(crate) fn covers_response(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        asked: &HeaderMap,
    ) -> bool {
        if headers.contains_key(RATE_LIMITED) {
            return self.rate_limited;
        }
        let code = status.as_u16();
        let grpc = || headers.get("grpc-status")?.to_str().ok()?.parse().ok();
        self.statuses.contains(&code)
            || (self.server_error && status.is_server_error())
            || (self.gateway_error && matches!(code, 502..=504))
            || (self.retriable_4xx && code == 409)
            || (!self.grpc.is_empty() && grpc().is_some_and(|code| self.grpc.contains(&code)))
            || (self.retriable_headers && has_one_of(headers, asked))
    }

    /// The longest that may be waited before retry number `retries` (0 = the first): twice as long each time.
    pub(crate) fn most_backoff(&self, retries: u32) -> Duration {
        let base = self.backoff.unwrap_or(BASE_RETRY_BACKOFF);
        let grown = base.saturating_mul(1 << retries.min(8));
        grown.min(base.saturating_mul(RETRY_BACKOFF_GROWTH))
    }
}

/// Whether a response has one of the headers that its request names as a reason to try again.
fn has_one_of(headers: &HeaderMap, asked: &HeaderMap) -> bool {
    let names = asked.get(RETRIABLE_HEADER_NAMES);
    let names = names.and_then(|names| names.to_str().ok());
    let mut names = names.unwrap_or_default().split(',').map(str::trim);
    names
        .by_ref()
        .take(MAX_RETRIABLE_HEADERS)
        .any(|name| headers.contains_key(name))
}
