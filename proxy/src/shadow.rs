//! The mark of shadow traffic. A mirrored request bears it, and so does whatever an application asks for in its course,
//! as far as the application passes its trace on: it stands in `tracestate` (W3C Trace Context section 3.3) and in
//! `baggage` (W3C Baggage), which tracing libraries carry along by themselves.
//!
//! Routes match it as the header `x-reeve-shadow: true`. It proves nothing: whoever calls can write it, so no policy
//! should rest on it.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::trace;

/// The header as which routes see the mark. It never crosses the wire.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-reeve-shadow");

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// Member of `tracestate`.
const STATE: &str = "reeve=shadow";
/// Member of `baggage`.
const LUGGAGE: &str = "reeve.shadow=true";

/// Whether a request with these headers is shadow traffic.
pub(crate) fn is_marked(headers: &HeaderMap) -> bool {
    has(headers, &trace::TRACESTATE, STATE) || has(headers, &BAGGAGE, LUGGAGE)
}

/// Marks a request; its trace is no longer sampled, as Istio mirrors.
pub(crate) fn mark(headers: &mut HeaderMap) {
    trace::unsample(headers);
    put(
        headers,
        &trace::TRACESTATE,
        STATE,
        trace::MAX_TRACESTATE_BYTES,
    );
    put(headers, &BAGGAGE, LUGGAGE, MAX_BAGGAGE_BYTES);
}

/// Longest `baggage` that is kept beside the mark (W3C Baggage section 3.3.2).
const MAX_BAGGAGE_BYTES: usize = 8192;

fn has(headers: &HeaderMap, name: &HeaderName, member: &str) -> bool {
    let lines = headers.get_all(name).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|found| found.trim() == member)
}

/// Puts `member` first; what stood there goes on after it, where there is room.
fn put(headers: &mut HeaderMap, name: &HeaderName, member: &str, most: usize) {
    let key = member.split('=').next().unwrap_or(member);
    let mut all = member.to_owned();
    let lines = headers.get_all(name).iter();
    let others = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|other| !other.is_empty() && other.split('=').next() != Some(key));
    for other in others.take(MAX_OTHERS) {
        if all.len() + 1 + other.len() <= most {
            all.push(',');
            all.push_str(other);
        }
    }
    if let Ok(value) = HeaderValue::try_from(all) {
        headers.insert(name, value);
    }
}

/// Members beside the mark: a `tracestate` has 32 at most.
const MAX_OTHERS: usize = 31;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            let value = HeaderValue::try_from(*value).unwrap();
            (HeaderName::from_static(name), value)
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn the_mark_is_read_from_the_trace_and_nothing_else() {
        for (marked, pairs) in [
            (true, &[("tracestate", "a=1, reeve=shadow")][..]),
            (
                true,
                &[("tracestate", "a=1"), ("tracestate", "reeve=shadow")],
            ),
            (true, &[("baggage", "reeve.shadow=true")]),
            (false, &[("tracestate", "reeve=shadows")]),
            (false, &[("tracestate", "xreeve=shadow")]),
            (false, &[("baggage", "reeve.shadow=false")]),
            (false, &[("x-reeve-shadow", "true")]),
            (false, &[]),
        ] {
            assert_eq!(is_marked(&headers(pairs)), marked, "{pairs:?}");
        }
    }

    #[test]
    fn a_marked_request_keeps_what_its_trace_said_and_is_not_sampled() {
        let mut marked = headers(&[
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            ("tracestate", "a=1,reeve=other"),
            ("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1"),
        ]);
        mark(&mut marked);
        assert!(is_marked(&marked));
        assert_eq!(marked["tracestate"], "reeve=shadow,a=1");
        assert_eq!(marked["baggage"], "reeve.shadow=true");
        let text = marked["traceparent"].to_str().unwrap();
        assert!(
            text.contains("0af7651916cd43dd8448eb211c80319c") && text.ends_with("-00"),
            "{text}"
        );
        assert!(marked["b3"].to_str().unwrap().ends_with("-0"));
        let mut full = headers(&[("tracestate", &format!("a={}", "x".repeat(1020)))]);
        mark(&mut full);
        assert_eq!(
            full["tracestate"], "reeve=shadow",
            "the mark has room in any case"
        );
    }
}
