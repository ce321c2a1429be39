//! `ClusterFederatedTrustDomain` and `MeshConfig.spec.federation`. A spec begins in line 6 of its document.

use reeve_core::model::{BundleEndpoint, EndpointProfile};

use super::*;

/// A root of other.org.
const ROOT: &str = "-----BEGIN CERTIFICATE-----
MIIBdTCCARygAwIBAgIUb4LRKb+TZNrwW4mPvpN3SnxWRgEwCgYIKoZIzj0EAwIw
-----END CERTIFICATE-----";

fn federated(spec: &str) -> Vec<String> {
    let indented: Vec<_> = spec.lines().map(|l| format!("  {l}")).collect();
    findings(&document(
        "ClusterFederatedTrustDomain",
        "other",
        &indented.join("\n"),
    ))
}

#[test]
fn each_fault_is_told_at_its_key() {
    let web = "bundleEndpointURL: https://b.other.org/\nbundleEndpointProfile: {type: https_web}";
    let rows: &[(String, &[&str])] = &[
        (format!("trustDomain: other.org\n{web}"), &[]),
        (format!("trustDomain: other.org\nclassName: spire\n{web}"), &[]),
        (
            "trustDomain: other.org".to_owned(),
            &["5 spec.trustDomainBundle missing"],
        ),
        (format!("trustDomain: Other.org\n{web}"), &["6 spec.trustDomain invalid"]),
        (format!("trustDomain: mesh.local\n{web}"), &["6 spec.trustDomain conflict"]),
        (
            "trustDomain: other.org\nbundleEndpointURL: https://b.other.org/".to_owned(),
            &["5 spec.bundleEndpointProfile missing"],
        ),
        (
            "trustDomain: other.org\nbundleEndpointProfile: {type: https_web}".to_owned(),
            &["7 spec.bundleEndpointProfile conflict", "5 spec.trustDomainBundle missing"],
        ),
        (
            "trustDomain: other.org\nbundleEndpointURL: http://b/\nbundleEndpointProfile: {type: https_web}".to_owned(),
            &["7 spec.bundleEndpointURL invalid"],
        ),
        (
            "trustDomain: other.org\nbundleEndpointURL: https://me:x@b/\nbundleEndpointProfile: {type: https_web}".to_owned(),
            &["7 spec.bundleEndpointURL invalid"],
        ),
        (
            "trustDomain: other.org\nbundleEndpointURL: https://b/\nbundleEndpointProfile: {type: web}".to_owned(),
            &["8 spec.bundleEndpointProfile.type invalid"],
        ),
        (
            "trustDomain: other.org\nbundleEndpointURL: https://b/\nbundleEndpointProfile: {type: https_spiffe}".to_owned(),
            &["8 spec.bundleEndpointProfile.endpointSPIFFEID missing"],
        ),
        (
            "trustDomain: other.org\nbundleEndpointURL: https://b/\nbundleEndpointProfile: {type: https_spiffe, endpointSPIFFEID: 'spiffe://other.org'}".to_owned(),
            &["8 spec.bundleEndpointProfile.endpointSPIFFEID invalid"],
        ),
        (
            "trustDomain: other.org\nbundleEndpointURL: https://b/\nbundleEndpointProfile: {type: https_web, endpointSPIFFEID: 'spiffe://other.org/a'}".to_owned(),
            &["8 spec.bundleEndpointProfile.endpointSPIFFEID conflict"],
        ),
        (
            "trustDomain: other.org\nbundleEndpointURL: https://b/\nbundleEndpointProfile: {type: https_spiffe, endpointSPIFFEID: 'spiffe://other.org/a'}".to_owned(),
            &["5 spec.trustDomainBundle missing"],
        ),
        (
            format!("trustDomain: other.org\ntrustDomainBundle: '{{}}'\n{web}"),
            &["7 spec.trustDomainBundle invalid"],
        ),
        (
            format!("trustDomain: other.org\ntrustDomainBundle: |\n  {}\n{web}", ROOT.replace('\n', "\n  ")),
            &["7 spec.trustDomainBundle invalid"],
        ),
        (format!("trustDomain: other.org\nfederatesWith: x\n{web}"), &["7 spec.federatesWith unknown-field"]),
    ];
    for (spec, expected) in rows {
        let mut expected: Vec<_> = expected.to_vec();
        let mut found = federated(spec);
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{spec}");
    }
}

