//! `envoy.service.ratelimit.v3.RateLimitService`.

use std::sync::Arc;

use envoy_types::pb::{
    envoy::{
        extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor},
        service::ratelimit::v3::{
            RateLimitRequest, RateLimitResponse,
            rate_limit_response::{self as answer, Code, DescriptorStatus},
            rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
        },
    },
    google::protobuf,
};
use reeve_core::Clock;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{
    limits::{Limit, Limits, Rate, Unit},
    store::Store,
};

/// Most descriptors of a request.
const MAX_DESCRIPTORS: usize = 64;
/// Longest key of a counter in bytes: all keys and values of a descriptor.
const MAX_KEY_BYTES: usize = 4096;
/// Largest request.
const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// The service. A change of limits counts from the next request on.
#[derive(Clone, Debug)]
pub struct RateLimitServer {
    limits: watch::Receiver<Arc<Limits>>,
    store: Store,
    clock: Arc<dyn Clock>,
}

impl RateLimitServer {
    /// Answers by `limits`, counting in `store`.
    pub fn new(limits: watch::Receiver<Arc<Limits>>, store: Store, clock: Arc<dyn Clock>) -> Self {
        Self {
            limits,
            store,
            clock,
        }
    }

    /// As a gRPC service.
    pub fn into_service(self) -> RateLimitServiceServer<Self> {
        RateLimitServiceServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// Counts one descriptor.
    async fn count(
        &self,
        limits: &Limits,
        domain: &str,
        descriptor: &RateLimitDescriptor,
        hits: u32,
    ) -> Result<(DescriptorStatus, bool), Status> {
        let entries = descriptor.entries.iter();
        let entries: Vec<_> = entries.map(|e| (e.key.clone(), e.value.clone())).collect();
        let asked = descriptor.limit.as_ref().and_then(overridden);
        let limit = asked.as_ref().or_else(|| limits.find(domain, &entries));
        let Some((limit, rate)) = limit.and_then(|l| Some((l, l.rate?))) else {
            let status = DescriptorStatus {
                code: Code::Ok.into(),
                ..DescriptorStatus::default()
            };
            return Ok((status, false));
        };
        let own = descriptor.hits_addend.as_ref().map(|own| own.value);
        let hits = own.map_or(hits, |own| u32::try_from(own).unwrap_or(u32::MAX));
        let (begin, left) = rate.unit.window(self.clock.now());
        let key = key(domain, &entries, rate, begin)
            .ok_or_else(|| Status::invalid_argument("the descriptor is too long"))?;
        let count = self.store.add(&key, hits, left).await.map_err(|error| {
            tracing::warn!(%error, "cannot count");
            Status::unavailable("the counters cannot be reached")
        })?;
        let over = count > u64::from(rate.requests);
        let code = if over && !limit.shadow {
            Code::OverLimit
        } else {
            Code::Ok
        };
        let remaining = u64::from(rate.requests).saturating_sub(count);
        let status = DescriptorStatus {
            code: code.into(),
            current_limit: Some(described(limit, rate)),
            limit_remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            duration_until_reset: Some(protobuf::Duration {
                seconds: i64::try_from(left).unwrap_or(i64::MAX),
                nanos: 0,
            }),
            ..DescriptorStatus::default()
        };
        Ok((status, code == Code::OverLimit))
    }
}

#[tonic::async_trait]
impl RateLimitService for RateLimitServer {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        if request.domain.is_empty() || request.descriptors.is_empty() {
            return Err(Status::invalid_argument("give a domain and descriptors"));
        }
        if request.descriptors.len() > MAX_DESCRIPTORS {
            return Err(Status::invalid_argument("too many descriptors"));
        }
        let limits = self.limits.borrow().clone();
        let hits = request.hits_addend.max(1);
        let mut response = RateLimitResponse {
            overall_code: Code::Ok.into(),
            ..RateLimitResponse::default()
        };
        for descriptor in &request.descriptors {
            let counted = self.count(&limits, &request.domain, descriptor, hits);
            let (status, over) = counted.await?;
            if over {
                response.overall_code = Code::OverLimit.into();
            }
            response.statuses.push(status);
        }
        Ok(Response::new(response))
    }
}

/// A limit that the proxy itself names.
fn overridden(asked: &rate_limit_descriptor::RateLimitOverride) -> Option<Limit> {
    use envoy_types::pb::envoy::r#type::v3::RateLimitUnit;
    let unit = match asked.unit() {
        RateLimitUnit::Second => Unit::Second,
        RateLimitUnit::Minute => Unit::Minute,
        RateLimitUnit::Hour => Unit::Hour,
        RateLimitUnit::Day => Unit::Day,
        RateLimitUnit::Month => Unit::Month,
        RateLimitUnit::Year => Unit::Year,
        RateLimitUnit::Unknown => return None,
    };
    Some(Limit {
        name: String::new(),
        rate: Some(Rate {
            requests: asked.requests_per_unit,
            unit,
        }),
        shadow: false,
    })
}

fn described(limit: &Limit, rate: Rate) -> answer::RateLimit {
    use answer::rate_limit::Unit as Wire;
    let unit = match rate.unit {
        Unit::Second => Wire::Second,
        Unit::Minute => Wire::Minute,
        Unit::Hour => Wire::Hour,
        Unit::Day => Wire::Day,
        Unit::Week => Wire::Week,
        Unit::Month => Wire::Month,
        Unit::Year => Wire::Year,
    };
    answer::RateLimit {
        name: limit.name.clone(),
        requests_per_unit: rate.requests,
        unit: unit.into(),
    }
}

/// A counter's key. Lengths stand before the parts, so that no two descriptors share one.
fn key(domain: &str, entries: &[(String, String)], rate: Rate, begin: i64) -> Option<String> {
    let mut key = format!("reeve:{}:{domain}", domain.len());
    for part in entries.iter().flat_map(|(k, v)| [k, v]) {
        key.push_str(&format!(":{}:{part}", part.len()));
    }
    key.push_str(&format!(":{:?}:{begin}", rate.unit));
    (key.len() <= MAX_KEY_BYTES).then_some(key)
}

#[cfg(test)]
mod tests;
