//! What connections may be made and used for.

use std::num::NonZeroU32;

use super::bounds::Bounds;
use crate::{
    breaker::Overflow,
    cluster::Cluster,
    connect::Dial,
    gauge::Slot,
    limits::{APP_CONNECT_TIMEOUT, MAX_STREAMS_PER_LINK},
    snapshot::Inbound,
};

/// What connections may be made and used for: from the `DestinationRule`, one request at a time, so that a change
/// holds for connections that are open already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'c> {
    /// How a connection is made.
    pub(super) dial: Dial<'c>,
    /// A connection takes no more requests after so many (Envoy's `max_requests_per_connection`).
    pub(super) max_requests: Option<NonZeroU32>,
    /// Bounds on connections.
    pub(super) bounds: Option<Bounds<'c>>,
}

impl<'c> Terms<'c> {
    /// As the cluster's `DestinationRule` says.
    pub(crate) fn of(cluster: &'c Cluster) -> Self {
        let traffic = &cluster.traffic;
        Self {
            dial: Dial {
                patience: traffic.connect_timeout,
                keepalive: traffic.tcp.keepalive.as_ref(),
            },
            max_requests: traffic.http.max_requests_per_connection,
            bounds: Bounds::of(traffic, cluster.state()),
        }
    }

    /// How a connection is made.
    pub(crate) fn dial(self) -> Dial<'c> {
        self.dial
    }

    /// Whether connections or the requests that wait for one are bounded.
    pub(crate) fn bounds_connections(self) -> bool {
        self.bounds.is_some_and(|bounds| {
            let (tcp, http) = (&bounds.traffic.tcp, &bounds.traffic.http);
            tcp.max_connections.is_some() || http.max_pending.is_some()
        })
    }

    /// A connection's place among those of its cluster, for a TCP connection, which does not wait.
    pub(crate) fn connection(self) -> Result<Option<Slot>, Overflow> {
        match self.bounds {
            Some(bounds) => {
                let slot = bounds.try_connection();
                slot.map_err(|overflow| bounds.state.trip(overflow))
            }
            None => Ok(None),
        }
    }

    pub(super) fn key(self) -> usize {
        self.bounds.as_ref().map_or(0, Bounds::key)
    }

    pub(super) fn streams(self) -> usize {
        let most = self.bounds.and_then(|bounds| bounds.streams());
        most.unwrap_or(MAX_STREAMS_PER_LINK)
            .min(MAX_STREAMS_PER_LINK)
    }

    /// To the application itself, which no `DestinationRule` concerns, but a `Sidecar` may.
    pub(crate) fn of_app(inbound: &'c Inbound) -> Self {
        let Some(pool) = inbound.listener.pool.as_deref() else {
            return Self {
                dial: APP_CONNECT_TIMEOUT.into(),
                max_requests: None,
                bounds: None,
            };
        };
        Self {
            dial: Dial {
                patience: pool.connect_timeout,
                keepalive: pool.tcp.keepalive.as_ref(),
            },
            max_requests: pool.http.max_requests_per_connection,
            bounds: Bounds::of(pool, &inbound.under_way),
        }
    }

    /// Whether every request has a connection of its own.
    pub(crate) fn is_one_each(self) -> bool {
        self.max_requests == Some(NonZeroU32::MIN)
    }

    /// Whether a connection that took `requests` may take another.
    pub(super) fn allow_another_after(self, requests: u32) -> bool {
        self.max_requests.is_none_or(|most| requests < most.get())
    }
}
