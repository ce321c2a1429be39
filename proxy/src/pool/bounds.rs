//! Bounds of a cluster on its connections: how many there may be across all workers, and how many requests may wait for
//! one. A request that has to wait gets the connection that its worker gives back first, or makes one when another ends;
//! an idle connection elsewhere gives way to it.

use std::{
    num::NonZeroU32,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use reeve_core::model::TrafficPolicy;
use tokio::{sync::oneshot, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Kept, Pool, SendError};
use crate::{
    breaker::{ClusterState, Overflow},
    gauge::{Entered, Slot},
    ledger::lock,
};

/// How often it is looked, while a connection may be idle, whether it has been for too long.
const IDLE_LOOKS: u32 = 4;

/// What bounds the connections of a cluster, as one request finds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds<'c> {
    pub(super) state: &'c Arc<ClusterState>,
    pub(super) traffic: &'c TrafficPolicy,
}

/// What a request gets that needs a connection.
pub(super) enum Got {
    /// One that was given back.
    Kept(Kept),
    /// Leave to make one, and the request counted as pending until it is made.
    Leave(Option<Slot>, Option<Entered>),
}

impl<'c> Bounds<'c> {
    /// The bounds that `traffic` sets; `None` if it sets none.
    pub(super) fn of(traffic: &'c TrafficPolicy, state: &'c Arc<ClusterState>) -> Option<Self> {
        let (tcp, http) = (&traffic.tcp, &traffic.http);
        let any = tcp.max_connections.is_some()
            || tcp.keepalive.is_some()
            || tcp.max_duration.is_some()
            || http.max_pending.is_some()
            || http.max_streams.is_some()
            || http.idle_timeout.is_some();
        any.then_some(Self { state, traffic })
    }

    /// Names the pools that are its own.
    pub(super) fn key(&self) -> usize {
        Arc::as_ptr(self.state).addr()
    }

    fn most(&self) -> Option<usize> {
        let most = self.traffic.tcp.max_connections.map(NonZeroU32::get)?;
        usize::try_from(most).ok()
    }

    /// One of the connections, if there are not too many.
    pub(super) fn try_connection(&self) -> Result<Option<Slot>, Overflow> {
        let Some(most) = self.most() else {
            return Ok(None);
        };
        let slot = self.state.connections.try_take(most);
        slot.map(Some).ok_or(Overflow::Connections)
    }

    /// Counts a request as pending.
    pub(super) fn queue(&self) -> Result<Option<Entered>, SendError> {
        self.state.queue(self.traffic).map_err(SendError::Overflow)
    }

    /// Leave to make a connection, as soon as there are few enough. Cancel-safe.
    pub(super) async fn leave(&self) -> Option<Slot> {
        let most = self.most()?;
        let slots = &self.state.connections;
        if let Some(slot) = slots.try_take(most) {
            return Some(slot);
        }
        let _waiting = slots.wait();
        self.state.make_room();
        Some(slots.take(most).await)
    }

    /// How long a connection may live.
    pub(super) fn life(&self) -> Option<Duration> {
        self.traffic.tcp.max_duration
    }

    /// How long one without requests is kept.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.traffic.http.idle_timeout
    }

    /// Requests at once on one HTTP/2 connection.
    pub(super) fn streams(&self) -> Option<usize> {
        let most = self.traffic.http.max_streams.map(NonZeroU32::get)?;
        usize::try_from(most).ok()
    }
}

impl ClusterState {
    /// Closes an idle connection, so that somebody else can have one.
    fn make_room(&self) {
        let pools: Vec<Arc<Pool>> = {
            let mut pools = lock(&self.pools);
            pools.retain(|pool| pool.strong_count() > 0);
            pools.iter().filter_map(Weak::upgrade).collect()
        };
        for pool in pools {
            if pool.close_one_idle() {
                return;
            }
        }
    }
}

impl Pool {
    /// A connection to wait for: given back, or leave to make one.
    pub(super) async fn wait(&self, bounds: Bounds<'_>) -> Result<Got, SendError> {
        let pending = bounds.queue()?;
        if let Ok(slot) = bounds.try_connection() {
            return Ok(Got::Leave(slot, pending));
        }
        let (sender, given_back) = oneshot::channel();
        lock(&self.waiting).push_back(sender);
        // Cancel-safe: one that is given back to nobody goes to the next, or closes.
        tokio::select! {
            biased;
            Ok(kept) = given_back => Ok(Got::Kept(kept)),
            slot = bounds.leave() => Ok(Got::Leave(slot, pending)),
        }
    }

    /// Hands a connection to whoever waits for it; closes it if somebody of another pool needs its place. What is left
    /// can be kept.
    pub(super) fn hand_on(&self, mut kept: Kept) -> Option<Kept> {
        let Some(state) = &self.state else {
            return Some(kept);
        };
        while let Some(waiter) = lock(&self.waiting).pop_front() {
            match waiter.send(kept) {
                Ok(()) => return None,
                Err(back) => kept = back,
            }
        }
        (!state.connections.is_wanted()).then_some(kept)
    }

    /// Closes an idle connection of this pool, if it has one.
    fn close_one_idle(&self) -> bool {
        let idle = lock(&self.idle).pop();
        idle.is_some() || self.links.close_one_idle()
    }

    /// Ends a connection's usefulness when it is as old as it may be.
    pub(super) fn bound_life(
        self: &Arc<Self>,
        bounds: Bounds<'_>,
        drain: &CancellationToken,
        gone: CancellationToken,
    ) {
        let Some(life) = bounds.life() else {
            return;
        };
        let (drain, pool) = (drain.clone(), Arc::downgrade(self));
        tokio::spawn(async move {
            // Cancel-safe: a token and a timer.
            tokio::select! {
                () = gone.cancelled() => return,
                () = sleep(life) => drain.cancel(),
            }
            if let Some(pool) = pool.upgrade() {
                pool.forget_unusable();
            }
        });
    }

    /// Closes what has been idle for too long, when it is.
    pub(super) fn close_when_idle(self: &Arc<Self>) {
        let Some(idle) = self.idle_for.filter(|_| self.state.is_some()) else {
            return;
        };
        if self.watches_idle.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                sleep(idle / IDLE_LOOKS).await;
                let Some(pool) = pool.upgrade() else {
                    return;
                };
                pool.forget_unusable();
                if lock(&pool.idle).is_empty() && pool.links.is_empty() {
                    return pool.watches_idle.store(false, Ordering::Release);
                }
            }
        });
    }

    fn forget_unusable(&self) {
        let idle = self.idle_time();
        lock(&self.idle).retain(|kept| kept.is_fresh(idle));
        self.links.forget_idle(idle);
    }
}
