//! `AuthorizationPolicy` with action `CUSTOM`: which requests of which workloads a provider is asked about.

use reeve_authz::parse_access_policy;
use reeve_core::model::PolicySource;

use super::values::Notes;
use crate::{
    Code, Fault, LocalWorkload, MeshSettings,
    authorization::{self, Asks, World},
    kinds::{AuthorizationPolicySpec, Object},
    mesh::Scope,
    source::path::Path,
};

/// One object: whom it asks, about which requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CustomPolicy {
    /// A provider that there is.
    pub(crate) provider: String,
    picks: Vec<Scope>,
    /// Forbids that say which requests.
    pub(crate) policies: Vec<PolicySource>,
}

impl CustomPolicy {
    /// Whether it holds for `workload`.
    pub(crate) fn covers(&self, workload: &LocalWorkload) -> bool {
        self.picks.iter().any(|scope| scope.covers(workload))
    }
}

pub(super) fn resolve(
    objects: &[Object<AuthorizationPolicySpec>],
    settings: &MeshSettings,
    world: World<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<CustomPolicy> {
    let is_custom =
        |o: &Object<AuthorizationPolicySpec>| o.spec.action.as_deref() == Some("CUSTOM");
    if !objects.iter().any(is_custom) {
        return Vec::new();
    }
    // What is wrong with them was told when the policies that decide were translated.
    let translated = authorization::translate(objects, world, &mut Vec::new());
    let asking = translated.into_iter().filter_map(|translated| {
        let object = objects.get(translated.object)?;
        Some((object, translated.asks?))
    });
    let resolved = asking.filter_map(|(object, asks)| one(object, asks, settings, world, faults));
    resolved.collect()
}

fn one(
    object: &Object<AuthorizationPolicySpec>,
    asks: Asks,
    settings: &MeshSettings,
    world: World<'_>,
    faults: &mut Vec<Fault>,
) -> Option<CustomPolicy> {
    let Asks {
        provider,
        cedar,
        picks,
    } = asks;
    let mut notes = Notes { object, faults };
    // SECURITY: nobody to ask is a fault, and the last good configuration stays.
    if !settings
        .extension_providers
        .iter()
        .any(|p| p.name == provider)
    {
        let names = settings.extension_providers.iter().map(|p| p.name.as_str());
        let names: Vec<_> = names.collect();
        let hint = match names.is_empty() {
            true => "declare it in MeshConfig.spec.extensionProviders".to_owned(),
            false => format!("known providers: {}", names.join(", ")),
        };
        let path = Path::of(&["spec", "provider", "name"]);
        let text = format!("there is no provider {provider:?}");
        notes.hint(&path, Code::UnknownReference, text, &hint);
        return None;
    }
    if cedar.is_empty() {
        return None;
    }
    let scope = (object.namespace != *world.root).then_some(&object.namespace);
    match parse_access_policy(scope, &object.namespace, &object.name, &cedar) {
        Ok(policies) => Some(CustomPolicy {
            provider,
            picks,
            policies,
        }),
        Err(found) => {
            for fault in found {
                notes.error(&Path::of(&["spec"]), Code::Policy, fault.message);
            }
            None
        }
    }
}
