//! Pieces of configuration that many tests need.

use serde_json::{Value, json};

/// Lets `client` ask `echo` for anything.
pub const CLIENT_TO_ECHO: &str = r#"@id("client-to-echo")
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action,
  resource in Service::"echo.default.svc.cluster.local"
);"#;

/// The mesh's settings; `spec` is merged over `trustDomain: mesh.local`.
pub fn mesh_config(spec: Value) -> String {
    let mut whole = json!({
        "apiVersion": "reeve.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "mesh"},
        "spec": {"trustDomain": "mesh.local"},
    });
    merge(&mut whole["spec"], spec);
    document(&whole)
}

/// A `LocalMesh` of these workloads.
pub fn local_mesh(workloads: &[Value]) -> String {
    document(&json!({
        "apiVersion": "reeve.dev/v1alpha1", "kind": "LocalMesh", "metadata": {"name": "test"},
        "spec": {"workloads": workloads},
    }))
}

/// A workload with a sidecar and no process of its own: tests speak in its name through its sidecar.
pub fn sidecar(name: &str) -> Value {
    json!({"name": name, "serviceAccount": name, "labels": {"app": name}})
}

/// A workload that runs the echo server; `app` is its label and service account, `version` its other label.
pub fn echo(name: &str, app: &str, version: &str) -> Value {
    json!({
        "name": name, "serviceAccount": app, "labels": {"app": app, "version": version},
        "command": ["${bookinfo}", "echo"], "env": {"VERSION": version},
        "ports": [{"port": 9080, "name": "http"}],
        "health": {"httpGet": {"path": "/health", "port": 9080}},
    })
}

/// A `Service` that selects `app: <name>`.
pub fn service(name: &str, port: u16, port_name: &str) -> String {
    document(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": port, "name": port_name}]},
    }))
}

/// An `AccessPolicy` called `name` with this Cedar text.
pub fn permit(name: &str, cedar: &str) -> String {
    document(&json!({
        "apiVersion": "reeve.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"name": name, "namespace": "default"}, "spec": {"cedar": cedar},
    }))
}

/// `PeerAuthentication` STRICT for the namespace.
pub fn strict() -> String {
    document(&json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "strict", "namespace": "default"}, "spec": {"mtls": {"mode": "STRICT"}},
    }))
}

/// JSON is YAML; one document of a file of several.
fn document(value: &Value) -> String {
    format!("---\n{value:#}\n")
}

fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}
