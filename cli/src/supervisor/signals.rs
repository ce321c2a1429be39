//! What signals do to a running mesh.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::problem::Problem;

/// SIGINT, SIGTERM and SIGHUP stop the mesh in order; a second one ends it at once.
pub(crate) fn obey_signals(
    stop: CancellationToken,
    abort: CancellationToken,
) -> Result<(), Problem> {
    let listen =
        |kind| signal(kind).map_err(|error| Problem::because("signals cannot be received", &error));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::spawn(async move {
        for next in [stop, abort] {
            // Cancel-safe: `recv` is.
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            next.cancel();
        }
    });
    Ok(())
}
