//! What a request was searched for, so that a replay can tell "was not there" from "nobody looked".

use serde::{Deserialize, Serialize};

/// The most bytes of names that a record holds; what is beyond is as if nobody had looked for it.
const MAX_LOOKED_FOR_BYTES: usize = 2 * 1024;

/// Names that a request was searched for, ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LookedFor {
    /// Header names, lower case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Query parameter names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<String>,
    /// Whether a JWT was looked for.
    #[serde(skip_serializing_if = "is_false")]
    pub token: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl LookedFor {
    /// These names, as many as a record has room for.
    pub fn new<'a>(
        headers: impl IntoIterator<Item = &'a str>,
        query: impl IntoIterator<Item = &'a str>,
        token: bool,
    ) -> Self {
        let mut room = MAX_LOOKED_FOR_BYTES;
        let mut keep = |names: &mut dyn Iterator<Item = &'a str>| {
            let mut kept = Vec::new();
            for name in names {
                match room.checked_sub(name.len()) {
                    Some(left) => room = left,
                    None => continue,
                }
                kept.push(name.to_owned());
            }
            kept.sort_unstable();
            kept
        };
        Self {
            headers: keep(&mut headers.into_iter()),
            query: keep(&mut query.into_iter()),
            token,
        }
    }

    /// Whether nothing was looked for.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.query.is_empty() && !self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_and_those_without_room_are_left_out() {
        let long = "x".repeat(MAX_LOOKED_FOR_BYTES - 1);
        let found = LookedFor::new(["b", &long, "a"], ["q"], false);
        assert_eq!(found.headers, ["b", &long]);
        assert!(found.query.is_empty());
        assert_eq!(LookedFor::new(["b", "a"], [], true).headers, ["a", "b"]);
        assert!(LookedFor::new([], [], false).is_empty());
        assert!(!LookedFor::new([], [], true).is_empty());
    }
}
