//! Header hygiene: what never crosses a hop, and what every request carries.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use rand::RngCore as _;

use crate::spans::Root;

/// Request id, made at the first proxy and passed on by every application.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What sidecars tell each other about their workloads, for metric labels alone; never trusted for a decision.
pub(crate) const PEER: HeaderName = HeaderName::from_static("x-reeve-peer");
/// The opaque id of a denial's record.
pub(crate) const DECISION_ID: HeaderName = HeaderName::from_static("x-reeve-decision-id");

const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Longest request id that is kept; a longer one is replaced.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Removes what belongs to one hop (RFC 9110 section 7.6.1): `Connection` and what it names, and the rest of them.
/// `TE: trailers` stays, which gRPC needs (RFC 9110 section 10.1.4).
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| *name != header::HOST && *name != header::TE)
        .collect();
    let fixed = [
        header::CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    for name in named.iter().chain(&fixed) {
        headers.remove(name);
    }
    let trailers = headers.get_all(header::TE).iter().any(|v| {
        let text = v.to_str().unwrap_or_default();
        text.split(',')
            .any(|part| part.trim().eq_ignore_ascii_case("trailers"))
    });
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes what only the mesh itself may say.
pub(crate) fn remove_reserved(headers: &mut HeaderMap) {
    headers.remove(FORWARDED_CLIENT_CERT);
    let reserved: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-reeve-"))
        .cloned()
        .collect();
    for name in reserved {
        headers.remove(name);
    }
}

/// Gives the request an `x-request-id` and a `traceparent` if it has none, and says which trace it belongs to and
/// whether that begins here. B3 headers pass as they are, and a new `traceparent` takes up their trace id.
pub(crate) fn ensure_ids(
    headers: &mut HeaderMap,
    sample: impl FnOnce() -> bool,
) -> (TraceContext, Root) {
    let usable = |value: &HeaderValue| {
        value.len() <= MAX_REQUEST_ID_BYTES && value.to_str().is_ok_and(|text| !text.is_empty())
    };
    if !headers.get(REQUEST_ID).is_some_and(usable)
        && let Ok(value) = HeaderValue::try_from(new_request_id())
    {
        headers.insert(REQUEST_ID, value);
    }
    if let Some(context) = TraceContext::read(headers) {
        return (context, Root::No);
    }
    let trace = b3_trace_id(headers).unwrap_or_else(|| random_hex(16));
    let context = TraceContext {
        trace,
        parent: random_hex(8),
        sampled: sample(),
    };
    context.write(headers);
    (context, Root::Yes)
}

/// The trace id of a request, for logs and records: W3C's, else B3's.
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<String> {
    let w3c = TraceContext::read(headers).map(|context| context.trace);
    w3c.or_else(|| b3_trace_id(headers))
}

/// A W3C `traceparent`, version 00.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    /// 32 hexadecimal digits.
    pub(crate) trace: String,
    /// 16 hexadecimal digits.
    pub(crate) parent: String,
    pub(crate) sampled: bool,
}

impl TraceContext {
    /// Reads the header; anything malformed counts as absent (W3C Trace Context section 4.3).
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let text = values.next()?.to_str().ok()?;
        if values.next().is_some() {
            return None;
        }
        let mut parts = text.split('-');
        let (version, trace) = (parts.next()?, parts.next()?);
        let (parent, flags) = (parts.next()?, parts.next()?);
        let extra = parts.next().is_some() && version == "00";
        let legal = is_hex(version, 2)
            && version != "ff"
            && is_hex(trace, 32)
            && trace.bytes().any(|b| b != b'0')
            && is_hex(parent, 16)
            && parent.bytes().any(|b| b != b'0')
            && is_hex(flags, 2)
            && !extra;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        legal.then(|| Self {
            trace: trace.to_owned(),
            parent: parent.to_owned(),
            sampled: flags & 1 == 1,
        })
    }

    /// Sets the header.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let flags = u8::from(self.sampled);
        let text = format!("00-{}-{}-{flags:02x}", self.trace, self.parent);
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

/// `X-B3-TraceId`, 64 or 128 bits, as 32 digits.
fn b3_trace_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(B3_TRACE)?.to_str().ok()?.to_ascii_lowercase();
    let legal = (is_hex(&text, 16) || is_hex(&text, 32)) && text.bytes().any(|b| b != b'0');
    legal.then(|| format!("{text:0>32}"))
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `bytes` random bytes in hexadecimal.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut raw = [0u8; 16];
    rand::rng().fill_bytes(&mut raw);
    hex(raw.iter().take(bytes))
}

fn hex<'b>(bytes: impl Iterator<Item = &'b u8>) -> String {
    bytes.fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// A random UUID (RFC 9562, version 4).
fn new_request_id() -> String {
    let mut raw = [0u8; 16];
    rand::rng().fill_bytes(&mut raw);
    let raw = (u128::from_be_bytes(raw) & !(0xf << 76) & !(0x3 << 62)) | (4 << 76) | (2 << 62);
    let text = format!("{raw:032x}");
    let cut = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    let parts = [cut(0, 8), cut(8, 12), cut(12, 16), cut(16, 20), cut(20, 32)];
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::try_from(*value).unwrap(),
            )
        };
        pairs.iter().map(pair).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_headers_end_at_the_hop() {
        let mut headers = map(&[
            ("connection", "close, X-Mine, host"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "x"),
            ("te", "gzip, trailers"),
            ("host", "a"),
            ("accept", "*/*"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["accept", "host", "te"]);
        assert_eq!(headers["te"], "trailers");
        let mut headers = map(&[("te", "gzip")]);
        remove_hop_by_hop(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn only_the_mesh_says_what_is_reserved() {
        let mut headers = map(&[
            ("x-reeve-peer", "w=a"),
            ("x-reeve-anything", "1"),
            ("x-forwarded-client-cert", "Hash=1"),
            ("x-request-id", "kept"),
        ]);
        remove_reserved(&mut headers);
        assert_eq!(names(&headers), ["x-request-id"]);
    }

    #[test]
    fn ids_are_made_when_absent_and_kept_when_there() {
        let mut headers = HeaderMap::new();
        ensure_ids(&mut headers, || false);
        let id = headers[REQUEST_ID].to_str().unwrap().to_owned();
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'));
        assert!(
            matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'),
            "{id}"
        );
        let context = TraceContext::read(&headers).unwrap();
        ensure_ids(&mut headers, || false);
        assert_eq!(headers[REQUEST_ID], id.as_str());
        assert_eq!(TraceContext::read(&headers).unwrap(), context);
    }

    #[test]
    fn b3_gives_the_trace_id() {
        let mut headers = map(&[("x-b3-traceid", "463ac35c9f6413ad")]);
        ensure_ids(&mut headers, || false);
        assert_eq!(
            trace_id(&headers).unwrap(),
            "0000000000000000463ac35c9f6413ad"
        );
        assert_eq!(headers["x-b3-traceid"], "463ac35c9f6413ad");
    }

    #[test]
    fn malformed_trace_context_counts_as_absent() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let read = |text: &str| TraceContext::read(&map(&[("traceparent", text)]));
        assert!(
            read(&format!("00-{trace}-00f067aa0ba902b7-01"))
                .unwrap()
                .sampled
        );
        assert!(
            !read(&format!("00-{trace}-00f067aa0ba902b7-00"))
                .unwrap()
                .sampled
        );
        assert!(read(&format!("01-{trace}-00f067aa0ba902b7-01-more")).is_some());
        for bad in [
            format!("00-{trace}-00f067aa0ba902b7-01-more"),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            "00-1-2-3".to_owned(),
            String::new(),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }
}
