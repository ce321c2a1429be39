//! Header changes of a route, compiled.

use http::{HeaderMap, HeaderName, HeaderValue};
use reeve_core::model::HeaderOps;

use super::{RouteError, matcher::header_name};

/// Set, then add, then remove.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeaderEdits {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
    /// From `set: {host: …}` or `:authority`: Istio's other way to rewrite the authority.
    authority: Option<String>,
}

impl HeaderEdits {
    /// Compiles `ops`, which stand in the route named `route`.
    pub(crate) fn compile(ops: &HeaderOps, route: &str) -> Result<Self, RouteError> {
        let is_authority = |name: &str| matches!(name, "host" | "Host" | ":authority");
        let pair = |(name, value): (&String, &String)| {
            Ok((header_name(name, route)?, header_value(value, route)?))
        };
        let plain = |(name, _): &(&String, &String)| !is_authority(name);
        let authority = ops.set.iter().find(|(name, _)| is_authority(name));
        let names = ops.remove.iter().filter(|name| !is_authority(name));
        Ok(Self {
            authority: authority.map(|(_, value)| value.clone()),
            set: ops
                .set
                .iter()
                .filter(plain)
                .map(pair)
                .collect::<Result<_, _>>()?,
            add: ops
                .add
                .iter()
                .filter(plain)
                .map(pair)
                .collect::<Result<_, _>>()?,
            remove: names
                .map(|name| header_name(name, route))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The authority that the edits set.
    pub(crate) fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// Applies the edits.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

fn header_value(text: &str, route: &str) -> Result<HeaderValue, RouteError> {
    HeaderValue::try_from(text).map_err(|_| RouteError::Header {
        route: route.to_owned(),
        part: "value",
        text: text.to_owned(),
    })
}
