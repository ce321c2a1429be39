//! Captured output: files of bounded size, one older generation kept beside each as `<name>.1`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use reeve_core::{Clock, SystemClock, UnixTime};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    process::{ChildStderr, ChildStdout},
    sync::mpsc,
};

use crate::supervisor::Notices;

/// A file is set aside at this size.
pub(crate) const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// A longer line is cut into pieces.
const MAX_LINE: u64 = 16 * 1024;
/// How much of a log's end is read.
const LAST: u64 = 4096;
/// Lines on their way to the file.
const QUEUE: usize = 256;
/// How often the files that processes write themselves are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Opens a log file for appending.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    /// As it stands in the file.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
        }
    }
}

/// One captured line as it stands in the file: `2026-11-21T04:02:08.123Z out GET /reviews/0`.
pub(crate) fn format_line(at: UnixTime, stream: Stream, text: &str) -> String {
    format!("{} {} {text}\n", timestamp(at), stream.as_str())
}

/// RFC 3339 with milliseconds.
pub(crate) fn timestamp(at: UnixTime) -> String {
    let millis = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis)
        .map_or_else(|_| millis.to_string(), |time| format!("{time:.3}"))
}

/// Writes a process's output to `path` until both streams end.
pub(crate) async fn capture(path: PathBuf, out: Option<ChildStdout>, err: Option<ChildStderr>) {
    let (lines, mut queue) = mpsc::channel::<String>(QUEUE);
    if let Some(out) = out {
        tokio::spawn(read(out, Stream::Out, lines.clone()));
    }
    if let Some(err) = err {
        tokio::spawn(read(err, Stream::Err, lines.clone()));
    }
    drop(lines);
    let Ok(mut file) = Rotating::open(path) else {
        // Nobody may be blocked by a full pipe because the disk is full.
        while queue.recv().await.is_some() {}
        return;
    };
    while let Some(line) = queue.recv().await {
        // A full disk loses output, not the workload.
        drop(file.write(line.as_bytes()));
    }
}

async fn read(source: impl AsyncRead + Unpin, stream: Stream, lines: mpsc::Sender<String>) {
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut source)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = format_line(
            SystemClock.now(),
            stream,
            text.trim_end_matches(['\n', '\r']),
        );
        if lines.send(text).await.is_err() {
            return;
        }
    }
}

/// What a log last said of an error, else its last line; shortened.
pub(crate) fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(LAST)))
        .ok()?;
    let mut end = Vec::new();
    file.take(LAST).read_to_end(&mut end).ok()?;
    let text = String::from_utf8_lossy(&end);
    let mut lines = text
        .lines()
        .rev()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(10);
    let last = lines.next()?;
    let line = if is_error(last) {
        last
    } else {
        lines.find(|line| is_error(line)).unwrap_or(last)
    };
    Some(line.chars().take(300).collect())
}

fn is_error(line: &str) -> bool {
    line.to_ascii_lowercase().contains("error")
}

/// A file that is set aside when it is full.
#[derive(Debug)]
struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    max: u64,
}

impl Rotating {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path,
            file,
            size,
            max: MAX_BYTES,
        })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.size > 0 && self.size.saturating_add(length) > self.max {
            fs::rename(&self.path, older(&self.path))?;
            self.file = open(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(line)?;
        self.size = self.size.saturating_add(length);
        Ok(())
    }
}

/// The name under which a full file is kept.
pub(crate) fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// Bounds the files in `logs` that processes write themselves, for as long as it is polled. Such a file is copied
/// aside and emptied; lines written in between are lost (they are for people: the audit record is elsewhere).
pub(crate) async fn bound(logs: PathBuf, notices: Notices) {
    let mut timer = tokio::time::interval(LOOK);
    loop {
        timer.tick().await;
        if let Err(error) = bound_once(&logs, MAX_BYTES) {
            notices.tell(format!("a log file could not be set aside: {error}"));
        }
    }
}

fn bound_once(logs: &Path, max: u64) -> io::Result<()> {
    for entry in fs::read_dir(logs)? {
        let path = entry?.path();
        let own = path
            .to_str()
            .is_some_and(|p| p.ends_with(".sidecar.log") || p.ends_with("mesh.log"));
        if own && fs::metadata(&path)?.len() > max {
            fs::copy(&path, older(&path))?;
            OpenOptions::new().write(true).open(&path)?.set_len(0)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_set_aside_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.app.log");
        let mut file = Rotating::open(path.clone()).unwrap();
        file.max = 10;
        for line in ["12345\n", "678\n", "second\n", "third..\n"] {
            file.write(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "third..\n");
        assert_eq!(fs::read_to_string(older(&path)).unwrap(), "second\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn files_that_processes_hold_open_are_emptied_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a-0.sidecar.log");
        let mut held = open(&path).unwrap();
        held.write_all(b"0123456789").unwrap();
        bound_once(folder.path(), 9).unwrap();
        held.write_all(b"next").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "next");
        assert_eq!(fs::read_to_string(older(&path)).unwrap(), "0123456789");
    }

    #[test]
    fn an_error_is_more_telling_than_the_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        fs::write(&path, "start\nerror: no such file\n  fix: install it\n\n").unwrap();
        assert_eq!(last_line(&path).unwrap(), "error: no such file");
        fs::write(&path, "start\nend\n").unwrap();
        assert_eq!(last_line(&path).unwrap(), "end");
        assert_eq!(last_line(&folder.path().join("none")), None);
    }

    #[test]
    fn a_captured_line_carries_time_and_stream() {
        let line = format_line(UnixTime::from_millis(1_795_233_728_005), Stream::Err, "x y");
        assert_eq!(line, "2026-11-21T04:02:08.005Z err x y\n");
    }

    #[tokio::test]
    async fn a_long_line_is_cut_not_gathered() {
        let (lines, mut queue) = mpsc::channel(8);
        let long = vec![b'a'; usize::try_from(MAX_LINE).unwrap() + 5];
        read(&long[..], Stream::Out, lines).await;
        let first = queue.recv().await.unwrap();
        assert!(first.len() < 17_000, "{}", first.len());
        assert!(queue.recv().await.unwrap().ends_with(" out aaaaa\n"));
        assert!(queue.recv().await.is_none());
    }
}
