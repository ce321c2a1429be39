//! Trace context: read from what the caller sent, made where there is none, and passed on in every form that the
//! caller used.
//!
//! W3C Trace Context (`traceparent`, `tracestate`) wins over B3 (<https://github.com/openzipkin/b3-propagation>), B3's
//! single header over its several. What is malformed counts as absent. A trace that begins here goes on as
//! `traceparent` and `b3`, so that an application keeps it whichever of the two it passes on.

use http::{HeaderMap, HeaderName, HeaderValue};
use rand::RngCore as _;

/// W3C trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors add to it.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
/// One of these is there when B3's several headers say anything.
const B3_MULTI: [HeaderName; 3] = [B3_TRACE, B3_SAMPLED, B3_FLAGS];

/// Longest `tracestate` that goes on, all its fields together; a longer one is dropped. W3C Trace Context section
/// 3.3.1.5 asks for 512 at least.
pub(crate) const MAX_TRACESTATE_BYTES: usize = 1024;
/// Most members of a `tracestate` (section 3.3.1.1).
const MAX_TRACESTATE_MEMBERS: usize = 32;

/// Which trace a request belongs to, and below which span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    /// Never 0.
    pub(crate) trace: u128,
    /// Never 0.
    pub(crate) parent: u64,
    pub(crate) sampled: bool,
}

/// Whether the trace begins here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    Yes,
    No,
}

/// The trace that a request goes on with; begun if need be, then sampled as `sample` says. What the headers say of it
/// agrees afterwards.
pub(crate) fn take_up(
    headers: &mut HeaderMap,
    sample: impl FnOnce() -> bool,
) -> (TraceContext, Root) {
    let w3c = of_w3c(headers);
    if w3c.is_none() || !has_sound_state(headers) {
        // Without the traceparent that it belongs to, it says nothing (section 3.3).
        headers.remove(TRACESTATE);
    }
    if let Some(context) = w3c {
        if carries_b3(headers) {
            context.write(headers);
        }
        return (context, Root::No);
    }
    let (b3, sampled) = of_b3(headers);
    if let Some(mut context) = b3 {
        context.sampled = sampled.unwrap_or_else(sample);
        context.write(headers);
        return (context, Root::No);
    }
    let context = TraceContext {
        trace: nonzero(|| {
            let mut raw = [0; 16];
            rand::rng().fill_bytes(&mut raw);
            u128::from_be_bytes(raw)
        }),
        parent: new_span(),
        sampled: sampled.unwrap_or_else(sample),
    };
    if !carries_b3(headers) {
        headers.insert(B3, HeaderValue::from_static(""));
    }
    context.write(headers);
    (context, Root::Yes)
}

/// The trace id of a request, for logs and records.
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<String> {
    let context = of_w3c(headers).or_else(|| of_b3(headers).0);
    context.map(|context| format!("{:032x}", context.trace))
}

/// The trace goes on, and is not sampled.
pub(crate) fn unsample(headers: &mut HeaderMap) {
    let context = of_w3c(headers).or_else(|| of_b3(headers).0);
    if let Some(context) = context {
        let sampled = false;
        TraceContext { sampled, ..context }.write(headers);
    }
}

/// A random span id.
pub(crate) fn new_span() -> u64 {
    nonzero(|| rand::rng().next_u64())
}

fn nonzero<T: Default + PartialEq>(mut draw: impl FnMut() -> T) -> T {
    loop {
        let drawn = draw();
        if drawn != T::default() {
            return drawn;
        }
    }
}

impl TraceContext {
    /// Sets `traceparent`, and whichever of B3's forms is there.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let Self { trace, parent, .. } = *self;
        let sampled = u8::from(self.sampled);
        let mut set = |name: HeaderName, text: String| {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        };
        set(
            TRACEPARENT,
            format!("00-{trace:032x}-{parent:016x}-{sampled:02x}"),
        );
        // A trace of 64 bits keeps its form.
        let width = if trace >> 64 == 0 { 16 } else { 32 };
        if headers.contains_key(B3) {
            let text = format!("{trace:0width$x}-{parent:016x}-{sampled}");
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(B3, value);
            }
        }
        if B3_MULTI.iter().any(|name| headers.contains_key(name)) {
            // The caller's parent is no parent of what follows.
            headers.remove(B3_PARENT);
            headers.remove(B3_FLAGS);
            for (name, text) in [
                (B3_TRACE, format!("{trace:0width$x}")),
                (B3_SPAN, format!("{parent:016x}")),
                (B3_SAMPLED, sampled.to_string()),
            ] {
                if let Ok(value) = HeaderValue::try_from(text) {
                    headers.insert(name, value);
                }
            }
        }
    }
}

