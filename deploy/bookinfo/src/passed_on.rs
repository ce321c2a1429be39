//! The headers that Bookinfo's services pass on to those they call.

use http::{HeaderMap, HeaderName};

/// Trace headers (W3C and B3), the request id, and the end user.
const NAMES: [&str; 10] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "end-user",
];

/// The part of `headers` that goes on to the next service.
pub(crate) fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut passed = HeaderMap::new();
    for name in NAMES.map(HeaderName::from_static) {
        if let Some(value) = headers.get(&name) {
            passed.insert(name, value.clone());
        }
    }
    passed
}

/// The trace that a request belongs to: W3C trace context, else B3.
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let w3c = text("traceparent").and_then(|value| value.split('-').nth(1));
    let b3 = text("x-b3-traceid").or_else(|| text("b3").and_then(|v| v.split('-').next()));
    w3c.or(b3).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_trace_headers_and_the_end_user_go_on() {
        let all = headers(&[
            ("x-request-id", "1"),
            ("end-user", "jason"),
            ("authorization", "Bearer secret"),
            ("cookie", "user=jason"),
            ("x-forwarded-client-cert", "By=me"),
        ]);
        let expected = headers(&[("x-request-id", "1"), ("end-user", "jason")]);
        assert_eq!(passed_on(&all), expected);
    }

    #[test]
    fn the_trace_id_is_found_in_either_form() {
        let w3c = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let cases = [
            (
                headers(&[("traceparent", w3c)]),
                Some("0af7651916cd43dd8448eb211c80319c"),
            ),
            (headers(&[("x-b3-traceid", "abc")]), Some("abc")),
            (headers(&[("b3", "def-1-1")]), Some("def")),
            (headers(&[]), None),
        ];
        for (headers, expected) in cases {
            assert_eq!(trace_id(&headers).as_deref(), expected);
        }
    }
}
