//! Where the mesh process serves TLS: a TCP address, or a Unix socket, which a sidecar reaches from any network
//! namespace.

use std::{fmt, io, net::SocketAddr, path::PathBuf, str::FromStr};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

use crate::UnixPeer;

/// What stands before the path of a Unix socket.
const UNIX: &str = "unix:";

/// An address of the mesh process. What is spoken is the same at both kinds: TLS, with the certificates as the only
/// evidence of who is who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshAddress {
    /// `ADDR:PORT`
    Tcp(SocketAddr),
    /// `unix:PATH`
    Unix(PathBuf),
}

/// Neither `ADDR:PORT` nor `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither ADDR:PORT nor unix:PATH")]
pub struct MeshAddressError(String);

/// A connection to or from the mesh process.
pub type MeshStream = Either<TcpStream, UnixStream>;

/// A listening socket of the mesh process.
#[derive(Debug)]
pub enum MeshListener {
    /// On a TCP port.
    Tcp(TcpListener),
    /// On a Unix socket.
    Unix(UnixListener),
}

impl MeshAddress {
    /// Connects.
    ///
    /// # Errors
    /// What the kernel says of connecting.
    pub async fn connect(&self) -> io::Result<MeshStream> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Self::Unix(path) => UnixStream::connect(path).await.map(Either::Right),
        }
    }
}

impl MeshListener {
    /// The next connection, and where it is from, for people. Cancel-safe.
    pub(crate) async fn accept(&self) -> io::Result<(MeshStream, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Either::Left(stream), address.to_string()))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let from = UnixPeer::of(&stream)?.to_string();
                Ok((Either::Right(stream), from))
            }
        }
    }
}

impl FromStr for MeshAddress {
    type Err = MeshAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || MeshAddressError(text.to_owned());
        match text.strip_prefix(UNIX) {
            Some("") => Err(wrong()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for MeshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl From<SocketAddr> for MeshAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<TcpListener> for MeshListener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for MeshListener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_shown() {
        for text in ["127.77.0.1:15012", "[::1]:15012", "unix:/run/control.sock"] {
            let address: MeshAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        for text in ["", "unix:", "localhost", "/run/control.sock", "127.0.0.1"] {
            let refused = text.parse::<MeshAddress>().unwrap_err();
            assert!(refused.to_string().contains("unix:PATH"), "{refused}");
        }
    }
}
