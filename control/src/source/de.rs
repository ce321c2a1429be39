//! A serde deserializer over [`Node`]s that does not stop at the first fault: it notes it, puts a default in the
//! value's place and goes on, so that one reading tells all. Whoever uses the value must look at the faults first.

use std::{cell::RefCell, fmt};

use serde::de::{
    self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use super::{
    node::{Entry, Node, Style, Value},
    path::Path,
};
use crate::Code;

/// The name of a newtype that takes any scalar's text, such as a port by number or name.
pub(crate) const ANY_SCALAR: &str = "$any-scalar";

/// A fault at a place of the document.
#[derive(Clone, Debug)]
pub(crate) struct PlacedFault {
    pub(crate) line: usize,
    pub(crate) path: Path,
    pub(crate) code: Code,
    pub(crate) text: String,
    pub(crate) hint: Option<String>,
}

/// What is known of a kind's fields besides the raw type itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields {
    /// Whether unknown fields are refused.
    pub(crate) strict: bool,
    /// Fields that exist but are not supported: (pattern such as `spec.http[].mirror`).
    pub(crate) unsupported: &'static [&'static str],
}

/// Reads `node` as `T`; faults go to the list.
pub(crate) fn read<T: de::DeserializeOwned + Default>(
    node: &Node,
    fields: Fields,
) -> (T, Vec<PlacedFault>) {
    let faults = RefCell::new(Vec::new());
    let reader = Reader {
        node,
        path: Path::default(),
        fields,
        faults: &faults,
    };
    let value = T::deserialize(reader).unwrap_or_else(|error: Stop| {
        faults.borrow_mut().push(PlacedFault {
            line: node.line,
            path: Path::default(),
            code: Code::Invalid,
            text: error.0,
            hint: None,
        });
        T::default()
    });
    (value, faults.into_inner())
}

/// A fault that the raw type itself raised; ends the reading.
#[derive(Debug)]
pub(crate) struct Stop(String);

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

struct Reader<'a> {
    node: &'a Node,
    path: Path,
    fields: Fields,
    faults: &'a RefCell<Vec<PlacedFault>>,
}

impl<'a> Reader<'a> {
    fn below(&self, node: &'a Node, path: Path) -> Reader<'a> {
        Reader {
            node,
            path,
            fields: self.fields,
            faults: self.faults,
        }
    }

    fn note(&self, code: Code, text: String, hint: Option<String>) {
        self.faults.borrow_mut().push(PlacedFault {
            line: self.node.line,
            path: self.path.clone(),
            code,
            text,
            hint,
        });
    }

    fn wrong_type(&self, wanted: &str) {
        let text = format!("{wanted} is needed here, not {}", self.node.describe());
        let hint = match (&self.node.value, wanted) {
            (Value::Scalar { text, .. }, "text") if !self.node.is_null() => {
                Some(format!("quote it: \"{text}\""))
            }
            (Value::Scalar { text, .. }, "a number" | "a boolean")
                if text.parse::<f64>().is_ok() || text.parse::<bool>().is_ok() =>
            {
                Some(format!("write it without quotes: {text}"))
            }
            _ if self.node.is_null() => Some("give a value or remove the key".to_owned()),
            _ => None,
        };
        self.note(Code::WrongType, text, hint);
    }

    /// The entries of a mapping; none (and a fault) if it is something else.
    fn entries(&self) -> &'a [Entry] {
        match &self.node.value {
            Value::Mapping(entries) => entries,
            _ if self.node.is_null() => &[],
            Value::Scalar { .. } | Value::Sequence(_) => {
                self.wrong_type("a mapping");
                &[]
            }
        }
    }

    /// Notes a key that the raw type does not have.
    fn unknown(&self, entry: &Entry, known: &'static [&'static str]) {
        let path = self.path.key(&entry.key);
        let pattern = path.pattern();
        let unsupported = self.fields.unsupported.contains(&pattern.as_str());
        if !unsupported && !self.fields.strict {
            return;
        }
        let (code, text, hint) = if unsupported {
            (
                Code::Unsupported,
                format!(
                    "{:?} is known, but not supported in this version",
                    entry.key
                ),
                Some("remove it; it would have no effect".to_owned()),
            )
        } else {
            (
                Code::UnknownField,
                format!("there is no field {:?} here", entry.key),
                Some(advice(&entry.key, known)),
            )
        };
        self.faults.borrow_mut().push(PlacedFault {
            line: entry.line,
            path,
            code,
            text,
            hint,
        });
    }

    fn number<T: std::str::FromStr + Default>(&self, wanted: &str) -> T {
        match &self.node.value {
            Value::Scalar {
                text,
                style: Style::Plain,
            } if self.node.describe() == "a number" => text.parse().unwrap_or_else(|_| {
                self.note(
                    Code::Invalid,
                    format!("{wanted} is needed here, not {text}"),
                    None,
                );
                T::default()
            }),
            Value::Scalar { .. } | Value::Sequence(_) | Value::Mapping(_) => {
                self.wrong_type("a number");
                T::default()
            }
        }
    }
}

