//! `ClusterFederatedTrustDomain`: the trust domains whose workloads are known beside our own.

use std::{
    collections::BTreeMap,
    path::{Path as FsPath, PathBuf},
    sync::Arc,
};

use reeve_core::{
    SpiffeId, TrustDomain,
    model::{BundleEndpoint, EndpointProfile, FederatedDomain},
};
use reeve_svid::{BundleDocument, MAX_FEDERATED};

use super::{secrets::Secrets, values::Notes};
use crate::{
    Code, Fault, MeshSettings,
    kinds::{EndpointProfileSpec, FederatedTrustDomainSpec, MeshConfigSpec, Object, Objects},
    source::{path::Path, read_file},
};

/// Longest URL of a bundle endpoint, in bytes.
const MAX_URL_BYTES: usize = 2048;

/// The key of a bundle in a file.
const FILE_KEY: &str = "trustDomainBundleFile";

type DomainNotes<'a> = Notes<'a, FederatedTrustDomainSpec>;

/// The files that bundles stand in.
pub(super) fn files(objects: &Objects) -> Vec<PathBuf> {
    let files = objects.federated.iter();
    let files = files.filter_map(|object| object.spec.trust_domain_bundle_file.as_ref());
    // Of a folder all that is in it would be looked at.
    let files = files.map(PathBuf::from).filter(|file| !file.is_dir());
    files.collect()
}

/// Puts the bundles that stand in files where they would stand in the objects.
pub(super) fn read_files(objects: &mut Objects, faults: &mut Vec<Fault>) {
    for object in &mut objects.federated {
        let Some(file) = &object.spec.trust_domain_bundle_file else {
            continue;
        };
        let read = match &object.spec.trust_domain_bundle {
            Some(_) => {
                let text = "give trustDomainBundle or trustDomainBundleFile, not both";
                Err((Code::Conflict, text.to_owned()))
            }
            None => bundle_file(file),
        };
        match read {
            Ok(text) => object.spec.trust_domain_bundle = Some(text),
            Err((code, text)) => {
                let path = Path::of(&["spec", FILE_KEY]);
                let hint = "`reeve ca bundle --format spiffe` there prints what is to stand in it";
                faults.push(object.error(&path, code, text).with_hint(hint));
            }
        }
    }
}

fn bundle_file(file: &str) -> Result<String, (Code, String)> {
    if !file.starts_with('/') || file.contains('\0') {
        let text = format!("{file:?} is not the path of a file from the root on");
        return Err((Code::Invalid, text));
    }
    read_file(FsPath::new(file)).map_err(|(code, text)| (code, format!("{file}: {text}")))
}

pub(super) fn resolve(
    objects: &Objects,
    settings: &MeshSettings,
    secrets: &Secrets,
    faults: &mut Vec<Fault>,
) -> Vec<FederatedDomain> {
    check_certificate(&objects.mesh_configs, settings, secrets, faults);
    let objects = &objects.federated;
    let mut domains: BTreeMap<TrustDomain, FederatedDomain> = BTreeMap::new();
    for object in objects {
        let notes = &mut Notes { object, faults };
        let Some(domain) = one(notes, settings) else {
            continue;
        };
        let path = Path::of(&["spec", "trustDomain"]);
        let name = domain.trust_domain.clone();
        if domains.insert(name.clone(), domain).is_some() {
            let text = format!("{name} is federated by two objects");
            notes.error(&path, Code::Conflict, text);
        }
        if domains.len() > MAX_FEDERATED {
            let text = format!("at most {MAX_FEDERATED} trust domains are federated");
            notes.error(&path, Code::TooLarge, text);
        }
    }
    domains.into_values().collect()
}

/// The secret that `https_web` is served with.
fn check_certificate(
    objects: &[Object<MeshConfigSpec>],
    settings: &MeshSettings,
    secrets: &Secrets,
    faults: &mut Vec<Fault>,
) {
    let serving = settings.federation.serving.as_ref();
    let (Some(object), Some(name)) = (
        objects.first(),
        serving.and_then(|s| s.certificate.as_ref()),
    ) else {
        return;
    };
    let notes = &mut Notes { object, faults };
    let path = Path::of(&["spec", "federation", "bundleEndpoint", "credentialName"]);
    let Some(secret) = secrets.get(name) else {
        let text = format!("there is no Secret {}", name.0);
        let hint = "it stands in the root namespace and has tls.crt and tls.key";
        notes.hint(&path, Code::UnknownReference, text, hint);
        return;
    };
    let (chain, key) = (&secret.certificate_chain, secret.private_key.expose());
    if let Err(error) = reeve_svid::PublicIdentity::parse(chain.as_bytes(), key.as_bytes()) {
        notes.error(&path, Code::Invalid, format!("Secret {}: {error}", name.0));
    }
}

