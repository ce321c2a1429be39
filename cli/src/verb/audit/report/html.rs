//! The report as one page that loads nothing.

use std::fmt::Write as _;

use reeve_columns::report::{Edge, Report};
use reeve_core::UnixTime;

use super::{graph, span};
use crate::supervisor::logfile::timestamp;

/// SECURITY: whatever slipped through escaping could neither run nor load anything.
const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Access report</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1b1f24; }
h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #d8dee4; overflow-wrap: anywhere; }
th { position: sticky; top: 0; background: #f6f8fa; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; border: 1px solid #d8dee4; background: #fff; }
svg text { font: 13px system-ui, sans-serif; fill: #1b1f24; }
svg path { fill: none; stroke: #1f6feb; opacity: .55; }
svg path.denied { stroke: #cf222e; }
svg path.plain { stroke-dasharray: 6 4; }
svg path:hover { opacity: 1; }
@media (prefers-color-scheme: dark) {
  body { background: #0d1117; color: #e6edf3; } th { background: #161b22; }
  th, td, svg { border-color: #30363d; } svg { background: #0d1117; } svg text { fill: #e6edf3; }
}
</style>
</head>
<body>
"#;

/// The whole page.
pub(super) fn page(report: &Report, now: UnixTime) -> String {
    let mut page = HEAD.to_owned();
    let heading = format!(
        "<h1>Access report</h1>\n<p>{}; made {}. {} decisions, {} allowed, {} denied.</p>\n",
        escaped(&span(report)),
        timestamp(now),
        report.decisions,
        report.allowed,
        report.denied
    );
    page.push_str(&heading);
    page.push_str(
        "<h2>Who reached what</h2>\n<p>Red was only denied; dashed is still plaintext.</p>\n",
    );
    page.push_str(&graph::svg(&report.edges));
    page.push_str(&edges(&report.edges));
    let denials = report.denials.iter().map(|d| {
        vec![
            number(d.count),
            text(&d.reason),
            text(&d.caller),
            text(&d.service),
            text(&timestamp(d.last)),
            text(&d.example),
        ]
    });
    let header = ["Count", "Cause", "Caller", "Service", "Last", "For example"];
    page.push_str(&section("Denials by cause", &header, denials));
    if !report.new_edges.is_empty() {
        page.push_str("<h2>New edges</h2>\n");
        page.push_str(&edges(&report.new_edges));
    }
    let plaintext = report.plaintext.iter().map(|p| {
        vec![
            number(p.count),
            text(&p.source_ip),
            text(&p.service),
            text(&p.port.to_string()),
            text(&p.mtls_mode),
            text(&timestamp(p.last)),
        ]
    });
    let header = ["Count", "From", "Service", "Port", "Mode", "Last"];
    page.push_str(&section("Plaintext remaining", &header, plaintext));
    page.push_str(&lists(report));
    page.push_str("</body>\n</html>");
    page
}

/// What is only names.
fn lists(report: &Report) -> String {
    let mut page = String::new();
    let named = |names: Vec<&str>| names.into_iter().map(|n| vec![text(n)]).collect::<Vec<_>>();
    let unused = named(report.unused_permits.iter().map(String::as_str).collect());
    page.push_str(&section(
        "Permits that allowed nothing",
        &["Policy"],
        unused.into_iter(),
    ));
    let uncalled = named(
        report
            .uncalled_services
            .iter()
            .map(|s| s.as_str())
            .collect(),
    );
    page.push_str(&section(
        "Services that nobody called",
        &["Service"],
        uncalled.into_iter(),
    ));
    let denied = named(
        report
            .only_denied_services
            .iter()
            .map(String::as_str)
            .collect(),
    );
    page.push_str(&section(
        "Services that only denied",
        &["Service"],
        denied.into_iter(),
    ));
    page
}

fn edges(edges: &[Edge]) -> String {
    let rows = edges.iter().map(|e| {
        let actions: Vec<_> = e.actions.iter().map(String::as_str).collect();
        vec![
            text(&e.caller),
            text(&e.service),
            number(e.allowed),
            number(e.denied),
            number(e.plaintext),
            text(&actions.join(" ")),
            text(&timestamp(e.first)),
            text(&timestamp(e.last)),
        ]
    });
    let header = [
        "Caller",
        "Service",
        "Allowed",
        "Denied",
        "Plaintext",
        "Actions",
        "First",
        "Last",
    ];
    table(&header, rows)
}

fn section(
    title: &str,
    header: &[&str],
    rows: impl ExactSizeIterator<Item = Vec<String>>,
) -> String {
    if rows.len() == 0 {
        return format!("<h2>{title}</h2>\n<p>None.</p>\n");
    }
    format!("<h2>{title}</h2>\n{}", table(header, rows))
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = "<table>\n<tr>".to_owned();
    for name in header {
        write!(table, "<th>{name}</th>").unwrap_or_default();
    }
    table.push_str("</tr>\n");
    for row in rows {
        writeln!(table, "<tr>{}</tr>", row.concat()).unwrap_or_default();
    }
    table.push_str("</table>\n");
    table
}

fn text(cell: &str) -> String {
    format!("<td>{}</td>", escaped(cell))
}

fn number(cell: u64) -> String {
    format!("<td class=\"n\">{cell}</td>")
}

/// Text as it may stand in HTML, in attributes too.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use reeve_columns::report::{Denial, Plaintext};

    use super::*;

    #[test]
    fn nothing_recorded_can_become_markup_and_nothing_is_loaded() {
        let evil = "<script>alert('x')</script>\" onload=\"y";
        let report = Report {
            decisions: 3,
            edges: vec![Edge {
                caller: evil.to_owned(),
                service: evil.to_owned(),
                allowed: 2,
                actions: [evil.to_owned()].into(),
                ..Edge::default()
            }],
            denials: vec![Denial {
                reason: evil.to_owned(),
                ..Denial::default()
            }],
            plaintext: vec![Plaintext {
                source_ip: evil.to_owned(),
                ..Plaintext::default()
            }],
            unused_permits: vec![evil.to_owned()],
            only_denied_services: vec![evil.to_owned()],
            ..Report::default()
        };
        let page = page(&report, UnixTime::default());
        assert!(!page.contains("<script"), "{page}");
        assert!(!page.contains("\" onload"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 11, "{page}");
        for loads in ["http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(loads), "{loads}");
        }
        assert!(page.contains("<svg") && page.contains("default-src 'none'"));
    }
}
