//! Local rate limits at the workload that is asked: after the decision, since only then is it known who asks, and before
//! anything reaches the application. A limit is a token bucket, kept as the one moment at which it will be full again
//! (the generic cell rate algorithm, ITU-T I.371), so that taking a token is one compare-and-swap. Every worker of the
//! proxy takes from the same buckets, and so does every generation that has the limit unchanged.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::HashMap;
use http::{HeaderMap, HeaderValue, header};
use reeve_core::{
    decision::User,
    model::{RateKey, RateLimit},
};
use tokio::time::Instant;

use crate::{
    callers::network,
    head::Head,
    ledger::lock,
    limits::MAX_RATE_KEYS,
    route::{Matcher, RouteError},
};

/// The limits of one workload.
#[derive(Debug, Default)]
pub(crate) struct RateLimits(Vec<Arc<Limit>>);

/// One limit and its buckets.
#[derive(Debug)]
struct Limit {
    rule: RateLimit,
    when: Matcher,
    born: Instant,
    /// Everybody's, and of those for whom there is no room.
    common: Bucket,
    buckets: Mutex<HashMap<String, Arc<Bucket>>>,
}

/// When it will be full again, in microseconds since its limit was born.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) identity: Option<&'a str>,
    pub(crate) address: IpAddr,
    pub(crate) user: Option<&'a User>,
}

/// A limit is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limited {
    /// Requests that the limit allows.
    pub(crate) limit: u32,
    /// Seconds until there may be another, rounded up.
    pub(crate) reset: u64,
}

impl Limited {
    /// Envoy's headers (<https://datatracker.ietf.org/doc/html/draft-polli-ratelimit-headers-03>), and how long to wait.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        headers.insert("x-envoy-ratelimited", HeaderValue::from_static("true"));
        headers.insert("x-ratelimit-limit", HeaderValue::from(self.limit));
        headers.insert("x-ratelimit-remaining", HeaderValue::from_static("0"));
        headers.insert("x-ratelimit-reset", HeaderValue::from(self.reset));
        headers.insert(header::RETRY_AFTER, HeaderValue::from(self.reset));
    }
}

impl RateLimits {
    /// Compiles `rules`; those that `before` has too go on where they stand.
    pub(crate) fn compile(rules: &[RateLimit], before: Option<&Self>) -> Result<Self, RouteError> {
        let known = |rule: &RateLimit| before?.0.iter().find(|limit| limit.rule == *rule);
        let limit = |rule: &RateLimit| match known(rule) {
            Some(limit) => Ok(limit.clone()),
            None => Limit::compile(rule).map(Arc::new),
        };
        rules.iter().map(limit).collect::<Result<_, _>>().map(Self)
    }

    /// Takes a token of every limit that counts the request; refuses it at the first that has none.
    pub(crate) fn take(&self, head: &Head, asker: Asker<'_>) -> Result<(), Limited> {
        let view = head.view();
        for limit in self.0.iter().filter(|limit| limit.when.holds(&view)) {
            limit.take(asker)?;
        }
        Ok(())
    }
}

impl Limit {
    fn compile(rule: &RateLimit) -> Result<Self, RouteError> {
        Ok(Self {
            when: Matcher::compile(&rule.when, &rule.name)?,
            rule: rule.clone(),
            born: Instant::now(),
            common: Bucket::default(),
            buckets: Mutex::default(),
        })
    }

    fn take(&self, asker: Asker<'_>) -> Result<(), Limited> {
        let now = self.now();
        let requests = self.rule.requests.get();
        let taken = match self.key(asker) {
            None => self.common.take(now, self.step(), self.full()),
            Some(key) => match self.bucket(key, now) {
                Some(bucket) => bucket.take(now, self.step(), self.full()),
                None => self.common.take(now, self.step(), self.full()),
            },
        };
        taken.map_err(|wait| Limited {
            limit: requests,
            reset: wait.div_ceil(1_000_000).max(1),
        })
    }

    /// Whose bucket it is; `None` = everybody's.
    fn key(&self, asker: Asker<'_>) -> Option<String> {
        match &self.rule.per {
            RateKey::All => None,
            RateKey::Identity => Some(match asker.identity {
                Some(identity) => identity.to_owned(),
                None => network(asker.address).to_string(),
            }),
            RateKey::Claim(name) => {
                let values = asker.user?.claims.get(name)?;
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                Some(values.join("\u{1f}"))
            }
        }
    }

