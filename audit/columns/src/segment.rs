//! Segments on the disk: what they are called, and which of them belong together.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The folder of segments within a log folder.
pub const FOLDER: &str = "parquet";

/// A segment, as its name says: `<first leaf>-<last leaf>.<earliest>-<latest>.parquet`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// The first leaf whose records it holds.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// The time of its earliest record, in milliseconds since 1970.
    pub earliest: u64,
    /// Of its latest.
    pub latest: u64,
}

impl Segment {
    /// The file's name.
    pub fn name(&self) -> String {
        let Self {
            first,
            last,
            earliest,
            latest,
        } = self;
        format!("{first:016}-{last:016}.{earliest:013}-{latest:013}.parquet")
    }

    /// From a file's name; `None` if it is not exactly one that [`Segment::name`] gives.
    pub fn parse(name: &str) -> Option<Self> {
        let (leaves, rest) = name.split_once('.')?;
        let (first, last) = leaves.split_once('-')?;
        let (earliest, latest) = rest.strip_suffix(".parquet")?.split_once('-')?;
        let segment = Self {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            earliest: earliest.parse().ok()?,
            latest: latest.parse().ok()?,
        };
        (segment.name() == name && segment.first <= segment.last).then_some(segment)
    }

    /// Where it lies in the log folder `log`.
    pub fn path(&self, log: &Path) -> PathBuf {
        log.join(FOLDER).join(self.name())
    }
}

/// The finished segments of the log folder `log` that follow one another without a gap, in order. The first begins where
/// the first `expired` leaves end, or before.
pub fn list(log: &Path, expired: u64) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(log.join(FOLDER)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut all = Vec::new();
    for entry in entries {
        all.extend(Segment::parse(&entry?.file_name().to_string_lossy()));
    }
    all.sort();
    let mut next = all.first().map_or(0, |segment| segment.first);
    if next > expired {
        return Ok(Vec::new());
    }
    all.retain(|segment| {
        let follows = segment.first == next;
        if follows {
            next = segment.last + 1;
        }
        follows
    });
    Ok(all)
}

/// The first leaf that no segment has.
pub fn end(segments: &[Segment]) -> u64 {
    segments.last().map_or(0, |segment| segment.last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_none() {
        let segment = Segment {
            first: 0,
            last: 1023,
            earliest: 1_700_000_000_000,
            latest: 1_700_000_100_000,
        };
        assert_eq!(
            segment.name(),
            "0000000000000000-0000000000001023.1700000000000-1700000100000.parquet"
        );
        assert_eq!(Segment::parse(&segment.name()), Some(segment));
        for bad in [
            "0-1.2-3.parquet",
            "0000000000000009-0000000000000001.1700000000000-1700000100000.parquet",
            "0000000000000000-0000000000001023.1700000000000-1700000100000.parquet.tmp",
            "x",
        ] {
            assert_eq!(Segment::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn segments_after_a_gap_are_left_to_the_batches() {
        let log = tempfile::tempdir().unwrap();
        fs::create_dir(log.path().join(FOLDER)).unwrap();
        let segment = |first, last| Segment {
            first,
            last,
            earliest: 1,
            latest: 2,
        };
        for part in [segment(4, 5), segment(6, 9), segment(11, 12), segment(4, 7)] {
            fs::write(part.path(log.path()), b"").unwrap();
        }
        assert_eq!(list(log.path(), 3).unwrap(), [], "leaf 3 would be nowhere");
        let listed = list(log.path(), 4).unwrap();
        assert_eq!(listed, [segment(4, 5), segment(6, 9)]);
        assert_eq!(end(&listed), 10);
    }
}
