//! A serde serializer that writes canonical JSON straight into a buffer.
//!
//! Members are written as they come; an object whose members did not come in order is put in order when it ends. Nothing
//! is allocated per value but what an object out of order needs.

use serde::ser::{self, Serialize, Serializer};

use super::CanonicalError;

impl ser::Error for CanonicalError {
    fn custom<T: std::fmt::Display>(what: T) -> Self {
        Self::Json(<serde_json::Error as ser::Error>::custom(what))
    }
}

/// Where a member of an object lies in the buffer.
#[derive(Clone, Copy, Debug)]
struct Member {
    start: usize,
    /// The end of its key, quotes and all.
    key_end: usize,
    end: usize,
    /// Whether its key has characters that JSON escapes, so that its bytes here are not those to sort by.
    escaped: bool,
}

/// What writing needs besides its buffer: the members of the objects that are open. Kept, it is not allocated again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    members: Vec<Member>,
    sorted: Vec<u8>,
}

impl Scratch {
    /// Forgets what an error left.
    pub(super) fn clear(&mut self) {
        self.members.clear();
    }
}

#[derive(Debug)]
pub(crate) struct Canonical<'a> {
    out: &'a mut Vec<u8>,
    scratch: &'a mut Scratch,
}

impl<'a> Canonical<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, scratch: &'a mut Scratch) -> Self {
        Self { out, scratch }
    }

    fn again(&mut self) -> Canonical<'_> {
        Canonical {
            out: self.out,
            scratch: self.scratch,
        }
    }

    fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<(), CanonicalError> {
        serde_json::to_writer(self.out, value).map_err(CanonicalError::Json)
    }

    fn object(self) -> Object<'a> {
        self.out.push(b'{');
        let first = self.scratch.members.len();
        Object {
            to: self,
            first,
            in_order: true,
            variant: false,
            before: None,
        }
    }

    fn array(self) -> Array<'a> {
        self.out.push(b'[');
        Array {
            to: self,
            empty: true,
            variant: false,
        }
    }

    /// `{"variant":` – what holds a value gets its closing brace when it ends.
    fn variant(self, name: &str) -> Result<Self, CanonicalError> {
        self.out.push(b'{');
        let Self { out, scratch } = self;
        Canonical { out, scratch }.json(name)?;
        out.push(b':');
        Ok(Self { out, scratch })
    }
}

/// An array being written.
#[derive(Debug)]
pub(crate) struct Array<'a> {
    to: Canonical<'a>,
    empty: bool,
    variant: bool,
}

impl Array<'_> {
    fn add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonicalError> {
        if !self.empty {
            self.to.out.push(b',');
        }
        self.empty = false;
        value.serialize(self.to.again())
    }

    fn finish(self) {
        self.to.out.push(b']');
        if self.variant {
            self.to.out.push(b'}');
        }
    }
}

/// An object being written.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    to: Canonical<'a>,
    first: usize,
    in_order: bool,
    variant: bool,
    /// The member before, if it is a field.
    before: Option<&'static str>,
}

/// Whether JSON escapes nothing in `text`.
pub(crate) fn is_plain(text: &[u8]) -> bool {
    // No way out of the loop: so it is made of vector instructions.
    text.iter().fold(true, |plain, byte| {
        plain & (*byte >= 0x20) & (*byte != b'"') & (*byte != b'\\')
    })
}

/// The first bytes of `key`, zeros after its end: of two keys that differ in them, the smaller number is the smaller key.
fn first_bytes(key: &str) -> u64 {
    match key.as_bytes().first_chunk() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let bytes = key.bytes().take(8);
            bytes
                .zip((0..8u32).rev())
                .fold(0, |sum, (byte, at)| sum | u64::from(byte) << (8 * at))
        }
    }
}