    /// The bucket of `key`; `None` when there is no room for another.
    fn bucket(&self, key: String, now: u64) -> Option<Arc<Bucket>> {
        let mut buckets = lock(&self.buckets);
        if let Some(bucket) = buckets.get(&key) {
            return Some(bucket.clone());
        }
        if buckets.len() >= MAX_RATE_KEYS {
            // Who has a full bucket loses nothing by being forgotten.
            buckets.retain(|_, bucket| bucket.0.load(Ordering::Acquire) > now);
        }
        if buckets.len() >= MAX_RATE_KEYS {
            return None;
        }
        Some(buckets.entry(key).or_default().clone())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Microseconds from one token to the next.
    fn step(&self) -> u64 {
        (self.full() / u64::from(self.rule.requests.get())).max(1)
    }

    /// Microseconds in which an empty bucket is full.
    fn full(&self) -> u64 {
        u64::try_from(self.rule.every.as_micros()).unwrap_or(u64::MAX)
    }
}

impl Bucket {
    /// Takes a token, or says how many microseconds there is none.
    fn take(&self, now: u64, step: u64, full: u64) -> Result<(), u64> {
        let next = |at: u64| {
            let then = at.max(now).saturating_add(step);
            (then.saturating_sub(now) <= full).then_some(then)
        };
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        match taken {
            Ok(_) => Ok(()),
            Err(at) => {
                let free = at.saturating_add(step).saturating_sub(full);
                Err(free.saturating_sub(now).max(1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, num::NonZeroU32, time::Duration};

    use http::Request;
    use reeve_core::model::{PathNormalization, RouteMatch, StringMatch};

    use super::*;

    fn rule(per: RateKey) -> RateLimit {
        RateLimit {
            name: "default/a/b".to_owned(),
            when: RouteMatch {
                uri: Some(StringMatch::Prefix("/pay".to_owned())),
                method: Some(StringMatch::Exact("POST".to_owned())),
                ..RouteMatch::default()
            },
            per,
            requests: NonZeroU32::new(4).unwrap(),
            every: Duration::from_secs(8),
        }
    }

    fn limits(per: RateKey) -> RateLimits {
        RateLimits::compile(&[rule(per)], None).unwrap()
    }

    fn head(method: &str, path: &str) -> Head {
        let request = Request::builder().method(method).uri(path);
        let (parts, ()) = request.header("host", "a").body(()).unwrap().into_parts();
        Head::read(parts, PathNormalization::default()).unwrap()
    }

    fn asker(identity: Option<&str>, host: u8) -> Asker<'_> {
        Asker {
            identity,
            address: Ipv4Addr::new(127, 0, 0, host).into(),
            user: None,
        }
    }

    fn taken(limits: &RateLimits, asker: Asker<'_>, tries: usize) -> usize {
        let head = head("POST", "/pay/1");
        (0..tries)
            .filter(|_| limits.take(&head, asker).is_ok())
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_what_it_has_and_then_what_it_gets() {
        let limits = limits(RateKey::All);
        let anybody = asker(None, 1);
        assert_eq!(taken(&limits, anybody, 10), 4);
        let refused = limits.take(&head("POST", "/pay"), anybody).unwrap_err();
        assert_eq!(refused, Limited { limit: 4, reset: 2 });
        tokio::time::advance(Duration::from_millis(1999)).await;
        assert_eq!(taken(&limits, anybody, 3), 0);
        tokio::time::advance(Duration::from_millis(2)).await;
        assert_eq!(taken(&limits, anybody, 3), 1);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(taken(&limits, anybody, 10), 4, "no more than it holds");
        for other in [head("GET", "/pay"), head("POST", "/see")] {
            assert_eq!(limits.take(&other, anybody), Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_caller_has_a_bucket_and_keeps_it_over_generations() {
        let limits = limits(RateKey::Identity);
        assert_eq!(taken(&limits, asker(Some("spiffe://a"), 1), 9), 4);
        assert_eq!(taken(&limits, asker(Some("spiffe://b"), 1), 9), 4);
        assert_eq!(taken(&limits, asker(None, 1), 9), 4);
        assert_eq!(taken(&limits, asker(None, 2), 9), 4);
        let next = RateLimits::compile(&[rule(RateKey::Identity)], Some(&limits)).unwrap();
        assert_eq!(taken(&next, asker(Some("spiffe://a"), 1), 9), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_many_addresses_has_one_bucket() {
        let limits = limits(RateKey::Identity);
        let at = |address: &str| Asker {
            address: address.parse().unwrap(),
            ..asker(None, 1)
        };
        let beside: Vec<_> = (1..=9).map(|n| format!("2001:db8::{n}")).collect();
        let all = beside.iter().map(|one| taken(&limits, at(one), 1));
        assert_eq!(all.sum::<usize>(), 4);
        assert_eq!(taken(&limits, at("2001:db8:0:1::1"), 9), 4);
        assert_eq!(taken(&limits, at("10.0.0.1"), 9), 4);
        assert_eq!(taken(&limits, at("::ffff:10.0.0.1"), 9), 0);
    }

    #[test]
    fn workers_take_exactly_what_there_is() {
        let bucket = Arc::new(Bucket::default());
        let takers: Vec<_> = (0..4)
            .map(|_| {
                let bucket = bucket.clone();
                std::thread::spawn(move || {
                    (0..5000)
                        .filter(|_| bucket.take(7, 1, 1000).is_ok())
                        .count()
                })
            })
            .collect();
        let all: usize = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
        assert_eq!(all, 1000);
    }
}
