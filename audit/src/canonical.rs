//! Canonical JSON: object keys in byte order, no insignificant space, so that equal values are equal bytes.
//!
//! The form is that of RFC 8785 for the values we use: records hold no floating-point numbers, and keys are ASCII.

mod scan;
mod serializer;

use serde::Serialize;
use serde_json::Value;

use self::serializer::Canonical;
pub(crate) use self::serializer::{Scratch, is_plain};

/// The value cannot be written as canonical JSON.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// `serde` failed; a map with keys that are not text, say.
    #[error("the value has no JSON form")]
    Json(#[source] serde_json::Error),
    /// Numbers with a fraction have no single text form; records do not use them.
    #[error("a record cannot hold the floating-point number {0}")]
    Float(f64),
}

/// The canonical JSON of `value`.
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    let mut out = Vec::with_capacity(512);
    append(value, &mut out, &mut Scratch::default())?;
    Ok(out)
}

/// Adds the canonical JSON of `value` to `out`; after an error, some of it may be there.
pub(crate) fn append<T: Serialize>(
    value: &T,
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> Result<(), CanonicalError> {
    scratch.clear();
    value.serialize(Canonical::new(out, scratch))
}

/// Whether `bytes` are the canonical JSON of the value they hold.
pub fn is_canonical(bytes: &[u8]) -> bool {
    scan::is_canonical(bytes).unwrap_or_else(|| parsed_is_canonical(bytes))
}

/// The members of those names, in order, of the object that `bytes` are the canonical JSON of; `None` when they are no such
/// thing, or [`is_canonical`] is needed to say.
pub(crate) fn members<'a, const N: usize>(
    bytes: &'a [u8],
    names: [&str; N],
) -> Option<[Option<&'a [u8]>; N]> {
    scan::members(bytes, names)
}

fn parsed_is_canonical(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Value>(bytes)
        .ok()
        .is_some_and(|value| {
            let mut again = Vec::with_capacity(bytes.len());
            write(&value, &mut again).is_ok() && again == bytes
        })
}

/// Writes `value` in canonical form to the end of `out`.
pub(crate) fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    match value {
        Value::Number(number) if number.is_f64() => {
            Err(CanonicalError::Float(number.as_f64().unwrap_or(f64::NAN)))
        }
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
            Ok(())
        }
        Value::Object(map) => {
            // `serde_json` keeps maps sorted or in insertion order, as some crate in the build chose; do not rely on it.
            let mut members: Vec<_> = map.iter().collect();
            members.sort_unstable_by_key(|(key, _)| key.as_str());
            out.push(b'{');
            for (at, (key, item)) in members.into_iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, key).map_err(CanonicalError::Json)?;
                out.push(b':');
                write(item, out)?;
            }
            out.push(b'}');
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            serde_json::to_writer(out, value).map_err(CanonicalError::Json)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_sorted_at_every_level_and_space_is_left_out() {
        let value: Value =
            serde_json::from_str(r#"{ "b": [1, {"z": null, "a": "\u00e9\n"}], "a": true }"#)
                .unwrap();
        let bytes = to_vec(&value).unwrap();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            r#"{"a":true,"b":[1,{"a":"é\n","z":null}]}"#
        );
        assert!(is_canonical(&bytes));
        assert!(!is_canonical(br#"{"b":1,"a":2}"#));
        assert!(!is_canonical(br#"{"a": 1}"#));
    }

    #[test]
    fn floating_point_is_refused() {
        assert!(matches!(to_vec(&1.5), Err(CanonicalError::Float(_))));
        assert_eq!(to_vec(&u64::MAX).unwrap(), b"18446744073709551615");
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            any::<u64>().prop_map(|n| n.to_string()),
            any::<i64>().prop_map(|n| n.to_string()),
            "-?[0-9]{1,21}",
            "[0-9]\\.[0-9]|1e3|-0|-|null|true|false|nul",
            "[a-c\\PC\u{0}-\u{20}]{0,6}".prop_map(|s| serde_json::to_string(&s).unwrap()),
            "\"(\\\\u00[01][0-9a-fA-F]|\\\\/|\\\\n|[a-z])*\"",
        ];
        let key = prop_oneof![
            Just("\"a\""),
            Just("\"b\""),
            Just("\"\""),
            Just("\"a\\n\""),
            Just("\"é\""),
            Just("a")
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            let pair = (key.clone(), inner.clone()).prop_map(|(k, v)| format!("{k}:{v}"));
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(|v| format!("[{}]", v.join(","))),
                prop::collection::vec(pair, 0..4).prop_map(|v| format!("{{{}}}", v.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_scan_says_what_the_parser_says(text in json(), cut in 0..4usize, more in "[ ,\\]\\}\"]?") {
            for text in [text.clone(), format!("{text}{more}"), text.chars().skip(cut).collect()] {
                prop_assert_eq!(is_canonical(text.as_bytes()), parsed_is_canonical(text.as_bytes()), "{}", text);
            }
        }

        #[test]
        fn what_is_written_is_canonical(text in json()) {
            if let Ok(value) = serde_json::from_str::<Value>(&text)
                && let Ok(bytes) = to_vec(&value)
            {
                prop_assert!(is_canonical(&bytes));
            }
        }
    }

    #[test]
    fn depth_and_torn_bytes_are_no_way_around() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        for n in [1, 100, 101, 127, 128, 100_000] {
            let text = deep(n);
            assert_eq!(
                is_canonical(text.as_bytes()),
                parsed_is_canonical(text.as_bytes()),
                "{n}"
            );
        }
        assert!(!is_canonical(b"\"\xff\""));
        assert!(!is_canonical(b""));
    }
}
