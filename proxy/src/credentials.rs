//! The credentials in force, as TLS configurations. Each version is an *epoch*: nothing is shared between two. Other key
//! exchanges make a new epoch, as new credentials do.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use reeve_core::{Clock, SpiffeId, UnixTime, model::EcdhCurve};
use reeve_svid::{Credentials, MeshTls, Realm, TlsError, TrustBundle, alpn};
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::{
    ledger::lock,
    limits::{DRAIN_BEFORE_EXPIRY, DRAIN_FRACTION},
};

/// Bound on the client configurations kept per epoch.
const MAX_CLIENT_CONFIGS: usize = 1024;

/// For bytes: the first that both ends know. Proxies of before the first know the second.
const TCP_PROTOCOLS: &[&[u8]] = &[alpn::NAMED_TCP, alpn::TCP];

/// Workloads meet those of federated trust domains, too.
pub(crate) const REALM: Realm = Realm::Federated;

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
        curves: &[EcdhCurve],
    ) -> Result<Self, TlsError> {
        let tls = MeshTls::new(credentials.clone(), clock).with_curves(curves);
        let tls = tls.with_realm(REALM);
        Ok(Self {
            number,
            http_server: tls.server_config(&[alpn::H2, alpn::HTTP1])?,
            tcp_server: tls.server_config(TCP_PROTOCOLS)?,
            credentials,
            tls,
            clients: Mutex::default(),
        })
    }

    /// What peers are judged by.
    pub(crate) fn judges(&self) -> (&TrustBundle, Realm) {
        (&self.credentials.bundle, REALM)
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
        let offered = match protocol {
            alpn::TCP => TCP_PROTOCOLS,
            _ => &[protocol],
        };
        let config = self.tls.client_config(expected, offered)?;
        let mut clients = lock(&self.clients);
        if clients.len() >= MAX_CLIENT_CONFIGS {
            clients.clear();
        }
        clients.insert(key, config.clone());
        Ok(config)
    }
}

/// Makes the epochs, one after the other, from the credentials held and the key exchanges configured.
#[derive(Debug)]
pub(crate) struct Epochs {
    clock: Arc<dyn Clock>,
    made: Mutex<Made>,
    sender: watch::Sender<Option<Arc<Epoch>>>,
}

#[derive(Debug, Default)]
struct Made {
    epochs: u64,
    /// Certificates held so far.
    certificates: u64,
    held: Option<Arc<Credentials>>,
    curves: Vec<EcdhCurve>,
}

impl Epochs {
    /// None yet.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            made: Mutex::default(),
            sender: watch::Sender::new(None),
        }
    }

    /// The epoch in force, as it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<Epoch>>> {
        self.sender.subscribe()
    }

    /// An epoch of new credentials, and how many certificates there were with it.
    pub(crate) fn hold(&self, held: Arc<Credentials>) -> Result<(Arc<Epoch>, u64), TlsError> {
        let mut made = lock(&self.made);
        let curves = made.curves.clone();
        let epoch = self.make(&mut made, held, curves)?;
        made.certificates += 1;
        Ok((epoch, made.certificates))
    }

    /// An epoch with these key exchanges, if they are others than before and there are credentials.
    pub(crate) fn exchange_by(&self, curves: &[EcdhCurve]) -> Result<Option<Arc<Epoch>>, TlsError> {
        let mut made = lock(&self.made);
        if made.curves == curves {
            return Ok(None);
        }
        let Some(held) = made.held.clone() else {
            made.curves = curves.to_vec();
            return Ok(None);
        };
        self.make(&mut made, held, curves.to_vec()).map(Some)
    }

    fn make(
        &self,
        made: &mut Made,
        held: Arc<Credentials>,
        curves: Vec<EcdhCurve>,
    ) -> Result<Arc<Epoch>, TlsError> {
        let number = made.epochs + 1;
        let epoch = Epoch::new(number, held.clone(), self.clock.clone(), &curves)?;
        let epoch = Arc::new(epoch);
        self.sender.send_replace(Some(epoch.clone()));
        made.epochs = number;
        made.held = Some(held);
        made.curves = curves;
        Ok(epoch)
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
