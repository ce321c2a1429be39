//! JSON in which no object has a name twice: RFC 7515 and 7519 let readers differ there, and attackers use it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a text is not such JSON.
#[derive(Debug)]
pub(super) enum JsonError {
    /// Not JSON at all.
    Syntax(String),
    /// A name occurs twice in an object.
    Duplicate(String),
}

/// Parses one JSON value.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    match serde_json::from_slice::<Strict>(bytes) {
        Ok(Strict(value)) => Ok(value),
        // Every type is accepted, so that a repeated name is the only fault of the data.
        Err(e) if e.is_data() => Err(JsonError::Duplicate(e.to_string())),
        Err(e) => Err(JsonError::Syntax(e.to_string())),
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(value)) = items.next_element()? {
            all.push(value);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if all.contains_key(&name) {
                return Err(Error::custom(format_args!("{name:?} is there twice")));
            }
            all.insert(name, value);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_occur_once_at_every_depth() {
        assert!(parse(br#"{"a":1,"b":{"a":[null,true,"x",1.5,-2]}}"#).is_ok());
        for bad in [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"\u0061":2}}]"#] {
            assert!(
                matches!(parse(bad.as_bytes()), Err(JsonError::Duplicate(_))),
                "{bad}"
            );
        }
        for bad in ["", "{", "{} {}", "nul", "\"\u{1}\"", "[1,]", "1e999"] {
            assert!(
                matches!(parse(bad.as_bytes()), Err(JsonError::Syntax(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn values_come_out_as_serde_json_reads_them() {
        let text = r#"{"a":[1,-1,1.5,"x",null,false,{"b":18446744073709551615}]}"#;
        assert_eq!(
            parse(text.as_bytes()).unwrap(),
            serde_json::from_str::<Value>(text).unwrap()
        );
    }
}
