//! The mesh that most tests use: `client`, which has a sidecar and no process, so that the test speaks in its name,
//! and `echo-v1` behind the service `echo`.

use std::net::SocketAddr;

use reeve_tests::{
    Call, Folder, Mesh, echo, local_mesh, mesh_config, permit, service, sidecar, strict,
};
use serde_json::{Value, json};

/// The client's SPIFFE ID.
pub(crate) const CLIENT: &str = "spiffe://mesh.local/ns/default/sa/client";
/// The echo server's.
pub(crate) const ECHO: &str = "spiffe://mesh.local/ns/default/sa/echo";

pub(crate) use reeve_tests::CLIENT_TO_ECHO;

/// Settings with records of request ids.
pub(crate) fn settings(spec: Value) -> String {
    let mut all = json!({"audit": {"recordedHeaders": ["x-request-id"]}});
    if let (Some(all), Value::Object(spec)) = (all.as_object_mut(), spec) {
        all.extend(spec);
    }
    mesh_config(all)
}

/// `client` and `echo-v1` under STRICT mTLS, `client` permitted.
pub(crate) fn client_and_echo(spec: Value) -> Folder {
    Folder::new()
        .with("mesh.yaml", settings(spec))
        .with("strict.yaml", strict())
        .with(
            "workloads.yaml",
            local_mesh(&[sidecar("client"), echo("echo-v1", "echo", "v1")]),
        )
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO))
}

/// Where `client` reaches `echo`.
pub(crate) fn to_echo(mesh: &Mesh) -> SocketAddr {
    mesh.outbound("client-0", "echo", 9080)
}

/// A GET of `path` from `echo`.
pub(crate) fn get(path: &str) -> Call {
    Call::get("echo:9080", path)
}

/// A workload that is a gateway.
pub(crate) fn gateway_workload(name: &str) -> Value {
    let mut workload = sidecar(name);
    workload["role"] = json!("gateway");
    workload
}

/// An object of Istio's, JSON being YAML.
pub(crate) fn istio(kind: &str, name: &str, spec: &Value) -> String {
    let group = match kind {
        "RequestAuthentication" => "security.istio.io/v1",
        _ => "networking.istio.io/v1",
    };
    let object = json!({
        "apiVersion": group, "kind": kind,
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    });
    format!("---\n{object:#}\n")
}
