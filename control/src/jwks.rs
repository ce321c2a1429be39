//! JSON Web Key Sets (RFC 7517) of token issuers.

mod fetch;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use reeve_core::{UnixTime, model::JwksDocument};

use crate::{Controller, FetchedKeys, Mesh, mesh::Jwks};
use fetch::{Fetcher, Reach};

/// Largest key set.
pub(crate) const MAX_JWKS_BYTES: usize = 256 * 1024;

/// Whether `json` looks like a key set that is worth handing to proxies.
pub(crate) fn check_document(json: &str) -> Result<(), String> {
    if json.len() > MAX_JWKS_BYTES {
        return Err(format!("longer than {MAX_JWKS_BYTES} bytes"));
    }
    let value: serde_json::Value =
        serde_json::from_str(json).map_err(|e| format!("not a key set: {e}"))?;
    match value.get("keys").and_then(serde_json::Value::as_array) {
        Some(keys) if !keys.is_empty() => Ok(()),
        Some(_) => Err("the key set is empty".to_owned()),
        None => Err("not a key set: it has no \"keys\"".to_owned()),
    }
}

/// The document with a generation that follows from its content (FNV-1a), the same after a restart.
pub(crate) fn document(json: &str) -> JwksDocument {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    JwksDocument {
        generation: json.bytes().fold(0xcbf2_9ce4_8422_2325, step),
        json: json.to_owned(),
    }
}

/// How often keys are fetched again.
const REFRESH: Duration = Duration::from_secs(300);
/// First wait after a failure; doubles up to [`REFRESH`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How long keys are kept that cannot be fetched any more.
const MAX_STALE: Duration = Duration::from_secs(24 * 3600);
/// Most URLs of one mesh.
const MAX_URIS: usize = 256;
/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_millis(500);

/// One URL's keys.
#[derive(Debug, Default)]
struct Source {
    keys: Option<(Arc<JwksDocument>, UnixTime)>,
    due: UnixTime,
    failures: u32,
}

/// Keeps the keys of `controller`'s mesh fresh, without end.
pub(crate) async fn run(controller: Arc<Controller>) {
    let fetcher = Fetcher::new();
    let mut sources: BTreeMap<String, Source> = BTreeMap::new();
    let mesh = controller.mesh();
    loop {
        let current = mesh.borrow().clone();
        if let Some(current) = current {
            refresh(&controller, &current, &fetcher, &mut sources).await;
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn refresh(
    controller: &Controller,
    mesh: &Mesh,
    fetcher: &Fetcher,
    sources: &mut BTreeMap<String, Source>,
) {
    let wanted = uris(mesh);
    sources.retain(|uri, _| wanted.contains(uri));
    let reach = match mesh.settings.danger_allow_internal_jwks {
        true => Reach::Anywhere,
        false => Reach::PublicOnly,
    };
    for uri in wanted {
        let source = sources.entry(uri.clone()).or_default();
        let now = controller.options().clock.now();
        if now < source.due {
            continue;
        }
        let fetched = fetcher.fetch(&uri, reach).await;
        source.settle(
            &uri,
            fetched.map_err(|e| e.to_string()),
            controller.options().clock.now(),
        );
        controller.take_keys(usable(sources));
    }
    if sources.is_empty() {
        controller.take_keys(FetchedKeys::new());
    }
}

fn uris(mesh: &Mesh) -> BTreeSet<String> {
    let rules = mesh.request_authentications.iter().flat_map(|r| &r.rules);
    let uri = |jwks: &Jwks| match jwks {
        Jwks::Uri(uri) => Some(uri.clone()),
        Jwks::Inline => None,
    };
    rules.filter_map(|r| uri(&r.jwks)).take(MAX_URIS).collect()
}

fn usable(sources: &BTreeMap<String, Source>) -> FetchedKeys {
    let keys = |s: &Source| s.keys.as_ref().map(|(document, _)| document.clone());
    sources
        .iter()
        .filter_map(|(uri, s)| Some((uri.clone(), keys(s)?)))
        .collect()
}

impl Source {
    fn settle(&mut self, uri: &str, fetched: Result<String, String>, now: UnixTime) {
        let checked = fetched.and_then(|json| check_document(&json).map(|()| json));
        match checked {
            Ok(json) => {
                self.keys = Some((Arc::new(document(&json)), now));
                self.failures = 0;
                self.due = now.plus(REFRESH);
            }
            Err(reason) => {
                let wait = FIRST_RETRY
                    .saturating_mul(1 << self.failures.min(16))
                    .min(REFRESH);
                self.failures = self.failures.saturating_add(1);
                self.due = now.plus(wait);
                tracing::warn!(uri, reason, "token keys could not be fetched");
                self.keys.take_if(|(_, at)| now.since(*at) > MAX_STALE);
            }
        }
    }
}
