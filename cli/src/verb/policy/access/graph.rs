//! Who can reach what as a picture: callers on the left, what they reach on the right.

use super::{Access, Can};

/// Graphviz's language.
pub(super) fn dot(all: &[Access]) -> String {
    let mut out = "digraph access {\n  rankdir=LR;\n  node [shape=box];\n".to_owned();
    for access in all {
        let style = match access.answer {
            Can::Yes => "solid",
            Can::If | Can::No => "dashed",
        };
        out.push_str(&format!(
            "  {} -> {} [label={}, style={style}];\n",
            quoted(&access.caller),
            quoted(&access.target()),
            quoted(&label(access).join("\n")),
        ));
    }
    out.push('}');
    out
}

/// A string of Graphviz's, whose line breaks are `\n`.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace('\n', "\\n"))
}

/// Mermaid's language, which GitHub and GitLab draw within Markdown.
pub(super) fn mermaid(all: &[Access]) -> String {
    let (callers, targets) = ends(all);
    let mut lines = vec!["flowchart LR".to_owned()];
    let node = |kind: char, (number, name): (usize, &String)| {
        format!("  {kind}{number}[\"{}\"]", entities(name))
    };
    lines.extend(callers.iter().enumerate().map(|c| node('c', c)));
    lines.extend(targets.iter().enumerate().map(|t| node('t', t)));
    for access in all {
        let (from, to) = (at(&callers, &access.caller), at(&targets, &access.target()));
        let arrow = match access.answer {
            Can::Yes => "-->",
            Can::If | Can::No => "-.->",
        };
        let label = entities(&label(access).join("\n")).replace('\n', "<br/>");
        lines.push(format!("  c{from} {arrow}|\"{label}\"| t{to}"));
    }
    lines.join("\n")
}

/// Height of a row, and width of a column, in pixels.
const ROW: usize = 34;
const COLUMN: usize = 560;
/// From one column to the other.
const GAP: usize = 320;

/// A picture that stands alone.
pub(super) fn svg(all: &[Access]) -> String {
    let (callers, targets) = ends(all);
    let rows = callers.len().max(targets.len()).max(1);
    let (width, height) = (2 * COLUMN + GAP, (rows + 1) * ROW);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let middle = |row: usize| (row + 1) * ROW - ROW / 2;
    for access in all {
        let from = middle(at(&callers, &access.caller));
        let to = middle(at(&targets, &access.target()));
        let (x1, x2) = (COLUMN, COLUMN + GAP);
        let dashes = match access.answer {
            Can::Yes => "",
            Can::If | Can::No => " stroke-dasharray=\"5 4\"",
        };
        let bend = GAP / 3;
        out.push_str(&format!(
            "<path d=\"M{x1} {from} C{} {from} {} {to} {x2} {to}\" fill=\"none\" stroke=\"#456\"{dashes}>\
             <title>{}</title></path>\n",
            x1 + bend,
            x2 - bend,
            entities(&label(access).join("\n"))
        ));
        // Near its target, where lines from several callers part.
        out.push_str(&format!(
            "<text x=\"{}\" y=\"{}\" font-size=\"11\" fill=\"#456\" text-anchor=\"end\">{}</text>\n",
            x2 - 6,
            to - 5,
            entities(&access.methods())
        ));
    }
    for (column, names, x) in [(0, &callers, 0), (1, &targets, COLUMN + GAP)] {
        for (row, name) in names.iter().enumerate() {
            let fill = if column == 0 { "#e8f0ff" } else { "#e9f7e9" };
            out.push_str(&format!(
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"4\" fill=\"{fill}\" stroke=\"#89a\"/>\
                 <text x=\"{}\" y=\"{}\">{}</text>\n",
                x + 4,
                middle(row) - 12,
                COLUMN - 8,
                24,
                x + 12,
                middle(row) + 4,
                entities(name)
            ));
        }
    }
    out.push_str("</svg>");
    out
}

/// Every caller and every target, once.
fn ends(all: &[Access]) -> (Vec<String>, Vec<String>) {
    let (mut callers, mut targets) = (Vec::new(), Vec::new());
    for access in all {
        for (names, name) in [
            (&mut callers, access.caller.clone()),
            (&mut targets, access.target()),
        ] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    (callers, targets)
}

fn at(names: &[String], name: &str) -> usize {
    names.iter().position(|n| n == name).unwrap_or_default()
}

/// The methods, and what they depend on.
fn label(access: &Access) -> Vec<String> {
    let conditions = access.conditions.iter().map(ToString::to_string);
    std::iter::once(access.methods())
        .chain(conditions)
        .collect()
}

/// What XML and Mermaid would take for their own.
fn entities(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
