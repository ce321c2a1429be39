//! `MeshConfig.spec.kubernetesTokens`: by what service accounts' tokens of a cluster are believed.

use std::path::PathBuf;

use reeve_authz::jwt::check_jwks;

use crate::{
    ClusterKeys, Code, KubernetesTokens, ReviewAt,
    kinds::{KubernetesTokensSpec, MeshConfigSpec},
    resolve::values::Notes,
    source::path::Path,
};

/// Audiences that a cluster's own API server has, by usage: such tokens are every pod's.
const API_AUDIENCES: [&str; 3] = [
    "https://kubernetes.default.svc",
    "https://kubernetes.default.svc.cluster.local",
    "kubernetes",
];

pub(super) fn resolve(notes: &mut Notes<'_, MeshConfigSpec>) -> Option<KubernetesTokens> {
    let spec = notes.object.spec.kubernetes_tokens.as_ref()?;
    let path = Path::of(&["spec", "kubernetesTokens"]);
    let audience = &spec.audience;
    if audience.is_empty() {
        let hint = "name one of the mesh's own, and project tokens for it";
        notes.hint(
            &path.key("audience"),
            Code::Missing,
            "there is no audience",
            hint,
        );
    } else if API_AUDIENCES.contains(&audience.as_str()) || spec.issuer.as_ref() == Some(audience) {
        // SECURITY: whoever a pod shows its token to, such as any controller, could come with it.
        let text = format!("{audience} is the API server's own audience");
        let hint = "name one of the mesh's own, and project tokens for it";
        notes.hint(&path.key("audience"), Code::Insecure, text, hint);
    }
    let keys = keys(notes, &path, spec);
    let review = review(notes, &path, spec);
    if spec.jwks.is_none() && spec.api_server.is_none() {
        let text = "nothing says which tokens are good";
        let hint = "give apiServer, caFile and tokenFile, or issuer and jwks, or all of them";
        notes.hint(&path, Code::Missing, text, hint);
    }
    Some(KubernetesTokens {
        audience: audience.clone(),
        keys,
        review,
    })
}

/// Both, or a fault for the one that is missing.
fn both<'s, const N: usize>(
    notes: &mut Notes<'_, MeshConfigSpec>,
    path: &Path,
    values: [(&str, &'s Option<String>); N],
) -> Option<[&'s String; N]> {
    if values.iter().all(|(_, value)| value.is_none()) {
        return None;
    }
    let names: Vec<_> = values.iter().map(|(name, _)| *name).collect();
    for (name, value) in &values {
        if value.is_none() {
            let text = format!("{} belong together", names.join(", "));
            notes.error(&path.key(name), Code::Missing, text);
        }
    }
    let given: Vec<_> = values.iter().filter_map(|(_, v)| v.as_ref()).collect();
    given.try_into().ok()
}

fn keys(
    notes: &mut Notes<'_, MeshConfigSpec>,
    path: &Path,
    spec: &KubernetesTokensSpec,
) -> Option<ClusterKeys> {
    let values = [("issuer", &spec.issuer), ("jwks", &spec.jwks)];
    let [issuer, jwks] = both(notes, path, values)?;
    if let Err(error) = check_jwks(jwks) {
        notes.error(&path.key("jwks"), Code::Invalid, error.to_string());
    }
    Some(ClusterKeys {
        issuer: issuer.clone(),
        jwks: jwks.clone(),
    })
}

fn review(
    notes: &mut Notes<'_, MeshConfigSpec>,
    path: &Path,
    spec: &KubernetesTokensSpec,
) -> Option<ReviewAt> {
    let values = [
        ("apiServer", &spec.api_server),
        ("caFile", &spec.ca_file),
        ("tokenFile", &spec.token_file),
    ];
    let [server, ca_file, token_file] = both(notes, path, values)?;
    let host = server.strip_prefix("https://").unwrap_or_default();
    let legal =
        !host.contains(['/', '?', '#', '@']) && host.parse::<http::uri::Authority>().is_ok();
    if !legal {
        let text = format!("{server:?} is not https://HOST or https://HOST:PORT");
        notes.error(&path.key("apiServer"), Code::Invalid, text);
    }
    for (name, file) in [("caFile", ca_file), ("tokenFile", token_file)] {
        if !file.starts_with('/') {
            notes.error(&path.key(name), Code::Invalid, "a path begins with /");
        }
    }
    Some(ReviewAt {
        server: server.clone(),
        ca_file: PathBuf::from(ca_file),
        token_file: PathBuf::from(token_file),
    })
}
