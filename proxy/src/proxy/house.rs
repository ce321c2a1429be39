//! What a proxy does by the clock and beside its traffic.

use std::sync::Arc;

use reeve_core::UnixTime;
use reeve_svid::{Credentials, CredentialsWatch};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Proxy, Shared};
use crate::{
    limits::{AGGREGATE_INTERVAL, DNS_TICK, EXPIRY_TICK, OUTLIER_TICK, PEM_FILE_POLL},
    worker::WorkerSet,
};

/// Makes an epoch of every new version of the credentials.
pub(super) async fn follow_credentials(
    shared: Arc<Shared>,
    workers: Arc<WorkerSet>,
    mut credentials: CredentialsWatch,
    installed: watch::Sender<Option<Arc<Credentials>>>,
) {
    loop {
        let held = credentials.borrow_and_update().clone();
        if let Some(held) = held {
            let not_after = held.svid.not_after().as_secs();
            match shared.made.hold(Arc::clone(&held)) {
                Ok((epoch, certificates)) => {
                    shared.switch(epoch, &workers);
                    shared.metrics.certificate(certificates, not_after);
                    installed.send_replace(Some(held));
                }
                Err(error) => {
                    tracing::error!(%error, "new credentials cannot be used; the old ones stay");
                }
            }
        }
        if credentials.changed().await.is_err() {
            // The agent is gone; what is held is used until it ends.
            return;
        }
    }
}

/// Takes up certificates and keys in files when they change.
pub(super) async fn watch_files(proxy: Proxy) {
    let mut look = tokio::time::interval(PEM_FILE_POLL);
    let stop = proxy.stop.cut.clone();
    while stop.run_until_cancelled(look.tick()).await.is_some() {
        let Some(snapshot) = proxy.shared.snapshot() else {
            continue;
        };
        if snapshot.files.is_empty() {
            continue;
        }
        let refreshed = proxy.clone();
        let looking = tokio::task::spawn_blocking(move || {
            if snapshot.files.have_changed() {
                refreshed.refresh();
            }
        });
        if let Err(error) = looking.await {
            tracing::error!(%error, "files of certificates could not be looked at");
        }
    }
}

/// Looks up names when their answers are over.
pub(super) async fn watch_names(proxy: Proxy) {
    let mut look = tokio::time::interval(DNS_TICK);
    let stop = proxy.stop.cut.clone();
    while stop.run_until_cancelled(look.tick()).await.is_some() {
        let Some(snapshot) = proxy.shared.snapshot() else {
            continue;
        };
        if snapshot.names.is_empty() {
            continue;
        }
        let servers = &snapshot.workload().name_servers;
        if proxy.shared.names.look_up(&snapshot.names, servers).await {
            let refreshed = proxy.clone();
            let refreshing = tokio::task::spawn_blocking(move || refreshed.refresh());
            if let Err(error) = refreshing.await {
                tracing::error!(%error, "new addresses could not be taken up");
            }
        }
    }
}

/// Asks about open streams again when their answers may have changed by time alone since then: a policy has lapsed
/// (`@until`), a condition on the time has flipped. The time of now.
fn judge_on_time(shared: &Shared, workers: &WorkerSet, since: UnixTime) -> UnixTime {
    let now = shared.ledger.now();
    let snapshot = shared.snapshot();
    if let Some(snapshot) = snapshot.filter(|held| held.engine.may_change_between(since, now)) {
        for worker in workers.iter() {
            worker
                .open
                .judge_again(&snapshot, &worker.ledger, &shared.metrics);
        }
    }
    now
}

/// What happens by the clock: tokens end, policies lapse, conditions on the time flip, refusals of strangers are written down, the log's room is exported.
pub(super) async fn keep_house(
    shared: Arc<Shared>,
    workers: Arc<WorkerSet>,
    stop: CancellationToken,
) {
    let mut tokens = tokio::time::interval(EXPIRY_TICK);
    let mut strangers = tokio::time::interval(AGGREGATE_INTERVAL);
    let mut outliers = tokio::time::interval(OUTLIER_TICK);
    let mut judged = shared.ledger.now();
    loop {
        // Cancel-safe: intervals keep their place.
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tokens.tick() => {
                for worker in workers.iter() {
                    worker.open.expire(&worker.ledger, &shared.metrics);
                }
                judged = judge_on_time(&shared, &workers, judged);
                shared.retired.release();
            }
            _ = outliers.tick() => shared.look_after_outliers(),
            _ = strangers.tick() => {
                shared.strangers.flush(&shared.ledger);
                shared.metrics.wal_status(&shared.ledger.status());
            }
        }
    }
}
