use reeve_core::{Selector, UnixTime, clock::ManualClock};

use super::*;

/// Tokens as a cluster projects them, signed for these tests, with the keys of the cluster; all of the second `NOW`.
const TOKENS: &str = include_str!("tokens.json");
const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn fixtures() -> serde_json::Map<String, Value> {
    serde_json::from_str(TOKENS).unwrap()
}

fn settings() -> KubernetesTokens {
    KubernetesTokens {
        audience: "reeve".to_owned(),
        keys: Some(ClusterKeys {
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            jwks: fixtures()["jwks"].to_string(),
        }),
        review: None,
    }
}

async fn verdict(token: &str, now: UnixTime) -> Result<Pod, AttestError> {
    judge(&settings(), token, &ManualClock::at(now)).await
}

#[tokio::test]
async fn a_projected_token_says_whose_pod_it_is() {
    let pod = verdict(fixtures()["good"].as_str().unwrap(), NOW)
        .await
        .unwrap();
    let domain = TrustDomain::parse("mesh.local").unwrap();
    let id = domain.workload(&pod.namespace, &pod.account);
    assert_eq!(id.as_str(), "spiffe://mesh.local/ns/shop/sa/reviews");
    let known: Vec<_> = pod.selectors().iter().map(Selector::to_string).collect();
    assert_eq!(
        known,
        [
            "k8s:node-name:node-1",
            "k8s:ns:shop",
            "k8s:pod-name:reviews-7c9d-x2x",
            "k8s:pod-uid:8e1b0e0a-6a4e-4f6e-8a51-6b5c9f6d2f01",
            "k8s:sa:reviews",
        ]
    );
}

/// Each is the good one but for what its name says.
#[tokio::test]
async fn any_other_token_is_refused() {
    let tokens = fixtures();
    let others = tokens
        .iter()
        .filter(|(name, _)| !["good", "jwks"].contains(&name.as_str()));
    let mut count = 0;
    for (name, token) in others {
        let refused = verdict(token.as_str().unwrap(), NOW).await;
        assert!(
            matches!(refused, Err(AttestError::Refused(_))),
            "{name}: {refused:?}"
        );
        count += 1;
    }
    assert_eq!(count, 12);
    let good = tokens["good"].as_str().unwrap();
    let late = verdict(good, NOW.plus(Duration::from_secs(3_700))).await;
    assert!(late.is_err(), "it has ended");
    assert!(verdict(&format!("{good}x"), NOW).await.is_err());
    let long = "a".repeat(MAX_TOKEN_BYTES + 1);
    assert!(verdict(&long, NOW).await.is_err());
    let neither = KubernetesTokens {
        keys: None,
        ..settings()
    };
    let nobody = judge(&neither, good, &ManualClock::at(NOW)).await;
    assert!(nobody.is_err(), "nobody to ask is no yes");
}
