//! Header changes of a route, compiled.

use http::{HeaderMap, HeaderName, HeaderValue};
use reeve_core::model::HeaderOps;

use super::{RouteError, matcher::header_name};

/// Remove, then set, then add.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeaderEdits {
    remove: Vec<HeaderName>,
    write: Vec<(HeaderName, HeaderValue, Write)>,
    /// From `set: {host: …}` or `:authority`: Istio's other way to rewrite the authority.
    authority: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Set,
    Add,
}

impl HeaderEdits {
    /// Compiles `ops`, which stand in the route named `route`.
    pub(crate) fn compile(ops: &HeaderOps, route: &str) -> Result<Self, RouteError> {
        let is_authority = |name: &str| matches!(name, "host" | "Host" | ":authority");
        // Of both, the one that is set.
        let authority = ops.set.iter().chain(&ops.add);
        let authority = authority.into_iter().find(|(name, _)| is_authority(name));
        let mut edits = Self {
            authority: authority.map(|(_, value)| value.clone()),
            ..Self::default()
        };
        let sets = ops.set.iter().map(|pair| (pair, Write::Set));
        let adds = ops.add.iter().map(|pair| (pair, Write::Add));
        for ((name, value), how) in sets.chain(adds) {
            if !is_authority(name) {
                let name = header_name(name, route)?;
                edits.write.push((name, header_value(value, route)?, how));
            }
        }
        for name in ops.remove.iter().filter(|name| !is_authority(name)) {
            edits.remove.push(header_name(name, route)?);
        }
        Ok(edits)
    }

    /// These, and `more` as if they stood in the same place after them.
    pub(crate) fn and(mut self, more: Self) -> Self {
        self.remove.extend(more.remove);
        self.write.extend(more.write);
        self.authority = self.authority.or(more.authority);
        self
    }

    /// The authority that the edits set.
    pub(crate) fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// Applies the edits.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value, how) in &self.write {
            match how {
                Write::Set => drop(headers.insert(name.clone(), value.clone())),
                Write::Add => drop(headers.append(name.clone(), value.clone())),
            }
        }
    }
}

/// Parses the value of a header.
pub(super) fn header_value(text: &str, route: &str) -> Result<HeaderValue, RouteError> {
    HeaderValue::try_from(text).map_err(|_| RouteError::Header {
        route: route.to_owned(),
        part: "value",
        text: text.to_owned(),
    })
}
