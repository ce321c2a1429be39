//! The mesh as a graph: workloads and services from configuration, traffic from the sidecars' own metrics.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, stream};
use reeve_console::{Edge, Graph, Node, NodeKind};
use reeve_control::{Mesh, instances::Instances};

use crate::demo::prometheus::{self, Sample};

/// Bound on asking one sidecar.
const PATIENCE: Duration = Duration::from_secs(2);
/// Sidecars asked at one time.
const AT_ONCE: usize = 16;
/// Most edges shown.
const MAX_EDGES: usize = 10_000;

/// Puts the graph together.
pub(super) async fn read(mesh: &Mesh, instances: &Instances) -> Graph {
    let answers = stream::iter(instances.instances.clone()).map(|instance| async move {
        let samples = prometheus::scrape(&instance, PATIENCE).await;
        samples.unwrap_or_default()
    });
    let samples: Vec<Vec<Sample>> = answers.buffer_unordered(AT_ONCE).collect().await;
    Graph {
        nodes: nodes(mesh, instances),
        edges: edges(samples.iter().flatten()),
    }
}

fn nodes(mesh: &Mesh, instances: &Instances) -> Vec<Node> {
    let workloads = mesh.workloads.iter().map(|workload| {
        let copies = instances
            .instances
            .iter()
            .filter(|i| i.workload == workload.name && i.namespace == workload.namespace);
        Node {
            id: node_id(workload.name.as_str(), workload.namespace.as_str()),
            kind: NodeKind::Workload {
                workload: workload.name.clone(),
                namespace: workload.namespace.clone(),
                identity: workload.identity.clone(),
                instances: copies.clone().count(),
                healthy: copies.filter(|i| i.healthy).count(),
            },
        }
    });
    let services = mesh.services.keys().map(|service| Node {
        id: service.to_string(),
        kind: NodeKind::Service {
            service: service.clone(),
        },
    });
    workloads.chain(services).collect()
}

/// Edges as the called side counts them (`reporter="destination"`), so that nothing is counted twice.
fn edges<'a>(samples: impl Iterator<Item = &'a Sample>) -> Vec<Edge> {
    let mut edges: BTreeMap<(String, String, String, bool), Edge> = BTreeMap::new();
    let requests = samples
        .filter(|s| s.name == "istio_requests_total" && s.label("reporter") == "destination");
    for sample in requests {
        let from = node_id(
            sample.label("source_workload"),
            sample.label("source_workload_namespace"),
        );
        let to = node_id(
            sample.label("destination_workload"),
            sample.label("destination_workload_namespace"),
        );
        let service = sample.label("destination_service").to_owned();
        let mtls = sample.label("connection_security_policy") == "mutual_tls";
        let key = (from.clone(), to.clone(), service.clone(), mtls);
        if edges.len() >= MAX_EDGES && !edges.contains_key(&key) {
            continue;
        }
        let edge = edges.entry(key).or_insert(Edge {
            from,
            to,
            service,
            requests: 0,
            errors: 0,
            denied: 0,
            mtls,
        });
        let count = whole(sample.value);
        edge.requests = edge.requests.saturating_add(count);
        let code = sample.label("response_code");
        if code.starts_with('5') {
            edge.errors = edge.errors.saturating_add(count);
        }
        if code == "403" {
            edge.denied = edge.denied.saturating_add(count);
        }
    }
    edges.into_values().collect()
}

fn node_id(workload: &str, namespace: &str) -> String {
    match workload {
        "" | "unknown" => "unknown".to_owned(),
        known => format!("{known}.{namespace}"),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter: whole, not negative, and saturating where it is not"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_count_what_the_called_side_saw() {
        let line = |reporter: &str, code: &str, value: u32| {
            format!(
                "istio_requests_total{{reporter=\"{reporter}\",source_workload=\"a\",source_workload_namespace=\"n\",\
                 destination_workload=\"b\",destination_workload_namespace=\"n\",destination_service=\"b.n\",\
                 connection_security_policy=\"mutual_tls\",response_code=\"{code}\"}} {value}\n"
            )
        };
        let text = line("destination", "200", 5)
            + &line("destination", "503", 2)
            + &line("destination", "403", 1)
            + &line("source", "200", 8);
        let edges = edges(prometheus::parse(&text).iter());
        assert_eq!(edges.len(), 1);
        assert_eq!(
            (edges[0].from.as_str(), edges[0].to.as_str()),
            ("a.n", "b.n")
        );
        assert_eq!(
            (edges[0].requests, edges[0].errors, edges[0].denied),
            (8, 2, 1)
        );
        assert!(edges[0].mtls);
    }
}