#[test]
fn a_domain_is_federated_once_and_read_as_it_is_written() {
    let spec = "  trustDomain: other.org\n  bundleEndpointURL: https://b/\n  bundleEndpointProfile: {type: https_spiffe, endpointSPIFFEID: 'spiffe://third.net/a'}";
    let one = document("ClusterFederatedTrustDomain", "one", spec);
    let read = mesh(&one).federation().domains;
    let endpoint = BundleEndpoint {
        url: "https://b/".to_owned(),
        profile: EndpointProfile::Spiffe("spiffe://third.net/a".parse().unwrap()),
    };
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].endpoint, Some(endpoint));
    let two = document("ClusterFederatedTrustDomain", "two", spec);
    assert_eq!(
        findings(&format!("{one}---\n{two}")),
        ["15 spec.trustDomain conflict"]
    );
    let spires = one.replace("reeve.dev/v1alpha1", "spire.spiffe.io/v1alpha1");
    assert_eq!(mesh(&spires).federation().domains, read);
}

#[test]
fn where_our_bundle_is_served_is_checked() {
    let config = |spec: &str| {
        let indented: Vec<_> = spec.lines().map(|l| format!("  {l}")).collect();
        findings(&document("MeshConfig", "mesh", &indented.join("\n")))
    };
    let rows: &[(&str, &[&str])] = &[
        (
            "federation: {bundleEndpoint: {address: '10.0.0.1:8443'}}",
            &[],
        ),
        (
            "federation: {bundleEndpoint: {address: '10.0.0.1'}}",
            &["6 spec.federation.bundleEndpoint.address invalid"],
        ),
        (
            "federation: {bundleEndpoint: {address: '10.0.0.1:8443', profile: web}}",
            &["6 spec.federation.bundleEndpoint.profile invalid"],
        ),
        (
            "federation: {bundleEndpoint: {address: '10.0.0.1:8443', profile: https_web}}",
            &["6 spec.federation.bundleEndpoint.credentialName missing"],
        ),
        (
            "federation: {bundleEndpoint: {address: '10.0.0.1:8443', profile: https_web, credentialName: web}}",
            &["6 spec.federation.bundleEndpoint.credentialName unknown-reference"],
        ),
        (
            "federation: {bundleEndpoint: {address: '10.0.0.1:8443', credentialName: web}}",
            &["6 spec.federation.bundleEndpoint.credentialName conflict"],
        ),
        (
            "rotationWait: 10m\nfederation: {bundleEndpoint: {address: '10.0.0.1:8443', refreshHint: 5m}}",
            &[],
        ),
        (
            "rotationWait: 8m\nfederation: {bundleEndpoint: {address: '10.0.0.1:8443', refreshHint: 5m}}",
            &["7 spec.federation.bundleEndpoint.refreshHint conflict"],
        ),
        (
            "federation: {bundleEndpoint: {address: '10.0.0.1:8443', refreshHint: 500ms}}",
            &["6 spec.federation.bundleEndpoint.refreshHint invalid"],
        ),
        (
            "federation: {caCertificates: x}",
            &["6 spec.federation.caCertificates invalid"],
        ),
        (
            "federation: {dangerAllowInternalEndpoints: true}",
            &["6 spec.federation.dangerAllowInternalEndpoints insecure?"],
        ),
    ];
    for (spec, expected) in rows {
        assert_eq!(config(spec), *expected, "{spec}");
    }
    // Unless something else is said, others look twice while a rotation waits for them.
    let yaml = document(
        "MeshConfig",
        "mesh",
        "  rotationWait: 20s\n  federation: {bundleEndpoint: {address: '10.0.0.1:8443'}}",
    );
    let serving = mesh(&yaml).federation().settings.serving.unwrap();
    assert_eq!(serving.refresh_hint.as_secs(), 10);
}

