//! A record's line, read only as far as a replay has to.

use reeve_audit::{Direction, LookedFor, ScanError};
use reeve_core::{
    UnixTime,
    decision::{AccessRequest, Decision},
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Outcomes, half of a trail, begin so: in canonical JSON members stand in order.
const OUTCOME: &[u8] = b"{\"bytes_in\":";
/// What comes before the time of a request. A quote within a text is escaped, so it is found nowhere else, but for
/// lists of values under that name.
const TIME: &[u8] = b"\"time\":";

/// The parts of a decision's line.
#[derive(Debug, Deserialize)]
pub(crate) struct Line<'a> {
    kind: &'a str,
    /// The record's id.
    pub(crate) id: &'a str,
    /// When it was written.
    pub(crate) time: UnixTime,
    #[serde(borrow)]
    request: Option<&'a RawValue>,
    #[serde(borrow)]
    decision: Option<&'a RawValue>,
    #[serde(borrow)]
    direction: Option<&'a RawValue>,
    #[serde(borrow)]
    looked_for: Option<&'a RawValue>,
    #[serde(borrow)]
    transformations: Option<&'a RawValue>,
}

/// A decision, as far as a replay looks at it.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) request: AccessRequest,
    pub(crate) decision: Decision,
    pub(crate) direction: Direction,
    pub(crate) looked_for: LookedFor,
    pub(crate) transformations: Vec<String>,
}

impl<'a> Line<'a> {
    /// The line's parts, if it is a decision's.
    pub(crate) fn of(raw: &'a [u8]) -> Result<Option<Self>, ScanError> {
        if raw.starts_with(OUTCOME) {
            return Ok(None);
        }
        let line: Self = serde_json::from_slice(raw).map_err(|e| ScanError::record(raw, e))?;
        Ok((line.kind == "decision").then_some(line))
    }

    /// Everything that a judgement depends on but the time, to `key`. Returns the time as it stands there.
    pub(crate) fn key(&self, key: &mut Vec<u8>) -> &'a [u8] {
        key.clear();
        let request = text(self.request).as_bytes();
        let digits = time_in(request);
        let (before, after) = match &digits {
            Some(range) => (request.get(..range.start), request.get(range.end..)),
            None => (Some(request), None),
        };
        let rest = [
            self.decision,
            self.direction,
            self.looked_for,
            self.transformations,
        ];
        let rest = rest.map(|part| text(part).as_bytes());
        for part in before.into_iter().chain(after).chain(rest) {
            key.extend_from_slice(part);
            // No JSON text contains it.
            key.push(0);
        }
        digits
            .and_then(|range| request.get(range))
            .unwrap_or_default()
    }

    /// All of it.
    pub(crate) fn recorded(&self) -> Result<Recorded, ScanError> {
        let read = || -> serde_json::Result<Recorded> {
            Ok(Recorded {
                request: serde_json::from_str(text(self.request))?,
                decision: serde_json::from_str(text(self.decision))?,
                direction: serde_json::from_str(text(self.direction))?,
                looked_for: optional(self.looked_for)?,
                transformations: optional(self.transformations)?,
            })
        };
        read().map_err(|e| ScanError::record(self.id.as_bytes(), e))
    }
}

fn text(part: Option<&RawValue>) -> &str {
    part.map_or("", RawValue::get)
}

fn optional<T: Default + serde::de::DeserializeOwned>(
    part: Option<&RawValue>,
) -> serde_json::Result<T> {
    part.map_or_else(|| Ok(T::default()), |part| serde_json::from_str(part.get()))
}

/// Where the digits of `context.time` stand.
fn time_in(request: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut from = 0;
    loop {
        let rest = request.get(from..)?;
        let found = rest.windows(TIME.len()).position(|w| w == TIME)?;
        let start = from + found + TIME.len();
        let digits = request.get(start..)?;
        let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
        if count > 0 {
            return Some(start..start + count);
        }
        from = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_found_and_nothing_that_looks_like_it() {
        let table: [(&str, Option<&str>); 4] = [
            (r#"{"context":{"port":1,"time":1700}}"#, Some("1700")),
            (
                r#"{"http":{"headers":{"time":["9"]},"path":"/\"time\":77"},"time":5}"#,
                Some("5"),
            ),
            (r#"{"headers":{"time":["9"]}}"#, None),
            ("{}", None),
        ];
        for (text, expected) in table {
            let found = time_in(text.as_bytes()).and_then(|range| text.get(range));
            assert_eq!(found, expected, "{text}");
        }
    }
}
