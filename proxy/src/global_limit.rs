//! Global rate limits: a request is counted by a server of Envoy's rate limit service, version 3, so that many proxies keep one
//! limit together. After the decision, as local limits, and only for workloads that have any
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/rate_limit_filter>).
//!
//! One connection to each server, shared by all workers; a bounded number of questions under way, and each within its time. When
//! there is no answer, the limit's own setting says whether the request passes.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use envoy_types::pb::envoy::service::ratelimit::v3::{
    RateLimitRequest, RateLimitResponse, rate_limit_response::Code,
    rate_limit_service_client::RateLimitServiceClient,
};
use http::{HeaderMap, HeaderValue, Uri};
use reeve_core::model::{GlobalRateLimit, LimitServer, OnFailure, WorkloadConfig};
use tokio::{sync::Semaphore, time::timeout};
use tonic::transport::{Channel, Endpoint};

use crate::{
    answer::Answer,
    head::Head,
    limits::{
        GLOBAL_LIMIT_CONNECT_TIMEOUT, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT,
        MAX_GLOBAL_LIMIT_ANSWER_BYTES, MAX_GLOBAL_LIMIT_QUESTIONS,
    },
    metrics::Metrics,
    rate_limit::Asker,
    route::RouteError,
};

mod descriptor;
mod told;

use descriptor::Descriptors;

/// The global limits of one workload.
#[derive(Debug, Default)]
pub(crate) struct GlobalLimits(Vec<Arc<Global>>);

/// One server and what it is asked.
#[derive(Debug)]
struct Global {
    rule: GlobalRateLimit,
    descriptors: Descriptors,
    /// Where it is reached; `None` for a service that this workload has no way to.
    at: Option<SocketAddr>,
    client: OnceLock<Option<RateLimitServiceClient<Channel>>>,
    /// Questions that may yet be under way.
    room: Semaphore,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("there is no way to the server")]
    NoWay,
    #[error("too many questions wait for the server")]
    Full,
    #[error("no answer within the time allowed")]
    Late,
    #[error("the server failed")]
    Failed(#[source] Box<tonic::Status>),
}

impl GlobalLimits {
    /// Compiles those of `workload`; connections of `before` are kept for what has not changed.
    pub(crate) fn compile(
        workload: &WorkloadConfig,
        before: Option<&Self>,
    ) -> Result<Self, RouteError> {
        let compile = |rule: &GlobalRateLimit| {
            let at = address(&rule.server, workload);
            let same = |known: &&Arc<Global>| known.rule == *rule && known.at == at;
            match before.and_then(|before| before.0.iter().find(same)) {
                Some(known) => Ok(known.clone()),
                None => Global::compile(rule, at).map(Arc::new),
            }
        };
        let rules = workload.global_rate_limits.iter();
        rules.map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Has each server count the request; what the caller is told with the response, or the answer instead.
    pub(crate) async fn ask(
        &self,
        head: &Head,
        asker: Asker<'_>,
        metrics: &Metrics,
    ) -> Result<HeaderMap, Answer> {
        let mut told = HeaderMap::new();
        for global in &self.0 {
            global.ask(head, asker, metrics, &mut told).await?;
        }
        Ok(told)
    }
}

/// Where a server is reached: a service of the mesh as the workload itself reaches it, through this proxy's own listener.
fn address(server: &LimitServer, workload: &WorkloadConfig) -> Option<SocketAddr> {
    let (name, port) = match server {
        LimitServer::At(address) => return Some(*address),
        LimitServer::Service(name, port) => (name, port),
    };
    let stands_for = |service: &Option<(reeve_core::ServiceName, u16)>| {
        service
            .as_ref()
            .is_some_and(|(n, p)| (n, p) == (name, port))
    };
    let mut doors = workload.outbound.iter();
    doors
        .find(|door| stands_for(&door.service))
        .map(|door| door.bind)
}

impl Global {
    fn compile(rule: &GlobalRateLimit, at: Option<SocketAddr>) -> Result<Self, RouteError> {
        if at.is_none() {
            tracing::warn!(limit = %rule.name, server = ?rule.server, "the rate limit server is no service of this workload's");
        }
        Ok(Self {
            descriptors: Descriptors::compile(rule)?,
            rule: rule.clone(),
            at,
            client: OnceLock::new(),
            room: Semaphore::new(MAX_GLOBAL_LIMIT_QUESTIONS),
        })
    }

    async fn ask(
        &self,
        head: &Head,
        asker: Asker<'_>,
        metrics: &Metrics,
        told: &mut HeaderMap,
    ) -> Result<(), Answer> {
        let descriptors = self.descriptors.of(head, asker, &self.rule.service);
        if descriptors.is_empty() {
            return Ok(());
        }
        let question = RateLimitRequest {
            domain: self.rule.domain.clone(),
            descriptors,
            hits_addend: 0,
        };
        let answer = match self.send(question).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(limit = %self.rule.name, %error, "a rate limit is not known");
                metrics.global_limit("error");
                return match self.rule.on_failure {
                    OnFailure::Allow => {
                        metrics.global_limit("failure_mode_allowed");
                        Ok(())
                    }
                    OnFailure::Deny => Err(Answer::rate_limit_unknown()),
                };
            }
        };
        told::add(told, &answer);
        if answer.overall_code() == Code::OverLimit {
            metrics.global_limit("over_limit");
            told.insert("x-envoy-ratelimited", HeaderValue::from_static("true"));
            return Err(Answer::globally_limited(std::mem::take(told)));
        }
        metrics.global_limit("ok");
        Ok(())
    }

    async fn send(&self, question: RateLimitRequest) -> Result<RateLimitResponse, Unanswered> {
        let client = self.client.get_or_init(|| self.connect());
        let mut client = client.clone().ok_or(Unanswered::NoWay)?;
        let _place = self.room.try_acquire().map_err(|_| Unanswered::Full)?;
        let asking = client.should_rate_limit(question);
        let answer = timeout(self.rule.timeout, asking)
            .await
            .map_err(|_| Unanswered::Late)?;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| Unanswered::Failed(Box::new(status)))
    }

    /// A connection that is made when it is first needed, and again when it broke.
    fn connect(&self) -> Option<RateLimitServiceClient<Channel>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.at?)).ok()?;
        let endpoint = match &self.rule.server {
            LimitServer::At(_) => endpoint,
            LimitServer::Service(name, port) => {
                endpoint.origin(Uri::try_from(format!("http://{name}:{port}")).ok()?)
            }
        };
        let channel = endpoint
            .connect_timeout(GLOBAL_LIMIT_CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .buffer_size(MAX_GLOBAL_LIMIT_QUESTIONS)
            .connect_lazy();
        let client = RateLimitServiceClient::new(channel);
        Some(client.max_decoding_message_size(MAX_GLOBAL_LIMIT_ANSWER_BYTES))
    }
}

#[cfg(test)]
pub(crate) mod tests;
