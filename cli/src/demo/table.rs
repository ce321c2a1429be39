//! The live table.

use std::time::Duration;

use super::{processes::Usage, traffic::Seen, view::Row};
use crate::output::plain_table;

/// Makes a screen of the rows, what visitors saw, and what to do next.
pub(crate) fn screen(
    rows: &[Row],
    seen: &Seen,
    page: &str,
    next: &str,
    notices: &[String],
) -> String {
    let mut text = format!(
        "Bookinfo in a mesh of {} workloads    {page}\n\n",
        rows.len()
    );
    text.push_str(&table(rows));
    let quantile = |share| milliseconds(seen.latencies.quantile_ms(share));
    text.push_str(&format!(
        "\n\nvisitors: {} requests, {} failed, {} denied as policy says; p50 {} p99 {}\n",
        seen.requests,
        seen.failed,
        seen.denied,
        quantile(0.5),
        quantile(0.99),
    ));
    if let Some(failure) = &seen.last_failure {
        text.push_str(&format!("last failure: {failure}\n"));
    }
    text.push_str(next);
    for notice in notices {
        text.push_str(notice);
        text.push('\n');
    }
    text
}

fn table(rows: &[Row]) -> String {
    let mut table = plain_table([
        "WORKLOAD", "IDENTITY", "CERT AGE", "mTLS", "REQ/S", "OK", "p50", "p95", "p99", "ALLOWED",
        "DENIED", "APP", "SIDECAR",
    ]);
    for row in rows {
        let [p50, p95, p99] = row.p50_p95_p99.map(milliseconds);
        let sign = if row.healthy { "" } else { " (starting)" };
        table.add_row([
            format!("{}{sign}", row.instance),
            row.identity.clone(),
            row.certificate_age.map_or_else(dash, age),
            row.mtls.map_or_else(dash, percent),
            format!("{:.1}", row.rate),
            row.success.map_or_else(dash, percent),
            p50,
            p95,
            p99,
            format!("{:.0}", row.allowed),
            format!("{:.0}", row.denied),
            row.app.map_or_else(dash, usage),
            row.sidecar.map_or_else(dash, usage),
        ]);
    }
    table.trim_fmt()
}

fn dash() -> String {
    "-".to_owned()
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 99.9 && percent < 100.0 {
        "99.9%".to_owned()
    } else {
        format!("{percent:.0}%")
    }
}

fn milliseconds(value: Option<f64>) -> String {
    match value {
        None => dash(),
        Some(ms) if ms < 10.0 => format!("{ms:.1}ms"),
        Some(ms) => format!("{ms:.0}ms"),
    }
}

fn usage(usage: Usage) -> String {
    format!("{:.0}% {:.0}M", usage.cpu_percent, usage.memory_mib)
}

fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_table_shows_one_line_per_instance() {
        let rows = [
            Row {
                instance: "reviews-v1-0".into(),
                healthy: true,
                identity: "default/reviews".into(),
                certificate_age: Some(Duration::from_secs(75)),
                mtls: Some(1.0),
                rate: 12.34,
                success: Some(0.9995),
                p50_p95_p99: [Some(3.21), Some(12.0), None],
                allowed: 1234.0,
                denied: 5.0,
                app: Some(Usage {
                    cpu_percent: 1.4,
                    memory_mib: 4.2,
                }),
                sidecar: Some(Usage {
                    cpu_percent: 2.6,
                    memory_mib: 14.8,
                }),
                rotations: 1.0,
            },
            Row {
                instance: "ratings-v1-0".into(),
                ..Row::default()
            },
        ];
        let expected = expect![[r#"
             WORKLOAD                 IDENTITY         CERT AGE  mTLS  REQ/S  OK     p50    p95   p99  ALLOWED  DENIED  APP    SIDECAR
             reviews-v1-0             default/reviews  75s       100%  12.3   99.9%  3.2ms  12ms  -    1234     5       1% 4M  3% 15M
             ratings-v1-0 (starting)                   -         -     0.0    -      -      -     -    0        0       -      -
        "#]];
        let text: String = table(&rows)
            .lines()
            .map(|line| format!("{}\n", line.trim()))
            .collect();
        expected.assert_eq(&text);
    }
}
