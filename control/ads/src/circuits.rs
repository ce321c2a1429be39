//! Global circuit status: what one proxy has found out of an endpoint, every caller knows within a second. Each proxy
//! tells the mesh which circuits it holds open; the mesh tells each what the others do. Nothing of it is kept: a circuit
//! is known for as long as a connected proxy holds it open, and no longer than it said.

mod client;
mod hub;
mod service;

use reeve_core::{InstanceName, ServiceName, model::OpenCircuit};

pub use client::CircuitClient;
pub use hub::CircuitHub;
pub use service::{CircuitService, Membership};

/// The messages of `proto/circuits.proto`.
pub(crate) mod proto {
    #![expect(
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated from proto/circuits.proto, which documents it"
    )]
    tonic::include_proto!("reeve.circuits.v1");
}

/// Circuits that one proxy may hold open; what is beyond is left out.
const MAX_CIRCUITS: usize = 1024;
/// Longest name of a cause.
const MAX_CAUSE_BYTES: usize = 64;
/// Longest time that a circuit is believed in: an hour.
const MAX_LEFT_MS: u64 = 3_600_000;

fn to_wire(circuit: &OpenCircuit) -> proto::Circuit {
    proto::Circuit {
        service: circuit.service.to_string(),
        subset: circuit.subset.clone().unwrap_or_default(),
        port: u32::from(circuit.port),
        endpoint: circuit
            .endpoint
            .map(|address| address.to_string())
            .unwrap_or_default(),
        cause: circuit.cause.clone(),
        left_ms: circuit.left_ms,
        held_by: circuit.held_by.iter().map(ToString::to_string).collect(),
    }
}

/// `None` for what makes no sense.
fn from_wire(circuit: proto::Circuit) -> Option<OpenCircuit> {
    let endpoint = match circuit.endpoint.as_str() {
        "" => None,
        text => Some(text.parse().ok()?),
    };
    let word = |text: &str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        text.len() <= MAX_CAUSE_BYTES && text.bytes().all(legal)
    };
    let held_by = circuit.held_by.iter();
    Some(OpenCircuit {
        service: ServiceName::parse(&circuit.service).ok()?,
        subset: (!circuit.subset.is_empty()).then_some(circuit.subset),
        port: u16::try_from(circuit.port).ok()?,
        endpoint,
        cause: Some(circuit.cause).filter(|cause| word(cause))?,
        left_ms: circuit.left_ms.min(MAX_LEFT_MS),
        held_by: held_by
            .filter_map(|name| InstanceName::parse(name).ok())
            .collect(),
    })
}

fn all_from_wire(circuits: Vec<proto::Circuit>) -> Vec<OpenCircuit> {
    let known = circuits.into_iter().take(MAX_CIRCUITS);
    known.filter_map(from_wire).collect()
}

#[cfg(test)]
mod tests;
