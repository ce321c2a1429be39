//! What a mesh does not protect, said by `reeve status` (docs/threat-model.md tells the same at length).

/// Without network namespaces.
const LOOPBACK: &[&str] = &[
    "an application's own address (127.BASE.SLOT.2): any process of this machine reaches it around its sidecar",
    "what an application connects to by another address than those of its services: it goes around its sidecar, as do IPv6 and UDP (QUIC on port 443 included)",
    "processes of the user that runs the mesh: they can read each other's memory and files, and the files of sidecars (not their memory)",
];

/// With a network namespace for each instance, its TCP captured.
const INTERCEPTED: &[&str] = &[
    "UDP to other ports than 443, and protocols other than TCP and UDP: they pass unjudged, in and out",
    "connections within one instance, over its loopback or to its own address",
    "instances without a sidecar (role none), and the ports of a gateway's own process",
    "files and signals: an application stays root, without the capabilities to leave its network namespace; it is not a sandbox",
];

/// In words, for people.
pub(super) fn list(intercepted: bool) -> Vec<String> {
    let list = if intercepted { INTERCEPTED } else { LOOPBACK };
    list.iter().map(|text| (*text).to_owned()).collect()
}
