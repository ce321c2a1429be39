//! The head of a request as the proxy reads it: one authority, one normalised path, bounded headers.

use http::{HeaderMap, Method, Version, header, request::Parts};
use reeve_core::{decision::GrpcMethod, model::PathNormalization};

use crate::{
    headers,
    limits::{MAX_HEADERS, MAX_HOST_BYTES, MAX_PATH_BYTES},
    path::{self, PathError},
    route::{RequestView, without_port},
    trace,
};

/// A request's head, read once. What is judged, matched and forwarded is this, never the bytes that came.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Lower case, with the port if one was sent.
    pub(crate) authority: String,
    /// Normalised, without query.
    pub(crate) path: String,
    /// As it came, without query; for the log alone.
    pub(crate) raw_path: String,
    /// Without the question mark.
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    /// The trace it belongs to, once that is settled.
    pub(crate) trace_id: Option<String>,
    /// How its path was normalised.
    pub(crate) normalization: PathNormalization,
}

/// Why a request is answered 400 (or 431, 501) before it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("the request names no authority")]
    NoAuthority,
    #[error("the request names more than one authority")]
    TwoAuthorities,
    #[error("the authority is not legal")]
    BadAuthority,
    #[error("the path is too long")]
    LongPath,
    #[error("there are too many headers")]
    ManyHeaders,
    #[error("CONNECT is not served")]
    Connect,
    #[error("the scheme is neither http nor https")]
    BadScheme,
    #[error(transparent)]
    Path(#[from] PathError),
}

/// A head that cannot be served.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) error: HeadError,
    pub(crate) rest: Rest,
}

/// What there is of a head that cannot be served.
#[derive(Debug)]
pub(crate) enum Rest {
    /// Only the path is at fault.
    AllButPath(Box<Head>),
    /// For the log alone.
    Raw(Box<RawHead>),
}

/// What was asked for, as it came; for the log alone.
#[derive(Debug)]
pub(crate) struct RawHead {
    pub(crate) method: Method,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) trace_id: Option<String>,
}

impl RawHead {
    /// Of a request that hyper has parsed.
    pub(crate) fn of(parts: &Parts) -> Self {
        let host = parts
            .headers
            .get(header::HOST)
            .and_then(|h| h.to_str().ok());
        let authority = parts.uri.authority().map(http::uri::Authority::as_str);
        Self {
            method: parts.method.clone(),
            authority: authority.or(host).unwrap_or_default().to_owned(),
            path: parts.uri.path().to_owned(),
            trace_id: trace::trace_id(&parts.headers),
        }
    }
}

impl Head {
    /// Reads a head that hyper has parsed.
    pub(crate) fn read(parts: Parts, mode: PathNormalization) -> Result<Self, Unreadable> {
        Self::read_for(parts, |_| mode)
    }

    /// The same, where it depends on the authority how the path is normalised.
    pub(crate) fn read_for(
        parts: Parts,
        mode: impl FnOnce(&str) -> PathNormalization,
    ) -> Result<Self, Unreadable> {
        let authority = match check(&parts) {
            Ok(authority) => authority,
            Err(error) => {
                let rest = Rest::Raw(Box::new(RawHead::of(&parts)));
                return Err(Unreadable { error, rest });
            }
        };
        let raw_path = match parts.uri.path() {
            "" => "/",
            path => path,
        };
        let mode = mode(&authority);
        let normal = match raw_path {
            // RFC 9112 section 3.2.4: the asterisk is for OPTIONS alone.
            "*" if parts.method != Method::OPTIONS => Err(PathError::NotAbsolute),
            path => path::normalize(path, mode),
        };
        let (path, error) = match normal {
            Ok(path) => (path, None),
            Err(error) => (raw_path.to_owned(), Some(error.into())),
        };
        let head = Self {
            authority,
            path,
            raw_path: raw_path.to_owned(),
            query: parts.uri.query().map(str::to_owned),
            method: parts.method,
            version: parts.version,
            headers: parts.headers,
            trace_id: None,
            normalization: mode,
        };
        match error {
            None => Ok(head),
            Some(error) => Err(Unreadable {
                error,
                rest: Rest::AllButPath(Box::new(Self {
                    trace_id: trace::trace_id(&head.headers),
                    ..head
                })),
            }),
        }
    }

