//! Reading a TLS ClientHello ahead without answering it. The TLS library does the reading; what it cannot read, or what
//! is longer than [`MAX_CLIENT_HELLO_BYTES`], is nobody's.

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use rustls::server::{Accepted, Acceptor};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

use crate::limits::MAX_CLIENT_HELLO_BYTES;

/// What has been read so far.
pub(crate) enum Hello {
    /// All of it.
    Whole(Box<Accepted>),
    /// Not all of it yet.
    More,
    /// No ClientHello, or none that can be read within the bound.
    Unreadable,
}

/// Reads one ClientHello as its bytes come, each of them once.
#[derive(Default)]
pub(crate) struct HelloReader {
    acceptor: Acceptor,
    read: usize,
}

impl fmt::Debug for HelloReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("HelloReader");
        shown.field("read", &self.read).finish_non_exhaustive()
    }
}

impl HelloReader {
    /// Reads what is new in `ahead`, which has the connection's bytes from the first one on.
    pub(crate) fn read(&mut self, ahead: &[u8]) -> Hello {
        let mut rest = ahead.get(self.read..).unwrap_or_default();
        while !rest.is_empty() {
            if self.acceptor.read_tls(&mut rest).is_err() {
                return Hello::Unreadable;
            }
            match self.acceptor.accept() {
                Ok(Some(accepted)) => return Hello::Whole(Box::new(accepted)),
                Ok(None) => {}
                Err(_) => return Hello::Unreadable,
            }
        }
        self.read = ahead.len();
        if ahead.len() >= MAX_CLIENT_HELLO_BYTES {
            Hello::Unreadable
        } else {
            Hello::More
        }
    }
}

/// Which server a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerName {
    /// This one, in lower case.
    Named(String),
    /// The ClientHello names none.
    Unnamed,
    /// There is no whole ClientHello: bytes that are none, too many, or too few within the time allowed.
    Unreadable,
}

impl ServerName {
    /// The name, if there is one.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            Self::Unnamed | Self::Unreadable => None,
        }
    }
}

/// Reads ahead until the ClientHello is whole; the bytes read must be given back to the connection.
pub(crate) async fn server_name<I: AsyncRead + Unpin>(
    io: &mut I,
    patience: Duration,
) -> (ServerName, Bytes) {
    let mut ahead = BytesMut::with_capacity(1024);
    let mut reader = HelloReader::default();
    let reading = async {
        loop {
            match io.read_buf(&mut ahead).await {
                Ok(0) | Err(_) => return ServerName::Unreadable,
                Ok(_) => {}
            }
            match reader.read(&ahead) {
                Hello::Whole(accepted) => return named(&accepted),
                Hello::Unreadable => return ServerName::Unreadable,
                Hello::More => {}
            }
        }
    };
    let name = timeout(patience, reading).await;
    (name.unwrap_or(ServerName::Unreadable), ahead.freeze())
}

/// The server that bytes read ahead ask for.
pub(crate) fn name_in(ahead: &[u8]) -> ServerName {
    match HelloReader::default().read(ahead) {
        Hello::Whole(accepted) => named(&accepted),
        Hello::More | Hello::Unreadable => ServerName::Unreadable,
    }
}

fn named(accepted: &Accepted) -> ServerName {
    match accepted.client_hello().server_name() {
        Some(name) => ServerName::Named(name.to_ascii_lowercase()),
        None => ServerName::Unnamed,
    }
}

#[cfg(test)]
pub(crate) mod tests;
