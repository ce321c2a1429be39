//! What is never recorded: tokens, bodies, and values whose class says so.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use http::HeaderValue;
use reeve_core::model::{
    FieldClass, FieldClasses, JoinKey, JwtHeader, JwtRule, Protocol, WorkloadConfig,
};

use super::{
    mesh::{HOST, Mesh, PORT, caller, echo_app, eventually, full, pair},
    token::token,
};

/// Reads whatever a token may be in.
const POLICY: &str = "permit (principal, action, resource) unless { context has query && context.query.hasTag(\"access_token\") && context.query.getTag(\"access_token\").contains(\"x\") };";

/// Every byte that was recorded.
pub(super) fn recorded(folder: &Path) -> String {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => all.extend(fs::read(&path).unwrap()),
            }
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Tokens from everywhere, and a class for each kind of value.
fn classed(mut workload: WorkloadConfig, mut rule: JwtRule) -> WorkloadConfig {
    let from = |name: &str, prefix: &str| JwtHeader {
        name: name.to_owned(),
        prefix: prefix.to_owned(),
    };
    rule.from_headers = vec![from("authorization", "Bearer "), from("x-token", "")];
    rule.from_params = vec!["access_token".to_owned()];
    workload.jwt_rules = vec![rule];
    let names = [
        "authorization",
        "cookie",
        "x-token",
        "end-user",
        "x-card",
        "x-kept",
    ];
    workload.recorded_headers = names.map(str::to_owned).to_vec();
    let class = |name: &str, class| (name.to_owned(), class);
    workload.field_classes = FieldClasses {
        headers: [
            class("end-user", FieldClass::Sensitive),
            class("x-card", FieldClass::Secret),
            class("authorization", FieldClass::Public),
        ]
        .into(),
        claims: [class("sub", FieldClass::Sensitive)].into(),
        join_key: JoinKey::new("k".repeat(32)),
        ..FieldClasses::default()
    };
    workload
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_bodies_and_classed_values_are_never_recorded() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let (token, rule) = token(600);
    let mut config = mesh.server(Protocol::Http, &[POLICY]);
    config.workload = Arc::new(classed((*config.workload).clone(), rule));
    let (_server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let wrong = format!("{}x", token);
    let places: [(&str, &str, String); 6] = [
        ("/a", "authorization", format!("Bearer {token}")),
        ("/b", "x-token", token.clone()),
        (
            &format!("/c?access_token={token}"),
            "x-kept",
            "kept-value".to_owned(),
        ),
        ("/d", "cookie", format!("session={token}")),
        ("/e", "authorization", format!("Bearer {wrong}")),
        ("/f", "authorization", format!("Basic {token}")),
    ];
    let mut statuses = BTreeSet::new();
    for (path, header, value) in places {
        let request = http::Request::post(mesh.url(path))
            .header(header, HeaderValue::from_str(&value).unwrap())
            .header("end-user", "jason")
            .header("x-card", "4111-1111")
            .header("host", HOST)
            .body(full(format!("body with {token}")));
        let response = caller().request(request.unwrap()).await.unwrap();
        statuses.insert(response.status().as_u16());
    }
    assert!(
        statuses.contains(&200) && statuses.contains(&401),
        "{statuses:?}"
    );
    let all = eventually(|| {
        let all = recorded(mesh.folder());
        all.contains("\"/f\"").then_some(all)
    })
    .await;
    let signature = token.rsplit('.').next().unwrap();
    let claims = token.split('.').nth(1).unwrap();
    for value in [
        &token,
        signature,
        claims,
        "body with",
        "4111",
        "jason",
        "alice",
    ] {
        assert!(!all.contains(value), "{value} was recorded");
    }
    assert!(all.contains("kept-value"));
    // The same value is the same hash in each record.
    let hashes: BTreeSet<_> = all
        .split("\"end-user\":[\"hmac:")
        .skip(1)
        .filter_map(|rest| rest.get(..32))
        .collect();
    assert_eq!(hashes.len(), 1, "{hashes:?}");
    assert!(all.contains("\"x-card\":[]") && all.contains("\"sub\":[\"hmac:"));
}