impl Object<'_> {
    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), CanonicalError> {
        self.before = None;
        let out = &mut *self.to.out;
        if self.to.scratch.members.len() > self.first {
            out.push(b',');
        }
        let start = out.len();
        key.serialize(self.to.again())?;
        let out = &mut *self.to.out;
        match out.get(start) {
            Some(b'"') => {}
            // A number as key is its text.
            Some(b'-' | b'0'..=b'9') => {
                out.insert(start, b'"');
                out.push(b'"');
            }
            _ => {
                return Err(<CanonicalError as ser::Error>::custom(
                    "a key must be a text",
                ));
            }
        }
        let key_end = out.len();
        let member = Member {
            start,
            key_end,
            end: key_end,
            escaped: out.get(start..).unwrap_or_default().contains(&b'\\'),
        };
        let before = self.to.scratch.members.get(self.first..);
        if let Some(last) = before.and_then(<[_]>::last) {
            self.in_order &= order(out, last, &member).is_lt();
        }
        self.to.scratch.members.push(member);
        out.push(b':');
        Ok(())
    }

    /// The same for a field's name, which as a rule has nothing that JSON escapes.
    fn field(&mut self, key: &'static str) -> Result<(), CanonicalError> {
        if !is_plain(key.as_bytes()) {
            return self.key(key);
        }
        let Canonical { out, scratch } = &mut self.to;
        out.reserve(key.len() + 4);
        if let Some(last) = scratch.members.get(self.first..).and_then(<[_]>::last) {
            out.push(b',');
            self.in_order &= match self.before {
                // By the first eight bytes, as a rule.
                Some(before) if first_bytes(before) != first_bytes(key) => {
                    first_bytes(before) < first_bytes(key)
                }
                Some(before) => before < key,
                None => {
                    let before = out.get(last.start + 1..last.key_end.saturating_sub(1));
                    !last.escaped && before.unwrap_or_default() < key.as_bytes()
                }
            };
        }
        self.before = Some(key);
        let start = out.len();
        out.push(b'"');
        out.extend_from_slice(key.as_bytes());
        out.push(b'"');
        let key_end = out.len();
        scratch.members.push(Member {
            start,
            key_end,
            end: key_end,
            escaped: false,
        });
        out.push(b':');
        Ok(())
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonicalError> {
        value.serialize(self.to.again())?;
        if let Some(last) = self.to.scratch.members.last_mut() {
            last.end = self.to.out.len();
        }
        Ok(())
    }

    fn finish(self) {
        let Canonical { out, scratch } = self.to;
        if !self.in_order {
            let Scratch { members, sorted } = &mut *scratch;
            let members = members.get_mut(self.first..).unwrap_or_default();
            let from = members.first().map_or(out.len(), |m| m.start);
            members.sort_unstable_by(|a, b| order(out, a, b));
            sorted.clear();
            for (at, member) in members.iter().enumerate() {
                if at > 0 {
                    sorted.push(b',');
                }
                sorted.extend_from_slice(out.get(member.start..member.end).unwrap_or_default());
            }
            out.truncate(from);
            out.extend_from_slice(sorted);
        }
        scratch.members.truncate(self.first);
        out.push(b'}');
        if self.variant {
            out.push(b'}');
        }
    }
}

/// The order of two keys: that of their bytes, without what JSON escapes in them.
fn order(out: &[u8], a: &Member, b: &Member) -> std::cmp::Ordering {
    let text = |m: &Member| {
        out.get(m.start + 1..m.key_end.saturating_sub(1))
            .unwrap_or_default()
    };
    if !a.escaped && !b.escaped {
        return text(a).cmp(text(b));
    }
    let plain = |m: &Member| -> String {
        serde_json::from_slice(out.get(m.start..m.key_end).unwrap_or_default()).unwrap_or_default()
    };
    plain(a).cmp(&plain(b))
}

/// Formats straight into a buffer.
struct Raw<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Raw<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

