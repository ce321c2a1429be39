//! The report for spreadsheets (RFC 4180).

use reeve_columns::report::{Edge, Report};
use reeve_core::UnixTime;

use crate::supervisor::logfile::timestamp;

/// Every table, one after the other; the first column says which.
pub(super) fn page(report: &Report) -> String {
    let mut lines = vec![row(&[
        "table",
        "caller",
        "service",
        "reason",
        "allowed",
        "denied",
        "plaintext",
        "actions",
        "first",
        "last",
        "example",
    ])];
    lines.extend(report.edges.iter().map(|e| edge("edge", e)));
    lines.extend(report.new_edges.iter().map(|e| edge("new_edge", e)));
    for d in &report.denials {
        let (count, last) = (d.count.to_string(), at(d.last));
        lines.push(row(&[
            "denial", &d.caller, &d.service, &d.reason, "", &count, "", "", "", &last, &d.example,
        ]));
    }
    for p in &report.plaintext {
        let (count, last) = (p.count.to_string(), at(p.last));
        let service = format!("{}:{}", p.service, p.port);
        lines.push(row(&[
            "plaintext",
            &p.source_ip,
            &service,
            &p.mtls_mode,
            "",
            "",
            &count,
            "",
            "",
            &last,
            "",
        ]));
    }
    let name = |table: &str, name: &str| row(&[table, "", name, "", "", "", "", "", "", "", ""]);
    lines.extend(
        report
            .unused_permits
            .iter()
            .map(|p| name("unused_permit", p)),
    );
    let uncalled = report.uncalled_services.iter();
    lines.extend(uncalled.map(|s| name("uncalled_service", s.as_str())));
    lines.extend(
        report
            .only_denied_services
            .iter()
            .map(|s| name("only_denied_service", s)),
    );
    lines.concat()
}

fn edge(table: &str, edge: &Edge) -> String {
    let actions: Vec<_> = edge.actions.iter().map(String::as_str).collect();
    row(&[
        table,
        &edge.caller,
        &edge.service,
        "",
        &edge.allowed.to_string(),
        &edge.denied.to_string(),
        &edge.plaintext.to_string(),
        &actions.join(" "),
        &at(edge.first),
        &at(edge.last),
        "",
    ])
}

fn at(time: UnixTime) -> String {
    timestamp(time)
}

fn row(cells: &[&str]) -> String {
    let cells: Vec<_> = cells.iter().map(|cell| quoted(cell)).collect();
    format!("{}\r\n", cells.join(","))
}

/// SECURITY: a cell that a spreadsheet would take for a formula begins with an apostrophe.
fn quoted(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let cell = if formula {
        format!("'{cell}")
    } else {
        cell.to_owned()
    };
    if cell.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_formulas_are_text() {
        assert_eq!(
            row(&["a", "b,c", "d\"e", "=1+1", "-2"]),
            "a,\"b,c\",\"d\"\"e\",'=1+1,'-2\r\n"
        );
    }
}
