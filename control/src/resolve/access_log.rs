//! `MeshConfig`'s access log, as Istio configures it: `accessLogFile`, `accessLogEncoding`, `accessLogFormat`.

use std::collections::BTreeMap;

use reeve_core::access_log::{AccessLogConfig, Format, ISTIO_JSON, ISTIO_TEXT};

use super::values::Notes;
use crate::{Code, kinds::MeshConfigSpec, source::path::Path};

/// Where lines can go: the supervisor or the container's runtime keeps what a sidecar writes there.
const STDOUT: &str = "/dev/stdout";
/// Most members of a JSON format.
const MAX_MEMBERS: usize = 128;

#[derive(Clone, Copy)]
enum Encoding {
    Text,
    Json,
}

pub(super) fn resolve(notes: &mut Notes<'_, MeshConfigSpec>) -> AccessLogConfig {
    let spec = &notes.object.spec;
    let at = |key: &str| Path::of(&["spec", key]);
    match spec.access_log_file.as_deref() {
        None | Some(STDOUT) => {}
        Some("") => return AccessLogConfig::Off,
        Some(other) => {
            let text = format!("access log lines cannot go to {other:?}");
            let hint = "write /dev/stdout, or \"\" for no access log";
            notes.hint(&at("accessLogFile"), Code::Invalid, text, hint);
        }
    }
    if spec.access_log_encoding.is_none() && spec.access_log_format.is_none() {
        return AccessLogConfig::Reeve;
    }
    let words = [("TEXT", Encoding::Text), ("JSON", Encoding::Json)];
    let encoding = spec.access_log_encoding.as_deref();
    let encoding = encoding.and_then(|text| notes.word(&at("accessLogEncoding"), text, &words));
    let path = at("accessLogFormat");
    match (encoding.unwrap_or(Encoding::Text), &spec.access_log_format) {
        (Encoding::Text, format) => {
            let text = format.as_deref().unwrap_or(ISTIO_TEXT);
            check(notes, &path, text);
            AccessLogConfig::Text(text.to_owned())
        }
        (Encoding::Json, None) => {
            let own = |(name, format): &(&str, &str)| ((*name).to_owned(), (*format).to_owned());
            AccessLogConfig::Json(ISTIO_JSON.iter().map(own).collect())
        }
        (Encoding::Json, Some(text)) => AccessLogConfig::Json(members(notes, &path, text)),
    }
}

/// A JSON object of formats, as the text that Istio takes.
fn members(
    notes: &mut Notes<'_, MeshConfigSpec>,
    path: &Path,
    text: &str,
) -> Vec<(String, String)> {
    let members: BTreeMap<String, String> = match serde_json::from_str(text) {
        Ok(members) => members,
        Err(error) => {
            let text = format!("not a JSON object of texts: {error}");
            let hint = "such as {\"status\": \"%RESPONSE_CODE%\"}";
            notes.hint(path, Code::Invalid, text, hint);
            return Vec::new();
        }
    };
    if members.len() > MAX_MEMBERS {
        let text = format!("an access log line has at most {MAX_MEMBERS} members");
        notes.error(path, Code::TooLarge, text);
    }
    for (name, format) in &members {
        check(notes, &path.key(name), format);
    }
    members.into_iter().collect()
}

fn check(notes: &mut Notes<'_, MeshConfigSpec>, path: &Path, text: &str) {
    if let Err(error) = Format::parse(text) {
        notes.error(path, Code::Invalid, error.to_string());
    }
}
