//! Listening sockets that pass from one process to the next, so that a restart refuses no connection.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::Arc,
};

use reeve_core::{model::Capture, network::Network};
use socket2::SockRef;

use crate::{
    capture,
    net::{Bound, Net},
    proxy::ApplyError,
};

/// A listening socket, held beside its accept loop for the process to come.
#[derive(Debug)]
pub(crate) struct Held(Option<TcpListener>);

impl Held {
    /// The same socket under a descriptor of its own.
    pub(crate) fn try_clone(&self) -> io::Result<OwnedFd> {
        let not_passed_on = || io::Error::from(io::ErrorKind::Unsupported);
        let listener = self.0.as_ref().ok_or_else(not_passed_on)?;
        Ok(listener.try_clone()?.into())
    }
}

/// Sockets of the process before this one, by the address they listen at.
#[derive(Debug, Default)]
pub(crate) struct Inherited(HashMap<SocketAddr, TcpListener>);

impl Inherited {
    /// Refuses what is no listening socket; where one listens, the kernel says.
    pub(crate) fn new(sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let mut by_address = HashMap::new();
        for socket in sockets {
            if !SockRef::from(&socket).is_listener()? {
                let what = "a descriptor that was handed over is no listening socket";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            by_address.insert(listener.local_addr()?, listener);
        }
        Ok(Self(by_address))
    }

    /// The inherited socket at `address`, or a `fresh` one. What is inherited stays here, for another try.
    pub(crate) fn bind(
        &self,
        net: &Net,
        address: SocketAddr,
        fresh: impl FnOnce(SocketAddr) -> io::Result<TcpListener>,
    ) -> Result<(Bound, Held), ApplyError> {
        if let Net::Given(network) = net {
            return listen(network, address);
        }
        let bound = self.known(address).unwrap_or_else(|| fresh(address));
        hold(address, bound)
    }

    /// The same for an address of a snapshot; `None` for a family of addresses that this machine does not have.
    pub(crate) fn bind_for(
        &self,
        net: &Net,
        address: SocketAddr,
        capture: Option<&Capture>,
    ) -> Result<Option<(Bound, Held)>, ApplyError> {
        if let Net::Given(network) = net {
            return listen(network, address).map(Some);
        }
        let bound = self.known(address).map(|known| known.map(Some));
        let bound = bound.unwrap_or_else(|| capture::bind(address, capture));
        bound
            .transpose()
            .map(|bound| hold(address, bound))
            .transpose()
    }

    fn known(&self, address: SocketAddr) -> Option<io::Result<TcpListener>> {
        self.0.get(&address).map(TcpListener::try_clone)
    }
}

/// Listens on a network whose addresses no process hands to another.
fn listen(network: &Arc<dyn Network>, address: SocketAddr) -> Result<(Bound, Held), ApplyError> {
    let listening = network.listen(address);
    listening
        .map(|listener| (Bound::Given(listener), Held(None)))
        .map_err(|source| ApplyError::Bind { address, source })
}

fn hold(address: SocketAddr, bound: io::Result<TcpListener>) -> Result<(Bound, Held), ApplyError> {
    bound
        .and_then(|listener| {
            let held = Held(Some(listener.try_clone()?));
            Ok((Bound::Os(listener), held))
        })
        .map_err(|source| ApplyError::Bind { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener;

    fn accept(listener: Bound) -> (std::net::TcpStream, SocketAddr) {
        let Bound::Os(listener) = listener else {
            panic!("not of the operating system");
        };
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap()
    }

    #[test]
    fn connections_queued_before_the_hand_over_are_accepted_after_it() {
        let old = listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = old.local_addr().unwrap();
        let waiting = std::net::TcpStream::connect(address).unwrap();
        let inherited = Inherited::new(vec![old.try_clone().unwrap().into()]).unwrap();
        drop(old);
        let (listener, held) = inherited.bind(&Net::Os, address, listener::bind).unwrap();
        let (_, from) = accept(listener);
        assert_eq!(from, waiting.local_addr().unwrap());
        let third = Inherited::new(vec![held.try_clone().unwrap()]).unwrap();
        assert!(
            third.bind(&Net::Os, address, listener::bind).is_ok(),
            "it can be handed on again"
        );
    }

    #[test]
    fn an_address_that_was_not_handed_over_is_bound_afresh() {
        let old = listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = old.local_addr().unwrap();
        let refused = Inherited::default()
            .bind(&Net::Os, taken, listener::bind)
            .unwrap_err();
        assert!(matches!(refused, ApplyError::Bind { address, .. } if address == taken));
        assert!(
            Inherited::default()
                .bind(&Net::Os, "127.0.0.1:0".parse().unwrap(), listener::bind)
                .is_ok()
        );
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(Inherited::new(vec![stream.into()]).is_err());
    }
}
