//! Each kind and each fault, by file, line, path and code.

mod entities;
mod entries;
mod federation;
mod gateway_api;
mod global_limits;
mod istio;
mod kinds;
mod rates;
mod registrations;
mod resilience;
mod roles;
mod routes;
mod tls;
mod transformations;

use super::*;

/// `line path code` of every finding.
pub(crate) fn findings(yaml: &str) -> Vec<String> {
    findings_of(&resolve(&source(yaml)).findings)
}

fn source(yaml: &str) -> Source {
    let mut source = Source::default();
    source.add("a.yaml", yaml);
    source
}

fn findings_of(found: &[Fault]) -> Vec<String> {
    let show = |f: &Fault| {
        assert_eq!(f.file, "a.yaml");
        let mark = if f.is_error() { "" } else { "?" };
        format!("{} {} {}{mark}", f.line, f.path, f.code)
    };
    found.iter().map(show).collect()
}

pub(crate) fn mesh(yaml: &str) -> Mesh {
    let resolved = resolve(&source(yaml));
    resolved
        .mesh
        .unwrap_or_else(|| panic!("refused: {:#?}", resolved.findings))
}

/// An authority's certificate, base64 of DER, and its key.
const BUNDLE_ROOT: &str = "MIIBfjCCASWgAwIBAgIUIX9pgKMYCZgvXBYaRSx5hYTprjYwCgYIKoZIzj0EAwIwDDEKMAgGA1UEAwwBcjAgFw0yNjExMjIxNTMyNTNaGA8yMTI2MTAyOTE1MzI1M1owDDEKMAgGA1UEAwwBcjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDbQYFhzOQGPgZ4wI3BOoIRp1KJVdEFf+8D628EuBRNrnQX9v6pbBeiPMJ33t5F/OGW6nKLwQmdK+abPVxbt3Z+jYzBhMB0GA1UdDgQWBBTH9RUutE4XbphPq7HelWunoxzZpzAfBgNVHSMEGDAWgBTH9RUutE4XbphPq7HelWunoxzZpzAOBgNVHQ8BAf8EBAMCAgQwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiAqTftrvL1xS+hI2gOOx175Aycgx1puypboojvbDKD8aQIgI/2TRD/NlKcQNfEOwLTUS/81Wi4zn9m+0F3f+PD/LHM=";
const BUNDLE_POINT: &str = r#""kty":"EC","crv":"P-256","x":"NtBgWHM5AY-BnjAjcE6ghGnUolV0QV_7wPrbwS4FE2s","y":"nQX9v6pbBeiPMJ33t5F_OGW6nKLwQmdK-abPVxbt3Z8""#;

/// The bundle of some trust domain with one JWT key of this id.
pub(crate) fn bundle_text(key_id: &str) -> String {
    let (root, point) = (BUNDLE_ROOT, BUNDLE_POINT);
    format!(
        r#"{{"keys":[{{"use":"x509-svid",{point},"x5c":["{root}"]}},{{"use":"jwt-svid","kid":"{key_id}",{point}}}]}}"#
    )
}

/// A document: kind, name and spec (indented by two).
pub(crate) fn document(kind: &str, name: &str, spec: &str) -> String {
    let version = match kind {
        "VirtualService" | "DestinationRule" | "Gateway" | "ServiceEntry" | "WorkloadEntry"
        | "WorkloadGroup" | "Sidecar" => "networking.istio.io/v1",
        "PeerAuthentication" | "RequestAuthentication" => "security.istio.io/v1",
        "Service" | "Namespace" | "ServiceAccount" | "ConfigMap" => "v1",
        _ => "reeve.dev/v1alpha1",
    };
    // The spec begins in line 6.
    format!("apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n{spec}\n")
}

pub(super) const REVIEWS: &str = "---
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{port: 9080, name: http}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}}]}
";

#[test]
fn an_empty_folder_is_a_mesh_with_defaults() {
    let mesh = mesh("# nothing\n");
    assert_eq!(mesh.settings.trust_domain.as_str(), "mesh.local");
    assert_eq!(mesh.settings.root_namespace.as_str(), "reeve-system");
    assert_eq!(mesh.settings.mtls, reeve_core::model::MtlsMode::Permissive);
}

