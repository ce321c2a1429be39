//! Choosing an endpoint of a cluster: who is in, who is near, who was not tried yet, whose turn it is.

use std::{net::SocketAddr, sync::Arc};

use rand::Rng;
use reeve_core::model::{LoadBalancer, Warmup};

use super::{pick, warmup};
use crate::{
    cluster::{Cluster, Hop},
    limits::HEALING,
};

/// What a request wants of its endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish<'a> {
    /// Endpoints tried already.
    pub(crate) tried: &'a [SocketAddr],
    /// Whether those may be chosen again as if they had not been.
    pub(crate) again: bool,
    /// Whether localities tried already are passed over.
    pub(crate) elsewhere: bool,
    /// What it is hashed to.
    pub(crate) hash: Option<u64>,
    /// Where the caller wanted to go.
    pub(crate) original: Option<SocketAddr>,
}

/// Tries in a locality before another is taken (Istio's `previous_priorities` update frequency).
const TRIES_PER_LOCALITY: usize = 2;

impl Cluster {
    /// An endpoint for a request; `None` if there is none, or none is in.
    pub(crate) fn choose(&self, wish: &Wish<'_>, rng: &mut impl Rng) -> Option<&Arc<Hop>> {
        let plain = self.is_plain && (wish.tried.is_empty() || wish.again);
        if plain && !(self.traffic.outlier.is_some() && self.state().has_ejected()) {
            let load = |at: usize| self.hops.get(at).map_or(0, |hop| hop.load.now());
            let how = self.traffic.load_balancer;
            let at = pick(self.hops.len(), how, &self.turn, load, rng)?;
            return self.hops.get(at);
        }
        self.choose_with_care(wish, rng)
    }

    fn choose_with_care(&self, wish: &Wish<'_>, rng: &mut impl Rng) -> Option<&Arc<Hop>> {
        if self.traffic.load_balancer == LoadBalancer::Passthrough && self.traffic.hash.is_none() {
            let original = wish.original?;
            return self.hops.iter().find(|hop| hop.address == original);
        }
        let usable = self.usable();
        let is_in = |at: usize| usable.as_ref().is_none_or(|usable| usable.contains(&at));
        let was_tried = |at: usize| {
            let hop = self.hops.get(at);
            hop.is_some_and(|hop| wish.tried.contains(&hop.address))
        };
        let rounds = wish.tried.len() / TRIES_PER_LOCALITY;
        let old = wish.tried.get(..rounds * TRIES_PER_LOCALITY);
        let is_open = |group: &[usize]| {
            let of_group = |address: &SocketAddr| {
                let mut hops = group.iter().filter_map(|at| self.hops.get(*at));
                hops.any(|hop| hop.address == *address)
            };
            !(wish.elsewhere && old.unwrap_or_default().iter().any(of_group))
        };
        let group = self.spread.group(is_in, is_open, rng);
        let mut places: Vec<usize> = match group {
            Some(group) => group.iter().copied().filter(|at| is_in(*at)).collect(),
            None => (0..self.hops.len()).filter(|at| is_in(*at)).collect(),
        };
        if !wish.again && places.iter().any(|at| !was_tried(*at)) {
            places.retain(|at| !was_tried(*at));
        }
        let at = self.one_of(&places, wish.hash, rng)?;
        self.hops.get(at)
    }

    /// The endpoints that are in, by place; `None` = all of them, also when too few are left (panic).
    fn usable(&self) -> Option<Vec<usize>> {
        let rules = self.traffic.outlier.as_ref()?;
        let state = self.state();
        if !state.has_ejected() {
            return None;
        }
        let now = state.now();
        let hops = self.hops.iter().enumerate();
        let usable = hops.filter(|(_, hop)| !self.host(hop).is_out(now));
        let usable: Vec<usize> = usable.map(|(at, _)| at).collect();
        let percent = usable.len() * 100;
        let panics = percent < self.hops.len() * usize::from(rules.min_health_percent);
        (!panics).then_some(usable)
    }

    fn one_of(&self, places: &[usize], hash: Option<u64>, rng: &mut impl Rng) -> Option<usize> {
        if let Some(table) = &self.table {
            let hash = hash.unwrap_or_else(|| rng.random());
            return table.find(hash, |at| places.contains(&at));
        }
        let hop = |nth: usize| self.hops.get(*places.get(nth)?);
        let load = |nth: usize| hop(nth).map_or(0, |hop| hop.load.now());
        let how = self.traffic.load_balancer;
        let special = self.traffic.outlier.is_some() && self.state().has_ejected();
        if self.traffic.warmup.is_some() || self.heaviest.is_some() || special {
            let now = self.state().now();
            let share = |nth: usize| hop(nth).map_or(1.0, |hop| self.share_of(hop, now));
            if (0..places.len()).any(|nth| share(nth) < 1.0) {
                return self.warming(places, how, share, load, rng);
            }
        }
        let nth = pick(places.len(), how, &self.turn, load, rng)?;
        places.get(nth).copied()
    }

    /// The share of an endpoint by its weight, and less if it is new, or only just in again; 1 for others.
    fn share_of(&self, hop: &Hop, now: u64) -> f64 {
        let weight = |heaviest: u32| f64::from(hop.weight) / f64::from(heaviest.max(1));
        let weight = self.heaviest.map_or(1.0, weight);
        let host = self.host(hop);
        let healing = Warmup {
            duration: HEALING,
            minimum_percent: 10,
            aggression_permille: 1000,
        };
        let healing = host.healing(now).map(|age| warmup::share(&healing, age));
        let warmup = self.traffic.warmup.as_ref();
        let warming = warmup.map(|warmup| warmup::share(warmup, now.saturating_sub(host.born)));
        weight * healing.unwrap_or(1.0) * warming.unwrap_or(1.0)
    }

    /// By share; least request takes the better of two draws, by what is in flight for its share.
    fn warming(
        &self,
        places: &[usize],
        how: LoadBalancer,
        share: impl Fn(usize) -> f64,
        load: impl Fn(usize) -> usize,
        rng: &mut impl Rng,
    ) -> Option<usize> {
        let first = warmup::draw(places.len(), &share, rng)?;
        let nth = if how == LoadBalancer::LeastRequest {
            let second = warmup::draw(places.len(), &share, rng)?;
            #[expect(clippy::cast_precision_loss, reason = "requests in flight")]
            let cost = |nth: usize| (load(nth) + 1) as f64 / share(nth).max(0.01);
            if cost(second) < cost(first) {
                second
            } else {
                first
            }
        } else {
            first
        };
        places.get(nth).copied()
    }
}

#[cfg(test)]
pub(super) mod tests;
