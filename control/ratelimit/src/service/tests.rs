use std::time::Duration;

use envoy_types::pb::envoy::r#type::v3::RateLimitUnit;
use reeve_core::{UnixTime, clock::ManualClock};

use super::*;
use crate::limits::{RawDescriptor, RawLimits, RawRateLimit};

struct Fixture {
    server: RateLimitServer,
    clock: Arc<ManualClock>,
    limits: watch::Sender<Arc<Limits>>,
}

fn limits(requests: u32, shadow_mode: bool) -> Arc<Limits> {
    let descriptor = RawDescriptor {
        key: "user".to_owned(),
        rate_limit: Some(RawRateLimit {
            name: "per-user".to_owned(),
            unit: "minute".to_owned(),
            requests_per_unit: Some(requests),
            unlimited: false,
        }),
        shadow_mode,
        ..RawDescriptor::default()
    };
    let raw = RawLimits {
        domain: "mesh".to_owned(),
        descriptors: vec![descriptor],
    };
    Arc::new(Limits::compile(&[raw]).unwrap())
}

fn fixture() -> Fixture {
    // On a whole minute.
    let clock = Arc::new(ManualClock::at(UnixTime::from_secs(1_795_272_420)));
    let (sender, receiver) = watch::channel(limits(2, false));
    Fixture {
        server: RateLimitServer::new(receiver, Store::memory(clock.clone()), clock.clone()),
        clock,
        limits: sender,
    }
}

fn descriptor(pairs: &[(&str, &str)]) -> RateLimitDescriptor {
    RateLimitDescriptor {
        entries: pairs
            .iter()
            .map(|(key, value)| rate_limit_descriptor::Entry {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect(),
        ..RateLimitDescriptor::default()
    }
}

async fn ask(server: &RateLimitServer, descriptors: Vec<RateLimitDescriptor>) -> RateLimitResponse {
    let request = RateLimitRequest {
        domain: "mesh".to_owned(),
        descriptors,
        hits_addend: 0,
    };
    let answered = server.should_rate_limit(Request::new(request)).await;
    answered.unwrap().into_inner()
}

#[tokio::test]
async fn the_third_of_two_is_over_the_limit_until_the_window_ends() {
    let it = fixture();
    let eve = || vec![descriptor(&[("user", "eve")])];
    let first = ask(&it.server, eve()).await;
    assert_eq!(first.overall_code(), Code::Ok);
    let status = &first.statuses[0];
    assert_eq!(status.limit_remaining, 1);
    let limit = status.current_limit.as_ref().unwrap();
    assert_eq!(
        (limit.name.as_str(), limit.requests_per_unit),
        ("per-user", 2)
    );
    it.clock.advance(Duration::from_secs(45));
    ask(&it.server, eve()).await;
    let third = ask(&it.server, eve()).await;
    assert_eq!(third.overall_code(), Code::OverLimit);
    assert_eq!(third.statuses[0].code(), Code::OverLimit);
    assert_eq!(
        third.statuses[0]
            .duration_until_reset
            .as_ref()
            .unwrap()
            .seconds,
        15
    );
    // Another user has a counter of her own.
    let other = ask(&it.server, vec![descriptor(&[("user", "ada")])]).await;
    assert_eq!(other.overall_code(), Code::Ok);
    it.clock.advance(Duration::from_secs(15));
    assert_eq!(ask(&it.server, eve()).await.overall_code(), Code::Ok);
}

#[tokio::test]
async fn one_descriptor_over_the_limit_is_enough_and_what_has_none_is_free() {
    let it = fixture();
    let both = || vec![descriptor(&[("path", "/")]), descriptor(&[("user", "eve")])];
    for _ in 0..2 {
        assert_eq!(ask(&it.server, both()).await.overall_code(), Code::Ok);
    }
    let over = ask(&it.server, both()).await;
    let codes: Vec<_> = over.statuses.iter().map(DescriptorStatus::code).collect();
    assert_eq!(codes, [Code::Ok, Code::OverLimit]);
    assert_eq!(over.overall_code(), Code::OverLimit);
    assert!(over.statuses[0].current_limit.is_none());
}

#[tokio::test]
async fn in_shadow_mode_hits_are_counted_and_nobody_is_limited() {
    let it = fixture();
    it.limits.send_replace(limits(1, true));
    for remaining in [0, 0, 0] {
        let answer = ask(&it.server, vec![descriptor(&[("user", "eve")])]).await;
        assert_eq!(answer.overall_code(), Code::Ok);
        assert_eq!(answer.statuses[0].limit_remaining, remaining);
    }
}

#[tokio::test]
async fn the_proxys_own_limit_and_hits_come_first() {
    let it = fixture();
    let mut asked = descriptor(&[("user", "eve")]);
    asked.limit = Some(rate_limit_descriptor::RateLimitOverride {
        requests_per_unit: 10,
        unit: RateLimitUnit::Hour.into(),
    });
    asked.hits_addend = Some(protobuf::UInt64Value { value: 6 });
    let first = ask(&it.server, vec![asked.clone()]).await;
    assert_eq!(first.statuses[0].limit_remaining, 4);
    assert_eq!(
        ask(&it.server, vec![asked]).await.overall_code(),
        Code::OverLimit
    );
}

#[tokio::test]
async fn what_cannot_be_counted_is_an_error_and_no_permit() {
    let it = fixture();
    let long = "x".repeat(MAX_KEY_BYTES);
    let refused = |domain: &str, descriptors: Vec<RateLimitDescriptor>| {
        let request = RateLimitRequest {
            domain: domain.to_owned(),
            descriptors,
            hits_addend: 1,
        };
        let server = it.server.clone();
        async move {
            let answer = server.should_rate_limit(Request::new(request)).await;
            answer.unwrap_err().code()
        }
    };
    let invalid = tonic::Code::InvalidArgument;
    let eve = || descriptor(&[("user", "eve")]);
    assert_eq!(refused("", vec![eve()]).await, invalid);
    assert_eq!(refused("mesh", Vec::new()).await, invalid);
    assert_eq!(
        refused("mesh", vec![eve(); MAX_DESCRIPTORS + 1]).await,
        invalid
    );
    assert_eq!(
        refused("mesh", vec![descriptor(&[("user", &long)])]).await,
        invalid
    );
}

#[test]
fn no_two_descriptors_share_a_counter() {
    let rate = Rate {
        requests: 1,
        unit: Unit::Day,
    };
    let of = |pairs: &[(&str, &str)]| {
        let owned: Vec<_> = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        key("mesh", &owned, rate, 0).unwrap()
    };
    assert_ne!(of(&[("a", "b:1:c")]), of(&[("a", "b"), ("c", "")]));
    assert_ne!(of(&[("a", "b")]), of(&[("a", "c")]));
}