#[test]
fn headers_of_documents_are_checked() {
    for (yaml, expected) in [
        ("a: 1\n", &["1 apiVersion missing", "1 kind missing"][..]),
        (
            "apiVersion: v1\nkind: Widget\nmetadata: {name: x}\n",
            &["2 kind unknown-kind"],
        ),
        (
            "apiVersion: networking.istio.io/v9\nkind: VirtualService\nmetadata: {name: x}\n",
            &["1 apiVersion unknown-version"],
        ),
        (
            "apiVersion: networking.istio.io/v1\nkind: EnvoyFilter\nmetadata: {name: x}\n",
            &["2 kind unsupported"],
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n",
            &["2 kind unsupported"],
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n",
            &["3 metadata.name missing"],
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: X}\n",
            &["3 metadata.name invalid"],
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, namespace: A.b}\n",
            &["3 metadata.namespace invalid"],
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\nspec: {what: ever}\n",
            &[],
        ),
        ("- a\n", &["1 apiVersion missing", "1 kind missing"]),
        ("just text\n", &["1 apiVersion missing", "1 kind missing"]),
    ] {
        assert_eq!(findings(yaml), expected, "{yaml}");
    }
}

#[test]
fn two_objects_of_one_name_are_refused() {
    let one = document(
        "AccessPolicy",
        "a",
        "  cedar: permit (principal, action, resource);",
    );
    assert_eq!(findings(&one), Vec::<String>::new());
    let found = findings(&format!("{one}---\n{one}"));
    assert!(
        found.contains(&"11 metadata.name duplicate-object".to_owned()),
        "{found:?}"
    );
}

#[test]
fn a_fault_reads_well() {
    let mut source = Source::default();
    source.add(
        "r.yaml",
        &document(
            "VirtualService",
            "reviews",
            "  hosts: [reviews]\n  htpp: []",
        ),
    );
    let shown: Vec<_> = resolve(&source)
        .findings
        .iter()
        .map(Fault::to_string)
        .collect();
    assert_eq!(
        shown.last().map(String::as_str),
        Some(
            "r.yaml:7: error[unknown-field] VirtualService reviews spec.htpp: there is no field \"htpp\" here\n  \
             help: did you mean \"http\"?"
        )
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_makes_resolving_panic(text in "\\PC{0,200}") {
        let mut source = Source::default();
        source.add("a.yaml", &text);
        resolve(&source);
    }

    /// Values of every shape in the place of every field that a good document has.
    #[test]
    fn no_value_makes_resolving_panic(
        line in 0usize..400,
        value in proptest::sample::select(vec![
            "[]", "{}", "[[[]]]", "null", "x", "\"\"", "-1", "70000", "1e9", "true", "*x", "{a: {b: c}}", "[null]",
            "99999999999999999999", "\u{e9}\u{0}", "0", "'", "|", "- -",
        ]),
    ) {
        let good = std::fs::read_to_string(
            concat!(env!("CARGO_MANIFEST_DIR"), "/src/resolve/tests/everything.yaml"),
        ).unwrap();
        let lines: Vec<_> = good.lines().collect();
        let at = line % lines.len();
        let changed: Vec<String> = lines.iter().enumerate().map(|(n, l)| match l.split_once(':') {
            Some((key, _)) if n == at => format!("{key}: {value}"),
            _ => (*l).to_owned(),
        }).collect();
        let mut source = Source::default();
        source.add("a.yaml", &changed.join("\n"));
        let resolved = resolve(&source);
        if let Some(mesh) = resolved.mesh {
            let mut instances = crate::instances::Instances::new(77);
            if instances.plan(&mesh.workloads, mesh.services.keys()).is_ok() {
                mesh.proxy_configs(&instances, &crate::TokenKeys::default(), &mut Default::default());
            }
        }
    }
}

#[test]
fn a_document_with_everything_is_accepted() {
    let text = include_str!("tests/everything.yaml");
    assert_eq!(
        findings(text),
        [
            "40 spec.dangerAllowInternalJwks insecure?",
            "244 spec.workloads[2].role insecure?"
        ]
    );
}
