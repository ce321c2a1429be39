//! Snapshots that are no longer in force, until the last request that began under them has ended.
//!
//! Giving back what a large policy set or route table holds takes a while. Without this it would be the last request
//! under the old snapshot that is held up by it.

use std::sync::{Arc, Mutex};

use crate::{ledger::lock, limits::MAX_RETIRED_SNAPSHOTS, snapshot::Snapshot};

/// The snapshots before the one in force.
#[derive(Debug, Default)]
pub(crate) struct Retired(Mutex<Vec<Arc<Snapshot>>>);

impl Retired {
    /// Takes them in.
    pub(crate) fn extend(&self, snapshots: impl IntoIterator<Item = Arc<Snapshot>>) {
        let mut held = lock(&self.0);
        held.extend(snapshots);
        let beyond = held.len().saturating_sub(MAX_RETIRED_SNAPSHOTS);
        let given: Vec<_> = held.drain(..beyond).collect();
        drop(held);
        drop(given);
    }

    /// Gives back those that nobody else holds.
    pub(crate) fn release(&self) {
        let free = |held: &mut Arc<Snapshot>| Arc::strong_count(held) == 1;
        let free: Vec<_> = lock(&self.0).extract_if(.., free).collect();
        drop(free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_stays_as_long_as_a_request_has_it_and_no_longer() {
        let made = || Arc::new(crate::tests::snapshot());
        let (retired, request) = (Retired::default(), made());
        retired.extend([request.clone(), made()]);
        retired.release();
        assert_eq!(
            (lock(&retired.0).len(), Arc::strong_count(&request)),
            (1, 2)
        );
        retired.extend((0..MAX_RETIRED_SNAPSHOTS).map(|_| made()));
        assert_eq!(Arc::strong_count(&request), 1);
        retired.release();
        assert_eq!(lock(&retired.0).len(), 0);
    }
}
