//! Reading what a verb is given: a file, or standard input as `-`.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use reeve_core::UnixTime;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// No input may be longer.
const MAX_INPUT: u64 = 256 * 1024 * 1024;

/// Reads all of a file or of standard input.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, Problem> {
    let shown = shown(path);
    let unreadable = |error: io::Error| {
        Problem::because("the input cannot be read", &error)
            .at(&shown)
            .fix("name a file, or - for standard input")
    };
    let mut content = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin()
            .lock()
            .take(MAX_INPUT + 1)
            .read_to_end(&mut content)
    } else {
        let file = File::open(path).map_err(unreadable)?;
        file.take(MAX_INPUT + 1).read_to_end(&mut content)
    };
    read.map_err(unreadable)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > MAX_INPUT {
        return Err(Problem::new("the input is longer than 256 MiB")
            .at(shown)
            .fix("split it"));
    }
    Ok(content)
}

/// Reads all of a file or of standard input as text.
pub(crate) fn text(path: &Path) -> Result<String, Problem> {
    String::from_utf8(bytes(path)?)
        .map_err(|error| Problem::because("the input is not UTF-8 text", &error).at(shown(path)))
}

/// Reads a sequence of JSON values: one, or one per line.
pub(crate) fn json_values<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, Problem> {
    let content = bytes(path)?;
    let values = serde_json::Deserializer::from_slice(&content).into_iter();
    values
        .enumerate()
        .map(|(index, value)| {
            value.map_err(|error| {
                Problem::because(
                    format!("value {} of the input cannot be read", index + 1),
                    &error,
                )
                .at(shown(path))
                .fix("write JSON: one value, or one per line")
            })
        })
        .collect()
}

/// How a path is shown.
pub(crate) fn shown(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

/// Parses a time: RFC 3339, seconds since 1970, or so long ago (`5m`).
pub(crate) fn time(text: &str, now: UnixTime) -> Result<UnixTime, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(UnixTime::from_secs(seconds));
    }
    if let Ok(ago) = crate::verb::duration(text) {
        return Ok(now.minus(ago));
    }
    let wrong = || {
        format!(
            "{text:?} is not a time; write 2026-11-21T04:00:00Z, seconds since 1970, or 5m for five minutes ago"
        )
    };
    let time: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    u64::try_from(time.as_millisecond())
        .map(UnixTime::from_millis)
        .map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_in_three_forms() {
        let now = UnixTime::from_secs(1_000_000);
        assert_eq!(time("900000", now), Ok(UnixTime::from_secs(900_000)));
        assert_eq!(time("5m", now), Ok(UnixTime::from_secs(999_700)));
        assert_eq!(
            time("1970-01-02T00:00:00.5Z", now),
            Ok(UnixTime::from_millis(86_400_500))
        );
        for bad in [
            "",
            "x",
            "2026-13-01T00:00:00Z",
            "-5",
            "1960-01-01T00:00:00Z",
            "5 m",
        ] {
            assert!(time(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_may_stand_alone_or_on_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in");
        std::fs::write(&path, "{\n \"a\": 1\n}\n{\"a\":2}\n").unwrap();
        let values: Vec<serde_json::Value> = json_values(&path).unwrap();
        assert_eq!(values.len(), 2);
        std::fs::write(&path, "{\"a\":1}\n{\"a\":").unwrap();
        let problem = json_values::<serde_json::Value>(&path)
            .unwrap_err()
            .to_string();
        assert!(problem.contains("value 2"), "{problem}");
    }
}
