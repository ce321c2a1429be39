//! Reading what a sidecar tells on its port 15020.

use crate::{Call, Mesh};

/// Where every sidecar serves its metrics.
const PORT: u16 = 15020;

impl Mesh {
    /// The sum of the series of `name` at `instance` that have all these labels (`response_flags="UO"`).
    pub async fn metric(&self, instance: &str, name: &str, labels: &[&str]) -> f64 {
        let call = Call::get("metrics", "/stats/prometheus");
        let answer = call.send(self.inbound(instance, PORT)).await;
        let page = answer.expect("the sidecar's metrics").text();
        let series = page.lines().filter_map(|line| line.rsplit_once(' '));
        let wanted = series.filter(|(series, _)| {
            series.split('{').next() == Some(name)
                && labels.iter().all(|label| series.contains(label))
        });
        wanted
            .map(|(_, value)| value.parse::<f64>().expect("a number"))
            .sum()
    }
}
