//! Waiting for something, bounded.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(30);

/// Asks `probe` again and again until it answers `Ok`, and returns that.
///
/// # Panics
/// When `limit` is over first; the message has `what` and the probe's last answer.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut probe: F) -> T
where
    F: AsyncFnMut() -> Result<T, String>,
{
    let began = Instant::now();
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(last) if began.elapsed() > limit => {
                panic!("waited {limit:?} in vain until {what}; at last: {last}")
            }
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}
