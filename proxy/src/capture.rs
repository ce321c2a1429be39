//! Transparent capture: connections that rules of the kernel brought here, and where they were going.
//!
//! Under REDIRECT the kernel rewrote the destination and tells the original one (`SO_ORIGINAL_DST`, linux/netfilter_ipv4.h);
//! under TPROXY it rewrote nothing, and the connection's local address is the original destination (`IP_TRANSPARENT`,
//! ip(7)). Outbound connections always come by REDIRECT.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use reeve_core::model::{Capture, CaptureMode, InboundListener, OutboundPolicy, Protocol};
use socket2::{Domain, Protocol as SocketProtocol, SockRef, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    judge::Place,
    limits::LISTEN_BACKLOG,
    listener,
    net::Socket,
    snapshot::{Inbound, Snapshot},
};

/// Connections of the proxy from these addresses are let past the rules to the application (Istio's too).
const PAST_THE_RULES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)),
    IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6)),
];
const ANY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// "Address family not supported", which `std` has no name for (asm-generic/errno.h).
const EAFNOSUPPORT: i32 = 97;

/// Where a connection was going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// To a listener of ours, by its own address.
    At(SocketAddr),
    /// To this address of the workload.
    Inbound(SocketAddr),
    /// From the workload to this address.
    Outbound(SocketAddr),
}

/// Why a captured connection is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    /// The kernel knows no original destination: no rule brought the connection here.
    #[error("the kernel tells no original destination")]
    NoDestination(#[source] io::Error),
    /// It was made to the proxy itself; passing it on would bring it back.
    #[error("the connection was made to the proxy itself, at {0}")]
    Loop(SocketAddr),
}

/// Where a connection that the listener `bind` accepted was going.
pub(crate) fn arrived(
    snapshot: &Snapshot,
    bind: SocketAddr,
    stream: &Socket,
) -> Result<Arrived, CaptureError> {
    let capture = snapshot.workload().capture.as_ref();
    let Some(capture) = capture.filter(|_| bind.ip().is_unspecified()) else {
        return Ok(Arrived::At(bind));
    };
    let unknown = || CaptureError::NoDestination(io::ErrorKind::Unsupported.into());
    let stream = stream.os().ok_or_else(unknown)?;
    let inbound = bind.port() == capture.inbound;
    let local = stream.local_addr().map_err(CaptureError::NoDestination)?;
    let to = if inbound && capture.mode == CaptureMode::Tproxy {
        local
    } else {
        redirected(stream, local).map_err(CaptureError::NoDestination)?
    };
    // SECURITY: passed on, such a connection would come back until every descriptor is used up.
    let ours = [capture.inbound, capture.outbound].contains(&to.port());
    let own =
        inbound || to == local || to.ip().is_loopback() || to.ip() == snapshot.workload().address;
    if ours && own {
        return Err(CaptureError::Loop(to));
    }
    Ok(if inbound {
        Arrived::Inbound(to)
    } else {
        Arrived::Outbound(to)
    })
}

fn redirected(stream: &TcpStream, local: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let original = match local {
        SocketAddr::V4(_) => socket.original_dst_v4()?,
        SocketAddr::V6(_) => socket.original_dst_v6()?,
    };
    let unknown = || io::Error::from(io::ErrorKind::AddrNotAvailable);
    original.as_socket().ok_or_else(unknown)
}

/// Binds an address of a snapshot. A wildcard address of a family that this machine does not have is left out.
pub(crate) fn bind(
    address: SocketAddr,
    capture: Option<&Capture>,
) -> io::Result<Option<std::net::TcpListener>> {
    let Some(capture) = capture.filter(|_| address.ip().is_unspecified()) else {
        return listener::bind(address).map(Some);
    };
    match bind_captured(address, capture) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if address.is_ipv6() && is_missing(&error) => {
            tracing::warn!(%address, %error, "this machine has no IPv6: nothing is captured there");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Without IPv6 in the kernel, or with IPv6 switched off.
fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

fn bind_captured(address: SocketAddr, capture: &Capture) -> io::Result<std::net::TcpListener> {
    let (kind, tcp) = (Type::STREAM, Some(SocketProtocol::TCP));
    let socket = socket2::Socket::new(Domain::for_address(address), kind, tcp)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    let transparent = capture.mode == CaptureMode::Tproxy && address.port() == capture.inbound;
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(transparent)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_ip_transparent_v6(transparent)?;
        }
    }
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Connects to an address of the workload itself so that the rules do not bring the connection back here.
pub(crate) async fn connect_past_the_rules(to: SocketAddr) -> io::Result<TcpStream> {
    let [v4, v6] = PAST_THE_RULES;
    let (socket, from) = match to {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, v4),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, v6),
    };
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

impl Snapshot {
    /// Every address that the proxy binds for traffic.
    pub(crate) fn binds(&self) -> HashSet<SocketAddr> {
        let Some(capture) = &self.workload().capture else {
            return self
                .inbound
                .keys()
                .chain(self.outbound.keys())
                .copied()
                .collect();
        };
        let ports = [capture.inbound, capture.outbound];
        let every = |port| ANY.map(|ip| SocketAddr::new(ip, port));
        ports.into_iter().flat_map(every).collect()
    }

    /// What guards the address that an inbound connection was made to. Under capture a port's listener holds for all of
    /// the workload's addresses, and a port without one is opaque TCP to the same address, judged like any other.
    pub(crate) fn inbound_at(&self, to: SocketAddr) -> Option<Arc<Inbound>> {
        if let Some(known) = self.inbound.get(&to) {
            return Some(known.clone());
        }
        let workload = self.workload();
        let capture = workload.capture.as_ref()?;
        let mut known = self.inbound.values();
        if let Some(known) = known.find(|i| i.listener.bind.port() == to.port()) {
            return Some(known.clone());
        }
        let listener = InboundListener {
            bind: to,
            app: to,
            protocol: Protocol::Tcp,
            mtls: capture.mtls,
            state: capture.state,
            services: Vec::new(),
            path_normalization: workload.path_normalization,
            pool: None,
        };
        Some(Arc::new(Inbound::new(workload, listener)))
    }

    /// Where a captured connection to an address that stands for no service is judged; `None` if it may not be made.
    pub(crate) fn passthrough(&self, to: SocketAddr) -> Option<Place> {
        let capture = self.workload().capture.as_ref()?;
        match capture.outbound_policy {
            OutboundPolicy::AllowAny => Some(Place::passthrough(self.workload(), to)),
            OutboundPolicy::RegistryOnly => None,
        }
    }
}
