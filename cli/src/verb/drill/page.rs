//! The report as one page that loads nothing.

use super::report::{Of, Report, Sample, Verdict, seconds};
use crate::supervisor::logfile::timestamp;

/// SECURITY: whatever slipped through escaping could neither run nor load anything.
const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Drill report</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1b1f24; }
h2 { margin-top: 2.2rem; }
.verdict { display: inline-block; padding: .1rem .7rem; border-radius: .3rem; color: #fff; background: #1a7f37; }
.verdict.failed { background: #cf222e; }
.verdict.rolled_back { background: #9a6700; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #d8dee4; overflow-wrap: anywhere; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.loss td { color: #cf222e; }
svg { width: 100%; border: 1px solid #d8dee4; background: #fff; }
svg text { font: 12px system-ui, sans-serif; fill: #57606a; }
.ok { fill: none; stroke: #1f6feb; stroke-width: 1.5; }
.renewed { fill: none; stroke: #1a7f37; stroke-dasharray: 5 3; }
.failed { fill: #cf222e; }
.asked { fill: #d4a72c; }
.mark { stroke: #8c959f; stroke-dasharray: 2 3; }
@media (prefers-color-scheme: dark) {
  body { background: #0d1117; color: #e6edf3; } th, td, svg { border-color: #30363d; } svg { background: #0d1117; }
}
</style>
</head>
<body>
"#;

/// The plot's size, and the room for its labels.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 30.0;
const TOP: f64 = 20.0;

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let class = match report.verdict {
        Verdict::Passed => "",
        Verdict::Failed => " failed",
        Verdict::RolledBack => " rolled_back",
    };
    let mut page = HEAD.to_owned();
    page.push_str(&format!(
        "<h1><span class=\"verdict{class}\">{}</span> {}</h1>\n<p>{}</p>\n<p>Trust domain {}, run {} by {}, began {}, took {}.</p>\n",
        report.verdict.in_words(),
        escaped(&report.name),
        escaped(&report.reason),
        escaped(&report.trust_domain),
        escaped(&report.id),
        escaped(&report.by),
        timestamp(report.began_at),
        seconds(report.took_ms),
    ));
    let figures = report.figures().into_iter();
    page.push_str(&table(
        "",
        &[],
        figures.map(|(name, text)| (String::new(), vec![name.to_owned(), text])),
    ));
    page.push_str("<h2>Requests</h2>\n<p>Blue: answered well, a second; red: failed; yellow: failed as they should; green: members that have renewed.</p>\n");
    page.push_str(&plot(report));
    let entries = report.timeline.iter().map(|entry| {
        let (class, of) = match entry.of {
            Of::Drill => ("", "drill"),
            Of::Authority => ("", "authority"),
            Of::Member => ("", "member"),
            Of::Loss => ("loss", "lost"),
        };
        let cells = vec![seconds(entry.at_ms), of.to_owned(), entry.text.clone()];
        (class.to_owned(), cells)
    });
    page.push_str(&table(
        "What happened",
        &["At", "Who", "What"],
        entries.collect::<Vec<_>>().into_iter(),
    ));
    let failures = report.failures.iter().map(|loss| {
        let cells = vec![seconds(loss.at_ms), loss.call.clone(), loss.what.clone()];
        (String::new(), cells)
    });
    page.push_str(&table(
        "Requests that failed",
        &["At", "Request", "What happened"],
        failures,
    ));
    let renewals = report.renewals.iter().map(|renewal| {
        let cells = vec![
            seconds(renewal.at_ms),
            renewal.instance.clone(),
            renewal.serial.clone(),
            timestamp(renewal.ends_at),
        ];
        (String::new(), cells)
    });
    let header = ["At", "Who", "Serial", "Ends"];
    page.push_str(&table("Who renewed when", &header, renewals));
    let lines = |list: &[String]| {
        let items = list.iter().map(|t| format!("<li>{}</li>\n", escaped(t)));
        items.collect::<String>()
    };
    page.push_str(&format!(
        "<h2>The plan</h2>\n<ol>\n{}</ol>\n<h2>The load</h2>\n<ul>\n{}</ul>\n</body>\n</html>\n",
        lines(&report.plan),
        lines(&report.calls)
    ));
    page
}

/// A table, if there is anything in it; each row has a class.
fn table(
    title: &str,
    header: &[&str],
    rows: impl Iterator<Item = (String, Vec<String>)>,
) -> String {
    let mut body = String::new();
    for (class, cells) in rows {
        body.push_str(&format!("<tr class=\"{class}\">"));
        for (at, cell) in cells.iter().enumerate() {
            let number = if at == 0 && !header.is_empty() {
                " class=\"n\""
            } else {
                ""
            };
            body.push_str(&format!("<td{number}>{}</td>", escaped(cell)));
        }
        body.push_str("</tr>\n");
    }
    if body.is_empty() {
        return String::new();
    }
    let head: String = header.iter().map(|h| format!("<th>{h}</th>")).collect();
    let title = match title {
        "" => String::new(),
        title => format!("<h2>{title}</h2>\n"),
    };
    format!("{title}<table>\n<tr>{head}</tr>\n{body}</table>\n")
}

fn plot(report: &Report) -> String {
    let samples = &report.samples;
    let end = samples.last().map_or(1, |s| s.at_ms).max(1);
    let rates: Vec<(u64, [f64; 3])> = rates(samples);
    let highest = rates.iter().flat_map(|(_, r)| *r).fold(1.0, f64::max);
    let x = |at_ms: u64| LEFT + (WIDTH - LEFT) * lossy(at_ms) / lossy(end);
    let height = HEIGHT - TOP - BOTTOM;
    let y = |share: f64| TOP + height * (1.0 - share);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
    for entry in report.timeline.iter().filter(|e| e.of == Of::Authority) {
        svg.push_str(&format!(
            "<line class=\"mark\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{1:.1}\"><title>{2}</title></line>\n",
            x(entry.at_ms),
            y(0.0),
            escaped(&entry.text)
        ));
    }
    for (at, [_, failed, asked]) in &rates {
        for (class, rate) in [("failed", failed), ("asked", asked)] {
            if *rate > 0.0 {
                let top = y((rate / highest).max(0.02));
                svg.push_str(&format!(
                    "<rect class=\"{class}\" x=\"{:.1}\" y=\"{top:.1}\" width=\"3\" height=\"{:.1}\"/>\n",
                    x(*at) - 1.5,
                    y(0.0) - top
                ));
            }
        }
    }
    let line = |class: &str, points: Vec<(f64, f64)>| {
        let points: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        format!(
            "<polyline class=\"{class}\" points=\"{}\"/>\n",
            points.join(" ")
        )
    };
    let ok = rates
        .iter()
        .map(|(at, [ok, _, _])| (x(*at), y(ok / highest)));
    svg.push_str(&line("ok", ok.collect()));
    let renewed = samples.iter().map(|s| {
        let share = lossy(s.renewed as u64) / lossy(s.members.max(1) as u64);
        (x(s.at_ms), y(share.min(1.0)))
    });
    svg.push_str(&line("renewed", renewed.collect()));
    svg.push_str(&format!(
        "<text x=\"4\" y=\"{:.1}\">{highest:.0}/s</text><text x=\"4\" y=\"{:.1}\">0</text><text x=\"{LEFT}\" y=\"{:.1}\">0 s</text><text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n</svg>\n",
        y(1.0) + 4.0,
        y(0.0),
        HEIGHT - 8.0,
        WIDTH - 60.0,
        HEIGHT - 8.0,
        seconds(end)
    ));
    svg
}

/// Well answered, failed, and failed as they should, a second.
fn rates(samples: &[Sample]) -> Vec<(u64, [f64; 3])> {
    let mut before = 0;
    let mut rates = Vec::with_capacity(samples.len());
    for sample in samples {
        let span = lossy(sample.at_ms.saturating_sub(before).max(1)) / 1000.0;
        before = sample.at_ms;
        let counts = [sample.ok, sample.failed, sample.failed_as_expected];
        rates.push((sample.at_ms, counts.map(|count| lossy(count) / span)));
    }
    rates
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a place in a picture, where the last digits do not show"
)]
fn lossy(count: u64) -> f64 {
    count as f64
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn nothing_in_a_report_can_become_markup_and_nothing_is_loaded() {
        let page = page(&report());
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;"));
        assert!(page.contains("a &amp; b"));
        for word in ["src=", "href=", "url(", "@import", "http://", "https://"] {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn the_plot_has_every_sample_and_every_failure() {
        let svg = plot(&report());
        assert_eq!(svg.matches("class=\"failed\"").count(), 2, "{svg}");
        let line = svg.lines().find(|l| l.contains("class=\"ok\"")).unwrap();
        assert_eq!(line.matches(',').count(), 5, "{line}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
