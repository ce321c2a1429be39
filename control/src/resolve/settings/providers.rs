//! `MeshConfig.spec.extensionProviders`: servers of Envoy's `ext_authz` that an `AuthorizationPolicy` with action `CUSTOM`
//! names (<https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshConfig-ExtensionProvider>).

use std::time::Duration;

use reeve_core::{
    ServiceName,
    model::{BodyInCheck, ExtensionProvider, HttpCheck, NamePattern, OnFailure, ProviderForm},
};

use crate::{
    Code,
    kinds::{BodyInCheckSpec, ExtAuthzHttpSpec, MeshConfigSpec},
    resolve::{
        hosts::{Services, advice, full},
        values::Notes,
    },
    source::path::Path,
};

/// Istio's default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
/// Envoy's default.
const DEFAULT_STATUS: u16 = 403;
/// Most servers.
const MAX_PROVIDERS: usize = 32;
/// Most patterns of one list, and headers that are added.
const MAX_NAMES: usize = 64;
/// Most bytes of a request's body that a server is shown; a proxy holds them meanwhile.
const MAX_CHECK_BODY_BYTES: u32 = 1024 * 1024;

type MeshNotes<'a> = Notes<'a, MeshConfigSpec>;

pub(super) fn resolve(notes: &mut MeshNotes<'_>, services: &Services) -> Vec<ExtensionProvider> {
    let path = Path::of(&["spec", "extensionProviders"]);
    let specs = &notes.object.spec.extension_providers;
    if specs.len() > MAX_PROVIDERS {
        let text = format!("at most {MAX_PROVIDERS} providers");
        notes.error(&path, Code::Invalid, text);
    }
    let mut providers: Vec<ExtensionProvider> = Vec::new();
    for (n, spec) in specs.iter().enumerate() {
        let path = path.index(n);
        if spec.name.is_empty() {
            notes.error(&path.key("name"), Code::Missing, "the provider has no name");
        }
        if providers.iter().any(|known| known.name == spec.name) {
            let text = format!("there are two providers {}", spec.name);
            notes.error(&path.key("name"), Code::Conflict, text);
        }
        let said = match (&spec.envoy_ext_authz_grpc, &spec.envoy_ext_authz_http) {
            (Some(grpc), None) => Said {
                path: path.key("envoyExtAuthzGrpc"),
                service: &grpc.service,
                port: grpc.port,
                timeout: grpc.timeout.as_deref(),
                on_failure: on_failure(grpc.fail_open),
                status: grpc.status_on_error.as_deref(),
                body: grpc.include_request_body_in_check.as_ref(),
                http: None,
            },
            (None, Some(http)) => Said {
                path: path.key("envoyExtAuthzHttp"),
                service: &http.service,
                port: http.port,
                timeout: http.timeout.as_deref(),
                on_failure: on_failure(http.fail_open),
                status: http.status_on_error.as_deref(),
                body: http.include_request_body_in_check.as_ref(),
                http: Some(http),
            },
            _ => {
                let text = "give one of envoyExtAuthzGrpc and envoyExtAuthzHttp";
                notes.error(&path, Code::Invalid, text);
                continue;
            }
        };
        providers.extend(said.resolve(notes, &spec.name, services));
    }
    providers.sort_by(|a, b| a.name.cmp(&b.name));
    providers
}

fn on_failure(open: bool) -> OnFailure {
    match open {
        true => OnFailure::Allow,
        false => OnFailure::Deny,
    }
}

/// What both forms say.
struct Said<'s> {
    path: Path,
    service: &'s str,
    port: u16,
    timeout: Option<&'s str>,
    on_failure: OnFailure,
    status: Option<&'s str>,
    body: Option<&'s BodyInCheckSpec>,
    http: Option<&'s ExtAuthzHttpSpec>,
}

