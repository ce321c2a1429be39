//! Shares of the application: how much of it one connection, and one caller, may hold at once.
//!
//! An application stands so many requests and connections at a time. Whoever opens streams and never ends them would take
//! all of them, and everybody else would wait. So each connection and each caller – a workload by its identity, anybody
//! else by address – has a share; what goes beyond is answered with 429, before it is judged. Counted exactly, across all
//! workers, per port of the workload or gateway; a request takes no lock for it (behind trusted proxies, whose connections
//! carry many callers' requests, it takes one).

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use reeve_core::{SpiffeId, decision::Principal, model::CallerShares};

use crate::{
    judge::Peer,
    ledger::lock,
    limits::{
        MAX_REQUESTS_PER_CALLER, MAX_REQUESTS_PER_CONNECTION, MAX_TRANSFORM_BYTES_PER_CALLER,
    },
    pressure::CallerKey,
};

/// Everybody who is connected to one proxy.
#[derive(Debug)]
pub(crate) struct Callers {
    here: Mutex<HashMap<Caller, Arc<Holdings>>>,
    per_connection: AtomicUsize,
    per_caller: AtomicUsize,
}

impl Default for Callers {
    fn default() -> Self {
        Self {
            here: Mutex::default(),
            per_connection: AtomicUsize::new(MAX_REQUESTS_PER_CONNECTION),
            per_caller: AtomicUsize::new(MAX_REQUESTS_PER_CALLER),
        }
    }
}

/// Somebody at one of the workload's ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Caller {
    bind: SocketAddr,
    who: Who,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Workload(SpiffeId),
    Network(IpAddr),
}

impl Who {
    fn of(peer: &Peer) -> Self {
        match &peer.principal {
            Principal::Workload(id) => Self::Workload(id.clone()),
            Principal::Unauthenticated => Self::Network(network(peer.address)),
        }
    }
}

/// Whoever has one IPv6 address has the 2^64 beside it (RFC 4291 section 2.5.4).
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (u128::MAX << 64)).into()),
    }
}

/// What one connection may hold, and the caller's other connections with it.
#[derive(Debug)]
pub(crate) struct Share {
    callers: Arc<Callers>,
    caller: Caller,
    by_caller: Arc<Holdings>,
    by_connection: AtomicUsize,
}

/// What one caller holds.
#[derive(Debug, Default)]
struct Holdings {
    requests: AtomicUsize,
    /// Of bodies that are held to be transformed.
    bytes: AtomicUsize,
}

/// One request or relayed connection at the application; over when dropped.
#[derive(Debug)]
pub(crate) struct Held(Arc<Share>);

impl Callers {
    /// Holds from the next request on, for open connections too. Who has more than that keeps it.
    pub(crate) fn configure(&self, shares: CallerShares) {
        let most = |configured: Option<NonZeroU32>, default| {
            configured.map_or(default, |n| usize::try_from(n.get()).unwrap_or(usize::MAX))
        };
        let per_connection = most(shares.per_connection, MAX_REQUESTS_PER_CONNECTION);
        let per_caller = most(shares.per_caller, MAX_REQUESTS_PER_CALLER);
        self.per_connection.store(per_connection, Ordering::Relaxed);
        self.per_caller.store(per_caller, Ordering::Relaxed);
    }

    /// A connection of `peer` to `bind`.
    pub(crate) fn connected(self: &Arc<Self>, bind: SocketAddr, peer: &Peer) -> Arc<Share> {
        let caller = Caller {
            bind,
            who: Who::of(peer),
        };
        let by_caller = lock(&self.here).entry(caller.clone()).or_default().clone();
        Arc::new(Share {
            callers: self.clone(),
            caller,
            by_caller,
            by_connection: AtomicUsize::new(0),
        })
    }
}

impl Share {
    /// The same for all connections of a caller.
    pub(crate) fn key(&self) -> CallerKey {
        CallerKey(Arc::as_ptr(&self.by_caller).addr())
    }

