//! Finds the first route that matches among many, asking only those whose path, or one header, can fit. What it finds is
//! what a scan from the first to the last would find (property-tested): the cost does not grow with their number.

use std::borrow::Cow;

use foldhash::HashMap;
use http::{HeaderMap, HeaderName};

use super::matcher::{Key, joined};

/// Fewer routes than this are scanned: that costs less.
const MIN_INDEXED: usize = 8;

type ByText = HashMap<Box<str>, Vec<usize>>;

/// Routes by what they ask of a request at least. Every list is in the routes' own order.
#[derive(Debug, Default)]
pub(crate) struct RouteIndex {
    exact: ByText,
    prefixes: ByText,
    /// Lengths of `prefixes`, the longest first.
    lengths: Vec<usize>,
    headers: Vec<(HeaderName, ByText)>,
    rest: Vec<usize>,
}

impl RouteIndex {
    /// Of routes that each ask for one of these keys; `None` where a scan is as good.
    pub(super) fn build<'k, K>(routes: impl ExactSizeIterator<Item = K>) -> Option<Self>
    where
        K: IntoIterator<Item = Key<'k>>,
    {
        if routes.len() < MIN_INDEXED {
            return None;
        }
        let mut index = Self::default();
        for (at, keys) in routes.enumerate() {
            for key in keys {
                add(index.list(key), at);
            }
        }
        index.lengths = index.prefixes.keys().map(|prefix| prefix.len()).collect();
        index.lengths.sort_unstable_by(|a, b| b.cmp(a));
        index.lengths.dedup();
        Some(index)
    }

    fn list(&mut self, key: Key<'_>) -> &mut Vec<usize> {
        match key {
            Key::Exact(path) => self.exact.entry(path.into()).or_default(),
            Key::Prefix(prefix) => self.prefixes.entry(prefix.into()).or_default(),
            Key::Header(name, value) => {
                let known = self.headers.iter().position(|(known, _)| known == name);
                let at = known.unwrap_or_else(|| {
                    self.headers.push((name.clone(), HashMap::default()));
                    self.headers.len() - 1
                });
                match self.headers.get_mut(at) {
                    Some((_, values)) => values.entry(value.into()).or_default(),
                    None => &mut self.rest,
                }
            }
            Key::Any => &mut self.rest,
        }
    }

    /// The first route that `test` accepts, and what it says.
    pub(super) fn first<T>(
        &self,
        path: &str,
        headers: &HeaderMap,
        test: impl Fn(usize) -> Option<T>,
    ) -> Option<(usize, T)> {
        let mut best = None;
        let mut try_all = |list: Option<&Vec<usize>>| {
            for at in list.into_iter().flatten().copied() {
                if best.as_ref().is_some_and(|(found, _)| *found <= at) {
                    break;
                }
                if let Some(told) = test(at) {
                    best = Some((at, told));
                    break;
                }
            }
        };
        try_all(self.exact.get(path));
        for length in &self.lengths {
            if let Some(start) = path.get(..*length) {
                try_all(self.prefixes.get(start));
            }
        }
        for (name, values) in &self.headers {
            let value = joined(headers, name);
            try_all(value.and_then(|value: Cow<'_, str>| values.get(value.as_ref())));
        }
        try_all(Some(&self.rest));
        best
    }
}

/// A route with several alternatives of one key stands in its list once.
fn add(list: &mut Vec<usize>, at: usize) {
    if list.last() != Some(&at) {
        list.push(at);
    }
}
