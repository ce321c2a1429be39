//! What a rate limit server is asked about a request.

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
    RateLimitDescriptor, rate_limit_descriptor::Entry,
};
use reeve_core::{
    ServiceName,
    model::{DescriptorEntry, DescriptorValue, GlobalRateLimit},
};

use crate::{
    head::Head,
    limits::MAX_DESCRIPTOR_VALUE_BYTES,
    rate_limit::Asker,
    route::{Matcher, RouteError},
};

/// Descriptors, each with the requests that it is sent for.
#[derive(Debug)]
pub(super) struct Descriptors(Vec<(Matcher, Vec<DescriptorEntry>)>);

impl Descriptors {
    pub(super) fn compile(rule: &GlobalRateLimit) -> Result<Self, RouteError> {
        let compile = |descriptor: &reeve_core::model::DescriptorRule| {
            let when = Matcher::compile(&descriptor.when, &rule.name)?;
            Ok((when, descriptor.entries.clone()))
        };
        let all = rule.descriptors.iter().map(compile);
        all.collect::<Result<_, _>>().map(Self)
    }

    /// Those of one request.
    pub(super) fn of(
        &self,
        head: &Head,
        asker: Asker<'_>,
        service: &ServiceName,
    ) -> Vec<RateLimitDescriptor> {
        let view = head.view();
        let wanted = self.0.iter().filter(|(when, _)| when.holds(&view));
        let built = wanted.filter_map(|(_, entries)| descriptor(entries, head, asker, service));
        built.collect()
    }
}

/// As in Envoy, a descriptor that lacks a value is not sent, unless its entry is optional.
fn descriptor(
    entries: &[DescriptorEntry],
    head: &Head,
    asker: Asker<'_>,
    service: &ServiceName,
) -> Option<RateLimitDescriptor> {
    let mut built = Vec::new();
    for entry in entries {
        match value(&entry.value, head, asker, service) {
            Some(value) => built.push(Entry {
                key: entry.key.clone(),
                value: bounded(value),
            }),
            None if entry.optional => {}
            None => return None,
        }
    }
    let some = !built.is_empty();
    some.then(|| RateLimitDescriptor {
        entries: built,
        ..RateLimitDescriptor::default()
    })
}

fn value(
    from: &DescriptorValue,
    head: &Head,
    asker: Asker<'_>,
    service: &ServiceName,
) -> Option<String> {
    let value = match from {
        DescriptorValue::Fixed(value) => value.clone(),
        DescriptorValue::Identity => asker.identity?.to_owned(),
        DescriptorValue::Address => asker.address.to_canonical().to_string(),
        DescriptorValue::Service => service.to_string(),
        DescriptorValue::Method => head.method.to_string(),
        DescriptorValue::Path => head.path.clone(),
        DescriptorValue::Header(name) => {
            let all = head.headers.get_all(name.as_str()).iter();
            let all: Vec<_> = all
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect();
            all.join(",")
        }
        DescriptorValue::Claim(name) => {
            let values = asker.user?.claims.get(name)?;
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            values.join(",")
        }
    };
    (!value.is_empty()).then_some(value)
}

/// SECURITY: what is too long is counted by its beginning, together with all that begins so; left out, it would not be counted.
fn bounded(mut value: String) -> String {
    value.truncate(value.floor_char_boundary(MAX_DESCRIPTOR_VALUE_BYTES));
    value
}
