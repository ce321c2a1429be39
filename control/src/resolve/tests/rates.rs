//! Ejection by rates, which annotations of a `DestinationRule` ask for.

use reeve_core::model::{FailurePercentage, OutlierDetection, SuccessRate};

use super::*;

const SPEC: &str = "  host: reviews
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 7}
    portLevelSettings: [{port: {number: 9080}, outlierDetection: {}}]
  subsets: [{name: v1, trafficPolicy: {outlierDetection: {}}}, {name: v2}]";

fn annotated(annotations: &str, spec: &str) -> String {
    let service = "---
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{port: 9080, name: http}]}
---
";
    let rule = document("DestinationRule", "reviews", spec);
    let metadata = format!("name: reviews\n  annotations: {{{annotations}}}\n");
    format!(
        "{service}{}",
        rule.replacen("name: reviews\n", &metadata, 1)
    )
}

fn rates(outlier: Option<&OutlierDetection>) -> (Option<SuccessRate>, Option<FailurePercentage>) {
    let outlier = outlier.unwrap();
    (outlier.success_rate, outlier.failure_percentage)
}

#[test]
fn annotations_hold_for_every_section_of_the_rule_with_envoys_defaults() {
    let yaml = annotated(
        "reeve.dev/outlier-success-rate: 'minimumHosts=3, stdevFactor=1500',
         reeve.dev/outlier-failure-percentage: 'threshold=50,requestVolume=20'",
        SPEC,
    );
    let mesh = mesh(&yaml);
    let rule = mesh.rules.values().next().unwrap();
    let expected = (
        Some(SuccessRate {
            minimum_hosts: 3,
            request_volume: 100,
            stdev_factor_permille: 1500,
        }),
        Some(FailurePercentage {
            threshold: 50,
            minimum_hosts: 5,
            request_volume: 20,
        }),
    );
    let v1 = &rule.subsets[0];
    for traffic in [
        &rule.traffic,
        &rule.port_traffic[&9080],
        &v1.traffic,
        &rule.subsets[1].traffic,
    ] {
        assert_eq!(rates(traffic.outlier.as_ref()), expected);
    }
    let on = annotated("reeve.dev/outlier-success-rate: 'on'", SPEC);
    let mesh = super::mesh(&on);
    let rule = mesh.rules.values().next().unwrap();
    let expected = (Some(SuccessRate::default()), None);
    assert_eq!(rates(rule.traffic.outlier.as_ref()), expected);
}

#[test]
fn without_them_nothing_is_ejected_for_its_rate() {
    let mesh = mesh(&annotated("other: 'on'", SPEC));
    let rule = mesh.rules.values().next().unwrap();
    assert_eq!(rates(rule.traffic.outlier.as_ref()), (None, None));
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    for (annotation, expected) in [
        ("reeve.dev/outlier-success-rate: 'minimumHost=3'", "invalid"),
        ("reeve.dev/outlier-success-rate: ''", "invalid"),
        (
            "reeve.dev/outlier-success-rate: 'requestVolume=0'",
            "invalid",
        ),
        (
            "reeve.dev/outlier-success-rate: 'requestVolume=many'",
            "invalid",
        ),
        (
            "reeve.dev/outlier-failure-percentage: 'threshold=101'",
            "invalid",
        ),
    ] {
        let found = findings(&annotated(annotation, SPEC));
        let named = |f: &String| f.contains("outlier-") && f.ends_with(expected);
        assert!(found.iter().any(named), "{annotation}: {found:?}");
    }
    let idle = annotated("reeve.dev/outlier-success-rate: 'on'", "  host: reviews");
    let found = findings(&idle);
    assert!(found.iter().any(|f| f.ends_with("conflict?")), "{found:?}");
}
