//! The witnesses of the audit log, as the configuration names them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use reeve_audit::witness::{Peer, Quorum, Unwitnessed, WitnessLine};
use reeve_control::{WitnessAt, Witnesses};
use tokio::runtime::Handle;

use super::{settings::Kept, view::View};
use crate::http::{self, Target};

/// A witness over plain HTTP; what it says is signed.
#[derive(Debug)]
struct HttpLine {
    target: Target,
    path: String,
    timeout: Duration,
    runtime: Handle,
}

impl WitnessLine for HttpLine {
    fn add_checkpoint(&self, body: Vec<u8>) -> Result<(u16, String), String> {
        let sent = http::post(&self.target, &self.path, Bytes::from(body), self.timeout);
        // Asked from threads of their own, which may wait.
        let reply = self
            .runtime
            .block_on(sent)
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        Ok((reply.status.as_u16(), text))
    }
}

/// Who must cosign; nobody where none is named.
pub(super) fn quorum(settings: &Witnesses) -> Option<Quorum> {
    let peers = settings.asked.iter().map(|at| peer(at, settings.timeout));
    let peers: Vec<_> = peers.collect();
    let otherwise = match settings.danger_acknowledge_unwitnessed {
        true => Unwitnessed::Count,
        false => Unwitnessed::Refuse,
    };
    (!peers.is_empty()).then(|| Quorum::new(peers, settings.quorum.into(), otherwise))
}

fn peer(at: &WitnessAt, timeout: Duration) -> Peer {
    let line = HttpLine {
        target: Target::Tcp(at.address),
        path: format!("{}/add-checkpoint", at.prefix),
        timeout,
        runtime: Handle::current(),
    };
    Peer::new(&at.key, Arc::new(line))
}

/// Takes over what a new configuration says of them, for ever.
pub(super) async fn follow(view: Arc<View>, state: PathBuf) {
    let mut mesh = view.controller.mesh();
    let mut known = view.settings.witnesses.clone();
    loop {
        let now = mesh.borrow_and_update().as_ref().map(|mesh| Kept::of(mesh));
        if let Some(kept) = now.filter(|kept| kept.witnesses != known) {
            tracing::info!(
                witnesses = kept.witnesses.asked.len(),
                "other witnesses of the audit log"
            );
            view.log.set_witnesses(quorum(&kept.witnesses));
            known = kept.witnesses;
            let kept = Kept {
                witnesses: known.clone(),
                ..view.settings.clone()
            };
            if let Err(error) = kept.write(&state) {
                tracing::error!(
                    error = format!("{error:#}"),
                    "a restart would ask other witnesses"
                );
            }
        }
        if mesh.changed().await.is_err() {
            return;
        }
    }
}
