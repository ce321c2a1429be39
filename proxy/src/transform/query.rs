//! Changes to query parameters.

use std::fmt::Write as _;

use reeve_core::model::QueryOps;

use crate::query;

/// Remove, then set, then add.
#[derive(Debug, Default)]
pub(super) struct QueryEdits {
    remove: Vec<String>,
    /// `name=value`, encoded.
    write: Vec<String>,
}

impl QueryEdits {
    pub(super) fn compile(ops: &QueryOps) -> Self {
        let written = ops.set.iter().chain(&ops.add);
        Self {
            remove: ops.set.keys().chain(&ops.remove).cloned().collect(),
            write: written
                .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
                .collect(),
        }
    }

    pub(super) fn apply(&self, text: &mut Option<String>) {
        if !self.remove.is_empty()
            && let Some(old) = text.take()
        {
            *text = query::without(&old, &self.remove);
        }
        for pair in &self.write {
            match text {
                Some(text) if !text.is_empty() => {
                    text.push('&');
                    text.push_str(pair);
                }
                Some(_) | None => *text = Some(pair.clone()),
            }
        }
    }
}

/// All but what RFC 3986 calls unreserved is percent-encoded.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _written = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn edited(query: Option<&str>, set: &[(&str, &str)], remove: &[&str]) -> Option<String> {
        let set = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let edits = QueryEdits::compile(&QueryOps {
            set: set.collect(),
            add: BTreeMap::new(),
            remove: remove.iter().map(|name| (*name).to_owned()).collect(),
        });
        let mut query = query.map(str::to_owned);
        edits.apply(&mut query);
        query
    }

    #[test]
    fn parameters_are_set_and_removed_however_they_are_spelt() {
        assert_eq!(
            edited(Some("a=1&%61=2&b=3"), &[], &["a"]).as_deref(),
            Some("b=3")
        );
        assert_eq!(edited(Some("a=1"), &[], &["a"]), None);
        assert_eq!(
            edited(None, &[("a", "x y&z")], &[]).as_deref(),
            Some("a=x%20y%26z")
        );
        assert_eq!(
            edited(Some("a=1&c=2&a=3"), &[("a", "9")], &[]).as_deref(),
            Some("c=2&a=9")
        );
        assert_eq!(edited(Some("a=1"), &[], &["b"]).as_deref(), Some("a=1"));
    }

    proptest! {
        #[test]
        fn what_is_set_is_read_and_nothing_else_changes(
            before in "[ab=&%+621]{0,20}", name in ".{1,5}", value in ".{0,8}",
        ) {
            let after = edited(Some(&before), &[(&name, &value)], &[]).unwrap_or_default();
            prop_assert_eq!(query::values(&after, &name), vec![value]);
            let others = |text: &str| {
                query::pairs(text).filter(|(found, _)| *found != name).collect::<Vec<_>>()
            };
            prop_assert_eq!(others(&after), others(&before));
        }
    }
}
