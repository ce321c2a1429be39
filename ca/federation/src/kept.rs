//! Bundles kept in the state folder: a mesh process that starts again while an endpoint is away goes on with what it had,
//! and no sequence goes back because of a restart. They are public.

use std::{path::Path, sync::Arc};

use reeve_core::{TrustDomain, UnixTime};
use reeve_files::{read_json, replace_json};
use reeve_svid::BundleDocument;
use serde::{Deserialize, Serialize};

use crate::keeper::{BundleSource, Held};

const FILE_NAME: &str = "federation.json";

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    trust_domain: TrustDomain,
    bundle: String,
    source: BundleSource,
    at: UnixTime,
    configured: Option<Arc<str>>,
}

/// What was kept. A file that cannot be read is as good as none: bundles are fetched at once anyhow.
pub(crate) fn read(state: &Path) -> Vec<Held> {
    let path = state.join(FILE_NAME);
    let entries = read_json::<Vec<Entry>>(&path).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "kept bundles of other trust domains cannot be read");
        None
    });
    let held = entries.unwrap_or_default().into_iter().filter_map(|entry| {
        let document = BundleDocument::parse(entry.trust_domain, &entry.bundle).ok()?;
        Some(Held::new(
            document,
            (entry.source, entry.at),
            entry.configured,
        ))
    });
    held.collect()
}

/// Keeps them, wholly or not at all.
pub(crate) fn write(state: &Path, held: &[&Held]) {
    let entries = held.iter().map(|held| Entry {
        trust_domain: held.document.bundle.trust_domain().clone(),
        bundle: held.document.to_json(),
        source: held.source,
        at: held.at,
        configured: held.configured.clone(),
    });
    let entries: Vec<_> = entries.collect();
    let path = state.join(FILE_NAME);
    if let Err(error) = replace_json(&path, &entries) {
        tracing::warn!(path = %path.display(), %error, "bundles of other trust domains could not be kept");
    }
}
