//! `MeshConfig.spec.federation`.

use std::{net::SocketAddr, time::Duration};

use reeve_core::model::{BundleServing, FederationSettings, SecretName};

use crate::{
    Code, MeshSettings,
    kinds::{BundleEndpointSpec, MeshConfigSpec},
    resolve::values::Notes,
    source::path::Path,
};

/// How often bundles are looked for where nothing is said (SPIFFE Federation, section 4.1, has five minutes).
const USUAL_HINT: Duration = Duration::from_secs(300);

/// Whether the endpoint shows a certificate of the web.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    Web,
    Spiffe,
}

pub(super) fn resolve(settings: &mut MeshSettings, notes: &mut Notes<'_, MeshConfigSpec>) {
    let Some(spec) = &notes.object.spec.federation else {
        return;
    };
    let path = Path::of(&["spec", "federation"]);
    let mut federation = FederationSettings {
        danger_allow_internal_endpoints: spec.danger_allow_internal_endpoints,
        ..FederationSettings::default()
    };
    if let Some(endpoint) = &spec.bundle_endpoint {
        federation.serving = serving(settings, notes, endpoint);
    }
    if let Some(pem) = &spec.ca_certificates {
        match crate::jwks::check_authorities(pem) {
            Ok(()) => federation.authorities = Some(pem.clone()),
            Err(text) => notes.error(&path.key("caCertificates"), Code::Invalid, text),
        }
    }
    if spec.danger_allow_internal_endpoints {
        notes.warn(
            &path.key("dangerAllowInternalEndpoints"),
            Code::Insecure,
            "bundles may be fetched from loopback and link-local addresses",
            "set it to false outside of tests",
        );
    }
    settings.federation = federation;
}

fn serving(
    settings: &MeshSettings,
    notes: &mut Notes<'_, MeshConfigSpec>,
    spec: &BundleEndpointSpec,
) -> Option<BundleServing> {
    let path = Path::of(&["spec", "federation", "bundleEndpoint"]);
    let words = [
        ("https_spiffe", Profile::Spiffe),
        ("https_web", Profile::Web),
    ];
    let profile = match &spec.profile {
        Some(text) => notes.word(&path.key("profile"), text, &words)?,
        None => Profile::Spiffe,
    };
    let name = path.key("credentialName");
    let certificate = match (profile, &spec.credential_name) {
        (Profile::Web, Some(text)) => {
            Some(SecretName(format!("{}/{text}", settings.root_namespace)))
        }
        (Profile::Web, None) => {
            let hint = "name a Secret of the root namespace with tls.crt and tls.key";
            notes.hint(
                &name,
                Code::Missing,
                "https_web shows a certificate of the web",
                hint,
            );
            None
        }
        (Profile::Spiffe, Some(_)) => {
            let text = "with https_spiffe the mesh's own SVID is shown";
            notes.error(&name, Code::Conflict, text);
            None
        }
        (Profile::Spiffe, None) => None,
    };
    let refresh_hint = refresh_hint(settings, notes, spec);
    match spec.address.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(BundleServing {
            address,
            certificate,
            refresh_hint,
        }),
        Ok(_) | Err(_) => {
            let said = format!("{:?} is not ADDRESS:PORT", spec.address);
            notes.error(&path.key("address"), Code::Invalid, said);
            None
        }
    }
}

/// SECURITY: a rotation of the root waits `rotationWait` for those who cannot acknowledge, and other trust domains are
/// such: they must have looked at the endpoint by then.
fn refresh_hint(
    settings: &MeshSettings,
    notes: &mut Notes<'_, MeshConfigSpec>,
    spec: &BundleEndpointSpec,
) -> Duration {
    let longest = Duration::from_secs((settings.rotation_wait / 2).as_secs().max(1));
    let path = Path::of(&["spec", "federation", "bundleEndpoint", "refreshHint"]);
    let said = spec.refresh_hint.as_ref();
    match said.and_then(|text| notes.duration(&path, text)) {
        None => USUAL_HINT.min(longest),
        Some(hint) if hint.subsec_nanos() != 0 => {
            notes.error(&path, Code::Invalid, "a refresh hint is in whole seconds");
            longest
        }
        Some(hint) if hint > longest => {
            let text = "other trust domains would not look for a new root before it signs";
            let hint = "make it at most half of rotationWait, or rotationWait longer";
            notes.hint(&path, Code::Conflict, text, hint);
            longest
        }
        Some(hint) => hint,
    }
}