    /// Holds one more, or names the limit that forbids it.
    pub(crate) fn hold(self: &Arc<Self>) -> Result<Held, &'static str> {
        if !enter(&self.by_connection, &self.callers.per_connection) {
            return Err("max_requests_per_connection");
        }
        if !enter(&self.by_caller.requests, &self.callers.per_caller) {
            self.by_connection.fetch_sub(1, Ordering::Relaxed);
            return Err("max_requests_per_caller");
        }
        Ok(Held(self.clone()))
    }

    /// Takes bytes for bodies that are held; whether the caller has as much.
    pub(crate) fn take_bytes(&self, bytes: usize) -> bool {
        let taken = self.by_caller.bytes.fetch_add(bytes, Ordering::AcqRel);
        taken.saturating_add(bytes) <= MAX_TRANSFORM_BYTES_PER_CALLER
    }

    /// Gives back what was taken.
    pub(crate) fn give_bytes(&self, bytes: usize) {
        self.by_caller.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Held {
    /// Whose share it is of.
    pub(crate) fn share(&self) -> &Arc<Share> {
        &self.0
    }
}

fn enter(count: &AtomicUsize, most: &AtomicUsize) -> bool {
    let room = count.fetch_add(1, Ordering::Relaxed) < most.load(Ordering::Relaxed);
    if !room {
        count.fetch_sub(1, Ordering::Relaxed);
    }
    room
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.by_connection.fetch_sub(1, Ordering::Relaxed);
        self.0.by_caller.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut callers = lock(&self.callers.here);
        // Under the lock nobody joins: the map's and our own are the last.
        if Arc::strong_count(&self.by_caller) <= 2 {
            callers.remove(&self.caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn workload(name: &str) -> Peer {
        let id = SpiffeId::parse(&format!("spiffe://mesh.local/ns/default/sa/{name}")).unwrap();
        Peer {
            principal: Principal::Workload(id),
            ..stranger("127.0.0.9")
        }
    }

    fn stranger(address: &str) -> Peer {
        Peer::stranger(address.parse().unwrap())
    }

    fn fill(share: &Arc<Share>) -> (Vec<Held>, &'static str) {
        let mut held = Vec::new();
        loop {
            match share.hold() {
                Ok(one) => held.push(one),
                Err(limit) => return (held, limit),
            }
        }
    }

    #[test]
    fn a_connection_and_a_caller_have_a_share_each() {
        let callers = Arc::<Callers>::default();
        let greedy: Vec<_> = (0..2 * MAX_REQUESTS_PER_CALLER / MAX_REQUESTS_PER_CONNECTION)
            .map(|_| callers.connected(bind(1), &workload("greedy")))
            .collect();
        let (held, limits): (Vec<_>, Vec<_>) = greedy.iter().map(fill).unzip();
        let half = limits.len() / 2;
        assert!(
            limits[..half]
                .iter()
                .all(|l| *l == "max_requests_per_connection")
        );
        assert!(
            limits[half..]
                .iter()
                .all(|l| *l == "max_requests_per_caller")
        );
        assert_eq!(
            held.iter().map(Vec::len).sum::<usize>(),
            MAX_REQUESTS_PER_CALLER
        );
        // Others, and other ports, are no concern of it.
        for (port, peer) in [
            (1, workload("modest")),
            (1, stranger("127.0.0.9")),
            (2, workload("greedy")),
        ] {
            assert!(callers.connected(bind(port), &peer).hold().is_ok());
        }
        drop(held);
        assert!(greedy.iter().all(|share| share.hold().is_ok()));
    }

    #[test]
    fn shares_are_configured_and_change_while_connections_are_open() {
        let callers = Arc::<Callers>::default();
        let shares = |per_connection, per_caller| CallerShares {
            per_connection: NonZeroU32::new(per_connection),
            per_caller: NonZeroU32::new(per_caller),
        };
        callers.configure(shares(2, 3));
        let (one, other) = (
            callers.connected(bind(1), &workload("a")),
            callers.connected(bind(1), &workload("a")),
        );
        let (first, limit) = fill(&one);
        assert_eq!((first.len(), limit), (2, "max_requests_per_connection"));
        let (second, limit) = fill(&other);
        assert_eq!((second.len(), limit), (1, "max_requests_per_caller"));
        callers.configure(shares(3, 4));
        assert_eq!(fill(&other).0.len(), 1);
        // What is held already is kept when shares shrink; nothing comes on top of it.
        callers.configure(shares(1, 1));
        assert_eq!(fill(&one).0.len(), 0);
        drop((first, second));
        assert_eq!(fill(&one).0.len(), 1);
        callers.configure(CallerShares::default());
        assert_eq!(fill(&one).0.len(), MAX_REQUESTS_PER_CONNECTION);
    }

    #[test]
    fn strangers_are_told_apart_by_what_they_cannot_choose() {
        let callers = Arc::<Callers>::default();
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            let shares = [one, other].map(|a| callers.connected(bind(1), &stranger(a)));
            let shared = Arc::ptr_eq(&shares[0].by_caller, &shares[1].by_caller);
            assert_eq!(shared, same, "{one} {other}");
        }
    }

    #[test]
    fn those_that_leave_leave_nothing_behind() {
        let callers = Arc::<Callers>::default();
        let first = callers.connected(bind(1), &workload("a"));
        let held = first.hold().unwrap();
        let second = callers.connected(bind(1), &workload("a"));
        drop(first);
        drop(second);
        assert_eq!(lock(&callers.here).len(), 1, "one request is still there");
        drop(held);
        assert!(lock(&callers.here).is_empty());
    }
}
