//! Waiting until every proxy is bound by a policy set, told by its hash.

use std::{path::Path, time::Duration};

use reeve_core::InstanceName;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    problem::Problem,
    state::{StateArgs, StateDir},
    verb::{
        block_on,
        mesh_api::{MeshApi, Status},
    },
};

/// How often the mesh process is asked.
const ASK: Duration = Duration::from_millis(100);

/// Where a policy set is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct InForce {
    pub(super) everywhere: bool,
    /// The generation that has it.
    generation: u64,
    proxies: usize,
    /// Proxies that are not bound by it.
    late: Vec<InstanceName>,
    /// Why the mesh process, or a proxy, refused it.
    refused: Vec<String>,
}

/// The state of the mesh that runs on `folder`, if that one does.
pub(super) fn runs_on(folder: &Path, state: &StateArgs) -> Option<StateDir> {
    let state = state.existing().ok()?;
    let supervisor = state.supervisor().ok()?;
    // Its record outlives it.
    let pid = rustix::process::Pid::from_raw(supervisor.pid.try_into().ok()?)?;
    rustix::process::test_kill_process(pid).ok()?;
    let same = supervisor.folder.canonicalize().ok()? == folder.canonicalize().ok()?;
    same.then_some(state)
}

/// Waits until the mesh that runs on `folder` is bound by the set; nothing if none runs on it.
pub(super) fn wait(
    folder: &Path,
    state: &StateArgs,
    hash: &str,
    limit: Duration,
) -> Result<Option<InForce>, Problem> {
    let Some(state) = runs_on(folder, state) else {
        return Ok(None);
    };
    let api = MeshApi::of(&state)?;
    let wait = async {
        let deadline = Instant::now() + limit;
        loop {
            // A mesh process that is being restarted is waited for like a slow proxy.
            let found = match api.status().await {
                Ok(status) => of(&status, hash),
                Err(problem) if Instant::now() >= deadline => return Err(problem),
                Err(_) => InForce::default(),
            };
            let refused = !found.refused.is_empty();
            if found.everywhere || refused || Instant::now() >= deadline {
                return Ok(found);
            }
            tokio::time::sleep(ASK).await;
        }
    };
    block_on(wait).map(Some)
}

fn of(status: &Status, hash: &str) -> InForce {
    let late: Vec<_> = status
        .proxies
        .iter()
        .filter(|p| p.policy_hash != hash || !p.connected)
        .map(|p| p.instance.clone())
        .collect();
    let nacks = status.proxies.iter();
    let nacks = nacks.filter_map(|p| Some(format!("{}: {}", p.instance, p.nack.as_ref()?)));
    // What the folder said before is refused no more; what it says now may be.
    let faults = status.config.faults.iter().map(ToString::to_string);
    let known = status.policy_hash == hash;
    let refused: Vec<_> = match known {
        true => nacks.collect(),
        false => faults.collect(),
    };
    InForce {
        everywhere: known && late.is_empty(),
        generation: status.generation.0,
        proxies: status.proxies.len(),
        late,
        refused,
    }
}

impl InForce {
    pub(super) fn told(&self, hash: &str) -> String {
        let Self {
            generation,
            proxies,
            ..
        } = self;
        if self.everywhere {
            return format!(
                "policy set {hash} is in force on all {proxies} proxies (generation {generation})"
            );
        }
        if !self.refused.is_empty() {
            return format!("policy set {hash} is refused: {}", self.refused.join("; "));
        }
        let late: Vec<_> = self.late.iter().map(ToString::to_string).collect();
        format!(
            "policy set {hash} is not in force yet on: {} (`reeve status` goes on looking)",
            late.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A mesh at `hash` with two proxies, one of them at `other`.
    fn status(hash: &str, other: &str, faults: serde_json::Value) -> Status {
        let proxy = |instance: &str, hash: &str| {
            json!({
                "instance": instance, "workload": "w", "identity": "spiffe://td/ns/d/sa/w", "generation": 3,
                "policy_hash": hash, "acked_at": null, "nack": null, "connected": true,
            })
        };
        let proxies = [proxy("a", hash), proxy("b", other)];
        let config = json!({ "faults": faults });
        let value =
            json!({"generation": 3, "policy_hash": hash, "proxies": proxies, "config": config});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_set_is_in_force_when_every_proxy_says_its_hash() {
        let all = of(&status("new", "new", json!([])), "new");
        assert!(all.everywhere, "{all:?}");
        let one = of(&status("new", "old", json!([])), "new");
        assert!(!one.everywhere && one.refused.is_empty(), "{one:?}");
        assert!(
            one.told("new").contains("not in force yet on: b"),
            "{}",
            one.told("new")
        );
        let unread = of(&status("old", "old", json!([])), "new");
        assert!(!unread.everywhere, "{unread:?}");
    }

    #[test]
    fn a_folder_that_is_refused_ends_the_wait() {
        let fault = json!({
            "severity": "error", "code": "policy", "file": "a.yaml", "line": 1, "kind": null, "namespace": null,
            "name": null, "path": "", "text": "no", "hint": null,
        });
        let refused = of(&status("old", "old", json!([fault])), "new");
        assert!(
            refused.told("new").contains("is refused: a.yaml:1"),
            "{refused:?}"
        );
    }
}
