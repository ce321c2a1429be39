//! Policy sets as plain data, requests, and this engine's answers, for those who ask another engine the same.

use std::{fs, io::Write as _, path::Path};

use reeve_authz::Engine;
use reeve_core::{decision::AccessRequest, model::PolicySlice};
use serde_json::{Value, json};

use crate::{
    Effort, Outcome,
    measure::Asker,
    shapes::{self, PER_SERVICE, Shape},
};

/// Requests of each size.
const REQUESTS: usize = 2_000;

pub(crate) fn run(folder: &Path, effort: Effort) -> Outcome<()> {
    for size in effort.sizes.iter().copied().filter(|size| *size <= 10_000) {
        let slice = PolicySlice {
            mesh_hash: String::new(),
            policies: Shape::Mesh.policies(size)?,
            ..PolicySlice::default()
        };
        let engine = Engine::compile(&slice).map_err(|faults| format!("{:?}", faults.first()))?;
        let mut asker = Asker::new(Shape::Mesh, size, &engine)?;
        let rules: Vec<Value> = (0..size).map(rule).collect();
        fs::write(
            folder.join(format!("rules-{size}.json")),
            serde_json::to_vec(&rules)?,
        )?;
        let mut out = fs::File::create(folder.join(format!("requests-{size}.jsonl")))?;
        for number in 0..REQUESTS {
            // Every third by a caller whom nothing permits.
            if number % 3 == 0 {
                asker.stranger();
            } else {
                asker.known();
            }
            let request = asker.request().ok_or("the head is refused")?;
            let allowed = engine.decide(&request).is_allow();
            writeln!(out, "{}", line(&request, allowed))?;
        }
    }
    Ok(())
}

/// The policy of that number in [`Shape::Mesh`], by what it says.
fn rule(number: usize) -> Value {
    let host = shapes::host(number / PER_SERVICE);
    match number {
        11 => json!({"effect": "forbid", "kind": "network", "network": "192.0.2.0/24"}),
        n if n % PER_SERVICE == PER_SERVICE - 1 => {
            json!({"effect": "forbid", "kind": "write", "service": host})
        }
        _ => json!({
            "effect": "permit", "account": shapes::account(number), "service": host,
            "prefix": format!("/api/v{}/", shapes::kind(number)),
            "staff": shapes::kind(number) == 2,
        }),
    }
}

fn line(request: &AccessRequest, allowed: bool) -> Value {
    let id = request.principal.spiffe_id().map_or("", |id| id.as_str());
    let http = request.context.http.as_ref();
    let groups = request
        .user
        .as_ref()
        .and_then(|user| user.claims.get("groups"));
    json!({
        "allowed": allowed,
        "input": {
            "account": id.trim_start_matches("spiffe://"),
            "method": request.action.as_str(),
            "services": request.resource.services.iter().map(|s| s.as_str()).collect::<Vec<_>>(),
            "path": http.map_or("", |http| &http.path),
            "headers": http.map(|http| &http.headers),
            "groups": groups,
            "mtls": request.context.mtls,
            "source_ip": request.context.source_ip,
        },
    })
}
