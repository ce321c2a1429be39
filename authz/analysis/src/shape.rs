//! Paths as shapes: what stands for one thing of many (an id) becomes a wildcard.
//!
//! By pattern: numbers, UUIDs, hashes and the like. By count: where more than a few different values stand in the same
//! place. Each wildcard says which of the two it came from.

use std::collections::{BTreeMap, BTreeSet};

/// More different values than these in one place are values of something.
const MAX_SIBLINGS: usize = 8;
/// Values that a wildcard shows.
const MAX_SHOWN: usize = 3;
/// Most nodes of one tree of paths; what goes beyond is counted where there is room.
const MAX_NODES: usize = 20_000;

/// What a wildcard is written as.
pub(crate) const WILD: &str = "*";

/// The path with ids, as far as their form tells them, as wildcards.
pub(crate) fn template(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for (number, segment) in path.split('/').enumerate() {
        if number > 0 {
            out.push('/');
        }
        out.push_str(if is_id(segment) { WILD } else { segment });
    }
    out
}

/// Whether a segment looks like the name of one thing of many.
fn is_id(segment: &str) -> bool {
    let count = |is: fn(&char) -> bool| segment.chars().filter(is).count();
    let digits = count(char::is_ascii_digit);
    if digits == 0 {
        return segment.contains('@');
    }
    let plain = segment
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_.:@%+=~".contains(c));
    if !plain {
        return false;
    }
    let letters = count(char::is_ascii_alphabetic);
    let hexes = count(char::is_ascii_hexdigit);
    let length = segment.len();
    // 7, 2026-11-21, 10.2; a hash or a UUID; a long token; order-1234.
    letters == 0
        || segment.contains('@')
        || length >= 8 && hexes + count(|c| *c == '-') == length
        || length >= 16 && digits >= 3
        || numbered(segment)
}

/// A word, a dash, and two digits or more.
fn numbered(segment: &str) -> bool {
    let parts = segment.rsplit_once(['-', '_']);
    parts.is_some_and(|(word, number)| {
        word.chars().all(|c| c.is_ascii_alphabetic())
            && number.len() >= 2
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}

/// A wildcard's reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Why {
    /// The values look like ids.
    pub(crate) by_pattern: bool,
    /// How many different values stood there, at least.
    pub(crate) values: usize,
    /// Some of them.
    pub(crate) shown: BTreeSet<String>,
}

/// A path of a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// With `*` for each wildcard.
    pub(crate) pattern: String,
    pub(crate) count: u64,
    /// One for each wildcard.
    pub(crate) wild: Vec<Why>,
    /// A path that was seen.
    pub(crate) sample: String,
}

/// A tree of paths.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    root: Node,
    nodes: usize,
    /// Those that begin with no slash (`OPTIONS *`).
    odd: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Node {
    children: BTreeMap<String, Node>,
    wild: Option<Box<Wild>>,
    /// Paths that end here.
    count: u64,
    sample: String,
}

#[derive(Debug, Default)]
struct Wild {
    why: Why,
    /// Different values, as far as they are kept apart.
    seen: BTreeSet<String>,
    node: Node,
}

/// Different values of one place that are kept apart.
const MAX_SEEN: usize = 256;

impl Shapes {
    /// Counts a path, or a [`template`].
    pub(crate) fn add(&mut self, path: &str, count: u64) {
        if !path.starts_with('/') {
            *self.odd.entry(path.to_owned()).or_default() += count;
            return;
        }
        let mut node = &mut self.root;
        for segment in segments(path) {
            let new_child = !is_id(segment) && !node.children.contains_key(segment);
            if segment == WILD {
                node = &mut node.wild.get_or_insert_with(Box::default).node;
            } else if is_id(segment) || new_child && self.nodes >= MAX_NODES {
                let wild = node.wild.get_or_insert_with(Box::default);
                wild.why.by_pattern |= is_id(segment);
                wild.see(segment);
                node = &mut wild.node;
            } else {
                self.nodes += usize::from(new_child);
                node = node.children.entry(segment.to_owned()).or_default();
            }
        }
        node.count += count;
        if node.sample.is_empty() && !path.contains(WILD) {
            path.clone_into(&mut node.sample);
        }
    }

    /// Makes wildcards of places with many different values.
    pub(crate) fn generalise(&mut self) {
        self.root.generalise();
    }

    /// Adds what another tree counted.
    pub(crate) fn merge(&mut self, other: Self) {
        self.nodes += other.nodes;
        self.root.merge(other.root);
        for (path, count) in other.odd {
            *self.odd.entry(path).or_default() += count;
        }
    }

