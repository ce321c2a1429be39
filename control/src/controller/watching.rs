//! Tells when files have changed: by the operating system's notice, and by looking every 2 s in case one is lost, or stands
//! beside the folder.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::mpsc, time};

use super::Controller;
use crate::instances::FILE_NAME;

/// How long it must be quiet until edits are read: an editor may empty a file before it fills it.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How often quiet is waited for; edits without end are read all the same.
const MAX_DEBOUNCES: usize = 5;
/// How often files are looked at without notice.
const POLL: Duration = Duration::from_secs(2);
/// Most files that are looked at; what is above is refused by the reading itself.
const MAX_ENTRIES: usize = 10_000;

/// Reloads `controller` on every change, without end.
pub(super) async fn run(controller: Arc<Controller>) {
    let folder = controller.options().folder.clone();
    let instances = controller.options().state.join(FILE_NAME);
    // One place is enough: a nudge says "look", not what changed.
    let (nudge, mut nudged) = mpsc::channel(1);
    let _watcher = watch(&folder, &controller.options().state, nudge)
        .inspect_err(|error| tracing::warn!(%error, "files are only looked at every 2 s"));
    let mut seen = None;
    loop {
        // Cancel safe: both `recv` and `timeout` lose nothing when dropped; a nudge stays in the channel.
        let told = matches!(time::timeout(POLL, nudged.recv()).await, Ok(Some(())));
        if told {
            for _ in 0..MAX_DEBOUNCES {
                time::sleep(DEBOUNCE).await;
                if nudged.try_recv().is_err() {
                    break;
                }
            }
        }
        let mut watched = controller.named_files();
        watched.extend([folder.clone(), instances.clone()]);
        let Ok(found) = tokio::task::spawn_blocking(move || fingerprint(watched)).await else {
            continue;
        };
        if told || seen.as_ref() != Some(&found) {
            let controller = controller.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || controller.reload()).await {
                tracing::error!(%error, "reading the configuration failed; the last one stays");
            }
        }
        seen = Some(found);
        if !told && nudged.is_closed() {
            time::sleep(POLL).await; // Without a watcher `recv` does not wait.
        }
    }
}

fn watch(
    folder: &Path,
    state: &Path,
    nudge: mpsc::Sender<()>,
) -> notify::Result<RecommendedWatcher> {
    let within = folder.to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let matters = event.is_ok_and(|e| concerns(&e, &within));
        if matters && let Err(error) = nudge.try_send(()) {
            tracing::trace!(%error, "a nudge is waiting already");
        }
    })?;
    watcher.watch(folder, RecursiveMode::Recursive)?;
    watcher.watch(state, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// A change below the folder, or of `instances.json`. Reading is no change: our own would nudge us for ever.
fn concerns(event: &Event, folder: &Path) -> bool {
    let changed = matches!(
        event.kind,
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Any
    );
    let ours = |p: &PathBuf| p.starts_with(folder) || p.file_name().is_some_and(|n| n == FILE_NAME);
    changed && event.paths.iter().any(ours)
}

/// What a change alters: names, inodes, sizes and times.
type Fingerprint = Vec<(PathBuf, u64, u64, i64, i64)>;

fn fingerprint(mut waiting: Vec<PathBuf>) -> Fingerprint {
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        if metadata.is_dir()
            && found.len() < MAX_ENTRIES
            && let Ok(entries) = fs::read_dir(&path)
        {
            waiting.extend(entries.flatten().map(|e| e.path()).take(MAX_ENTRIES));
        }
        let (inode, size) = (metadata.ino(), metadata.size());
        found.push((path, inode, size, metadata.mtime(), metadata.mtime_nsec()));
    }
    found.sort();
    found
}