/// The only value of a header; none when there are several, or it is no text.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let text = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(text)
}

/// Reads `traceparent` (W3C Trace Context section 3.2).
fn of_w3c(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parts = only(headers, &TRACEPARENT)?.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (parent, flags) = (parts.next()?, parts.next()?);
    let version = lower_hex(version, 2)?;
    if version == 0xff || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let context = TraceContext {
        trace: lower_hex(trace, 32)?,
        parent: u64::try_from(lower_hex(parent, 16)?).ok()?,
        sampled: lower_hex(flags, 2)? & 1 == 1,
    };
    context.is_legal().then_some(context)
}

impl TraceContext {
    fn is_legal(&self) -> bool {
        self.trace != 0 && self.parent != 0
    }
}

/// Whether `tracestate` is within its bounds; members themselves are not looked at.
fn has_sound_state(headers: &HeaderMap) -> bool {
    let (mut bytes, mut members) = (0, 0);
    for value in headers.get_all(TRACESTATE) {
        bytes += value.len();
        members += value.as_bytes().split(|b| *b == b',').count();
    }
    bytes <= MAX_TRACESTATE_BYTES && members <= MAX_TRACESTATE_MEMBERS
}

fn carries_b3(headers: &HeaderMap) -> bool {
    headers.contains_key(B3) || B3_MULTI.iter().any(|name| headers.contains_key(name))
}

/// B3's context, and what it says of sampling, which may stand alone.
fn of_b3(headers: &HeaderMap) -> (Option<TraceContext>, Option<bool>) {
    match only(headers, &B3) {
        Some(single) => of_b3_single(single),
        None => of_b3_multi(headers),
    }
}

/// `{TraceId}-{SpanId}[-{SamplingState}[-{ParentSpanId}]]`, or `{SamplingState}`.
fn of_b3_single(text: &str) -> (Option<TraceContext>, Option<bool>) {
    let parts: Vec<&str> = text.splitn(5, '-').collect();
    match parts.as_slice() {
        [state] => (None, sampling(state)),
        [trace, span] => (b3_ids(trace, span), None),
        [trace, span, state] => (b3_ids(trace, span), sampling(state)),
        [trace, span, state, parent] if b3_hex(parent, 16).is_some() => {
            (b3_ids(trace, span), sampling(state))
        }
        _ => (None, None),
    }
}

fn of_b3_multi(headers: &HeaderMap) -> (Option<TraceContext>, Option<bool>) {
    let debug = only(headers, &B3_FLAGS) == Some("1");
    let sampled = only(headers, &B3_SAMPLED).and_then(sampling);
    let ids = only(headers, &B3_TRACE).zip(only(headers, &B3_SPAN));
    let context = ids.and_then(|(trace, span)| b3_ids(trace, span));
    (context, if debug { Some(true) } else { sampled })
}

fn b3_ids(trace: &str, span: &str) -> Option<TraceContext> {
    let context = TraceContext {
        trace: b3_hex(trace, 32).or_else(|| b3_hex(trace, 16))?,
        parent: u64::try_from(b3_hex(span, 16)?).ok()?,
        sampled: false,
    };
    context.is_legal().then_some(context)
}

/// `1` and `d` (debug), or `0`; `true` and `false` are what early tracers sent.
fn sampling(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn b3_hex(text: &str, digits: usize) -> Option<u128> {
    let legal = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    legal.then(|| u128::from_str_radix(text, 16).ok())?
}

fn lower_hex(text: &str, digits: usize) -> Option<u128> {
    let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
    b3_hex(text, digits).filter(|_| lower)
}

#[cfg(test)]
mod tests;
