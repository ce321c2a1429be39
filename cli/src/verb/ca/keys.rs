//! Where the authority's keys are, in words.

use reeve_core::UnixTime;
use serde_json::Value;

use crate::supervisor::logfile::timestamp;

/// A line each: the keys' place, what is wrong with it, and the operator's authority.
pub(super) fn in_words(ca: &Value) -> Vec<String> {
    let custody = &ca["custody"];
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let Some(kind) = text(&custody["keys"]) else {
        return Vec::new();
    };
    let place = text(&custody["place"]).unwrap_or_else(|| "this process only".to_owned());
    let mut lines = vec![fact("keys", &format!("{kind}: {place}"))];
    if let Some(why) = text(&custody["away"]) {
        lines.push(fact("keys cannot be used", &why));
    }
    match custody["to_be_destroyed"].as_u64() {
        None | Some(0) => {}
        Some(count) => lines.push(fact("keys to be destroyed", &count.to_string())),
    }
    let upstream = &custody["upstream"];
    if let Some(folder) = text(&upstream["folder"]) {
        let since = upstream["since"].as_u64().map(UnixTime::from_millis);
        let since = since.map_or_else(
            || "not used since this start".to_owned(),
            |since| format!("in use since {}", timestamp(since)),
        );
        lines.push(fact("upstream authority", &format!("{folder}, {since}")));
    }
    if let Some(why) = text(&upstream["refused"]) {
        lines.push(fact("upstream refused", &why));
    }
    lines
}

fn fact(name: &str, value: &str) -> String {
    format!("{name:<23} {value}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_stands_in_its_own_line() {
        let fine = json!({"custody": {"keys": "sealed", "place": "/state/ca", "away": null,
            "to_be_destroyed": 0, "upstream": null}});
        assert_eq!(
            in_words(&fine),
            ["keys                    sealed: /state/ca"]
        );
        let bad = json!({"custody": {"keys": "pkcs11", "place": "token t", "away": "no answer",
            "to_be_destroyed": 2, "upstream": {"folder": "/up", "since": null, "refused": "expired"}}});
        let text = in_words(&bad).join("\n");
        for part in [
            "no answer",
            "destroyed    2",
            "/up, not used",
            "refused        expired",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(in_words(&json!({})).is_empty(), "an older mesh process");
    }
}
