//! A `CheckRequest` as an inquiry.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use envoy_types::pb::envoy::{
    config::core::v3::{Address, address, socket_address::PortSpecifier},
    service::auth::v3::{
        CheckRequest,
        attribute_context::{HttpRequest, Peer},
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header, request::Parts};
use reeve_core::{SpiffeId, decision::Principal};
use reeve_proxy::inquiry::Asker;

use crate::{court::Target, judge::Inquiry, limits::MAX_SERVER_NAME_BYTES};

/// The keys of `context_extensions` that say what a route is for. They come from the asking proxy's configuration.
const SERVICE: &str = "reeve.dev/service";
const WORKLOAD: &str = "reeve.dev/workload";

/// The question cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReadError {
    #[error("the question has no attributes")]
    NoAttributes,
    #[error("the question does not say whence the caller comes")]
    NoSource,
    #[error("the request's method, path or a header is not legal")]
    BadHead,
    #[error("the request names more than one authority")]
    TwoAuthorities,
    #[error("the server name in the ClientHello is longer than a name can be")]
    ServerName,
}

/// Reads a question.
pub(super) fn inquiry(request: CheckRequest) -> Result<Inquiry, ReadError> {
    let attributes = request.attributes.ok_or(ReadError::NoAttributes)?;
    let source = attributes.source.unwrap_or_default();
    let destination = attributes.destination.unwrap_or_default();
    let extension = |name: &str| attributes.context_extensions.get(name).cloned();
    let address = socket_address(destination.address.as_ref());
    let asker = Asker {
        principal: principal(&source),
        address: match &source.address {
            Some(address) => source_address(address)?,
            None => return Err(ReadError::NoSource),
        },
        port: address.map_or(0, |address| address.port()),
        destination: address.map(|address| address.ip()),
        sni: match attributes.tls_session {
            Some(session) => server_name(session.sni)?,
            None => None,
        },
    };
    let own = (!destination.principal.is_empty()).then_some(destination.principal);
    let http = attributes.request.and_then(|request| request.http);
    Ok(Inquiry {
        target: Target {
            service: extension(SERVICE),
            workload: extension(WORKLOAD),
            own,
            address,
        },
        asker,
        head: http.map(head).transpose()?,
    })
}

/// SECURITY: of a peer only what its certificate says counts: `service` is a header of the request
/// (`x-envoy-downstream-service-cluster`). What is no SPIFFE ID (a DNS name, a subject) is no identity of a mesh.
fn principal(peer: &Peer) -> Principal {
    match SpiffeId::parse(&peer.principal) {
        Ok(id) => Principal::Workload(id),
        Err(_) => Principal::Unauthenticated,
    }
}

/// SECURITY: a name that is no name is not left out, since a forbid may be about it.
fn server_name(name: String) -> Result<Option<String>, ReadError> {
    match name.len() {
        0 => Ok(None),
        1..=MAX_SERVER_NAME_BYTES => Ok(Some(name.to_ascii_lowercase())),
        _ => Err(ReadError::ServerName),
    }
}

/// A caller on a Unix socket is on this machine.
fn source_address(address: &Address) -> Result<IpAddr, ReadError> {
    match &address.address {
        Some(address::Address::Pipe(_)) => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Some(address::Address::SocketAddress(_) | address::Address::EnvoyInternalAddress(_))
        | None => socket_address(Some(address))
            .map(|address| address.ip())
            .ok_or(ReadError::NoSource),
    }
}

fn socket_address(address: Option<&Address>) -> Option<SocketAddr> {
    let Some(address::Address::SocketAddress(socket)) = address?.address.as_ref() else {
        return None;
    };
    let port = match socket.port_specifier.as_ref()? {
        PortSpecifier::PortValue(port) => u16::try_from(*port).ok()?,
        PortSpecifier::NamedPort(_) => return None,
    };
    let ip: IpAddr = socket.address.parse().ok()?;
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// The head of the request as the asking proxy has it.
fn head(http: HttpRequest) -> Result<Parts, ReadError> {
    let mut headers = HeaderMap::new();
    let raw = http.header_map.map(|map| map.headers).unwrap_or_default();
    for value in &raw {
        let bytes = match value.raw_value.is_empty() {
            true => value.value.as_bytes(),
            false => &value.raw_value,
        };
        add(&mut headers, &value.key, bytes)?;
    }
    for (name, value) in &http.headers {
        add(&mut headers, name, value.as_bytes())?;
        // SECURITY: Envoy has joined what came in several lines. Each part is a value too, so that none hides.
        if raw.is_empty() && value.contains(',') && is_list(name) {
            for part in value.split(',') {
                add(&mut headers, name, part.trim().as_bytes())?;
            }
        }
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    if hosts.any(|host| !host.as_bytes().eq_ignore_ascii_case(http.host.as_bytes())) {
        return Err(ReadError::TwoAuthorities);
    }
    let host = HeaderValue::try_from(http.host).map_err(|_| ReadError::BadHead)?;
    headers.insert(header::HOST, host);
    let request = Request::builder()
        .method(http.method.as_str())
        .uri(http.path.as_str())
        .body(())
        .map_err(|_| ReadError::BadHead)?;
    let (mut parts, ()) = request.into_parts();
    // An absolute form would name an authority of its own, and a fragment would not be judged.
    let origin_form = http.path.starts_with('/') || http.path == "*";
    if !origin_form || http.path.contains('#') {
        return Err(ReadError::BadHead);
    }
    parts.headers = headers;
    Ok(parts)
}

fn add(headers: &mut HeaderMap, name: &str, value: &[u8]) -> Result<(), ReadError> {
    if name.starts_with(':') {
        return Ok(());
    }
    let name = HeaderName::try_from(name).map_err(|_| ReadError::BadHead)?;
    let value = HeaderValue::from_bytes(value).map_err(|_| ReadError::BadHead)?;
    headers
        .try_append(name, value)
        .map_err(|_| ReadError::BadHead)?;
    Ok(())
}

/// Whether commas may separate values in it. Of these, each has one value, in which a comma is a comma.
fn is_list(name: &str) -> bool {
    !matches!(
        name,
        "authorization"
            | "host"
            | "user-agent"
            | "date"
            | "if-modified-since"
            | "referer"
            | "content-type"
            | "content-length"
            | "x-request-id"
            | "traceparent"
    )
}
