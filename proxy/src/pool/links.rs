//! HTTP/2 connections to one endpoint: several callers' requests on each, but not too many.
//!
//! When a caller goes, what it asked for is reset, all at once. A server that sees too many resets takes the connection
//! for an attack and ends it, with the requests of others on it. So a request that was given up keeps its place on the
//! connection for a while: what can be reset at once is bounded, and a caller that goes on so fills further connections.

use std::{
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::client::conn::http2::SendRequest;
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::Terms;
use crate::{
    body::UploadBody,
    ledger::lock,
    limits::{MAX_LINKS_PER_ENDPOINT, RESET_PAUSE},
};

/// A place on a connection, and the connection.
pub(super) type Place = (SendRequest<UploadBody>, Stream);

/// Those of one pool.
#[derive(Debug, Default)]
pub(super) struct Links {
    all: Mutex<Vec<Link>>,
    /// Told when a stream ends, where streams are bounded.
    freed: Arc<Notify>,
}

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
    /// Told when it ends, where streams are bounded.
    freed: Option<Arc<Notify>>,
}

impl Links {
    /// A place on the first that is not full, so that those opened for a rush run empty after it, and close.
    pub(super) fn with_room(&self, terms: Terms<'_>, idle: Duration) -> Option<Place> {
        let mut links = lock(&self.all);
        let mut first = true;
        links
            .retain(|link| link.may_take(terms) && (mem::take(&mut first) || link.is_wanted(idle)));
        let free = links
            .iter()
            .position(|link| link.streams() < terms.streams())?;
        let entered = enter(&mut links, free, terms)?;
        drop(links);
        Some(self.watched(entered, terms))
    }

    /// The same, as soon as there is one. Cancel-safe.
    pub(super) async fn room(&self, terms: Terms<'_>, idle: Duration) -> Place {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.with_room(terms, idle) {
                return place;
            }
            freed.await;
        }
    }

    fn watched(&self, (sender, mut stream): Place, terms: Terms<'_>) -> Place {
        stream.freed = terms.bounds.map(|_| self.freed.clone());
        (sender, stream)
    }

    /// Closes one without streams, if there is one.
    pub(super) fn close_one_idle(&self) -> bool {
        let mut links = lock(&self.all);
        let idle = links.iter().position(|link| link.streams() == 0);
        idle.map(|at| links.remove(at)).is_some()
    }

    /// Forgets those that nobody has used for so long.
    pub(super) fn forget_idle(&self, idle: Duration) {
        lock(&self.all).retain(|link| link.is_usable() && link.is_wanted(idle));
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.all).is_empty()
    }

    /// Whether there may be another connection.
    pub(super) fn may_grow(&self) -> bool {
        lock(&self.all).len() < MAX_LINKS_PER_ENDPOINT
    }

    /// A place on a full one, where the request waits for its turn: better than none.
    pub(super) fn least_busy(&self, terms: Terms<'_>) -> Option<Place> {
        let mut links = lock(&self.all);
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
        terms: Terms<'_>,
    ) -> Place {
        let mut link = Link {
            sender,
            drain,
            used: Instant::now(),
            requests: 0,
            streams: Arc::default(),
        };
        let entered = link.enter();
        if link.may_take(terms) {
            lock(&self.all).push(link);
        }
        self.watched(entered, terms)
    }

    /// Forgets those that take no more requests; what is in flight on them goes on.
    pub(super) fn forget_draining(&self) {
        lock(&self.all).retain(Link::is_usable);
    }
}

/// A place on one of them, which is forgotten if that was its last: it ends when it has answered.
fn enter(links: &mut Vec<Link>, at: usize, terms: Terms<'_>) -> Option<Place> {
    let link = links.get_mut(at)?;
    let entered = link.enter();
    if !link.may_take(terms) {
        links.remove(at);
    }
    Some(entered)
}

impl Link {
    fn enter(&mut self) -> Place {
        self.used = Instant::now();
        self.requests = self.requests.saturating_add(1);
        let place = Some(self.streams.clone());
        (self.sender.clone(), Stream { place, freed: None })
    }

    fn streams(&self) -> usize {
        Arc::strong_count(&self.streams).saturating_sub(1)
    }

    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.drain.is_cancelled()
    }

    /// One that took its last request ends when that is answered.
    fn may_take(&self, terms: Terms<'_>) -> bool {
        self.is_usable() && terms.allow_another_after(self.requests)
    }

    fn is_wanted(&self, idle: Duration) -> bool {
        self.streams() > 0 || self.used.elapsed() < idle
    }
}

impl Stream {
    /// It ended by itself: its place is free at once.
    pub(crate) fn ended(mut self) {
        self.place = None;
        if let Some(freed) = self.freed.take() {
            freed.notify_one();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let (Some(place), Ok(runtime)) = (self.place.take(), Handle::try_current()) {
            let freed = self.freed.take();
            runtime.spawn(async move {
                sleep(RESET_PAUSE).await;
                drop(place);
                if let Some(freed) = freed {
                    freed.notify_one();
                }
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
            freed: None,
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
