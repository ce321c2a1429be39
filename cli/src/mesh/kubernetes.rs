//! Attests by service accounts' tokens of a Kubernetes cluster: its API server is asked (TokenReview), or its keys are
//! looked at offline, or both.

mod review;

use std::{sync::Arc, time::Duration};

use reeve_authz::jwt::{CheckOptions, KeySet};
use reeve_ca::{AttestError, Attestation, Attestor, Evidence};
use reeve_control::{ClusterKeys, KubernetesTokens, Mesh};
use reeve_core::{Clock, Namespace, Selectors, ServiceAccount, SpiffeId, TrustDomain};
use serde_json::Value;
use tokio::sync::watch;

/// How far the clocks of the cluster and of this machine may differ.
const LEEWAY: Duration = Duration::from_secs(10);
/// Longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// What stands before namespace and account in the name of a service account.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Attests service accounts by their tokens, as the configuration in force says.
#[derive(Debug)]
pub(super) struct KubernetesAttestor {
    trust_domain: TrustDomain,
    /// The mesh process's identity.
    own: SpiffeId,
    mesh: watch::Receiver<Option<Arc<Mesh>>>,
    clock: Arc<dyn Clock>,
}

/// What a token says once it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    namespace: Namespace,
    account: ServiceAccount,
    name: Option<String>,
    uid: Option<String>,
    node: Option<String>,
}

impl KubernetesAttestor {
    /// Identities are of the trust domain of `own`, the mesh process's; tokens are believed as `mesh` says at their time.
    pub(super) fn new(
        own: SpiffeId,
        mesh: watch::Receiver<Option<Arc<Mesh>>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            trust_domain: own.trust_domain(),
            own,
            mesh,
            clock,
        }
    }

    fn settings(&self) -> Option<KubernetesTokens> {
        let mesh = self.mesh.borrow();
        mesh.as_ref()?.settings.kubernetes_tokens.clone()
    }
}

#[tonic::async_trait]
impl Attestor for KubernetesAttestor {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attestation>, AttestError> {
        let Evidence::KubernetesToken(token) = evidence else {
            return Ok(None);
        };
        let settings = self.settings().ok_or_else(|| {
            refused("this mesh takes no Kubernetes tokens (MeshConfig.spec.kubernetesTokens)")
        })?;
        let pod = judge(&settings, token, &*self.clock).await?;
        let id = self.trust_domain.workload(&pod.namespace, &pod.account);
        // SECURITY: whoever had it would be taken for the mesh itself.
        if id == self.own {
            return Err(refused("that is the mesh process's own identity"));
        }
        Ok(Some(Attestation {
            identities: vec![id],
            selectors: pod.selectors(),
        }))
    }
}

/// Whose a token is, if everybody who is to be asked accepts it.
async fn judge(
    settings: &KubernetesTokens,
    token: &str,
    clock: &dyn Clock,
) -> Result<Pod, AttestError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(refused("the token is too long"));
    }
    let audience = &settings.audience;
    let offline = match &settings.keys {
        Some(keys) => Some(offline(keys, audience, token, clock)?),
        None => None,
    };
    let reviewed = match &settings.review {
        Some(at) => Some(review::ask(at, audience, token).await?),
        None => None,
    };
    match (offline, reviewed) {
        (Some(one), Some(other)) if one != other => {
            Err(refused("the API server takes the token for another's"))
        }
        (Some(pod), _) | (None, Some(pod)) => Ok(pod),
        (None, None) => Err(refused("nothing says which tokens are good")),
    }
}

/// By the cluster's keys alone: it is not seen that a pod or account is gone before its token ends.
fn offline(
    keys: &ClusterKeys,
    audience: &str,
    token: &str,
    clock: &dyn Clock,
) -> Result<Pod, AttestError> {
    let set = KeySet::parse(&keys.jwks).map_err(|error| refused(error.to_string()))?;
    let options = CheckOptions {
        issuer: Some(keys.issuer.clone()),
        audiences: vec![audience.to_owned()],
        leeway: LEEWAY,
        ..CheckOptions::default()
    };
    let checked = set.check(token, &options, clock.now());
    let claims = checked.map_err(|error| refused(error.to_string()))?.claims;
    if claims.get("exp").is_none() {
        return Err(refused("the token never ends"));
    }
    let text = |path: &str| claims.pointer(path).and_then(Value::as_str);
    let subject = text("/sub").unwrap_or_default();
    let (namespace, account) = service_account(subject)?;
    // The cluster says it twice.
    let (said, name) = (
        text("/kubernetes.io/namespace"),
        text("/kubernetes.io/serviceaccount/name"),
    );
    if said != Some(namespace.as_str()) || name != Some(account.as_str()) {
        return Err(refused("the token is not a projected service account's"));
    }
    let owned = |path: &str| text(path).map(str::to_owned);
    Ok(Pod {
        namespace,
        account,
        name: owned("/kubernetes.io/pod/name"),
        uid: owned("/kubernetes.io/pod/uid"),
        node: owned("/kubernetes.io/node/name"),
    })
}

/// `system:serviceaccount:<namespace>:<name>`.
fn service_account(name: &str) -> Result<(Namespace, ServiceAccount), AttestError> {
    let parts = name.strip_prefix(SERVICE_ACCOUNT);
    let parts = parts.and_then(|rest| rest.split_once(':'));
    let parsed = parts.and_then(|(namespace, account)| {
        let namespace = Namespace::parse(namespace).ok()?;
        Some((namespace, ServiceAccount::parse(account).ok()?))
    });
    parsed.ok_or_else(|| refused("the token is not a service account's"))
}

fn refused(why: impl Into<String>) -> AttestError {
    AttestError::Refused(why.into())
}

impl Pod {
    fn selectors(&self) -> Selectors {
        let mut known = Selectors::default();
        known.learn("k8s:ns", &self.namespace);
        known.learn("k8s:sa", &self.account);
        for (kind, value) in [
            ("k8s:pod-name", &self.name),
            ("k8s:pod-uid", &self.uid),
            ("k8s:node-name", &self.node),
        ] {
            if let Some(value) = value {
                known.learn(kind, value);
            }
        }
        known
    }
}

#[cfg(test)]
mod tests;
