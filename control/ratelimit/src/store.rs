//! Counters: in this process, or in Redis, where several servers share them.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use reeve_core::{Clock, UnixTime};

/// Most counters in memory; those that ended make room first.
const MAX_COUNTERS: usize = 1 << 17;
/// How long Redis may take. A proxy waits 20 ms unless it is told otherwise.
const PATIENCE: Duration = Duration::from_millis(250);

/// Where hits are counted.
#[derive(Clone)]
pub enum Store {
    /// In this process. A restart forgets them.
    Memory(Arc<Memory>),
    /// In Redis.
    Redis(ConnectionManager),
}

/// Hits could not be counted.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Redis failed.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// Redis took too long.
    #[error("Redis gave no answer within {} ms", PATIENCE.as_millis())]
    Timeout,
    /// Too many counters at once.
    #[error("{MAX_COUNTERS} counters are in use")]
    Full,
}

impl Store {
    /// Counts in this process.
    pub fn memory(clock: Arc<dyn Clock>) -> Self {
        Self::Memory(Arc::new(Memory {
            clock,
            counters: Mutex::default(),
        }))
    }

    /// Counts in the Redis at `url` (`redis://[:password@]host:port[/db]`).
    pub async fn redis(url: &str) -> Result<Self, StoreError> {
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(PATIENCE))
            .set_connection_timeout(Some(PATIENCE));
        let manager = ConnectionManager::new_with_config(redis::Client::open(url)?, config);
        let manager = tokio::time::timeout(PATIENCE * 8, manager)
            .await
            .map_err(|_elapsed| StoreError::Timeout)?;
        Ok(Self::Redis(manager?))
    }

    /// Adds to a counter that ends in `seconds`, and answers its new value.
    pub(crate) async fn add(&self, key: &str, hits: u32, seconds: u64) -> Result<u64, StoreError> {
        match self {
            Self::Memory(memory) => memory.add(key, hits, seconds),
            Self::Redis(manager) => {
                let mut pipe = redis::pipe();
                pipe.atomic().incr(key, hits);
                pipe.expire(key, i64::try_from(seconds).unwrap_or(i64::MAX))
                    .ignore();
                let mut manager = manager.clone();
                // Cancel-safe: a count that nobody waits for was sent, or was not.
                let asked = pipe.query_async::<(u64,)>(&mut manager);
                let (count,) = tokio::time::timeout(PATIENCE, asked)
                    .await
                    .map_err(|_elapsed| StoreError::Timeout)??;
                Ok(count)
            }
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory(_) => "Store::Memory",
            Self::Redis(_) => "Store::Redis",
        })
    }
}

/// Counters in this process.
#[derive(Debug)]
pub struct Memory {
    clock: Arc<dyn Clock>,
    counters: Mutex<HashMap<String, (u64, UnixTime)>>,
}

impl Memory {
    fn add(&self, key: &str, hits: u32, seconds: u64) -> Result<u64, StoreError> {
        let now = self.clock.now();
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if counters.len() >= MAX_COUNTERS && !counters.contains_key(key) {
            counters.retain(|_, (_, end)| *end > now);
            if counters.len() >= MAX_COUNTERS {
                return Err(StoreError::Full);
            }
        }
        let end = now.plus(Duration::from_secs(seconds));
        let (count, until) = counters.entry(key.to_owned()).or_insert((0, end));
        if *until <= now {
            (*count, *until) = (0, end);
        }
        *count = count.saturating_add(u64::from(hits));
        Ok(*count)
    }
}

#[cfg(test)]
mod tests {
    use reeve_core::clock::ManualClock;

    use super::*;

    #[tokio::test]
    async fn a_counter_ends_with_its_window() {
        let clock = Arc::new(ManualClock::at(UnixTime::from_secs(100)));
        let store = Store::memory(clock.clone());
        assert_eq!(store.add("a", 1, 10).await.unwrap(), 1);
        assert_eq!(store.add("a", 2, 10).await.unwrap(), 3);
        assert_eq!(store.add("b", 1, 10).await.unwrap(), 1);
        clock.advance(Duration::from_secs(10));
        assert_eq!(store.add("a", 1, 10).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn counters_are_bounded_and_those_that_ended_make_room() {
        let clock = Arc::new(ManualClock::at(UnixTime::from_secs(100)));
        let store = Store::memory(clock.clone());
        for n in 0..MAX_COUNTERS {
            store.add(&n.to_string(), 1, 10).await.unwrap();
        }
        assert!(matches!(
            store.add("more", 1, 10).await,
            Err(StoreError::Full)
        ));
        assert_eq!(
            store.add("0", 1, 10).await.unwrap(),
            2,
            "those that are there go on"
        );
        clock.advance(Duration::from_secs(10));
        assert_eq!(store.add("more", 1, 10).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_redis_that_is_not_there_is_an_error() {
        // Port 1 of the loopback is nobody's.
        assert!(Store::redis("redis://127.0.0.1:1").await.is_err());
    }
}
