//! A map that the next generation shares with the one before, but for the parts that changed.

use std::{collections::BTreeMap, sync::Arc};

use foldhash::HashMap;

/// Parts of the map; a change copies those that it touches.
const SHARDS: usize = 256;

/// By numbers that are spread evenly, as hashes are.
#[derive(Clone, Debug)]
pub(super) struct Sharded<V>(Box<[Arc<HashMap<u64, V>>]>);

impl<V> Default for Sharded<V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::default());
        Self(vec![empty; SHARDS].into())
    }
}

impl<V: Clone + Default> Sharded<V> {
    pub(super) fn get(&self, key: u64) -> Option<&V> {
        self.0.get(place(key))?.get(&key)
    }

    /// Changes what stands at `key`, which is an empty value when there was nothing; `change` says whether it stays.
    pub(super) fn change(&mut self, key: u64, change: impl FnOnce(&mut V) -> Stays) {
        let Some(shard) = self.0.get_mut(place(key)) else {
            return;
        };
        let shard = Arc::make_mut(shard);
        if change(shard.entry(key).or_default()) == Stays::No {
            shard.remove(&key);
        }
    }

    /// Parts that are the very same in both.
    #[cfg(test)]
    pub(super) fn shared_with(&self, other: &Self) -> usize {
        let pairs = self.0.iter().zip(&other.0);
        pairs.filter(|(a, b)| Arc::ptr_eq(a, b)).count()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.len()).sum()
    }
}

impl Sharded<u32> {
    /// One more, or one less.
    pub(super) fn count(&mut self, key: u64, step: Step) {
        self.change(key, |count| {
            step.take(count);
            Stays::unless(*count == 0)
        });
    }
}

/// Whether a value is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stays {
    Yes,
    No,
}

impl Stays {
    pub(super) fn unless(gone: bool) -> Self {
        if gone { Self::No } else { Self::Yes }
    }
}

/// A policy comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Comes,
    Goes,
}

impl Step {
    /// Counts it.
    pub(crate) fn take(self, count: &mut u32) {
        *count = match self {
            Self::Comes => count.saturating_add(1),
            Self::Goes => count.saturating_sub(1),
        };
    }

    /// Counts it among others; what has none left is forgotten.
    pub(crate) fn count<K: Ord + Clone>(self, counts: &mut BTreeMap<K, u32>, key: &K) {
        let count = counts.entry(key.clone()).or_default();
        self.take(count);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// The lowest bits choose a table's slot, the highest its tag: these are between.
fn place(key: u64) -> usize {
    usize::from(key.to_be_bytes()[3]) % SHARDS
}
