//! `GatewayClass`: whose business a `Gateway` is.

use super::{GROUP, Notes};
use crate::{
    Code,
    kinds::{GatewayClassSpec, KubernetesGatewaySpec, Object},
    source::path::Path,
};

/// Controllers whose gateways are served here. The same configuration means the same as under Istio.
const CONTROLLERS: [&str; 2] = [
    "reeve.dev/gateway-controller",
    "istio.io/gateway-controller",
];

/// Classes that are there without an object.
const BUILT_IN: [&str; 2] = ["reeve", "istio"];

/// Classes of Istio's that are gateways of another sort.
const OTHERS_OF_ISTIO: [&str; 3] = ["istio-waypoint", "istio-remote", "istio-east-west"];

/// Whether the gateway is served here. Another's is none of the mesh's business, and is left alone.
pub(super) fn is_served(
    notes: &mut Notes<'_, KubernetesGatewaySpec>,
    classes: &[Object<GatewayClassSpec>],
) -> bool {
    let path = Path::of(&["spec", "gatewayClassName"]);
    let name = notes.object.spec.gateway_class_name.clone();
    let name = name.unwrap_or_default();
    if name.is_empty() {
        let text = "the gateway names no class";
        notes.hint(&path, Code::Missing, text, "use reeve");
        return true;
    }
    let defined = classes.iter().find(|class| class.name == name);
    let controller = defined.map(|class| class.spec.controller_name.as_str());
    match controller {
        Some(ours) if CONTROLLERS.contains(&ours) => true,
        Some(other) => {
            let text = format!("gateways of class {name} are {other}'s; this one is not served");
            notes.warn(&path, Code::Conflict, text, "use reeve to serve it");
            false
        }
        None if BUILT_IN.contains(&name.as_str()) => true,
        None if OTHERS_OF_ISTIO.contains(&name.as_str()) => {
            let text = format!("{name} is known, but not supported in this version");
            notes.hint(&path, Code::Unsupported, text, "use reeve");
            false
        }
        None => {
            let text = format!("there is no GatewayClass {name}; the gateway is not served");
            let hint = format!("use reeve, or add a GatewayClass of {GROUP}");
            notes.warn(&path, Code::UnknownReference, text, &hint);
            false
        }
    }
}

/// What a class itself must say.
pub(super) fn check(notes: &mut Notes<'_, GatewayClassSpec>) {
    let path = Path::of(&["spec", "controllerName"]);
    let controller = notes.object.spec.controller_name.clone();
    let legal = controller
        .split_once('/')
        .is_some_and(|(domain, rest)| domain.contains('.') && !rest.is_empty());
    if !legal {
        let text = format!("{controller:?} is no name of a controller");
        let hint = format!("a domain and a path, such as {}", CONTROLLERS[0]);
        notes.hint(&path, Code::Invalid, text, &hint);
    }
}
