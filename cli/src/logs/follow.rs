//! Reads log files from where they were left.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use reeve_core::UnixTime;

use super::line::{Kind, Line, read};
use crate::supervisor::logfile::older;

/// Of one file, at one time, no more is read.
const MAX_READ: u64 = 64 * 1024 * 1024;

/// Reads every log of a mesh, again and again.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    files: BTreeMap<PathBuf, Place>,
}

/// How far a file has been read.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    inode: u64,
    offset: u64,
    time: UnixTime,
}

impl Logs {
    /// What is new since the last time, unordered. The first time, that is everything, with the older generation of
    /// each file.
    pub(crate) fn read(&mut self, folder: &Path) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let Some((instance, kind)) =
                path.file_name().and_then(|n| n.to_str()).and_then(kind_of)
            else {
                continue;
            };
            let known = self.files.get(&path).copied();
            let start = match known {
                Some(place) => place,
                None => self.read_older(&path, &instance, kind, &mut lines),
            };
            // A file that vanishes between listing and reading has nothing to say.
            if let Ok(place) = read_from(&path, start, &instance, kind, &mut lines) {
                self.files.insert(path, place);
            }
        }
        Ok(lines)
    }

    fn read_older(&self, path: &Path, instance: &str, kind: Kind, lines: &mut Vec<Line>) -> Place {
        let place = read_from(&older(path), Place::default(), instance, kind, lines);
        Place {
            time: place.map(|place| place.time).unwrap_or_default(),
            ..Place::default()
        }
    }
}

/// `reviews-v1-0.app.log`, `reviews-v1-0.sidecar.log`, `mesh.log`.
fn kind_of(name: &str) -> Option<(String, Kind)> {
    if let Some(instance) = name.strip_suffix(".app.log") {
        return Some((instance.to_owned(), Kind::App));
    }
    if let Some(instance) = name.strip_suffix(".sidecar.log") {
        return Some((instance.to_owned(), Kind::Own));
    }
    (name == "mesh.log").then(|| ("mesh".to_owned(), Kind::Own))
}

fn read_from(
    path: &Path,
    from: Place,
    instance: &str,
    kind: Kind,
    lines: &mut Vec<Line>,
) -> io::Result<Place> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    // Another file under the name, or one that was emptied, is read from its start.
    let same = from.inode == 0 || (from.inode == meta.ino() && from.offset <= meta.size());
    let start = if same { from.offset } else { 0 };
    file.seek(SeekFrom::Start(start))?;
    let mut content = Vec::new();
    file.take(MAX_READ).read_to_end(&mut content)?;
    // A line that is still being written is left for the next time.
    let whole = content
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let mut time = from.time;
    for raw in content
        .get(..whole)
        .unwrap_or_default()
        .split(|byte| *byte == b'\n')
    {
        let raw = String::from_utf8_lossy(raw);
        if !raw.trim().is_empty() {
            let line = read(instance, kind, &raw, time);
            time = line.time;
            lines.push(line);
        }
    }
    Ok(Place {
        inode: meta.ino(),
        offset: start + u64::try_from(whole).unwrap_or_default(),
        time,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn texts(logs: &mut Logs, folder: &Path) -> Vec<String> {
        let mut texts: Vec<_> = logs
            .read(folder)
            .unwrap()
            .into_iter()
            .map(|line| line.text)
            .collect();
        texts.sort();
        texts
    }

    #[test]
    fn files_are_read_on_from_where_they_were_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a-0.sidecar.log");
        fs::write(&path, "one\ntw").unwrap();
        fs::write(older(&path), "zero\n").unwrap();
        fs::write(folder.path().join("notes.txt"), "not a log\n").unwrap();
        let mut logs = Logs::default();
        assert_eq!(texts(&mut logs, folder.path()), ["one", "zero"]);
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"o\n").unwrap();
        assert_eq!(texts(&mut logs, folder.path()), ["two"]);
        // Emptied in place.
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        file.write_all(b"3\n").unwrap();
        assert_eq!(texts(&mut logs, folder.path()), ["3"]);
        // Replaced by another file.
        fs::rename(&path, older(&path)).unwrap();
        fs::write(&path, "a longer fourth line\n").unwrap();
        assert_eq!(texts(&mut logs, folder.path()), ["a longer fourth line"]);
        assert!(texts(&mut logs, folder.path()).is_empty());
    }
}
