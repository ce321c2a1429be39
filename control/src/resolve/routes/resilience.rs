//! `retries` and `fault` of an `http` entry.

use std::num::NonZeroU64;

use reeve_core::{
    UnixTime,
    model::{Abort, AbortFault, BandwidthFault, DelayFault, Fault, Millionths, RetryPolicy},
};

use crate::{
    Code,
    kinds::{AbortSpec, DelaySpec, FaultSpec, PercentSpec, RetriesSpec, VirtualServiceSpec},
    resolve::values::Notes,
    source::path::Path,
};

/// Most retries.
const MAX_ATTEMPTS: u32 = 100;
/// When the faults of a `VirtualService` end by themselves: RFC 3339, in UTC.
pub(crate) const FAULT_UNTIL: &str = "reeve.dev/fault-until";

/// The percentage of requests whose connection or stream is reset.
const FAULT_RESET: &str = "reeve.dev/fault-reset";
/// Bytes a second that a response's body gets.
const FAULT_BANDWIDTH: &str = "reeve.dev/fault-bandwidth";

type VsNotes<'a> = Notes<'a, VirtualServiceSpec>;

/// `retries`, over Istio's default policy. As in Istio, it says how many: without `attempts`, nothing else may be there.
pub(super) fn retries(notes: &mut VsNotes<'_>, path: &Path, spec: &RetriesSpec) -> RetryPolicy {
    let mut policy = RetryPolicy {
        explicit: true,
        ..RetryPolicy::default()
    };
    policy.attempts = spec.attempts.unwrap_or(0);
    if policy.attempts > MAX_ATTEMPTS {
        let text = format!("at most {MAX_ATTEMPTS}");
        notes.error(&path.key("attempts"), Code::Invalid, text);
    }
    let more = [
        spec.per_try_timeout.is_some(),
        spec.retry_on.is_some(),
        spec.backoff.is_some(),
        spec.retry_ignore_previous_hosts.is_some(),
        spec.retry_remote_localities.is_some(),
    ];
    if policy.attempts == 0 && more.contains(&true) {
        notes.hint(
            &path.key("attempts"),
            Code::Conflict,
            "without attempts there are no retries, and what else stands here has no effect",
            "say how many attempts there may be after the first, such as 2",
        );
    }
    if let Some(text) = &spec.per_try_timeout {
        policy.per_try_timeout = notes.duration(&path.key("perTryTimeout"), text);
    }
    if let Some(text) = &spec.backoff {
        policy.backoff = notes.duration(&path.key("backoff"), text);
    }
    policy.ignore_previous = spec.retry_ignore_previous_hosts;
    policy.remote_localities = spec.retry_remote_localities.unwrap_or(false);
    if let Some(text) = spec.retry_on.as_ref().filter(|t| !t.is_empty()) {
        policy.on = retry_on(notes, &path.key("retryOn"), text);
    }
    policy
}

fn retry_on(notes: &mut VsNotes<'_>, path: &Path, text: &str) -> Vec<String> {
    let words = text.split(',').map(str::trim).filter(|w| !w.is_empty());
    let words: Vec<String> = words.map(str::to_ascii_lowercase).collect();
    for word in &words {
        if word == "http3-post-connect-failure" {
            let text = format!("{word} is known, but there is no HTTP/3 here");
            notes.hint(path, Code::Unsupported, text, "leave it out");
            continue;
        }
        let status = word.parse().is_ok_and(|s: u16| (200..600).contains(&s));
        if !status && !RETRY_ON.contains(&word.as_str()) {
            let hint = format!("use {}, or a status", RETRY_ON.join(", "));
            let text = format!("{word:?} is no reason to retry");
            notes.hint(path, Code::Invalid, text, &hint);
        }
    }
    words
}

/// Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on` words.
const RETRY_ON: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// `fault`.
pub(super) fn fault(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: Option<&FaultSpec>,
) -> Option<Fault> {
    let (reset, bandwidth) = (reset_fault(notes), bandwidth_fault(notes));
    if spec.is_none() && reset.is_none() && bandwidth.is_none() {
        return None;
    }
    if spec.is_some_and(|spec| spec.delay.is_none() && spec.abort.is_none()) {
        notes.error(path, Code::Missing, "a fault has a delay, an abort or both");
    }
    let delay = spec.and_then(|spec| spec.delay.as_ref());
    let delay = delay.and_then(|d| delay_fault(notes, &path.key("delay"), d));
    let abort = spec.and_then(|spec| spec.abort.as_ref());
    let abort = abort.and_then(|a| abort_fault(notes, &path.key("abort"), a));
    if abort.is_some() && reset.is_some() {
        let text =
            "a request is aborted in one way: take abort or the annotation reeve.dev/fault-reset";
        notes.error(&path.key("abort"), Code::Conflict, text);
    }
    let object = notes.object;
    let until = object.annotations.get(FAULT_UNTIL).cloned();
    let until = until.and_then(|text| {
        let path = Path::of(&["metadata", "annotations"]).key(FAULT_UNTIL);
        time(notes, &path, &text)
    });
    Some(Fault {
        delay,
        abort: abort.or(reset),
        bandwidth,
        until,
        origin: format!("VirtualService {}/{}", object.namespace, object.name),
    })
}

