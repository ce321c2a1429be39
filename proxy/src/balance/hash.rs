//! Consistent hashing: what a request is hashed by, and the tables that lead from a hash to an endpoint. Endpoints and
//! requests are hashed alike in every proxy and every process, so that all callers agree.
//!
//! Ring: Karger and others, "Consistent hashing and random trees" (1997). Maglev: Eisenbud and others, "Maglev: a fast
//! and reliable software network load balancer" (2016), section 3.4.

use std::{hash::Hasher as _, net::IpAddr, time::Duration};

use http::{HeaderMap, HeaderValue, header};
use rand::Rng as _;
use reeve_core::model::{HashKey, HashTable};
use siphasher::sip::SipHasher13;

use crate::{cluster::Cluster, head::Head, query};

/// Points of a ring that are made whether or not so many are asked for.
const RING_POINTS: u32 = 1 << 17;

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The hash of a request, and the cookie that its answer carries so that the next one has it too.
#[derive(Debug, Default)]
pub(crate) struct HashOf {
    /// `None`: the request has nothing to be hashed by.
    pub(crate) hash: Option<u64>,
    /// `Set-Cookie`.
    cookie: Option<HeaderValue>,
}

impl HashOf {
    /// Hashes a request from `source` by `key`.
    pub(crate) fn request(key: &HashKey, head: &Head, source: IpAddr) -> Self {
        let by = |bytes: Option<&[u8]>| Self {
            hash: bytes.map(hash),
            cookie: None,
        };
        match key {
            HashKey::Header(name) => by(head.headers.get(name.as_str()).map(HeaderValue::as_bytes)),
            HashKey::SourceIp => Self {
                hash: Some(hash_of(source)),
                cookie: None,
            },
            HashKey::QueryParameter(name) => {
                let value = query::first(head.query.as_deref().unwrap_or_default(), name);
                by(value.as_ref().map(|value| value.as_bytes()))
            }
            HashKey::Cookie { name, path, ttl } => match (cookie(head, name), ttl) {
                (Some(value), _) => by(Some(value.as_bytes())),
                (None, None) => Self::default(),
                (None, Some(ttl)) => Self::new_cookie(name, path, *ttl),
            },
        }
    }

    /// Puts the cookie into the answer, if there is a new one.
    pub(crate) fn keep(self, answer: &mut HeaderMap) {
        if let Some(cookie) = self.cookie {
            answer.append(header::SET_COOKIE, cookie);
        }
    }

    fn new_cookie(name: &str, path: &str, ttl: Duration) -> Self {
        let value = format!("{:016x}", rand::rng().random::<u64>());
        let mut text = format!("{name}=\"{value}\"");
        if !ttl.is_zero() {
            text.push_str(&format!("; Max-Age={}", ttl.as_secs().max(1)));
        }
        if !path.is_empty() {
            text.push_str("; Path=");
            text.push_str(path);
        }
        text.push_str("; HttpOnly");
        Self {
            hash: Some(hash(value.as_bytes())),
            cookie: HeaderValue::try_from(text).ok(),
        }
    }
}

/// The hash of a connection from `source`, of which nothing else is known.
pub(crate) fn source(cluster: &Cluster, source: IpAddr) -> Option<u64> {
    let by = cluster.traffic.hash.as_ref()?;
    (by.key == HashKey::SourceIp).then(|| hash_of(source))
}

fn hash_of(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&address.octets()),
    }
}

/// The value of a cookie, without quotes (RFC 6265 section 4.2.1).
fn cookie<'h>(head: &'h Head, name: &str) -> Option<&'h str> {
    let lines = head.headers.get_all(header::COOKIE).into_iter();
    let mut pairs = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(value.trim_matches('"'))
}

/// Leads from a hash to the place of an endpoint.
#[derive(Debug)]
pub(crate) enum Table {
    /// (point, endpoint), by point.
    Ring(Box<[(u64, u32)]>),
    /// Slot → endpoint.
    Maglev(Box<[u32]>),
}

impl Table {
    /// The table of endpoints with these names; `None` without any.
    pub(crate) fn new(kind: HashTable, names: &[&str]) -> Option<Self> {
        if names.is_empty() {
            return None;
        }
        Some(match kind {
            HashTable::Ring(least) => Self::Ring(ring(least, names)),
            HashTable::Maglev(size) => Self::Maglev(maglev(size, names)),
        })
    }

    /// The endpoint for `hash`; where it is not `wanted`, the next that is. Only requests to endpoints that are not
    /// wanted go elsewhere.
    pub(crate) fn find(&self, hash: u64, wanted: impl Fn(usize) -> bool) -> Option<usize> {
        let place = |at: &u32| usize::try_from(*at).unwrap_or(usize::MAX);
        match self {
            Self::Ring(ring) => {
                let start = ring.partition_point(|(point, _)| *point < hash);
                let (before, after) = ring.split_at_checked(start)?;
                let mut places = after.iter().chain(before).map(|(_, at)| place(at));
                places.find(|at| wanted(*at))
            }
            Self::Maglev(slots) => {
                let count = u64::try_from(slots.len()).ok()?;
                let start = usize::try_from(hash.checked_rem(count)?).ok()?;
                let (before, after) = slots.split_at_checked(start)?;
                let mut places = after.iter().chain(before).map(place);
                places.find(|at| wanted(*at))
            }
        }
    }
}

