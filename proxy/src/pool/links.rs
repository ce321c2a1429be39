//! HTTP/2 connections to one endpoint: several callers' requests on each, but not too many.
//!
//! When a caller goes, what it asked for is reset, all at once. A server that sees too many resets takes the connection
//! for an attack and ends it, with the requests of others on it. So a request that was given up keeps its place on the
//! connection for a while: what can be reset at once is bounded, and a caller that goes on so fills further connections.

use std::{
    mem,
    sync::{Arc, Mutex},
};

use hyper::client::conn::http2::SendRequest;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::Terms;
use crate::{
    body::UploadBody,
    ledger::lock,
    limits::{IDLE_TIMEOUT, MAX_LINKS_PER_ENDPOINT, MAX_STREAMS_PER_LINK, RESET_PAUSE},
};

/// Those of one pool.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<Vec<Link>>);

#[derive(Debug)]
struct Link {
    sender: SendRequest<UploadBody>,
    /// Cancelled when it should take no more requests; never for plaintext.
    drain: CancellationToken,
    used: Instant,
    /// Requests that it took.
    requests: u32,
    /// Held once by each stream, and once here.
    streams: Arc<()>,
}

/// A place on a connection.
#[derive(Debug)]
pub(crate) struct Stream {
    place: Option<Arc<()>>,
}

impl Links {
    /// A place on the first that is not full, so that those opened for a rush run empty after it, and close.
    pub(super) fn with_room(&self, terms: Terms) -> Option<(SendRequest<UploadBody>, Stream)> {
        let mut links = lock(&self.0);
        let mut first = true;
        links.retain(|link| link.may_take(terms) && (mem::take(&mut first) || link.is_wanted()));
        let free = links
            .iter()
            .position(|link| link.streams() < MAX_STREAMS_PER_LINK)?;
        enter(&mut links, free, terms)
    }

    /// Whether there may be another connection.
    pub(super) fn may_grow(&self) -> bool {
        lock(&self.0).len() < MAX_LINKS_PER_ENDPOINT
    }

    /// A place on a full one, where the request waits for its turn: better than none.
    pub(super) fn least_busy(&self, terms: Terms) -> Option<(SendRequest<UploadBody>, Stream)> {
        let mut links = lock(&self.0);
        let usable = links
            .iter()
            .enumerate()
            .filter(|(_, link)| link.may_take(terms));
        let (least, _) = usable.min_by_key(|(_, link)| link.streams())?;
        enter(&mut links, least, terms)
    }

    /// Takes in a new connection, and a place on it.
    pub(super) fn add(
        &self,
        sender: SendRequest<UploadBody>,
        drain: CancellationToken,
        terms: Terms,
    ) -> (SendRequest<UploadBody>, Stream) {
        let mut link = Link {
            sender,
            drain,
            used: Instant::now(),
            requests: 0,
            streams: Arc::default(),
        };
        let entered = link.enter();
        if link.may_take(terms) {
            lock(&self.0).push(link);
        }
        entered
    }

    /// Forgets those that take no more requests; what is in flight on them goes on.
    pub(super) fn forget_draining(&self) {
        lock(&self.0).retain(Link::is_usable);
    }
}

/// A place on one of them, which is forgotten if that was its last: it ends when it has answered.
fn enter(
    links: &mut Vec<Link>,
    at: usize,
    terms: Terms,
) -> Option<(SendRequest<UploadBody>, Stream)> {
    let link = links.get_mut(at)?;
    let entered = link.enter();
    if !link.may_take(terms) {
        links.remove(at);
    }
    Some(entered)
}

impl Link {
    fn enter(&mut self) -> (SendRequest<UploadBody>, Stream) {
        self.used = Instant::now();
        self.requests = self.requests.saturating_add(1);
        let place = Some(self.streams.clone());
        (self.sender.clone(), Stream { place })
    }

    fn streams(&self) -> usize {
        Arc::strong_count(&self.streams).saturating_sub(1)
    }

    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.drain.is_cancelled()
    }

    /// One that took its last request ends when that is answered.
    fn may_take(&self, terms: Terms) -> bool {
        self.is_usable() && terms.allow_another_after(self.requests)
    }

    fn is_wanted(&self) -> bool {
        self.streams() > 0 || self.used.elapsed() < IDLE_TIMEOUT
    }
}

impl Stream {
    /// It ended by itself: its place is free at once.
    pub(crate) fn ended(mut self) {
        self.place = None;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let (Some(place), Ok(runtime)) = (self.place.take(), Handle::try_current()) {
            runtime.spawn(async move {
                sleep(RESET_PAUSE).await;
                drop(place);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_given_up_keeps_its_place_for_a_while() {
        let places = Arc::new(());
        let stream = || Stream {
            place: Some(places.clone()),
        };
        let (finished, given_up) = (stream(), stream());
        assert_eq!(Arc::strong_count(&places), 3);
        finished.ended();
        assert_eq!(Arc::strong_count(&places), 2);
        drop(given_up);
        sleep(RESET_PAUSE / 2).await;
        assert_eq!(Arc::strong_count(&places), 2);
        sleep(RESET_PAUSE / 2 + Duration::from_millis(5)).await;
        assert_eq!(Arc::strong_count(&places), 1);
    }
}
