//! Reads Prometheus' text format 0.0.4, as sidecars write it.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use reeve_control::instances::Instance;

use crate::http::{self, Target};

/// Istio's port for metrics.
const METRICS_PORT: u16 = 15020;
/// More samples than this are not read.
const MAX_SAMPLES: usize = 100_000;

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// The metric, with `_bucket`, `_sum` or `_count` for parts of histograms.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its value.
    pub(crate) value: f64,
}

impl Sample {
    /// A label's value; empty if it is not there.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Every sample of an instance's sidecar; `None` if it has no sidecar, or one that does not answer in time.
pub(crate) async fn scrape(instance: &Instance, patience: Duration) -> Option<Vec<Sample>> {
    instance.sidecar_pid?;
    let target = Target::Tcp(SocketAddr::new(instance.address.into(), METRICS_PORT));
    let reply = http::get(&target, "/stats/prometheus", patience)
        .await
        .ok()?;
    let text = std::str::from_utf8(&reply.body).ok()?;
    reply.status.is_success().then(|| parse(text))
}

/// Reads every sample; lines that are none are skipped.
pub(crate) fn parse(text: &str) -> Vec<Sample> {
    text.lines()
        .filter_map(parse_line)
        .take(MAX_SAMPLES)
        .collect()
}

fn parse_line(line: &str) -> Option<Sample> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    // A timestamp may follow.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// Reads `a="b",c="d"}` and returns what follows.
fn parse_labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = parse_value(after)?;
        labels.insert(name.to_owned(), value);
        rest = after;
    }
}

/// Reads up to the closing quote; `\\`, `\"` and `\n` are escapes.
fn parse_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            _ => value.push(c),
        }
    }
    None
}

/// A histogram's quantile from its cumulative buckets (upper bound → count), linear within a bucket as Prometheus'
/// `histogram_quantile` is.
pub(crate) fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let total = buckets
        .last()
        .map(|(_, count)| *count)
        .filter(|count| *count > 0.0)?;
    let wanted = share * total;
    let (mut lower, mut below) = (0.0, 0.0);
    for (upper, count) in buckets {
        if *count >= wanted {
            if !upper.is_finite() {
                return Some(lower);
            }
            let within = if count > &below {
                (wanted - below) / (count - below)
            } else {
                1.0
            };
            return Some(lower + (upper - lower) * within);
        }
        (lower, below) = (*upper, *count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_names_labels_and_values() {
        let text = "# HELP x y\n# TYPE istio_requests_total counter\n\
            istio_requests_total{reporter=\"source\",path=\"a\\\"b\\\\c\\n\",} 12 1700000000\n\
            up 1\nbad{ 3\nworse\nnan NaN\n\n";
        let samples = parse(text);
        assert_eq!(samples.len(), 3, "{samples:?}");
        assert_eq!(samples[0].label("reporter"), "source");
        assert_eq!(samples[0].label("path"), "a\"b\\c\n");
        assert_eq!(samples[0].value, 12.0);
        assert_eq!((samples[1].name.as_str(), samples[1].value), ("up", 1.0));
        assert!(samples[2].value.is_nan());
    }

    #[test]
    fn infinity_is_a_bucket() {
        let samples = parse("d_bucket{le=\"+Inf\"} 3\nd_bucket{le=\"0.5\"} 1e0\n");
        assert_eq!(
            samples[0].label("le").parse::<f64>().unwrap(),
            f64::INFINITY
        );
        assert_eq!(samples[1].value, 1.0);
    }

    #[test]
    fn quantiles_are_linear_within_a_bucket() {
        let buckets = [(10.0, 50.0), (20.0, 100.0), (f64::INFINITY, 100.0)];
        assert_eq!(quantile(&buckets, 0.5), Some(10.0));
        assert_eq!(quantile(&buckets, 0.75), Some(15.0));
        assert_eq!(
            quantile(&[(10.0, 0.0), (f64::INFINITY, 4.0)], 0.9),
            Some(10.0)
        );
        assert_eq!(quantile(&[(10.0, 0.0)], 0.5), None);
        assert_eq!(quantile(&[], 0.5), None);
    }
}
