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
/// The series that edges are made of.
const COUNTED: [&str; 4] = [REQUESTS, CONNECTIONS, BYTES_IN, BYTES_OUT];
const REQUESTS: &str = "istio_requests_total";
const CONNECTIONS: &str = "istio_tcp_connections_opened_total";
const BYTES_IN: &str = "istio_tcp_received_bytes_total";
const BYTES_OUT: &str = "istio_tcp_sent_bytes_total";

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
    let counted = samples.filter(|s| COUNTED.contains(&s.name.as_str()));
    for sample in counted.filter(|s| s.label("reporter") == "destination") {
        let fresh = fresh_edge(sample);
        let key = (
            fresh.from.clone(),
            fresh.to.clone(),
            fresh.service.clone(),
            fresh.mtls,
        );
        if edges.len() >= MAX_EDGES && !edges.contains_key(&key) {
            continue;
        }
        add(edges.entry(key).or_insert(fresh), sample);
    }
    edges.into_values().collect()
}

fn fresh_edge(sample: &Sample) -> Edge {
    let node = |workload, namespace| node_id(sample.label(workload), sample.label(namespace));
    Edge {
        from: node("source_workload", "source_workload_namespace"),
        to: node("destination_workload", "destination_workload_namespace"),
        service: sample.label("destination_service").to_owned(),
        requests: 0,
        errors: 0,
        denied: 0,
        connections: 0,
        bytes_in: 0,
        bytes_out: 0,
        mtls: sample.label("connection_security_policy") == "mutual_tls",
    }
}

/// Counts a sample of one of [`COUNTED`].
fn add(edge: &mut Edge, sample: &Sample) {
    let count = whole(sample.value);
    let to = match sample.name.as_str() {
        CONNECTIONS => &mut edge.connections,
        BYTES_IN => &mut edge.bytes_in,
        BYTES_OUT => &mut edge.bytes_out,
        _ => &mut edge.requests,
    };
    *to = to.saturating_add(count);
    if sample.name != REQUESTS {
        return;
    }
    let code = sample.label("response_code");
    if code.starts_with('5') {
        edge.errors = edge.errors.saturating_add(count);
    }
    if code == "403" {
        edge.denied = edge.denied.saturating_add(count);
    }
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

    #[test]
    fn connections_and_their_bytes_are_edges_too() {
        let line = |name: &str, reporter: &str, value: u32| {
            format!(
                "{name}{{reporter=\"{reporter}\",source_workload=\"a\",source_workload_namespace=\"n\",\
                 destination_workload=\"db\",destination_workload_namespace=\"n\",destination_service=\"db.n\",\
                 connection_security_policy=\"mutual_tls\"}} {value}\n"
            )
        };
        let text = line(CONNECTIONS, "destination", 2)
            + &line(BYTES_IN, "destination", 30)
            + &line(BYTES_OUT, "destination", 400)
            + &line("istio_tcp_connections_closed_total", "destination", 1)
            + &line(CONNECTIONS, "source", 2);
        let edges = edges(prometheus::parse(&text).iter());
        let [edge] = edges.as_slice() else {
            panic!("{edges:?}");
        };
        assert_eq!((edge.from.as_str(), edge.to.as_str()), ("a.n", "db.n"));
        let bytes = (edge.bytes_in, edge.bytes_out);
        assert_eq!((edge.connections, bytes), (2, (30, 400)));
        assert_eq!((edge.requests, edge.mtls), (0, true));
    }
}
