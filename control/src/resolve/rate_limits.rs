//! `RateLimit`.

mod global;

use std::num::NonZeroU32;

use reeve_core::{
    ServiceName,
    model::{GlobalRateLimit, RateKey, RateLimit, RouteMatch},
};

use super::{
    hosts::{Services, advice, full},
    values::{Case, Notes},
};
use crate::{
    Code, Fault, LocalWorkload, WorkloadRole,
    kinds::{LimitMatchSpec, LimitSpec, Object, RateLimitSpec},
    source::path::Path,
};

/// Every limit, with the service whose workloads keep it, and what those ask rate limit servers.
pub(super) fn resolve(
    objects: &[Object<RateLimitSpec>],
    (services, workloads): (&Services, &[LocalWorkload]),
    faults: &mut Vec<Fault>,
) -> (Vec<(ServiceName, RateLimit)>, Vec<GlobalRateLimit>) {
    let (mut limits, mut globals) = (Vec::new(), Vec::new());
    for object in objects {
        let notes = &mut Notes { object, faults };
        let path = Path::of(&["spec", "service"]);
        let host = full(&object.spec.service, &object.namespace);
        let Some(service) = services.values().find(|s| s.host.as_str() == host) else {
            let text = format!("there is no service {host}");
            notes.hint(
                &path,
                Code::UnknownReference,
                text,
                &advice(&host, services),
            );
            continue;
        };
        // SECURITY: a namespace's limits hold for its own workloads alone.
        if service.namespace != object.namespace {
            let text = format!("{host} is of namespace {}", service.namespace);
            let hint = "put the limit into the service's namespace";
            notes.hint(&path, Code::Invalid, text, hint);
        }
        if object.spec.limits.is_empty() && object.spec.global.is_none() {
            let text = "there are no limits";
            notes.error(&Path::of(&["spec", "limits"]), Code::Missing, text);
        }
        for (n, spec) in object.spec.limits.iter().enumerate() {
            let path = Path::of(&["spec", "limits"]).index(n);
            let name = format!("{}/{}/{n}", object.namespace, object.name);
            limits.extend(limit(notes, &path, spec, name).map(|l| (service.host.clone(), l)));
        }
        if let Some(spec) = &object.spec.global {
            let is_gateway = |w: &&LocalWorkload| w.role == WorkloadRole::Gateway;
            let gateways = workloads.iter().filter(is_gateway);
            let gateway = gateways.into_iter().find(|w| service.selects(w));
            let of = (&service.host, gateway);
            globals.extend(global::resolve(notes, spec, of, services));
        }
    }
    (limits, globals)
}

fn limit(
    notes: &mut Notes<'_, RateLimitSpec>,
    path: &Path,
    spec: &LimitSpec,
    name: String,
) -> Option<RateLimit> {
    let requests = NonZeroU32::new(spec.requests);
    if requests.is_none() {
        let text = "it says how many requests, at least 1";
        notes.error(&path.key("requests"), Code::Invalid, text);
    }
    let every = match &spec.every {
        Some(text) => notes.duration(&path.key("every"), text),
        None => {
            let text = "it says no time";
            notes.error(&path.key("every"), Code::Missing, text);
            None
        }
    };
    let when = matches(notes, &path.key("match"), &spec.r#match);
    let per = match spec.per.as_deref() {
        None => RateKey::All,
        Some("identity") => RateKey::Identity,
        Some(other) => match other.strip_prefix("claim:").filter(|name| !name.is_empty()) {
            Some(claim) => RateKey::Claim(claim.to_owned()),
            None => {
                let text = format!("{other:?} is no way to tell callers apart");
                let hint = "write identity or claim:NAME, or leave it out: all count together";
                notes.hint(&path.key("per"), Code::Invalid, text, hint);
                return None;
            }
        },
    };
    Some(RateLimit {
        name,
        when,
        per,
        requests: requests?,
        every: every?,
    })
}

/// The requests that a limit or a descriptor is for.
fn matches(notes: &mut Notes<'_, RateLimitSpec>, at: &Path, when: &LimitMatchSpec) -> RouteMatch {
    let mut text = |key: &str, value: &Option<_>| {
        let value = value.as_ref();
        value.and_then(|value| notes.string_match(&at.key(key), value))
    };
    let (uri, method) = (text("uri", &when.uri), text("method", &when.method));
    let headers = notes.header_matches(&at.key("headers"), &when.headers, Case::Lower);
    RouteMatch {
        uri,
        method,
        headers,
        ..RouteMatch::default()
    }
}
