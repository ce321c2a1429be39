//! `PathNormalization`: which mode holds at a port, and what callers are told of it.

use reeve_core::model::PathNormalization::{
    self, Base, DecodeAndMergeSlashes, MergeSlashes, RefuseAmbiguous,
};

use super::*;

fn rule(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: reeve.dev/v1alpha1\nkind: PathNormalization\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn at_port(config: &ProxyConfig, port: u16) -> PathNormalization {
    let found = config
        .workload
        .inbound
        .iter()
        .find(|l| l.bind.port() == port);
    found.expect("a listener").path_normalization
}

#[test]
fn the_narrowest_rule_counts_and_a_port_before_all() {
    let whole = rule("whole", "reeve-system", "{normalization: BASE}");
    let namespace = rule("namespace", "default", "{normalization: MERGE_SLASHES}");
    let reviews = "{selector: {matchLabels: {app: reviews}}, normalization: NONE, portLevel: {9000: {normalization: DECODE_AND_MERGE_SLASHES}}}";
    let unset = "{selector: {matchLabels: {app: reviews}}, normalization: UNSET, portLevel: {8000: {normalization: UNSET}}}";
    let (reviews, unset) = (
        rule("reviews", "default", reviews),
        rule("unset", "default", unset),
    );
    for (more, page, ports) in [
        (String::new(), RefuseAmbiguous, [RefuseAmbiguous; 2]),
        (whole.clone(), Base, [Base; 2]),
        (
            format!("{whole}{namespace}"),
            MergeSlashes,
            [MergeSlashes; 2],
        ),
        (
            format!("{namespace}{reviews}"),
            MergeSlashes,
            [PathNormalization::None, DecodeAndMergeSlashes],
        ),
        (format!("{whole}{unset}"), Base, [Base; 2]),
    ] {
        assert_eq!(at_port(&config(&more, "page-0"), 9080), page, "{more}");
        let reviews = config(&more, "reviews-v1-0");
        assert_eq!(
            [8000, 9000].map(|port| at_port(&reviews, port)),
            ports,
            "{more}"
        );
    }
}

#[test]
fn callers_read_paths_as_those_whom_they_call() {
    let spec =
        "{selector: {matchLabels: {app: reviews}}, portLevel: {8000: {normalization: NONE}}}";
    let one = rule("reviews", "default", spec);
    let other = "---\napiVersion: reeve.dev/v1alpha1\nkind: LocalMesh\nmetadata: {name: other}\nspec:\n  workloads:\n    - {name: reviews-v2, command: [x], labels: {app: reviews, version: v2}, ports: [{port: 8000, name: web}]}\n";
    let spec = "{selector: {matchLabels: {version: v1}}, normalization: BASE}";
    let only_v1 = rule("v1", "default", spec);
    let told = |more: &str, table: &str, authority: &str| {
        let config = config(more, "page-0");
        host(&config, table, authority)
            .expect("a virtual host")
            .path_normalization
    };
    // The service's port 80 is the workloads' port `web`, 8000.
    assert_eq!(told(&one, "80", "reviews"), Some(PathNormalization::None));
    assert_eq!(
        told(&one, "15001", "reviews:80"),
        Some(PathNormalization::None)
    );
    assert_eq!(told(&one, "9000", "reviews"), Some(RefuseAmbiguous));
    assert_eq!(told("", "80", "reviews"), None, "nothing is said");
    let mixed = format!("{only_v1}{other}");
    assert_eq!(told(&mixed, "80", "reviews"), None, "they differ");
    assert_eq!(told(&only_v1, "80", "reviews"), Some(Base));
}

#[test]
fn a_gateways_port_has_a_mode_of_its_own() {
    let spec = "{selector: {matchLabels: {istio: edge}}, normalization: BASE, portLevel: {8080: {normalization: MERGE_SLASHES}}}";
    let gateway = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  selector: {istio: edge}\n  servers:\n    - {port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}\n    - {port: {number: 8081, name: http-two, protocol: HTTP}, hosts: ['*']}\n";
    let config = config(
        &format!("{}{gateway}", rule("edge", "default", spec)),
        "edge-0",
    );
    let modes: Vec<_> = config
        .workload
        .outbound
        .iter()
        .map(|l| (l.bind.port(), l.path_normalization))
        .collect();
    assert_eq!(modes, [(8080, Some(MergeSlashes)), (8081, Some(Base))]);
}

#[test]
fn who_judges_for_others_knows_the_modes_by_port() {
    let spec = "{selector: {matchLabels: {app: reviews}}, normalization: BASE, portLevel: {9000: {normalization: NONE}}}";
    let (mesh, _) = running(&rule("reviews", "default", spec));
    let places = mesh.places(&TokenKeys::default());
    let id = "spiffe://mesh.local/ns/default/sa/reviews".parse().unwrap();
    let place = &places.workloads[&id];
    assert_eq!(place.path_normalization, Base);
    assert_eq!(
        place.port_normalization,
        [(9000, PathNormalization::None)].into()
    );
    let page = "spiffe://mesh.local/ns/default/sa/default".parse().unwrap();
    assert_eq!(places.workloads[&page].path_normalization, RefuseAmbiguous);
}
