//! What a trail's readers need to search it by other means than batches, and what those who make them need.

use std::{collections::BTreeMap, fmt, fs, io, path::PathBuf};

use reeve_core::{RecordId, UnixTime};
use tlog_tiles::{Hash, record_hash};

use crate::{
    BatchHeader, Reader,
    log::{layout, store, tree},
    query::{Filter, Found, MAX_RESULTS, ReadError, unreadable},
    wal,
};

/// Records of the tree's first leaves in a form that is quicker to search than batches. As with these, reading proves
/// nothing; `verify` does.
pub trait Archive: fmt::Debug + Send + Sync {
    /// It holds what there is of all leaves before this one.
    fn end(&self) -> u64;

    /// Offers every record that the filter matches, except those that [`Newest::wants`] says are too old.
    fn search(&self, filter: &Filter, newest: &mut Newest) -> Result<(), ReadError>;
}

/// The newest records that match.
#[derive(Debug)]
pub struct Newest {
    limit: usize,
    found: BTreeMap<(UnixTime, RecordId), Found>,
}

impl Newest {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = match limit {
            0 => MAX_RESULTS,
            limit => limit.min(MAX_RESULTS),
        };
        Self {
            limit,
            found: BTreeMap::new(),
        }
    }

    /// Whether a record of that time can still be among them.
    pub fn wants(&self, time: UnixTime) -> bool {
        let oldest = self.found.first_key_value();
        self.found.len() < self.limit || oldest.is_none_or(|((oldest, _), _)| time >= *oldest)
    }

    /// Takes a record that the filter matches.
    pub fn offer(&mut self, found: Found) {
        let key = (found.record.time, found.record.id.clone());
        self.found.insert(key, found);
        if self.found.len() > self.limit {
            self.found.pop_first();
        }
    }

    pub(crate) fn into_found(self) -> Vec<Found> {
        self.found.into_values().collect()
    }
}

/// A batch under the checkpoint.
#[derive(Clone, Debug)]
pub struct LoggedBatch {
    /// Its place in the tree.
    pub index: u64,
    /// Its header.
    pub header: BatchHeader,
    /// The header's leaf hash: the batch's name.
    pub hash: [u8; 32],
    /// The object that holds it.
    pub object: PathBuf,
}

/// The file that says so.
pub const EXPIRED: &str = layout::EXPIRED;

/// How far retention has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Leaves, from the first on, whose records are not for readers any more.
    pub leaves: u64,
    /// Those of them whose records are deleted already.
    pub deleted: u64,
}

impl Reader {
    /// How many leaves, from the first on, have lost their records to retention.
    pub fn expired(&self) -> u64 {
        self.expiry().leaves
    }

    /// How far retention has come.
    pub fn expiry(&self) -> Expired {
        let marked = fs::read_to_string(self.dir().join(layout::EXPIRED)).unwrap_or_default();
        let mut counts = marked.split_whitespace().map_while(|n| n.parse().ok());
        Expired {
            leaves: counts.next().unwrap_or(0),
            deleted: counts.next().unwrap_or(0),
        }
    }

    /// Writes down how far retention has come.
    pub fn set_expiry(&self, expired: Expired) -> Result<(), ReadError> {
        let path = self.dir().join(layout::EXPIRED);
        let text = format!("{} {}\n", expired.leaves, expired.deleted);
        store::put_all(self.dir(), [(path.clone(), text.into_bytes())])
            .map_err(|e| unreadable(&path, io::Error::other(e)))
    }

    /// How many leaves the checkpoint covers.
    pub fn tree_size(&self) -> Result<u64, ReadError> {
        let path = self.dir().join(layout::CHECKPOINT);
        let checkpoint = fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?;
        let size = checkpoint.lines().nth(1).and_then(|n| n.parse().ok());
        size.ok_or_else(|| unreadable(&path, io::ErrorKind::InvalidData.into()))
    }

    /// The batches from leaf `from` to before leaf `to`, in the order of the tree, without those that have expired.
    pub fn batches(&self, from: u64, to: u64) -> Result<Vec<LoggedBatch>, ReadError> {
        self.headers(from.max(self.expired()), to)
    }

    /// The same with those: their headers are there for good.
    pub fn headers(&self, from: u64, to: u64) -> Result<Vec<LoggedBatch>, ReadError> {
        let mut batches = Vec::new();
        let mut fault = None;
        store::read_entries_from(self.dir(), from, to, &mut |index, path, entry| {
            let parsed = entry.and_then(|entry| {
                let hash = record_hash(&entry).0;
                let header = serde_json::from_slice(&entry).map_err(|e| e.to_string())?;
                let object = layout::batch_path(self.dir(), &hash);
                Ok(LoggedBatch {
                    index,
                    header,
                    hash,
                    object,
                })
            });
            match parsed {
                Ok(batch) => batches.push(batch),
                Err(what) => {
                    fault.get_or_insert(unreadable(path, io::Error::other(what)));
                }
            }
        });
        fault.map_or(Ok(batches), Err)
    }
}

impl LoggedBatch {
    /// Hands out its records, once they have proved to be those that the header signs. `buffer` is used for reading.
    pub fn read_checked(
        &self,
        buffer: &mut Vec<u8>,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), ReadError> {
        buffer.clear();
        let opened = fs::File::open(&self.object);
        opened
            .and_then(|mut file| io::Read::read_to_end(&mut file, buffer))
            .map_err(|e| unreadable(&self.object, e))?;
        let whole = buffer.strip_suffix(b"\n").unwrap_or(buffer);
        let records: Vec<&[u8]> = lines(whole).skip(2).collect();
        let leaves: Vec<Hash> = records.iter().map(|r| Hash(wal::leaf(r))).collect();
        if tree::root(&leaves).0 != self.header.root {
            let what = io::Error::other("its records are not those that its header signs");
            return Err(unreadable(&self.object, what));
        }
        records.into_iter().for_each(each);
        Ok(())
    }
}

/// The lines of `text`, without what ends them.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = memchr::memchr_iter(b'\n', text).chain(std::iter::once(text.len()));
    ends.scan(0, |start, end| {
        let line = text.get(*start..end);
        *start = end + 1;
        line
    })
}

/// RFC 6962 root over leaf hashes.
pub fn root_of(hashes: &[[u8; 32]]) -> [u8; 32] {
    let hashes: Vec<Hash> = hashes.iter().copied().map(Hash).collect();
    tree::root(&hashes).0
}
