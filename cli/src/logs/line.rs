//! One line of captured output.

use std::borrow::Cow;

use reeve_core::UnixTime;
use serde::Serialize;
use serde_json::Value;

/// A line is shown up to this length.
const MAX_TEXT: usize = 16 * 1024;

/// Who wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// The application.
    App,
    /// The sidecar's access log.
    Access,
    /// The sidecar or the mesh process about itself.
    Internal,
}

impl Source {
    /// In one word of equal length.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::App => "app   ",
            Self::Access => "access",
            Self::Internal => "reeve ",
        }
    }
}

/// A line with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    /// When, in milliseconds since 1970.
    pub(crate) time: UnixTime,
    /// The instance, or `mesh`.
    pub(crate) instance: String,
    /// Who wrote it.
    pub(crate) source: Source,
    /// Trace id and request id, as far as the line says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ids: Vec<String>,
    /// The line without its time stamp.
    pub(crate) text: String,
}

/// The kind of file a line is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `<instance>.app.log`: time and stream before each line.
    App,
    /// `<instance>.sidecar.log` and `mesh.log`: JSON lines, or text with a time in front.
    Own,
}

/// Reads a line; `before` is the time of the line before, which a line without a time takes over.
pub(crate) fn read(instance: &str, kind: Kind, raw: &str, before: UnixTime) -> Line {
    let raw = shorten(raw);
    match kind {
        Kind::App => {
            let (time, text) = app_parts(&raw).unwrap_or((before, &raw));
            Line {
                time,
                instance: instance.to_owned(),
                source: Source::App,
                ids: serde_json::from_str(text)
                    .map(|value| ids_of(&value))
                    .unwrap_or_default(),
                text: text.to_owned(),
            }
        }
        Kind::Own => {
            let value: Value = serde_json::from_str(&raw).unwrap_or_default();
            let ids = ids_of(&value);
            Line {
                time: time_of(&value)
                    .or_else(|| leading_time(&raw))
                    .unwrap_or(before),
                instance: instance.to_owned(),
                source: if is_access(&value) {
                    Source::Access
                } else {
                    Source::Internal
                },
                ids,
                text: raw.into_owned(),
            }
        }
    }
}

fn shorten(raw: &str) -> Cow<'_, str> {
    if raw.len() <= MAX_TEXT {
        return Cow::Borrowed(raw);
    }
    Cow::Owned(raw.chars().take(MAX_TEXT).collect())
}

/// `2026-11-21T04:02:08.005Z out text` (see `supervisor::logfile::format_line`).
fn app_parts(raw: &str) -> Option<(UnixTime, &str)> {
    let (time, rest) = raw.split_once(' ')?;
    let (stream, text) = rest.split_once(' ').unwrap_or((rest, ""));
    matches!(stream, "out" | "err").then_some(())?;
    Some((parse_time(time)?, text))
}

/// An access log line has a request to tell of.
fn is_access(value: &Value) -> bool {
    let has = |name: &str| value.get(name).is_some();
    has("response_code") || has("bytes_sent") || (has("authority") && has("duration_ms"))
}

fn time_of(value: &Value) -> Option<UnixTime> {
    ["time", "start_time", "timestamp"]
        .iter()
        .find_map(|name| match value.get(name)? {
            Value::String(text) => parse_time(text),
            Value::Number(millis) => millis.as_u64().map(UnixTime::from_millis),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        })
}

fn leading_time(raw: &str) -> Option<UnixTime> {
    parse_time(raw.split_whitespace().next()?)
}

fn parse_time(text: &str) -> Option<UnixTime> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond())
        .ok()
        .map(UnixTime::from_millis)
}

/// The values of `trace_id` and `request_id`.
fn ids_of(value: &Value) -> Vec<String> {
    ["trace_id", "request_id"]
        .iter()
        .filter_map(|name| value.get(name)?.as_str())
        .filter(|id| !id.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(raw: &str) -> Line {
        read("a-0", Kind::Own, raw, UnixTime::from_millis(7))
    }

    #[test]
    fn application_lines_carry_the_supervisors_time() {
        let raw = "2026-11-21T04:02:08.005Z err {\"trace_id\":\"abc\",\"path\":\"/x\"}";
        let line = read("a-0", Kind::App, raw, UnixTime::default());
        assert_eq!(line.time, UnixTime::from_millis(1_795_233_728_005));
        assert_eq!(line.text, "{\"trace_id\":\"abc\",\"path\":\"/x\"}");
        assert_eq!(line.ids, ["abc"]);
        let torn = read("a-0", Kind::App, "no time", UnixTime::from_millis(7));
        assert_eq!((torn.time.as_millis(), torn.text.as_str()), (7, "no time"));
    }

    #[test]
    fn access_lines_are_told_from_the_sidecars_own() {
        let access = own(
            "{\"time\":\"1970-01-01T00:00:01Z\",\"response_code\":200,\"trace_id\":\"t\",\"request_id\":\"r\"}",
        );
        assert_eq!(
            (access.source, access.time.as_millis()),
            (Source::Access, 1000)
        );
        assert_eq!(access.ids, ["t", "r"]);
        let text = own("1970-01-01T00:00:02.5Z  INFO started");
        assert_eq!(
            (text.source, text.time.as_millis()),
            (Source::Internal, 2500)
        );
        let continued = own("  and more");
        assert_eq!(
            (continued.source, continued.time.as_millis()),
            (Source::Internal, 7)
        );
        let numbers = own("{\"time\":1500,\"bytes_sent\":1}");
        assert_eq!(
            (numbers.source, numbers.time.as_millis()),
            (Source::Access, 1500)
        );
    }

    #[test]
    fn an_endless_line_is_cut() {
        assert_eq!(own(&"é".repeat(MAX_TEXT)).text.chars().count(), MAX_TEXT);
    }
}