/// An annotation's place and text.
pub(super) fn annotation<'n>(notes: &VsNotes<'n>, name: &str) -> Option<(Path, &'n str)> {
    let text = notes.object.annotations.get(name)?;
    let path = Path::of(&["metadata", "annotations"]).key(name);
    Some((path, text))
}

fn reset_fault(notes: &mut VsNotes<'_>) -> Option<AbortFault> {
    let (path, text) = annotation(notes, FAULT_RESET)?;
    let percent = text
        .trim_end_matches('%')
        .trim_end()
        .parse()
        .unwrap_or(-1.0);
    let share = share(notes, &path, percent);
    let how = Abort::Reset;
    Some(AbortFault { how, share })
}

fn bandwidth_fault(notes: &mut VsNotes<'_>) -> Option<BandwidthFault> {
    let (path, text) = annotation(notes, FAULT_BANDWIDTH)?;
    let bytes = text.parse().ok().and_then(NonZeroU64::new);
    if bytes.is_none() {
        let said = format!("{text:?} is no number of bytes a second");
        notes.error(&path, Code::Invalid, said);
    }
    Some(BandwidthFault {
        bytes_per_second: bytes?,
        share: Millionths::ALL,
    })
}

fn delay_fault(notes: &mut VsNotes<'_>, path: &Path, spec: &DelaySpec) -> Option<DelayFault> {
    let share = match (&spec.percentage, spec.percent) {
        (None, Some(percent)) => share(notes, &path.key("percent"), f64::from(percent)),
        (percentage, _) => percentage_of(notes, path, percentage.as_ref()),
    };
    let path = path.key("fixedDelay");
    let Some(text) = &spec.fixed_delay else {
        notes.error(&path, Code::Missing, "a delay says how long");
        return None;
    };
    let fixed = notes.duration(&path, text)?;
    Some(DelayFault { fixed, share })
}

fn abort_fault(notes: &mut VsNotes<'_>, path: &Path, spec: &AbortSpec) -> Option<AbortFault> {
    let share = percentage_of(notes, path, spec.percentage.as_ref());
    let how = match (spec.http_status, &spec.grpc_status) {
        (Some(status), None) => {
            let legal = u16::try_from(status).ok();
            let legal = legal.filter(|s| (200..600).contains(s));
            if legal.is_none() {
                let path = path.key("httpStatus");
                notes.error(&path, Code::Invalid, "a status is 200 to 599");
            }
            Abort::Http(legal?)
        }
        (None, Some(text)) => {
            let code = grpc_code(text);
            if code.is_none() {
                let said = format!("{text:?} is no gRPC status");
                let hint = "write its name or number: UNAVAILABLE, 14";
                notes.hint(&path.key("grpcStatus"), Code::Invalid, said, hint);
            }
            Abort::Grpc(code?)
        }
        _ => {
            let text = "an abort has one of httpStatus and grpcStatus";
            notes.error(path, Code::Invalid, text);
            return None;
        }
    };
    Some(AbortFault { how, share })
}

/// As in Istio, a fault without a percentage never happens.
fn percentage_of(notes: &mut VsNotes<'_>, path: &Path, spec: Option<&PercentSpec>) -> Millionths {
    let path = path.key("percentage");
    match spec {
        Some(spec) => share(notes, &path.key("value"), spec.value),
        None => {
            let text = "the fault has no percentage, so it happens to no request";
            notes.warn(&path, Code::Missing, text, "add percentage: {value: 100}");
            Millionths(0)
        }
    }
}

fn share(notes: &mut VsNotes<'_>, path: &Path, percent: f64) -> Millionths {
    match millionths(percent) {
        Some(share) => share,
        None => {
            notes.error(path, Code::Invalid, "a percentage is 0 to 100");
            Millionths(0)
        }
    }
}

/// `percent` as a share; `None` if it is not 0 to 100.
pub(crate) fn millionths(percent: f64) -> Option<Millionths> {
    if !(0.0..=100.0).contains(&percent) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 1,000,000"
    )]
    Some(Millionths((percent * 10_000.0).round() as u32))
}

fn time(notes: &mut VsNotes<'_>, path: &Path, text: &str) -> Option<UnixTime> {
    let parsed = text.parse::<jiff::Timestamp>().ok();
    let millis = parsed.and_then(|at| u64::try_from(at.as_millisecond()).ok());
    if millis.is_none() {
        let said = format!("{text:?} is not a time");
        let hint = "write it as RFC 3339 has it: 2026-01-31T12:00:00Z";
        notes.hint(path, Code::Invalid, said, hint);
    }
    millis.map(UnixTime::from_millis)
}

fn grpc_code(text: &str) -> Option<u16> {
    let number = text.parse().ok().filter(|code: &u16| *code <= 16);
    let name = || GRPC_CODES.iter().position(|name| *name == text);
    number.or_else(|| u16::try_from(name()?).ok())
}

/// By number (<https://grpc.io/docs/guides/status-codes/>).
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
