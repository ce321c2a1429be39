//! What a rate limit server's answer tells the caller: headers that it asks for, and how its limits stand
//! (Envoy's `enable_x_ratelimit_headers`, draft version 3).

use envoy_types::pb::envoy::{
    config::core::v3::HeaderValue as Wanted,
    service::ratelimit::v3::{
        RateLimitResponse,
        rate_limit_response::{DescriptorStatus, RateLimit, rate_limit::Unit},
    },
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{headers, limits::MAX_GLOBAL_LIMIT_HEADERS};

const LIMIT: &str = "x-ratelimit-limit";
const REMAINING: &str = "x-ratelimit-remaining";
const RESET: &str = "x-ratelimit-reset";

/// Adds what `answer` tells.
pub(super) fn add(told: &mut HeaderMap, answer: &RateLimitResponse) {
    let wanted = answer.response_headers_to_add.iter();
    for (name, value) in wanted.filter_map(header).take(MAX_GLOBAL_LIMIT_HEADERS) {
        told.append(name, value);
    }
    let limited = |status: &&DescriptorStatus| status.current_limit.is_some();
    let statuses = answer.statuses.iter().filter(limited);
    let Some(nearest) = statuses.min_by_key(|status| status.limit_remaining) else {
        return;
    };
    // Of several limits the one that is nearest is told.
    let held = told
        .get(REMAINING)
        .and_then(|held| held.to_str().ok()?.parse().ok());
    if held.is_some_and(|held: u32| held <= nearest.limit_remaining) {
        return;
    }
    let Some(limit) = &nearest.current_limit else {
        return;
    };
    told.insert(LIMIT, described(limit));
    told.insert(REMAINING, HeaderValue::from(nearest.limit_remaining));
    if let Some(reset) = &nearest.duration_until_reset {
        told.insert(RESET, HeaderValue::from(reset.seconds));
    }
}

/// `10, 10;w=60`: so many, in a window of so many seconds.
fn described(limit: &RateLimit) -> HeaderValue {
    let most = limit.requests_per_unit;
    let seconds = match limit.unit() {
        Unit::Unknown => return HeaderValue::from(most),
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 3600,
        Unit::Day => 86_400,
        Unit::Week => 604_800,
        Unit::Month => 2_592_000,
        Unit::Year => 31_536_000,
    };
    let text = format!("{most}, {most};w={seconds}");
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from(most))
}

/// A header that the server may add: none that frames or routes the message, and none of the mesh's own.
fn header(wanted: &Wanted) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::try_from(wanted.key.as_str()).ok()?;
    let value = match wanted.raw_value.as_slice() {
        [] => HeaderValue::try_from(wanted.value.as_str()),
        raw => HeaderValue::from_bytes(raw),
    };
    let mut alone = HeaderMap::new();
    alone.insert(name.clone(), value.ok()?);
    headers::remove_hop_by_hop(&mut alone);
    headers::remove_reserved(&mut alone);
    alone.remove(http::header::CONTENT_LENGTH);
    let value = alone.remove(&name)?;
    Some((name, value))
}