fn advice(key: &str, known: &'static [&'static str]) -> String {
    let close = known
        .iter()
        .map(|k| (distance(key, k), k))
        .filter(|(d, k)| *d <= 1 + k.len() / 4)
        .min();
    match close {
        Some((_, name)) => format!("did you mean {name:?}?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// Edit distance (insert, delete, replace), both cut to 40 bytes.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<u8> = b.bytes().take(40).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().take(40).enumerate() {
        let mut next = vec![i + 1];
        for (pair, y) in row.windows(2).zip(&b) {
            if let (&[diagonal, above], Some(left)) = (pair, next.last()) {
                let replaced = diagonal + usize::from(!x.eq_ignore_ascii_case(y));
                next.push(replaced.min(above + 1).min(left + 1));
            }
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty, $wanted:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
            visitor.$visit(self.number::<$type>($wanted))
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            _ if self.node.is_null() => visitor.visit_unit(),
            Value::Scalar { text, .. } => match self.node.describe() {
                "a boolean" => self.deserialize_bool(visitor),
                "a number" => match (text.parse::<i64>(), text.parse::<u64>()) {
                    (Ok(number), _) => visitor.visit_i64(number),
                    (_, Ok(number)) => visitor.visit_u64(number),
                    (Err(_), Err(_)) => self.deserialize_f64(visitor),
                },
                _ => visitor.visit_str(text),
            },
            Value::Sequence(_) => self.deserialize_seq(visitor),
            Value::Mapping(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let plain = self.node.describe() == "a boolean";
        if !plain {
            self.wrong_type("a boolean");
        }
        let value = plain
            && self
                .node
                .text()
                .is_some_and(|t| t.eq_ignore_ascii_case("true"));
        visitor.visit_bool(value)
    }

    numbers! {
        deserialize_i32 visit_i32 i32, "a whole number";
        deserialize_i64 visit_i64 i64, "a whole number";
        deserialize_u8 visit_u8 u8, "a whole number from 0 to 255";
        deserialize_u16 visit_u16 u16, "a whole number from 0 to 65535";
        deserialize_u32 visit_u32 u32, "a whole number from 0 to 4294967295";
        deserialize_u64 visit_u64 u64, "a whole number from 0 on";
        deserialize_f64 visit_f64 f64, "a number";
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Scalar { text, .. } if self.node.describe() == "text" => visitor.visit_str(text),
            Value::Scalar { .. } | Value::Sequence(_) | Value::Mapping(_) => {
                self.wrong_type("text");
                visitor.visit_str("")
            }
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.node.is_null() {
            true => visitor.visit_none(),
            false => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let elements: &[Node] = match &self.node.value {
            Value::Sequence(elements) => elements,
            _ if self.node.is_null() => &[],
            Value::Scalar { .. } | Value::Mapping(_) => {
                self.wrong_type("a list");
                &[]
            }
        };
        visitor.visit_seq(Elements {
            reader: &self,
            rest: elements.iter().enumerate(),
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let entries = self.entries();
        visitor.visit_map(Entries {
            reader: &self,
            rest: entries.iter(),
            known: None,
            current: None,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let entries = self.entries();
        visitor.visit_map(Entries {
            reader: &self,
            rest: entries.iter(),
            known: Some(fields),
            current: None,
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        if name != ANY_SCALAR {
            return visitor.visit_newtype_struct(self);
        }
        match self.node.text() {
            Some(text) => visitor.visit_str(text),
            None => {
                self.wrong_type("a number or text");
                visitor.visit_str("")
            }
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i128 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

struct Elements<'r, 'a> {
    reader: &'r Reader<'a>,
    rest: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Elements<'_, '_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Stop> {
        let Some((index, node)) = self.rest.next() else {
            return Ok(None);
        };
        let path = self.reader.path.index(index);
        seed.deserialize(self.reader.below(node, path)).map(Some)
    }
}

struct Entries<'r, 'a> {
    reader: &'r Reader<'a>,
    rest: std::slice::Iter<'a, Entry>,
    /// A struct's fields; `None` for a map, whose keys are free.
    known: Option<&'static [&'static str]>,
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Stop> {
        for entry in self.rest.by_ref() {
            if let Some(known) = self.known
                && !known.contains(&entry.key.as_str())
            {
                self.reader.unknown(entry, known);
                continue;
            }
            self.current = Some(entry);
            return seed
                .deserialize(entry.key.as_str().into_deserializer())
                .map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        let Some(entry) = self.current.take() else {
            return Err(de::Error::custom("a value without a key"));
        };
        let path = self.reader.path.key(&entry.key);
        seed.deserialize(self.reader.below(&entry.value, path))
    }
}

/// Any value at all, not looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Anything;

impl<'de> de::Deserialize<'de> for Anything {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}
