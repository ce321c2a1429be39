//! A server that speaks S3 (`s3s-fs`, over a folder), on loopback, which fails as it is told.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{
    Body, HttpError, HttpResponse,
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, sync::Notify};

pub(crate) const BUCKET: &str = "trail";
pub(crate) const KEY: &str = "AKIAREEVE";
pub(crate) const SECRET: &str = "a secret of the tests";

/// How the server fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// So many requests are answered, all others refused.
    RefuseAfter(u64),
    /// Requests wait until there is another fault.
    Hold,
    /// Every so manieth answer is "503 Slow Down", and the request not done.
    FailEvery(u64),
}

/// The server; it ends when dropped.
pub(crate) struct S3 {
    endpoint: String,
    state: Arc<State>,
    dir: TempDir,
    runtime: Option<Runtime>,
}

struct State {
    service: S3Service,
    fault: Mutex<(Fault, u64)>,
    refused: AtomicU64,
    held: AtomicU64,
    changed: Notify,
    /// s3s-fs looks at a condition and then writes: one at a time.
    turn: tokio::sync::Mutex<()>,
}

impl S3 {
    pub(crate) fn start() -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let state = Arc::new(State {
            service: builder.build(),
            fault: Mutex::new((Fault::None, 0)),
            refused: AtomicU64::new(0),
            held: AtomicU64::new(0),
            changed: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (told, bound) = std::sync::mpsc::sync_channel(1);
        let serving = Arc::clone(&state);
        runtime.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&serving);
                let answer = service_fn(move |request| answer(Arc::clone(&state), request));
                connections.spawn(async move {
                    let connection = auto::Builder::new(TokioExecutor::new());
                    drop(
                        connection
                            .serve_connection(TokioIo::new(stream), answer)
                            .await,
                    );
                });
            }
        });
        Self {
            endpoint: format!("http://{}", bound.recv().unwrap()),
            state,
            dir,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where the bucket's objects lie as files.
    pub(crate) fn bucket(&self) -> std::path::PathBuf {
        self.dir.path().join(BUCKET)
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = (fault, 0);
        self.state.changed.notify_waiters();
    }

    /// Requests that were refused so far.
    pub(crate) fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::Relaxed)
    }

    /// Requests that have had to wait.
    pub(crate) fn held(&self) -> u64 {
        self.state.held.load(Ordering::Relaxed)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<HttpResponse, HttpError> {
    let plain = |status: u16| {
        let mut response = HttpResponse::new(Body::empty());
        *response.status_mut() = status.try_into().unwrap();
        Ok(response)
    };
    loop {
        let changed = state.changed.notified();
        let (fault, count) = {
            let mut fault = state.fault.lock().unwrap();
            fault.1 += 1;
            *fault
        };
        match fault {
            Fault::RefuseAfter(allowed) if count > allowed => {
                state.refused.fetch_add(1, Ordering::Relaxed);
                return plain(403);
            }
            Fault::FailEvery(n) if count % n == 0 => return plain(503),
            Fault::Hold => {
                state.held.fetch_add(1, Ordering::Relaxed);
                changed.await;
            }
            Fault::None | Fault::RefuseAfter(_) | Fault::FailEvery(_) => break,
        }
    }
    let _turn = state.turn.lock().await;
    hyper::service::Service::call(&state.service, request).await
}
