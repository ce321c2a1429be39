//! The opening handshake of WebSocket over HTTP/1.1 (RFC 6455 section 4), for callers on HTTP/2, which has none.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header};
use rand::RngCore as _;

/// RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Puts a fresh key into a request's headers; the answer that a server must give to it.
pub(super) fn challenge(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let mut nonce = [0; 16];
    rand::rng().fill_bytes(&mut nonce);
    let key = STANDARD.encode(nonce);
    let accept = HeaderValue::try_from(accept(&key)).ok()?;
    headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).ok()?);
    headers
        .entry(header::SEC_WEBSOCKET_VERSION)
        .or_insert(HeaderValue::from_static("13"));
    Some(accept)
}

pub(crate) fn accept(key: &str) -> String {
    let text = format!("{key}{GUID}");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_one_of_the_rfc() {
        assert_eq!(
            accept("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn a_key_is_made_afresh_whatever_the_caller_sent() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("mine"));
        let mut keys = Vec::new();
        for _ in 0..2 {
            let answer = challenge(&mut headers).unwrap();
            let key = headers[header::SEC_WEBSOCKET_KEY]
                .to_str()
                .unwrap()
                .to_owned();
            assert_eq!(
                (answer.to_str().unwrap(), key.len()),
                (accept(&key).as_str(), 24)
            );
            keys.push(key);
        }
        assert_ne!(keys[0], keys[1]);
        assert_eq!(headers[header::SEC_WEBSOCKET_VERSION], "13");
    }
}
