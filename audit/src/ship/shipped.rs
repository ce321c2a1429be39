//! How far a worker's line was shipped, and to which log, beside its segments.
//!
//! A log knows of a proxy only what it took itself. What another took the proxy remembers in this file; without it some
//! records would be sent to two logs, which readers and verification count once.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{canonical, disk, log::Position};

/// The file's name.
const FILE_NAME: &str = "shipped";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shipped {
    log: String,
    position: Position,
}

/// Moves `position`, which the log `here` states, to what another log took after that.
pub(super) fn catch_up(dir: &Path, here: &str, position: &mut Position) {
    let text = match fs::read(dir.join(FILE_NAME)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            return tracing::warn!(dir = %dir.display(), %error, "how far it was shipped is not known");
        }
    };
    // A loss of power may leave any part of it.
    let Ok(Shipped {
        log,
        position: other,
    }) = serde_json::from_slice(&text)
    else {
        return tracing::warn!(dir = %dir.display(), "how far it was shipped is not known");
    };
    let later = (other.epoch, other.sequence) > (position.epoch, position.sequence);
    if log != here && later {
        *position = other;
    }
}

/// Notes what the log `here` has acknowledged.
pub(super) fn note(dir: &Path, here: &str, position: &Position) {
    let shipped = Shipped {
        log: here.to_owned(),
        position: position.clone(),
    };
    let written = canonical::to_vec(&shipped)
        .map_err(io::Error::other)
        .and_then(|bytes| disk::put_unsynced(&dir.join(FILE_NAME), &bytes));
    if let Err(error) = written {
        tracing::warn!(dir = %dir.display(), %error, "how far it was shipped is not noted");
    }
}
