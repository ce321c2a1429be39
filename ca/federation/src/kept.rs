//! Bundles kept in the state folder: a mesh process that starts again while an endpoint is away goes on with what it had,
//! and no sequence goes back because of a restart. They are public.

use std::{fs, io, path::Path, sync::Arc};

use reeve_core::{TrustDomain, UnixTime};
use reeve_svid::BundleDocument;
use serde::{Deserialize, Serialize};

use crate::keeper::{BundleSource, Held};

const FILE_NAME: &str = "federation.json";
/// Largest file: 32 trust domains' bundles and what was configured of them, 1 MiB each, twice for how JSON escapes them.
const MAX_KEPT_BYTES: u64 = 128 * 1024 * 1024;

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
    let entries = match read_entries(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "kept bundles of other trust domains cannot be read");
            Vec::new()
        }
    };
    let held = entries.into_iter().filter_map(|entry| {
        let document = BundleDocument::parse(entry.trust_domain, &entry.bundle).ok()?;
        Some(Held::new(
            document,
            (entry.source, entry.at),
            entry.configured,
        ))
    });
    held.collect()
}

fn read_entries(path: &Path) -> io::Result<Vec<Entry>> {
    let length = fs::metadata(path)?.len();
    if length > MAX_KEPT_BYTES {
        return Err(io::Error::other(format!("{length} bytes are too many")));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
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
    let temporary = path.with_extension("json.new");
    let written = serde_json::to_vec(&entries)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(&temporary, text))
        .and_then(|()| fs::rename(&temporary, &path));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "bundles of other trust domains could not be kept");
    }
}