    /// Its version as it stands in a log.
    pub(crate) fn protocol(&self) -> &'static str {
        match self.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
    }

    /// What routes are matched on.
    pub(crate) fn view(&self) -> RequestView<'_> {
        RequestView {
            scheme: "http",
            authority: &self.authority,
            method: self.method.as_str(),
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            claims: None,
        }
    }

    /// The authority without its port.
    pub(crate) fn host(&self) -> &str {
        without_port(&self.authority)
    }

    /// Path and query as they are sent on.
    pub(crate) fn target(&self) -> String {
        join_query(&self.path, self.query.as_deref())
    }

    /// Whether the content type says gRPC.
    pub(crate) fn is_grpc(&self) -> bool {
        is_grpc(&self.headers)
    }

    /// gRPC service and method, when the content type says gRPC and the path has that form.
    pub(crate) fn grpc(&self) -> Option<GrpcMethod> {
        let (service, method) = self.path.strip_prefix('/')?.split_once('/')?;
        let whole = !service.is_empty() && !method.is_empty() && !method.contains('/');
        (self.is_grpc() && whole).then(|| GrpcMethod {
            service: service.to_owned(),
            method: method.to_owned(),
        })
    }

    /// Its `x-request-id`.
    pub(crate) fn request_id(&self) -> Option<&str> {
        self.headers.get(headers::REQUEST_ID)?.to_str().ok()
    }

    /// A header's only or first value, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What can be refused without looking at the path; else the authority.
fn check(parts: &Parts) -> Result<String, HeadError> {
    if parts.method == Method::CONNECT {
        return Err(HeadError::Connect);
    }
    if parts.headers.len() > MAX_HEADERS {
        return Err(HeadError::ManyHeaders);
    }
    let target = parts.uri.path().len() + parts.uri.query().map_or(0, str::len);
    if target > MAX_PATH_BYTES {
        return Err(HeadError::LongPath);
    }
    // RFC 9112 section 3.2.3: an authority alone is a target of CONNECT.
    if parts.uri.authority().is_some() && parts.uri.scheme().is_none() {
        return Err(PathError::NotAbsolute.into());
    }
    if !matches!(parts.uri.scheme_str(), None | Some("http" | "https")) {
        return Err(HeadError::BadScheme);
    }
    authority(parts)
}

/// Whether the content type is gRPC's (`application/grpc`, `+proto`, `;…`; not grpc-web).
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    let rest = content_type.and_then(|v| v.strip_prefix("application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('+') || rest.starts_with(';'))
}

/// Joins a path and a query.
pub(crate) fn join_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// RFC 9112 section 3.2 and RFC 9113 section 8.3.1: the target's authority wins, `Host` must not contradict it.
fn authority(parts: &Parts) -> Result<String, HeadError> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HeadError::TwoAuthorities);
    }
    let host = match host {
        Some(value) => {
            let text = value.to_str().map_err(|_| HeadError::BadAuthority)?;
            Some(normal_authority(text).ok_or(HeadError::BadAuthority)?)
        }
        None => None,
    };
    let target = match parts.uri.authority() {
        Some(named) => Some(normal_authority(named.as_str()).ok_or(HeadError::BadAuthority)?),
        None => None,
    };
    match (target, host) {
        (Some(target), Some(host)) if target != host => Err(HeadError::TwoAuthorities),
        (Some(named), _) | (None, Some(named)) => Ok(named),
        (None, None) => Err(HeadError::NoAuthority),
    }
}

/// The one text of an authority: lower case, without the dot that may end a name (RFC 3986 section 3.2.2), a port in
/// decimal without zeros before it. `None` for whatever two readers could read differently: user information, escapes,
/// empty labels or ports, more than a host and a port.
fn normal_authority(text: &str) -> Option<String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (text.get(..=address.len() + 1)?, port)
        }
        None => {
            let (name, port) = text.split_at_checked(text.find(':').unwrap_or(text.len()))?;
            let name = name.strip_suffix('.').unwrap_or(name);
            is_name(name).then_some((name, port))?
        }
    };
    let digits = match port.strip_prefix(':') {
        None if port.is_empty() => "",
        digits => digits.filter(|digits| is_port(digits))?,
    };
    let mut normal = String::with_capacity(text.len());
    normal.push_str(host);
    if !digits.is_empty() {
        normal.push(':');
        normal.push_str(digits);
    }
    normal.make_ascii_lowercase();
    Some(normal)
}

/// Names of hosts, with underscores, which some have all the same.
fn is_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let whole = !name.is_empty() && !name.starts_with('.') && !name.ends_with('.');
    whole && name.bytes().all(legal) && !name.contains("..") && name.len() <= MAX_HOST_BYTES
}

