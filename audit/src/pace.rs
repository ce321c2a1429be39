//! Long work in short pieces.
//!
//! Shipping and taking in records hashes hundreds of kilobytes at a time. It is never urgent, and the threads that serve
//! requests often share its processor; what waits for one must not wait for a whole batch, which is a scheduler's time slice.

/// After so many records the thread lets those run that wait for its processor: some 10 µs of hashing.
const RECORDS: usize = 16;

/// Passes on `items`, and lets other threads run every now and then.
pub(crate) fn paced<T>(items: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    items.enumerate().map(|(n, item)| {
        step(n);
        item
    })
}

/// To be called with a count that grows by one.
pub(crate) fn step(n: usize) {
    if n.is_multiple_of(RECORDS) {
        std::thread::yield_now();
    }
}
