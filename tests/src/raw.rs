//! Raw bytes over sockets, in plaintext or inside the mesh's mTLS.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::MeshTls;

/// A byte stream, plain or not.
pub trait Wire: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Wire for T {}

/// Where raw bytes go.
#[derive(Clone, Debug)]
pub struct Door {
    /// For messages.
    pub name: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// Identity to speak mTLS with, if any.
    pub tls: Option<MeshTls>,
}

impl Door {
    /// A plaintext door.
    pub fn plain(name: &'static str, address: SocketAddr) -> Self {
        Self {
            name,
            address,
            tls: None,
        }
    }

    /// Connects; inside mTLS, with this ALPN protocol.
    pub async fn open(&self, alpn: &[u8]) -> Result<Pin<Box<dyn Wire>>> {
        let stream = TcpStream::connect(self.address)
            .await
            .context("connecting")?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::pin(stream),
            Some(tls) => Box::pin(tls.connect(stream, alpn).await?),
        })
    }
}

/// What came back for raw bytes.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// Whether the other side closed the connection.
    pub closed: bool,
}

impl Reply {
    /// The statuses of the HTTP/1.1 answers in it.
    pub fn statuses(&self) -> Vec<u16> {
        let text = String::from_utf8_lossy(&self.bytes);
        let heads = text.match_indices("HTTP/1.");
        heads
            .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok())
            .collect()
    }
}

/// Writes `bytes` and reads until the other side closes or `patience` is over.
pub async fn exchange(wire: &mut Pin<Box<dyn Wire>>, bytes: &[u8], patience: Duration) -> Reply {
    let until = Instant::now() + patience;
    let (mut reader, mut writer) = tokio::io::split(wire);
    let mut reply = Reply::default();
    let writing = async {
        // It may close before it has read everything.
        drop(writer.write_all(bytes).await);
        drop(writer.flush().await);
        std::future::pending::<()>().await;
    };
    let reading =
        async { while !matches!(reader.read_buf(&mut reply.bytes).await, Ok(0) | Err(_)) {} };
    let both = async {
        // Cancel-safe: the writing half never ends by itself.
        tokio::select! { () = writing => {}, () = reading => {} }
    };
    reply.closed = timeout_at(until, both).await.is_ok();
    reply
}