fn is_port(digits: &str) -> bool {
    let decimal = digits.bytes().all(|byte| byte.is_ascii_digit());
    decimal && !digits.starts_with('0') && digits.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(uri: &str, headers: &[(&str, &str)]) -> Result<Head, HeadError> {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        Head::read(parts, PathNormalization::default()).map_err(|e| e.error)
    }

    #[test]
    fn one_authority_is_read_and_contradictions_are_refused() {
        assert_eq!(
            read("/", &[("host", "Reviews:9080")]).unwrap().authority,
            "reviews:9080"
        );
        let absolute = read("http://a/x?y=1", &[("host", "a")]).unwrap();
        assert_eq!(
            (absolute.authority.as_str(), absolute.target().as_str()),
            ("a", "/x?y=1")
        );
        for (uri, hosts, error) in [
            ("/", vec![], HeadError::NoAuthority),
            (
                "/",
                vec![("host", "a"), ("host", "b")],
                HeadError::TwoAuthorities,
            ),
            ("http://a/", vec![("host", "b")], HeadError::TwoAuthorities),
            ("/", vec![("host", "u@a")], HeadError::BadAuthority),
            ("/", vec![("host", "a b")], HeadError::BadAuthority),
            ("/", vec![("host", "")], HeadError::BadAuthority),
            ("ftp://a/", vec![], HeadError::BadScheme),
            ("a:80", vec![], HeadError::Path(PathError::NotAbsolute)),
            (
                "*",
                vec![("host", "a")],
                HeadError::Path(PathError::NotAbsolute),
            ),
        ] {
            assert_eq!(read(uri, &hosts).unwrap_err(), error, "{uri} {hosts:?}");
        }
    }

    #[test]
    fn an_authority_has_one_text() {
        for (text, normal) in [
            ("Shop.Example", "shop.example"),
            ("shop.example.", "shop.example"),
            ("shop.example.:80", "shop.example:80"),
            ("a_b-c", "a_b-c"),
            ("10.0.0.1:65535", "10.0.0.1:65535"),
            ("[::1]", "[::1]"),
            ("[FE80::1]:80", "[fe80::1]:80"),
        ] {
            assert_eq!(normal_authority(text).as_deref(), Some(normal), "{text}");
            assert_eq!(normal_authority(normal).as_deref(), Some(normal), "twice");
        }
        let long = format!("{}.example", "a".repeat(MAX_HOST_BYTES));
        for illegal in [
            "",
            ".",
            "..",
            "a..",
            "a..b",
            ".a",
            "a:",
            "a:0",
            "a:080",
            "a:+80",
            "a:65536",
            "a:8o",
            "a:80:80",
            ":80",
            "u@a",
            "u:p@a",
            "a%2eb",
            "a b",
            "a/b",
            "a,b",
            "a;b",
            "*",
            "é",
            "[::1",
            "::1",
            "[::1]80",
            "[::1%25lo]",
            "[a]",
            "[]",
            &long,
        ] {
            assert_eq!(normal_authority(illegal), None, "{illegal}");
        }
    }

    #[test]
    fn grpc_is_told_by_content_type_and_path() {
        let grpc = |uri, content_type| {
            let head = read(uri, &[("host", "a"), ("content-type", content_type)]).unwrap();
            head.grpc().map(|g| (g.service, g.method))
        };
        let pair = Some(("pkg.S".to_owned(), "M".to_owned()));
        assert_eq!(grpc("/pkg.S/M", "application/grpc"), pair);
        assert_eq!(grpc("/pkg.S/M", "application/grpc+proto"), pair);
        assert_eq!(grpc("/pkg.S/M", "application/grpc-web"), None);
        assert_eq!(grpc("/pkg.S/M/x", "application/grpc"), None);
        assert_eq!(grpc("/pkg.S", "application/grpc"), None);
    }

    #[test]
    fn oversized_heads_are_refused() {
        let long = format!("/{}", "a".repeat(MAX_PATH_BYTES));
        assert_eq!(
            read(&long, &[("host", "a")]).unwrap_err(),
            HeadError::LongPath
        );
        let many: Vec<_> = (0..MAX_HEADERS).map(|i| format!("x-{i}")).collect();
        let mut headers: Vec<_> = many.iter().map(|n| (n.as_str(), "1")).collect();
        headers.push(("host", "a"));
        assert_eq!(read("/", &headers).unwrap_err(), HeadError::ManyHeaders);
        headers.pop();
        headers.pop();
        headers.push(("host", "a"));
        assert!(read("/", &headers).is_ok());
    }

    proptest! {
        #[test]
        fn whatever_is_served_has_one_legal_authority_and_an_absolute_path(
            target in "/[a-z%./]{0,8}|http://[a-z.:@]{0,6}/x?|[*]",
            hosts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6), 0..2),
            named in proptest::option::of("[A-Za-z.:@\\[\\] 0-9]{0,8}"),
        ) {
            let mut request = http::Request::builder().uri(target);
            for host in hosts.into_iter().chain(named.map(String::into_bytes)) {
                request = request.header("host", host);
            }
            let Ok(request) = request.body(()) else { return Ok(()) };
            let (parts, ()) = request.into_parts();
            let Ok(head) = Head::read(parts, PathNormalization::default()) else { return Ok(()) };
            prop_assert!(!head.authority.is_empty() && !head.authority.contains('@'));
            prop_assert_eq!(head.authority.to_ascii_lowercase(), head.authority.clone());
            prop_assert!(head.authority.starts_with(head.host()));
            prop_assert!(head.path.starts_with('/') || head.path == "*");
        }
    }
}
