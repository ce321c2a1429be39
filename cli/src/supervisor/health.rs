//! Health checks.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use reeve_control::Probe;
use tokio::{net::TcpStream, sync::watch, time::timeout};

use crate::{
    http::{self, Target},
    verb::run::enter_namespace,
};

/// A probe that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(2);
/// How often a process that has just started is asked.
const EAGER: Duration = Duration::from_millis(100);

/// What is asked, and when it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// In which network namespace, if not ours.
    pub(crate) netns: Option<String>,
    /// At which address.
    pub(crate) address: IpAddr,
    /// What; `None` = running is enough.
    pub(crate) probe: Option<Probe>,
    /// How often.
    pub(crate) period: Duration,
    /// How many failures in a row count.
    pub(crate) threshold: u32,
}

/// Watches a process's health for as long as it is polled, and tells each change.
pub(crate) async fn watch(
    check: &Check,
    mut pid: watch::Receiver<Option<u32>>,
    tell: impl Fn(bool),
) {
    loop {
        let process = *pid.borrow_and_update();
        // Cancel-safe: a probe is dropped when the process changes, and the next one starts afresh.
        tokio::select! {
            () = watch_process(check, process, &tell) => {}
            changed = pid.changed() => {
                if changed.is_err() {
                    return;
                }
                tell(false);
            }
        }
    }
}

async fn watch_process(check: &Check, process: Option<u32>, tell: &impl Fn(bool)) {
    if process.is_none() {
        std::future::pending::<()>().await;
    }
    while !passes(check).await {
        tokio::time::sleep(EAGER).await;
    }
    tell(true);
    let mut failures = 0;
    loop {
        tokio::time::sleep(check.period).await;
        let ok = passes(check).await;
        failures = if ok { 0 } else { failures + 1 };
        if ok {
            tell(true);
        } else if failures >= check.threshold {
            tell(false);
        }
    }
}

async fn passes(check: &Check) -> bool {
    let Some(netns) = check.netns.clone() else {
        return answers(check).await;
    };
    // A thread is in one namespace at a time, and this one's belongs to the supervisor.
    let (tell, told) = tokio::sync::oneshot::channel();
    let check = check.clone();
    let asking = std::thread::Builder::new().spawn(move || {
        let answer = async { Ok(answers(&check).await) };
        let passes = enter_namespace(&netns).and_then(|()| crate::verb::block_on(answer));
        tell.send(passes.unwrap_or(false)).unwrap_or_default();
    });
    asking.is_ok() && told.await.unwrap_or(false)
}

async fn answers(check: &Check) -> bool {
    match &check.probe {
        None => true,
        Some(Probe::Tcp { port }) => {
            let address = SocketAddr::new(check.address, *port);
            matches!(timeout(LIMIT, TcpStream::connect(address)).await, Ok(Ok(_)))
        }
        Some(Probe::Http { path, port }) => {
            let target = Target::Tcp(SocketAddr::new(check.address, *port));
            let reply = http::get(&target, path, LIMIT).await;
            reply.is_ok_and(|reply| (200..400).contains(&reply.status.as_u16()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    };

    use axum::{Router, http::StatusCode, routing::get};

    use super::*;

    async fn until(told: &Mutex<Vec<bool>>, wanted: &[bool]) {
        for _ in 0..500 {
            let seen = told.lock().unwrap().clone();
            let mut changes = seen;
            changes.dedup();
            if changes == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?} is not {wanted:?}", told.lock().unwrap());
    }

    #[tokio::test]
    async fn failures_count_only_in_a_row_and_a_new_process_starts_over() {
        let well = Arc::new(AtomicBool::new(true));
        let asked = well.clone();
        let answer = move || {
            let well = asked.load(Ordering::SeqCst);
            async move {
                if well {
                    StatusCode::OK
                } else {
                    StatusCode::INTERNAL_SERVER_ERROR
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/health", get(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let check = Check {
            netns: None,
            address: address.ip(),
            probe: Some(Probe::Http {
                path: "/health".into(),
                port: address.port(),
            }),
            period: Duration::from_millis(10),
            threshold: 3,
        };
        let (pid, seen) = watch::channel(Some(1));
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        tokio::spawn(async move { watch(&check, seen, |ok| log.lock().unwrap().push(ok)).await });
        until(&told, &[true]).await;
        well.store(false, Ordering::SeqCst);
        until(&told, &[true, false]).await;
        well.store(true, Ordering::SeqCst);
        until(&told, &[true, false, true]).await;
        pid.send_replace(None);
        until(&told, &[true, false, true, false]).await;
    }
}
