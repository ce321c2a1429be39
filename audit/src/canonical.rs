//! Canonical JSON: object keys in byte order, no insignificant space, so that equal values are equal bytes.
//!
//! The form is that of RFC 8785 for the values we use: records hold no floating-point numbers, and keys are ASCII.

mod serializer;

use serde::Serialize;
use serde_json::Value;

use self::serializer::Canonical;
pub(crate) use self::serializer::Scratch;

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
}
