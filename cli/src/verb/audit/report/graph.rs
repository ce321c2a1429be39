//! Who reached what, as a picture: callers on the left, services on the right.

use std::{collections::BTreeSet, fmt::Write as _};

use reeve_columns::report::Edge;

use super::{html::escaped, short};

/// Edges of a picture: those used most.
const MAX_EDGES: usize = 80;
/// The height of a line of text.
const LINE: usize = 26;
/// Where callers' names end and services' begin.
const LEFT: usize = 430;
const RIGHT: usize = 770;
const WIDTH: usize = 1200;

/// An SVG; what was only denied is red, what is still plaintext is dashed.
pub(super) fn svg(edges: &[Edge]) -> String {
    let mut shown: Vec<_> = edges.iter().collect();
    shown.sort_by_key(|edge| std::cmp::Reverse(edge.allowed + edge.denied));
    shown.truncate(MAX_EDGES);
    let callers: BTreeSet<_> = shown.iter().map(|edge| edge.caller.as_str()).collect();
    let services: BTreeSet<_> = shown.iter().map(|edge| edge.service.as_str()).collect();
    let height = (callers.len().max(services.len()) + 1) * LINE;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"who reached what\">\n"
    );
    let place = |names: &BTreeSet<&str>, name: &str| {
        let at = names.iter().position(|n| *n == name).unwrap_or(0);
        (at + 1) * LINE
    };
    for edge in &shown {
        let (from, to) = (
            place(&callers, &edge.caller),
            place(&services, &edge.service),
        );
        let (near, far) = (LEFT + 100, RIGHT - 100);
        let class = match (edge.allowed, edge.plaintext) {
            (0, _) => "denied",
            (_, 0) => "edge",
            _ => "edge plain",
        };
        let calls = edge.allowed + edge.denied;
        let width = 1 + calls.checked_ilog10().unwrap_or(0);
        let title = escaped(&format!(
            "{} → {}: {} allowed, {} denied, {} in plaintext",
            edge.caller, edge.service, edge.allowed, edge.denied, edge.plaintext
        ));
        let drawn = writeln!(
            svg,
            "<path class=\"{class}\" stroke-width=\"{width}\" d=\"M{LEFT} {from} C{near} {from} {far} {to} {RIGHT} {to}\"><title>{title}</title></path>"
        );
        drawn.unwrap_or_default();
    }
    for (names, x, anchor) in [(&callers, LEFT - 8, "end"), (&services, RIGHT + 8, "start")] {
        for name in names {
            let (y, name) = (place(names, name) + 5, escaped(short(name)));
            let drawn = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{name}</text>"
            );
            drawn.unwrap_or_default();
        }
    }
    svg.push_str("</svg>\n");
    if edges.len() > shown.len() {
        let note = format!(
            "<p>The picture shows the {MAX_EDGES} edges used most of {}.</p>\n",
            edges.len()
        );
        svg.push_str(&note);
    }
    svg
}
