//! What people are told while a mesh runs.

use reeve_core::{Clock, SystemClock};
use tokio::sync::mpsc;

use super::logfile::timestamp;

/// Notices waiting to be shown; more are dropped.
const QUEUE: usize = 256;

/// Tells people things; cheap to copy.
#[derive(Clone, Debug)]
pub(crate) struct Notices(mpsc::Sender<String>);

impl Notices {
    /// A pair: what tells, and what is told.
    pub(crate) fn new() -> (Self, mpsc::Receiver<String>) {
        let (tell, told) = mpsc::channel(QUEUE);
        (Self(tell), told)
    }

    /// Tells something; if nobody has listened for long, it is lost.
    pub(crate) fn tell(&self, text: impl AsRef<str>) {
        let time = timestamp(SystemClock.now());
        drop(self.0.try_send(format!("{time} {}", text.as_ref())));
    }
}
