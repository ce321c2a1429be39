//! `RateLimit.spec.global`: limits that a rate limit server keeps.

use std::{net::SocketAddr, time::Duration};

use reeve_core::{
    ServiceName,
    model::{
        DescriptorEntry, DescriptorRule, DescriptorValue, GlobalRateLimit, LimitServer, OnFailure,
    },
};

use super::matches;
use crate::{
    Code, LocalWorkload,
    kinds::{DescriptorEntrySpec, DescriptorSpec, GlobalLimitSpec, RateLimitSpec},
    resolve::{
        hosts::{Services, advice, full},
        values::Notes,
    },
    source::path::Path,
};

/// Envoy's default.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(20);
/// Descriptors of one object.
const MAX_DESCRIPTORS: usize = 32;
/// Entries of one descriptor.
const MAX_ENTRIES: usize = 16;

type LimitNotes<'a> = Notes<'a, RateLimitSpec>;

pub(super) fn resolve(
    notes: &mut LimitNotes<'_>,
    spec: &GlobalLimitSpec,
    (service, gateway): (&ServiceName, Option<&LocalWorkload>),
    services: &Services,
) -> Option<GlobalRateLimit> {
    let path = Path::of(&["spec", "global"]);
    let server = server(notes, &path.key("server"), &spec.server, services);
    // SECURITY: it would be asked nothing, and by default everything would pass.
    if let (Some(LimitServer::Service(..)), Some(gateway)) = (&server, gateway) {
        let text = format!(
            "the gateway {} has no way to a service but its routes",
            gateway.name
        );
        let hint = "write the server's ADDRESS:PORT";
        notes.hint(&path.key("server"), Code::Invalid, text, hint);
    }
    if spec.domain.is_empty() {
        let text = "it says no domain of the server's";
        notes.error(&path.key("domain"), Code::Missing, text);
    }
    let timeout = match &spec.timeout {
        Some(text) => notes.duration(&path.key("timeout"), text)?,
        None => DEFAULT_TIMEOUT,
    };
    let modes = [("allow", OnFailure::Allow), ("deny", OnFailure::Deny)];
    let on_failure = match spec.failure_mode.as_deref() {
        Some(text) => notes.word(&path.key("failureMode"), text, &modes)?,
        None => OnFailure::default(),
    };
    let path = path.key("descriptors");
    if spec.descriptors.is_empty() {
        notes.error(&path, Code::Missing, "there are no descriptors");
    }
    if spec.descriptors.len() > MAX_DESCRIPTORS {
        let text = format!("at most {MAX_DESCRIPTORS} descriptors");
        notes.error(&path, Code::Invalid, text);
    }
    let mut descriptors = Vec::new();
    for (n, spec) in spec.descriptors.iter().enumerate() {
        descriptors.extend(descriptor(notes, &path.index(n), spec));
    }
    let object = notes.object;
    Some(GlobalRateLimit {
        name: format!("{}/{}", object.namespace, object.name),
        server: server?,
        domain: spec.domain.clone(),
        timeout,
        on_failure,
        descriptors,
        service: service.clone(),
    })
}

/// An address, or a service of the mesh with its port.
fn server(
    notes: &mut LimitNotes<'_>,
    path: &Path,
    text: &str,
    services: &Services,
) -> Option<LimitServer> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(LimitServer::At(address));
    }
    let hint = "write ADDRESS:PORT, or SERVICE:PORT of a service of the mesh";
    let parts = text.rsplit_once(':');
    let parts = parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let Some((host, port)) = parts else {
        let text = format!("{text:?} is neither an address nor a service, with a port");
        notes.hint(path, Code::Invalid, text, hint);
        return None;
    };
    let host = full(host, &notes.object.namespace);
    let Some(service) = services.values().find(|s| s.host.as_str() == host) else {
        let text = format!("there is no service {host}");
        notes.hint(path, Code::UnknownReference, text, &advice(&host, services));
        return None;
    };
    let known = service.ports.iter().find(|known| known.port == port);
    match known.map(|known| known.protocol.is_http()) {
        Some(true) => Some(LimitServer::Service(service.host.clone(), port)),
        Some(false) => {
            let text = format!("port {port} of {host} is not named as one of gRPC");
            notes.hint(path, Code::Invalid, text, "name the port grpc, or grpc-…");
            None
        }
        None => {
            let text = format!("{host} has no port {port}");
            notes.error(path, Code::UnknownReference, text);
            None
        }
    }
}

fn descriptor(
    notes: &mut LimitNotes<'_>,
    path: &Path,
    spec: &DescriptorSpec,
) -> Option<DescriptorRule> {
    let when = matches(notes, &path.key("match"), &spec.r#match);
    let path = path.key("entries");
    if spec.entries.is_empty() {
        notes.error(&path, Code::Missing, "the descriptor has no entries");
    }
    if spec.entries.len() > MAX_ENTRIES {
        let text = format!("at most {MAX_ENTRIES} entries");
        notes.error(&path, Code::Invalid, text);
    }
    let mut entries = Vec::new();
    for (n, spec) in spec.entries.iter().enumerate() {
        entries.push(entry(notes, &path.index(n), spec)?);
    }
    Some(DescriptorRule { when, entries })
}

fn entry(
    notes: &mut LimitNotes<'_>,
    path: &Path,
    spec: &DescriptorEntrySpec,
) -> Option<DescriptorEntry> {
    if spec.key.is_empty() {
        notes.error(&path.key("key"), Code::Missing, "the entry has no key");
    }
    let value = match (spec.value.as_deref(), spec.from.as_deref()) {
        (Some(value), None) if !value.is_empty() => DescriptorValue::Fixed(value.to_owned()),
        (None, Some(from)) => origin(notes, &path.key("from"), from)?,
        _ => {
            let text = "give one of value and from";
            notes.error(path, Code::Invalid, text);
            return None;
        }
    };
    Some(DescriptorEntry {
        key: spec.key.clone(),
        value,
        optional: spec.optional,
    })
}

fn origin(notes: &mut LimitNotes<'_>, path: &Path, text: &str) -> Option<DescriptorValue> {
    let (word, name) = text.split_once(':').unwrap_or((text, ""));
    let found = match (word, name) {
        ("identity", "") => Some(DescriptorValue::Identity),
        ("address", "") => Some(DescriptorValue::Address),
        ("service", "") => Some(DescriptorValue::Service),
        ("method", "") => Some(DescriptorValue::Method),
        ("path", "") => Some(DescriptorValue::Path),
        ("claim", name) if !name.is_empty() => Some(DescriptorValue::Claim(name.to_owned())),
        ("header", name) if is_header(name) => {
            Some(DescriptorValue::Header(name.to_ascii_lowercase()))
        }
        _ => None,
    };
    if found.is_none() {
        let said = format!("{text:?} is nothing that a request has");
        let hint = "write identity, address, service, method, path, header:NAME or claim:NAME";
        notes.hint(path, Code::Invalid, said, hint);
    }
    found
}

/// A field name (RFC 9110 section 5.1).
fn is_header(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(legal)
}
