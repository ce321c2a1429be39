//! An answer that goes on, line by line.

use bytes::{Bytes, BytesMut};
use http::{
    Request,
    header::{CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, sync::mpsc};

use super::{FetchError, MAX_BODY, Target};

/// Longest line.
const MAX_LINE: usize = 1024 * 1024;

/// Posts JSON to `path` of a Unix socket and sends what `read` makes of each line of the answer, until it ends or nobody
/// listens.
pub(crate) async fn post_lines<T>(
    target: &Target,
    path: &str,
    body: Bytes,
    read: impl Fn(&[u8]) -> Option<T>,
    to: &mpsc::Sender<T>,
) -> Result<(), FetchError> {
    let Target::Unix(socket) = target else {
        return Err(FetchError::Body(
            "only Unix sockets answer in lines".to_owned(),
        ));
    };
    let stream = UnixStream::connect(socket)
        .await
        .map_err(FetchError::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Exchange)?;
    // Ends when the response is dropped.
    tokio::spawn(connection);
    let request = Request::post(path)
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(FetchError::Request)?;
    let response = sender
        .send_request(request)
        .await
        .map_err(FetchError::Exchange)?;
    let status = response.status();
    let mut body = response.into_body();
    if !status.is_success() {
        let text = Limited::new(body, MAX_BODY).collect().await;
        let text = text.map(|text| text.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        return Err(FetchError::Body(format!("{status}: {text}")));
    }
    let mut held = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(FetchError::Exchange)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        held.extend_from_slice(&data);
        while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
            let line = held.split_to(end + 1);
            if let Some(item) = read(&line)
                && to.send(item).await.is_err()
            {
                return Ok(());
            }
        }
        if held.len() > MAX_LINE {
            return Err(FetchError::Body("a line is too long".to_owned()));
        }
    }
    Ok(())
}