fn one(notes: &mut DomainNotes<'_>, settings: &MeshSettings) -> Option<FederatedDomain> {
    let spec = &notes.object.spec;
    let at = |key: &str| Path::of(&["spec", key]);
    let trust_domain = match TrustDomain::parse(&spec.trust_domain) {
        Ok(domain) if domain == settings.trust_domain => {
            let text = format!("{domain} is our own trust domain");
            notes.error(&at("trustDomain"), Code::Conflict, text);
            return None;
        }
        Ok(domain) => domain,
        Err(error) => {
            notes.error(&at("trustDomain"), Code::Invalid, error.to_string());
            return None;
        }
    };
    let endpoint = endpoint(notes);
    if let Some(text) = &spec.trust_domain_bundle
        && let Err(error) = BundleDocument::parse_any(trust_domain.clone(), text)
    {
        let text = reeve_core::error_chain(&error);
        match &spec.trust_domain_bundle_file {
            None => notes.error(&at("trustDomainBundle"), Code::Invalid, text),
            Some(file) => notes.error(&at(FILE_KEY), Code::Invalid, format!("{file}: {text}")),
        }
    }
    if spec.trust_domain_bundle.is_none() && spec.trust_domain_bundle_file.is_none() {
        without_bundle(notes, endpoint.as_ref(), &trust_domain);
    }
    Some(FederatedDomain {
        trust_domain,
        endpoint,
        bundle: spec.trust_domain_bundle.as_deref().map(Arc::from),
    })
}

/// What there must be when there is no bundle to begin with.
fn without_bundle(
    notes: &mut DomainNotes<'_>,
    endpoint: Option<&BundleEndpoint>,
    domain: &TrustDomain,
) {
    let path = Path::of(&["spec", "trustDomainBundle"]);
    match endpoint.map(|endpoint| &endpoint.profile) {
        None if notes.object.spec.bundle_endpoint_url.is_none() => {
            let hint = "give a bundle endpoint, or what `reeve ca bundle --format spiffe` prints there, here or in trustDomainBundleFile";
            let text = format!("nothing says where the bundle of {domain} comes from");
            notes.hint(&path, Code::Missing, text, hint);
        }
        Some(EndpointProfile::Spiffe(id)) if id.is_member_of(domain) => {
            let text = "the endpoint is judged by the bundle that it serves, so there must be one to begin with";
            let hint = "give what `reeve ca bundle --format spiffe` prints there, here or in trustDomainBundleFile";
            notes.hint(&path, Code::Missing, text, hint);
        }
        _ => {}
    }
}

fn endpoint(notes: &mut DomainNotes<'_>) -> Option<BundleEndpoint> {
    let spec = &notes.object.spec;
    let path = Path::of(&["spec", "bundleEndpointProfile"]);
    let (url, profile) = match (&spec.bundle_endpoint_url, &spec.bundle_endpoint_profile) {
        (None, None) => return None,
        (Some(url), Some(profile)) => (url, profile),
        (None, Some(_)) => {
            let text = "a profile without bundleEndpointURL";
            notes.error(&path, Code::Conflict, text);
            return None;
        }
        (Some(_), None) => {
            let hint = "type: https_spiffe with endpointSPIFFEID, or type: https_web";
            notes.hint(
                &path,
                Code::Missing,
                "nothing says how the endpoint is known",
                hint,
            );
            return None;
        }
    };
    let is_sound = check_url(notes, url);
    let profile = endpoint_profile(notes, &path, profile)?;
    is_sound.then(|| BundleEndpoint {
        url: url.clone(),
        profile,
    })
}

/// Whether the URL is one that bundles are fetched from (SPIFFE Federation, section 5.2).
fn check_url(notes: &mut DomainNotes<'_>, url: &str) -> bool {
    let parsed: Option<http::Uri> = url.parse().ok().filter(|_| url.len() <= MAX_URL_BYTES);
    let sound = parsed.is_some_and(|uri| {
        let user = uri.authority().is_some_and(|a| a.as_str().contains('@'));
        uri.scheme_str() == Some("https") && uri.host().is_some() && !user && !url.contains('#')
    });
    if !sound {
        let path = Path::of(&["spec", "bundleEndpointURL"]);
        let text = format!("{url:?} is not an https URL without user and fragment");
        notes.hint(
            &path,
            Code::Invalid,
            text,
            "such as https://bundle.other.org:8443/",
        );
    }
    sound
}

fn endpoint_profile(
    notes: &mut DomainNotes<'_>,
    path: &Path,
    spec: &EndpointProfileSpec,
) -> Option<EndpointProfile> {
    let words = [("https_web", false), ("https_spiffe", true)];
    let by_svid = notes.word(&path.key("type"), &spec.r#type, &words)?;
    let path = path.key("endpointSPIFFEID");
    match (by_svid, &spec.endpoint_spiffe_id) {
        (false, None) => Some(EndpointProfile::Web),
        (false, Some(_)) => {
            let text = "an endpoint of https_web is known by its name in the web";
            notes.error(&path, Code::Conflict, text);
            None
        }
        (true, None) => {
            let hint = "`reeve ca status` says it there";
            notes.hint(
                &path,
                Code::Missing,
                "an endpoint of https_spiffe has a SPIFFE ID",
                hint,
            );
            None
        }
        (true, Some(text)) => match SpiffeId::parse(text) {
            Ok(id) if !id.path().is_empty() => Some(EndpointProfile::Spiffe(id)),
            Ok(id) => {
                let text = format!("{id} names a trust domain, not a workload");
                notes.error(&path, Code::Invalid, text);
                None
            }
            Err(error) => {
                notes.error(&path, Code::Invalid, error.to_string());
                None
            }
        },
    }
}
