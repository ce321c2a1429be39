//! Writes JSON text piece by piece, for records of which there are many: who writes puts the members in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use reeve_core::RecordId;
use serde::Serialize;

use crate::canonical::{self, CanonicalError, Scratch, is_plain};

pub(super) type Written = Result<(), CanonicalError>;

/// The end of a buffer that JSON is added to.
#[derive(Debug)]
pub(super) struct Text<'a> {
    out: &'a mut Vec<u8>,
    scratch: &'a mut Scratch,
}

impl<'a> Text<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>, scratch: &'a mut Scratch) -> Self {
        Self { out, scratch }
    }

    /// JSON as it is.
    pub(super) fn raw(&mut self, json: &str) {
        self.out.extend_from_slice(json.as_bytes());
    }

    /// A text in quotes.
    pub(super) fn text(&mut self, text: &str) -> Written {
        if !is_plain(text.as_bytes()) {
            return serde_json::to_writer(&mut *self.out, text).map_err(CanonicalError::Json);
        }
        self.out.reserve(text.len() + 2);
        self.out.push(b'"');
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'"');
        Ok(())
    }

    /// A member that may be absent; `name` with all that stands before its value.
    pub(super) fn optional(&mut self, name: &str, value: Option<&str>) -> Written {
        let Some(value) = value else { return Ok(()) };
        self.raw(name);
        self.text(value)
    }

    pub(super) fn number(&mut self, number: impl Into<u64>) -> Written {
        serde_json::to_writer(&mut *self.out, &number.into()).map_err(CanonicalError::Json)
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.raw(if flag { "true" } else { "false" });
    }

    /// Any value, the general way.
    pub(super) fn value<T: Serialize>(&mut self, value: &T) -> Written {
        canonical::append(value, self.out, self.scratch)
    }

    /// An array of texts.
    pub(super) fn texts<'t>(&mut self, texts: impl IntoIterator<Item = &'t str>) -> Written {
        self.raw("[");
        for (at, text) in texts.into_iter().enumerate() {
            self.comma(at);
            self.text(text)?;
        }
        self.raw("]");
        Ok(())
    }

    /// An object of arrays of texts. Such a map is in canonical order by itself: that of the keys' bytes.
    pub(super) fn lists(&mut self, lists: &BTreeMap<String, BTreeSet<String>>) -> Written {
        self.raw("{");
        for (at, (name, values)) in lists.iter().enumerate() {
            self.comma(at);
            self.text(name)?;
            self.raw(":");
            self.texts(values.iter().map(String::as_str))?;
        }
        self.raw("}");
        Ok(())
    }

    /// What stands before the member or item at `place`.
    fn comma(&mut self, place: usize) {
        if place > 0 {
            self.raw(",");
        }
    }

    /// `"proxy/epoch/worker/sequence"`, none of which JSON escapes.
    pub(super) fn id(&mut self, id: &RecordId) -> Written {
        let RecordId {
            proxy,
            epoch,
            worker,
            sequence,
        } = id;
        self.raw("\"");
        self.raw(proxy.as_str());
        self.raw("/");
        self.number(*epoch)?;
        self.raw("/");
        self.number(*worker)?;
        self.raw("/");
        self.number(*sequence)?;
        self.raw("\"");
        Ok(())
    }

    pub(super) fn address(&mut self, address: IpAddr) -> Written {
        let IpAddr::V4(address) = address else {
            return self.value(&address);
        };
        let [a, b, c, d] = address.octets();
        self.raw("\"");
        for (octet, after) in [(a, "."), (b, "."), (c, "."), (d, "\"")] {
            self.number(octet)?;
            self.raw(after);
        }
        Ok(())
    }
}