impl Said<'_> {
    fn resolve(
        &self,
        notes: &mut MeshNotes<'_>,
        name: &str,
        services: &Services,
    ) -> Option<ExtensionProvider> {
        let path = &self.path;
        let timeout = match self.timeout {
            Some(text) => notes.duration(&path.key("timeout"), text),
            None => Some(DEFAULT_TIMEOUT),
        };
        let form = match self.http {
            Some(http) => ProviderForm::Http(check(notes, path, http)),
            None => ProviderForm::Grpc,
        };
        let status = self.status(notes);
        let body = self.body(notes);
        if self.on_failure == OnFailure::Allow {
            let text = format!("what {name} does not answer about goes on all the same");
            let hint = "leave failOpen out, so that silence is a refusal";
            notes.warn(&path.key("failOpen"), Code::Insecure, text, hint);
        }
        Some(ExtensionProvider {
            name: name.to_owned(),
            service: self.service(notes, services)?,
            port: self.port,
            form,
            timeout: timeout?,
            on_failure: self.on_failure,
            status_on_error: status,
            body,
        })
    }

    fn body(&self, notes: &mut MeshNotes<'_>) -> Option<BodyInCheck> {
        let spec = self.body?;
        let path = self.path.key("includeRequestBodyInCheck");
        let path = path.key("maxRequestBytes");
        match spec.max_request_bytes {
            0 => notes.error(&path, Code::Missing, "how much of the body is shown?"),
            1..=MAX_CHECK_BODY_BYTES => {}
            more => {
                let text = format!("{more} bytes are too many for a proxy to hold");
                let hint = format!("write at most {MAX_CHECK_BODY_BYTES}");
                notes.hint(&path, Code::Unsupported, text, &hint);
            }
        }
        Some(BodyInCheck {
            max_bytes: spec.max_request_bytes,
            allow_partial: spec.allow_partial_message,
            as_bytes: spec.pack_as_bytes,
        })
    }

    fn status(&self, notes: &mut MeshNotes<'_>) -> u16 {
        let Some(text) = self.status else {
            return DEFAULT_STATUS;
        };
        match text.parse() {
            Ok(status @ 400..=599) => status,
            Ok(_) | Err(_) => {
                let said = format!("{text:?} is not the status of a refusal");
                let hint = "write 400 to 599, in quotes";
                notes.hint(&self.path.key("statusOnError"), Code::Invalid, said, hint);
                DEFAULT_STATUS
            }
        }
    }

    /// `[namespace/]host`, as in Istio.
    fn service(&self, notes: &mut MeshNotes<'_>, services: &Services) -> Option<ServiceName> {
        let path = self.path.key("service");
        let (namespace, host) = match self.service.split_once('/') {
            Some((namespace, host)) => (Some(namespace), host),
            None => (None, self.service),
        };
        if host.is_empty() {
            notes.error(&path, Code::Missing, "the provider names no service");
            return None;
        }
        let host = match namespace.and_then(|n| reeve_core::Namespace::parse(n).ok()) {
            Some(namespace) => full(host, &namespace),
            None => full(host, &notes.object.namespace),
        };
        let of = |s: &crate::Service| {
            s.host.as_str() == host && namespace.is_none_or(|n| n == s.namespace.as_str())
        };
        let Some(service) = services.values().find(|s| of(s)) else {
            let text = format!("there is no service {host}");
            notes.hint(
                &path,
                Code::UnknownReference,
                text,
                &advice(&host, services),
            );
            return None;
        };
        match service.port(self.port) {
            Some(port) if port.protocol.is_http() => Some(service.host.clone()),
            Some(_) => {
                let text = format!("port {} of {host} is not one of HTTP or gRPC", self.port);
                let hint = "name the port grpc, or http";
                notes.hint(&self.path.key("port"), Code::Invalid, text, hint);
                None
            }
            None => {
                let text = format!("{host} has no port {}", self.port);
                notes.error(&self.path.key("port"), Code::UnknownReference, text);
                None
            }
        }
    }
}

fn check(notes: &mut MeshNotes<'_>, path: &Path, spec: &ExtAuthzHttpSpec) -> HttpCheck {
    let prefix = spec.path_prefix.clone().unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#%\\".contains(&byte);
    if !prefix.is_empty() && (!prefix.starts_with('/') || !prefix.bytes().all(plain)) {
        let text = format!("{prefix:?} is no beginning of a path");
        let hint = "write /check, without a query, a fragment or escapes";
        notes.hint(&path.key("pathPrefix"), Code::Invalid, text, hint);
    }
    let (shown, key) = match spec.include_request_headers_in_check.is_empty() {
        true => (&spec.include_headers_in_check, "includeHeadersInCheck"),
        false => (
            &spec.include_request_headers_in_check,
            "includeRequestHeadersInCheck",
        ),
    };
    let added = &spec.include_additional_headers_in_check;
    let place = path.key("includeAdditionalHeadersInCheck");
    for (name, value) in added {
        let legal = is_name(name) && value.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        if !legal {
            let text = format!("{name:?} is not a header with a legal value");
            notes.error(&place.key(name), Code::Invalid, text);
        }
    }
    if added.len() > MAX_NAMES {
        notes.error(
            &place,
            Code::Invalid,
            format!("at most {MAX_NAMES} headers"),
        );
    }
    let added = added
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let mut patterns = |key: &str, texts: &[String]| patterns(notes, &path.key(key), texts);
    HttpCheck {
        path_prefix: prefix.trim_end_matches('/').to_owned(),
        shown: patterns(key, shown),
        added: added.collect(),
        upstream_on_allow: patterns(
            "headersToUpstreamOnAllow",
            &spec.headers_to_upstream_on_allow,
        ),
        downstream_on_allow: patterns(
            "headersToDownstreamOnAllow",
            &spec.headers_to_downstream_on_allow,
        ),
        downstream_on_deny: patterns(
            "headersToDownstreamOnDeny",
            &spec.headers_to_downstream_on_deny,
        ),
    }
}

/// `name`, `prefix*`, `*suffix`; not `*`, as in Istio.
fn patterns(notes: &mut MeshNotes<'_>, path: &Path, texts: &[String]) -> Vec<NamePattern> {
    if texts.len() > MAX_NAMES {
        notes.error(path, Code::Invalid, format!("at most {MAX_NAMES} names"));
    }
    let mut all = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        let text = text.to_ascii_lowercase();
        let pattern = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(suffix), _) => NamePattern::Suffix(suffix.to_owned()),
            (None, Some(prefix)) => NamePattern::Prefix(prefix.to_owned()),
            (None, None) => NamePattern::Exact(text.clone()),
        };
        let (NamePattern::Exact(name) | NamePattern::Prefix(name) | NamePattern::Suffix(name)) =
            &pattern;
        match is_name(name) {
            true => all.push(pattern),
            false => {
                let said = format!("{text:?} names no headers");
                let hint = "write a name, prefix* or *suffix";
                notes.hint(&path.index(n), Code::Invalid, said, hint);
            }
        }
    }
    all
}

/// A field name (RFC 9110 section 5.1).
fn is_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(legal)
}
