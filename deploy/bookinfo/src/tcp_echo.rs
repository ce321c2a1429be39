//! `tcp-echo`: sends back each byte.

use std::net::SocketAddr;

use anyhow::Result;

use crate::server::accept;

/// Serves the echo.
pub(crate) async fn serve(address: SocketAddr) -> Result<()> {
    accept(address, |mut stream| async move {
        let (mut reader, mut writer) = stream.split();
        // A caller that breaks off is no matter of ours.
        drop(tokio::io::copy(&mut reader, &mut writer).await);
    })
    .await
}