/// The same number of points for each endpoint however many there are, as far as there is room: so the points of the
/// others stay where they are when one more or less is there, and only its own requests move.
fn ring(least: u32, names: &[&str]) -> Box<[(u64, u32)]> {
    let count = u32::try_from(names.len()).unwrap_or(u32::MAX).max(1);
    let room = RING_POINTS / count;
    // Rounded down to a power of two, so that this too changes seldom.
    let room = 1 << room.checked_ilog2().unwrap_or(0);
    let each = least.min(room).max(least.div_ceil(count)).max(1);
    let numbered = (0u32..).zip(names);
    let mut points: Vec<(u64, u32)> = numbered
        .flat_map(|(at, name)| (0..each).map(move |n| (hash(format!("{name}_{n}").as_bytes()), at)))
        .collect();
    points.sort_unstable();
    points.into_boxed_slice()
}

/// Each endpoint in turn takes the next slot of its own preference list that is still free.
fn maglev(size: u32, names: &[&str]) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    let size64 = u64::from(size.max(2));
    let preference = |name: &&str| {
        let offset = hash(name.as_bytes()) % size64;
        let skip = hash(format!("skip {name}").as_bytes()) % (size64 - 1) + 1;
        (offset, skip)
    };
    let mut next: Vec<(u64, u64)> = names.iter().map(preference).collect();
    let mut slots = vec![FREE; usize::try_from(size64).unwrap_or(0)];
    let mut filled = 0;
    while filled < slots.len() {
        for (at, (position, skip)) in (0u32..).zip(&mut next) {
            while filled < slots.len() {
                let slot = usize::try_from(*position).unwrap_or(0);
                *position = (*position + *skip) % size64;
                if let Some(free) = slots.get_mut(slot).filter(|slot| **slot == FREE) {
                    *free = at;
                    filled += 1;
                    break;
                }
            }
        }
    }
    slots.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 20_000;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("10.0.0.{n}:9080")).collect()
    }

    fn table(kind: HashTable, names: &[String]) -> Table {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Table::new(kind, &names).unwrap()
    }

    fn owners(table: &Table, names: &[String]) -> Vec<String> {
        let key = |n: u64| hash(&n.to_be_bytes());
        let owner = |n| names[table.find(key(n), |_| true).unwrap()].clone();
        (0..KEYS).map(owner).collect()
    }

    const KINDS: [HashTable; 2] = [HashTable::Ring(1024), HashTable::Maglev(65_537)];

    #[test]
    fn requests_are_spread_evenly() {
        // 1,024 points of each are coarser than a Maglev table.
        for (kind, tolerance) in KINDS.into_iter().zip([0.15, 0.05]) {
            let names = names(10);
            let owners = owners(&table(kind, &names), &names);
            for name in &names {
                let share = owners.iter().filter(|owner| *owner == name).count();
                let off = (share as f64 / (KEYS as f64 / 10.0) - 1.0).abs();
                assert!(off < tolerance, "{kind:?}: {name} has {share} of {KEYS}");
            }
        }
    }

    #[test]
    fn when_one_of_ten_goes_hardly_any_other_request_moves() {
        for (kind, moved_most) in KINDS.into_iter().zip([0.0, 0.03]) {
            let all = names(10);
            let before = owners(&table(kind, &all), &all);
            let rest: Vec<String> = all.iter().filter(|n| **n != all[3]).cloned().collect();
            let after = owners(&table(kind, &rest), &rest);
            let stayed_alive = before.iter().zip(&after).filter(|(b, _)| **b != all[3]);
            let moved = stayed_alive.filter(|(b, a)| b != a).count() as f64 / KEYS as f64;
            assert!(moved <= moved_most, "{kind:?}: {moved} moved needlessly");
        }
    }

    #[test]
    fn an_unwanted_endpoints_requests_alone_go_elsewhere() {
        for kind in KINDS {
            let names = names(5);
            let table = table(kind, &names);
            let mut elsewhere = [0; 5];
            for n in 0..KEYS {
                let key = hash(&n.to_be_bytes());
                let home = table.find(key, |_| true).unwrap();
                let now = table.find(key, |at| at != 2).unwrap();
                if home == 2 {
                    elsewhere[now] += 1;
                } else {
                    assert_eq!(home, now);
                }
            }
            assert_eq!(elsewhere[2], 0);
            assert!(
                elsewhere.iter().filter(|n| **n > 0).count() == 4,
                "{elsewhere:?}"
            );
            assert_eq!(table.find(1, |_| false), None);
        }
    }

    #[test]
    fn the_order_of_endpoints_means_nothing_to_a_ring() {
        let all = names(7);
        let reversed: Vec<String> = all.iter().rev().cloned().collect();
        let kind = HashTable::Ring(1024);
        assert_eq!(
            owners(&table(kind, &all), &all),
            owners(&table(kind, &reversed), &reversed)
        );
    }
}
