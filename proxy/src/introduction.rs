//! What a caller's proxy says of its workload at the beginning of a connection of bytes by mesh mTLS, so that metrics name
//! both ends as they do for HTTP: two bytes of length, and the value of the header that requests have ([`PeerInfo`]).
//!
//! The two proxies agree on it by ALPN; one of before it neither says nor hears anything. Nothing is decided by it.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{limits::MAX_INTRODUCTION_BYTES, peer_info::PeerInfo};

/// Says it.
pub(crate) async fn say(to: &mut (impl AsyncWrite + Unpin), own: &PeerInfo) -> io::Result<()> {
    let value = own.to_value();
    let value = value.as_ref().map(http::HeaderValue::as_bytes);
    let value = value.filter(|v| v.len() <= MAX_INTRODUCTION_BYTES);
    let value = value.unwrap_or_default();
    let length = u16::try_from(value.len()).map_err(io::Error::other)?;
    // One record of TLS.
    let mut said = length.to_be_bytes().to_vec();
    said.extend_from_slice(value);
    to.write_all(&said).await?;
    to.flush().await
}

/// Hears it; what is malformed reads as unknown, what is too long is an error.
pub(crate) async fn hear(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<PeerInfo>> {
    let length = usize::from(from.read_u16().await?);
    if length > MAX_INTRODUCTION_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut value = vec![0; length];
    from.read_exact(&mut value).await?;
    let value = http::HeaderValue::from_bytes(&value).ok();
    Ok(value.and_then(|value| PeerInfo::read(&value)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now<F: Future>(future: F) -> F::Output {
        futures_util::FutureExt::now_or_never(future).expect("nothing to wait for")
    }

    #[test]
    fn the_longest_names_are_said_and_what_follows_is_left() {
        let name = || "x".repeat(253);
        let own = PeerInfo {
            workload: name(),
            namespace: name(),
            app: name(),
            version: name(),
        };
        let mut said = Vec::new();
        now(say(&mut said, &own)).unwrap();
        said.extend_from_slice(b"bytes");
        let mut rest = said.as_slice();
        assert_eq!(now(hear(&mut rest)).unwrap(), Some(own));
        assert_eq!(rest, b"bytes");
    }

    #[test]
    fn what_is_too_long_or_cut_off_is_refused() {
        let too_long = u16::try_from(MAX_INTRODUCTION_BYTES + 1)
            .unwrap()
            .to_be_bytes();
        let mut said = too_long.to_vec();
        said.resize(4096, b'a');
        assert!(now(hear(&mut said.as_slice())).is_err());
        for cut in [&b""[..], b"\0", b"\0\x05w=a"] {
            assert!(now(hear(&mut &*cut)).is_err(), "{cut:?}");
        }
        assert_eq!(now(hear(&mut &b"\0\0"[..])).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(bytes: Vec<u8>) {
            let mut rest = bytes.as_slice();
            if now(hear(&mut rest)).is_ok() {
                let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
                prop_assert_eq!(rest.len(), bytes.len() - 2 - length);
            }
        }
    }
}
