//! Connections of which it is not known yet who speaks: few, and short-lived. A new one is always taken in; when there
//! are too many, the oldest of them is cut, so that a flood of junk drowns itself and not those who can prove something.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio_util::sync::CancellationToken;

use crate::{ledger::lock, limits::MAX_UNPROVEN_PER_LISTENER};

/// Those of one listener.
#[derive(Debug, Default)]
pub(crate) struct Unproven(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// By age.
    cuts: BTreeMap<u64, CancellationToken>,
}

/// A connection's place among them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    unproven: Arc<Unproven>,
    number: u64,
}

/// Whether room had to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// There was some.
    Enough,
    /// The oldest connection was cut for it.
    Made,
}

impl Unproven {
    /// Takes in a connection that `cut` ends.
    pub(crate) fn enter(self: &Arc<Self>, cut: CancellationToken) -> (Place, Room) {
        let mut waiting = lock(&self.0);
        let number = waiting.next;
        waiting.next = number.wrapping_add(1);
        waiting.cuts.insert(number, cut);
        let oldest = if waiting.cuts.len() > MAX_UNPROVEN_PER_LISTENER {
            waiting.cuts.pop_first()
        } else {
            None
        };
        drop(waiting);
        let room = oldest.map_or(Room::Enough, |(_, oldest)| {
            oldest.cancel();
            Room::Made
        });
        let unproven = self.clone();
        (Place { unproven, number }, room)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.unproven.0).cuts.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_who_has_proved_himself_is_never_cut() {
        let unproven = Arc::<Unproven>::default();
        let tokens: Vec<_> = (0..=MAX_UNPROVEN_PER_LISTENER)
            .map(|_| CancellationToken::new())
            .collect();
        let mut places: Vec<_> = tokens
            .iter()
            .take(MAX_UNPROVEN_PER_LISTENER)
            .map(|token| unproven.enter(token.clone()))
            .collect();
        assert!(places.iter().all(|(_, room)| *room == Room::Enough));
        // The oldest proves itself.
        drop(places.remove(0));
        let (_last, room) = unproven.enter(tokens[MAX_UNPROVEN_PER_LISTENER].clone());
        assert_eq!(room, Room::Enough);
        let (_more, room) = unproven.enter(CancellationToken::new());
        assert_eq!(room, Room::Made);
        let cut: Vec<_> = tokens.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(cut.iter().filter(|cut| **cut).count(), 1);
        assert!(!cut[0] && cut[1]);
    }

    #[test]
    fn those_that_leave_leave_nothing_behind() {
        let unproven = Arc::<Unproven>::default();
        for _ in 0..3 * MAX_UNPROVEN_PER_LISTENER {
            let (_place, room) = unproven.enter(CancellationToken::new());
            assert_eq!(room, Room::Enough);
        }
        assert!(lock(&unproven.0).cuts.is_empty());
    }
}