    /// The shape that `path` has.
    pub(crate) fn of(&self, path: &str) -> String {
        if !path.starts_with('/') {
            return path.to_owned();
        }
        let mut node = Some(&self.root);
        let mut out = String::new();
        for segment in segments(path) {
            let child = node.and_then(|n| n.children.get(segment));
            let wild = node.and_then(|n| n.wild.as_deref());
            out.push('/');
            match (child, wild) {
                (Some(child), _) => {
                    out.push_str(segment);
                    node = Some(child);
                }
                (None, Some(wild)) => {
                    out.push_str(WILD);
                    node = Some(&wild.node);
                }
                (None, None) => {
                    out.push_str(segment);
                    node = None;
                }
            }
        }
        out
    }

    /// Every shape, ordered.
    pub(crate) fn shapes(&self) -> Vec<Shape> {
        let odd = self.odd.iter().map(|(path, count)| Shape {
            pattern: path.clone(),
            count: *count,
            wild: Vec::new(),
            sample: path.clone(),
        });
        let mut found: Vec<_> = odd.collect();
        self.root
            .collect(&mut String::new(), &mut Vec::new(), &mut found);
        found
    }
}

/// What stands between the slashes; `/` has one empty segment.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

impl Wild {
    fn see(&mut self, value: &str) {
        if self.seen.len() < MAX_SEEN {
            self.seen.insert(value.to_owned());
        }
        self.why.values = self.seen.len();
        if self.why.shown.len() < MAX_SHOWN {
            self.why.shown.insert(value.to_owned());
        }
    }
}

impl Node {
    fn generalise(&mut self) {
        let named = self.children.keys().filter(|name| !name.is_empty()).count();
        if named > MAX_SIBLINGS {
            let wild = self.wild.get_or_insert_with(Box::default);
            for (name, child) in std::mem::take(&mut self.children) {
                if name.is_empty() {
                    self.children.insert(name, child);
                } else {
                    wild.see(&name);
                    wild.node.merge(child);
                }
            }
        }
        self.children.values_mut().for_each(Self::generalise);
        if let Some(wild) = &mut self.wild {
            wild.node.generalise();
        }
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        if self.sample.is_empty() {
            self.sample = other.sample;
        }
        for (name, child) in other.children {
            self.children.entry(name).or_default().merge(child);
        }
        if let Some(other) = other.wild {
            let wild = self.wild.get_or_insert_with(Box::default);
            wild.why.by_pattern |= other.why.by_pattern;
            other.seen.iter().for_each(|value| wild.see(value));
            wild.node.merge(other.node);
        }
    }

    fn collect(&self, path: &mut String, wild: &mut Vec<Why>, found: &mut Vec<Shape>) {
        if self.count > 0 {
            found.push(Shape {
                pattern: path.clone(),
                count: self.count,
                wild: wild.clone(),
                sample: self.sample.clone(),
            });
        }
        let length = path.len();
        for (name, child) in &self.children {
            path.push('/');
            path.push_str(name);
            child.collect(path, wild, found);
            path.truncate(length);
        }
        if let Some(any) = &self.wild {
            path.push('/');
            path.push_str(WILD);
            wild.push(any.why.clone());
            any.node.collect(path, wild, found);
            wild.pop();
            path.truncate(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_by_their_form() {
        for id in [
            "7",
            "2026-11-21",
            "550e8400-e29b-41d4-a716-446655440000",
            "4bf92f3577b34da6",
            "ann@example.com",
            "order-1234",
            "aGVsbG8gd29ybGQ5MjM1",
        ] {
            assert!(is_id(id), "{id}");
        }
        for word in [
            "",
            "v1",
            "reviews",
            "deadbeef",
            "api-v2",
            "s3",
            "index.html",
            "utf-8",
            "oauth2",
            "store.Ratings",
            "a b1",
        ] {
            assert!(!is_id(word), "{word}");
        }
        assert_eq!(template("/v1/users/77/orders/9"), "/v1/users/*/orders/*");
        assert_eq!(template("/"), "/");
    }

    #[test]
    fn many_values_in_one_place_become_a_wildcard_and_few_do_not() {
        let mut shapes = Shapes::default();
        for name in [
            "ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal", "ida",
        ] {
            shapes.add(&format!("/users/{name}/mail"), 2);
        }
        shapes.add("/users/7", 1);
        shapes.add("/health", 5);
        shapes.add("/", 1);
        shapes.generalise();
        let found: Vec<_> = shapes
            .shapes()
            .into_iter()
            .map(|s| (s.pattern, s.count, s.wild.len()))
            .collect();
        let expected = [
            ("/", 1, 0),
            ("/health", 5, 0),
            ("/users/*", 1, 1),
            ("/users/*/mail", 18, 1),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(p, c, w)| ((*p).to_owned(), *c, *w))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(shapes.of("/users/zoe/mail"), "/users/*/mail");
        assert_eq!(shapes.of("/health"), "/health");
        let wild = &shapes.shapes()[2].wild[0];
        assert_eq!(
            (wild.values, wild.by_pattern, wild.shown.len()),
            (10, true, 3)
        );
    }
}
