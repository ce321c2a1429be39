//! The credentials in force, as TLS configurations. Each version is an *epoch*: nothing is shared between two.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use reeve_core::{Clock, SpiffeId, UnixTime};
use reeve_svid::{Credentials, MeshTls, TlsError, alpn};
use rustls::{ClientConfig, ServerConfig};

use crate::{
    ledger::lock,
    limits::{DRAIN_BEFORE_EXPIRY, DRAIN_FRACTION},
};

/// Bound on the client configurations kept per epoch.
const MAX_CLIENT_CONFIGS: usize = 1024;

/// TLS for one version of the credentials.
#[derive(Debug)]
pub(crate) struct Epoch {
    /// Counted from 1; a connection belongs to the epoch it was made in.
    pub(crate) number: u64,
    pub(crate) credentials: Arc<Credentials>,
    /// For listeners that serve HTTP.
    pub(crate) http_server: Arc<ServerConfig>,
    /// For listeners that pass bytes.
    pub(crate) tcp_server: Arc<ServerConfig>,
    tls: MeshTls,
    clients: Mutex<HashMap<ClientKey, Arc<ClientConfig>>>,
}

type ClientKey = (Arc<[SpiffeId]>, &'static [u8]);

impl Epoch {
    /// Makes the configurations.
    pub(crate) fn new(
        number: u64,
        credentials: Arc<Credentials>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        let tls = MeshTls::new(credentials.clone(), clock);
        Ok(Self {
            number,
            http_server: tls.server_config(&[alpn::H2, alpn::HTTP1])?,
            tcp_server: tls.server_config(&[alpn::TCP])?,
            credentials,
            tls,
            clients: Mutex::default(),
        })
    }

    /// A client that accepts only a server with one of the `expected` identities.
    pub(crate) fn client(
        &self,
        expected: &Arc<[SpiffeId]>,
        protocol: &'static [u8],
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let key = (expected.clone(), protocol);
        if let Some(known) = lock(&self.clients).get(&key) {
            return Ok(known.clone());
        }
        let config = self.tls.client_config(expected, &[protocol])?;
        let mut clients = lock(&self.clients);
        if clients.len() >= MAX_CLIENT_CONFIGS {
            clients.clear();
        }
        clients.insert(key, config.clone());
        Ok(config)
    }
}

/// How long a mesh connection may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// After this it takes no new requests.
    pub(crate) drain: Duration,
    /// After this it is cut.
    pub(crate) end: Duration,
}

impl Lifetime {
    /// Until the earlier end of the two certificates.
    pub(crate) fn of(own: UnixTime, peer: UnixTime, now: UnixTime) -> Self {
        let end = own.min(peer).since(now);
        let margin = DRAIN_BEFORE_EXPIRY.min(end / DRAIN_FRACTION);
        Self {
            drain: end.saturating_sub(margin),
            end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_drains_before_the_earlier_certificate_ends() {
        let at = UnixTime::from_secs;
        let hours = Lifetime::of(at(4 * 3600), at(2 * 3600), at(0));
        assert_eq!(hours.end, Duration::from_secs(7200));
        assert_eq!(hours.drain, Duration::from_secs(7170));
        let seconds = Lifetime::of(at(10), at(20), at(0));
        assert_eq!(seconds.drain, Duration::from_secs(8));
        assert_eq!(Lifetime::of(at(5), at(9), at(6)).end, Duration::ZERO);
    }
}
