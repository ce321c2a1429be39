//! Requests for certificates wait for their turn, up to a bound, and no caller takes more than its share of the room: after
//! an outage ten thousand agents come at once, and one that asks without end must not keep the others from being heard.
//! Whoever finds no room is told so, and when to come again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

use crate::Caller;

/// Requests that are worked on at one time; signing itself is one after the other.
const MAX_AT_ONCE: usize = 64;
/// Requests that wait or are worked on, altogether.
const MAX_QUEUED: usize = 4_096;
/// The same of one caller: a process, an identity, or an address.
const MAX_QUEUED_OF_CALLER: usize = 4;
/// When to come again, at the soonest, with an empty queue …
const COME_AGAIN: Duration = Duration::from_millis(250);
/// … and how much later for each request that waits.
const PER_WAITING: Duration = Duration::from_micros(500);
/// The metadata that says so.
pub(crate) const RETRY_AFTER: &str = "retry-after-ms";

/// The queue before the authority.
#[derive(Debug)]
pub(crate) struct Queue {
    turns: Arc<Semaphore>,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    by_caller: HashMap<String, usize>,
    count: usize,
}

/// A turn; dropped, the next one has it.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
    _place: Place,
}

#[derive(Debug)]
struct Place {
    waiting: Arc<Mutex<Waiting>>,
    caller: String,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overloaded {
    /// When to come again.
    pub(crate) retry_after: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(MAX_AT_ONCE)),
            waiting: Arc::default(),
        }
    }
}

impl Queue {
    /// Waits for a turn, if there is room to wait in.
    pub(crate) async fn turn(&self, caller: &Caller) -> Result<Turn, Overloaded> {
        let place = self.place(share(caller))?;
        // The semaphore is never closed.
        let permit = Arc::clone(&self.turns).acquire_owned().await.ok();
        Ok(Turn {
            _permit: permit,
            _place: place,
        })
    }

    fn place(&self, caller: String) -> Result<Place, Overloaded> {
        let mut waiting = lock(&self.waiting);
        let of_caller = waiting.by_caller.get(&caller).copied().unwrap_or_default();
        if waiting.count >= MAX_QUEUED || of_caller >= MAX_QUEUED_OF_CALLER {
            let count = u32::try_from(waiting.count).unwrap_or(u32::MAX);
            return Err(Overloaded {
                retry_after: COME_AGAIN + PER_WAITING * count,
            });
        }
        waiting.count += 1;
        waiting.by_caller.insert(caller.clone(), of_caller + 1);
        Ok(Place {
            waiting: Arc::clone(&self.waiting),
            caller,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        waiting.count = waiting.count.saturating_sub(1);
        let left = waiting.by_caller.get(&self.caller).copied();
        match left.unwrap_or_default().saturating_sub(1) {
            0 => waiting.by_caller.remove(&self.caller),
            left => waiting.by_caller.insert(self.caller.clone(), left),
        };
    }
}

/// Who shares room with whom: ports of an address are one caller.
fn share(caller: &Caller) -> String {
    match caller {
        Caller::Remote(from) => match from.parse::<std::net::SocketAddr>() {
            Ok(address) => address.ip().to_string(),
            Err(_) => from.clone(),
        },
        Caller::Process { .. } | Caller::Workload(_) | Caller::Unknown => caller.to_string(),
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<Overloaded> for Status {
    fn from(overloaded: Overloaded) -> Self {
        let millis = u64::try_from(overloaded.retry_after.as_millis()).unwrap_or(u64::MAX);
        let mut status = Self::new(
            Code::ResourceExhausted,
            "too many ask for certificates; come again later",
        );
        status
            .metadata_mut()
            .insert(RETRY_AFTER, tonic::metadata::MetadataValue::from(millis));
        status
    }
}

/// When an overloaded authority wants to be asked again.
pub(crate) fn retry_after(status: &Status) -> Option<Duration> {
    /// Longest time that an authority may ask for.
    const LONGEST: Duration = Duration::from_secs(30);
    if status.code() != Code::ResourceExhausted {
        return None;
    }
    let millis = status.metadata().get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_millis(millis.parse().ok()?).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> Caller {
        Caller::Process { pid, uid: 0 }
    }

    #[tokio::test]
    async fn one_caller_does_not_take_the_room_of_others() {
        let queue = Queue::default();
        let mut turns = Vec::new();
        for _ in 0..MAX_QUEUED_OF_CALLER {
            turns.push(queue.turn(&process(1)).await.unwrap());
        }
        let refused = queue.turn(&process(1)).await.unwrap_err();
        assert!(refused.retry_after >= COME_AGAIN);
        assert!(queue.turn(&process(2)).await.is_ok());
        let port = |port| Caller::Remote(format!("10.0.0.1:{port}"));
        for n in 0..MAX_QUEUED_OF_CALLER {
            turns.push(queue.turn(&port(n)).await.unwrap());
        }
        assert!(
            queue.turn(&port(9)).await.is_err(),
            "one address is one caller"
        );
        turns.clear();
        assert!(queue.turn(&process(1)).await.is_ok());
        assert!(lock(&queue.waiting).by_caller.is_empty());
    }

    #[tokio::test]
    async fn the_queue_has_an_end_and_says_when_to_come_again() {
        let queue = Queue::default();
        let places: Vec<_> = (0..MAX_QUEUED)
            .map(|n| queue.place(n.to_string()).unwrap())
            .collect();
        let refused = queue.turn(&process(1)).await.unwrap_err();
        assert!(refused.retry_after > Duration::from_secs(2), "it is long");
        let status = Status::from(refused);
        assert_eq!(retry_after(&status), Some(refused.retry_after));
        assert_eq!(retry_after(&Status::resource_exhausted("other")), None);
        drop(places);
        assert!(queue.turn(&process(1)).await.is_ok());
    }
}