#[test]
fn a_bundle_to_begin_with_may_stand_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.json");
    let at = file.display();
    let spiffe = "  bundleEndpointURL: https://b/\n  bundleEndpointProfile: {type: https_spiffe, endpointSPIFFEID: 'spiffe://other.org/a'}";
    let web = "  bundleEndpointURL: https://b/\n  bundleEndpointProfile: {type: https_web}";
    let of = |more: &str| {
        let spec = format!("  trustDomain: other.org\n  trustDomainBundleFile: {at}\n{more}");
        document("ClusterFederatedTrustDomain", "other", &spec)
    };
    let told = |yaml: &str| resolve(&source(yaml)).findings;
    let missing = told(&of(spiffe));
    assert_eq!(missing.len(), 1, "{missing:?}");
    let fault = &missing[0];
    assert_eq!(
        (fault.line, &*fault.path),
        (7, "spec.trustDomainBundleFile")
    );
    assert!(fault.text.contains(&at.to_string()), "{}", fault.text);

    std::fs::write(&file, "{}").unwrap();
    let no_bundle = ["7 spec.trustDomainBundleFile invalid"];
    assert_eq!(findings(&of(spiffe)), no_bundle);
    assert_eq!(findings(&of("")), no_bundle);

    let text = bundle_text("one");
    std::fs::write(&file, &text).unwrap();
    for profile in [spiffe, web, ""] {
        let read = mesh(&of(profile)).federation().domains;
        assert_eq!(read[0].bundle.as_deref(), Some(&*text), "{profile}");
    }
    assert_eq!(
        findings(&of(&format!("  trustDomainBundle: '{text}'"))),
        ["7 spec.trustDomainBundleFile conflict"]
    );
    let relative = document(
        "ClusterFederatedTrustDomain",
        "other",
        "  trustDomain: other.org\n  trustDomainBundleFile: other.json",
    );
    assert_eq!(
        findings(&relative),
        ["7 spec.trustDomainBundleFile invalid"]
    );
    // What is to be looked at again is told, whether it could be read or not.
    std::fs::remove_file(&file).unwrap();
    assert_eq!(
        built(&source(&of(spiffe))).files(),
        std::slice::from_ref(&file)
    );
    std::fs::create_dir(&file).unwrap();
    let built = built(&source(&of(spiffe)));
    assert!(built.findings.iter().any(Fault::is_error) && built.files().is_empty());
}

/// Tokens of trust domains: an audience is a must, and whose they are is told at its key.
#[test]
fn rules_for_tokens_of_trust_domains_are_checked() {
    let rules = |rule: &str| {
        let spec = format!("  jwtRules: [{{{rule}}}]");
        findings(&document("RequestAuthentication", "r", &spec))
    };
    let rows: &[(&str, &[&str])] = &[
        ("issuer: 'spiffe://mesh.local', audiences: [a]", &[]),
        (
            "issuer: 'spiffe://other.org', audiences: [a]",
            &["6 spec.jwtRules[0].issuer unknown-reference?"],
        ),
        (
            "issuer: 'spiffe://mesh.local'",
            &["6 spec.jwtRules[0].audiences missing"],
        ),
        (
            "issuer: 'spiffe://mesh.local/ns/a/sa/b', audiences: [a]",
            &["6 spec.jwtRules[0].issuer invalid"],
        ),
        (
            "issuer: 'spiffe://Mesh.local', audiences: [a]",
            &["6 spec.jwtRules[0].issuer invalid"],
        ),
        (
            "issuer: 'https://oidc', jwksUri: 'spiffe://mesh.local', audiences: [a]",
            &[],
        ),
        (
            "issuer: 'https://oidc', jwksUri: 'spiffe://mesh.local/x', audiences: [a]",
            &["6 spec.jwtRules[0].jwksUri invalid"],
        ),
        (
            "issuer: 'spiffe://other.org', jwksUri: 'spiffe://mesh.local', audiences: [a]",
            &["6 spec.jwtRules[0].jwksUri conflict"],
        ),
    ];
    for (rule, expected) in rows {
        assert_eq!(rules(rule), *expected, "{rule}");
    }
}

/// A partner's servers are known by the SPIFFE IDs that the entry names.
#[test]
fn the_names_of_an_entry_are_whom_its_endpoints_may_be() {
    let entry = |names: &str| {
        let spec = format!(
            "  hosts: [echo.other.org]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  endpoints: [{{address: 10.0.0.1, serviceAccount: a}}]\n{names}"
        );
        mesh(&document("ServiceEntry", "x", &spec))
    };
    let identities = |mesh: &Mesh| {
        let service = mesh.services.values().next().unwrap();
        let entry = service.entry.as_ref().unwrap();
        let named = crate::index::identities(mesh, service, entry, &entry.endpoints[0]);
        named.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        identities(&entry("")),
        ["spiffe://mesh.local/ns/default/sa/a"]
    );
    let named =
        entry("  subjectAltNames: ['spiffe://other.org/x', 'spiffe://other.org/y', dns.name]");
    assert_eq!(
        identities(&named),
        ["spiffe://other.org/x", "spiffe://other.org/y"]
    );
}