macro_rules! plain {
    ($($name:ident: $type:ty),*) => {
        $(fn $name(self, value: $type) -> Result<(), CanonicalError> {
            self.json(&value)
        })*
    };
}

impl<'a> Serializer for Canonical<'a> {
    type Ok = ();
    type Error = CanonicalError;
    type SerializeSeq = Array<'a>;
    type SerializeTuple = Array<'a>;
    type SerializeTupleStruct = Array<'a>;
    type SerializeTupleVariant = Array<'a>;
    type SerializeMap = Object<'a>;
    type SerializeStruct = Object<'a>;
    type SerializeStructVariant = Object<'a>;

    plain! {
        serialize_bool: bool,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_char: char, serialize_str: &str
    }

    fn serialize_f32(self, value: f32) -> Result<(), CanonicalError> {
        Err(CanonicalError::Float(value.into()))
    }

    fn serialize_f64(self, value: f64) -> Result<(), CanonicalError> {
        Err(CanonicalError::Float(value))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), CanonicalError> {
        value.serialize(self)
    }

    fn serialize_none(self) -> Result<(), CanonicalError> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), CanonicalError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), CanonicalError> {
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), CanonicalError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), CanonicalError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), CanonicalError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), CanonicalError> {
        let mut open = self.variant(variant)?;
        value.serialize(open.again())?;
        open.out.push(b'}');
        Ok(())
    }

    fn serialize_seq(self, _length: Option<usize>) -> Result<Array<'a>, CanonicalError> {
        Ok(self.array())
    }

    fn serialize_tuple(self, _length: usize) -> Result<Array<'a>, CanonicalError> {
        Ok(self.array())
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        _length: usize,
    ) -> Result<Array<'a>, CanonicalError> {
        Ok(self.array())
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Array<'a>, CanonicalError> {
        let mut array = self.variant(variant)?.array();
        array.variant = true;
        Ok(array)
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<Object<'a>, CanonicalError> {
        Ok(self.object())
    }

    fn serialize_struct(
        self,
        _name: &'static str,
        _length: usize,
    ) -> Result<Object<'a>, CanonicalError> {
        Ok(self.object())
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Object<'a>, CanonicalError> {
        let mut object = self.variant(variant)?.object();
        object.variant = true;
        Ok(object)
    }

    fn collect_str<T: std::fmt::Display + ?Sized>(self, value: &T) -> Result<(), CanonicalError> {
        use std::fmt::Write as _;
        let start = self.out.len();
        self.out.push(b'"');
        write!(Raw(self.out), "{value}").map_err(<CanonicalError as ser::Error>::custom)?;
        let text = self.out.get(start + 1..).unwrap_or_default();
        if text.iter().any(|b| *b < 0x20 || matches!(b, b'"' | b'\\')) {
            self.out.truncate(start);
            return self.serialize_str(&value.to_string());
        }
        self.out.push(b'"');
        Ok(())
    }
}

macro_rules! array {
    ($($of:ident: $add:ident),*) => {
        $(impl ser::$of for Array<'_> {
            type Ok = ();
            type Error = CanonicalError;

            fn $add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonicalError> {
                self.add(value)
            }

            fn end(self) -> Result<(), CanonicalError> {
                self.finish();
                Ok(())
            }
        })*
    };
}

array! {
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
}

macro_rules! object {
    ($($of:ident),*) => {
        $(impl ser::$of for Object<'_> {
            type Ok = ();
            type Error = CanonicalError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), CanonicalError> {
                self.field(key)?;
                self.value(value)
            }

            fn end(self) -> Result<(), CanonicalError> {
                self.finish();
                Ok(())
            }
        })*
    };
}

object! { SerializeStruct, SerializeStructVariant }

impl ser::SerializeMap for Object<'_> {
    type Ok = ();
    type Error = CanonicalError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), CanonicalError> {
        self.key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonicalError> {
        self.value(value)
    }

    fn end(self) -> Result<(), CanonicalError> {
        self.finish();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
