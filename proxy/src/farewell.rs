//! How an HTTP connection takes its leave, so that no request that is on its way gets lost.
//!
//! HTTP/2 has GOAWAY, which names the last request that will be served (RFC 9113 section 6.8). HTTP/1.1 has only
//! `Connection: close` with a response (RFC 9112 section 9.6): a server that closes an idle connection may cross the
//! client's next request. So the next response says it, and only a connection on which nothing comes for
//! [`LAST_REQUEST_GRACE`] is closed unasked.

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
};

use http::{HeaderValue, Response, StatusCode, Version, header::CONNECTION};
use tokio::{sync::Notify, time::sleep};

use crate::limits::LAST_REQUEST_GRACE;

/// What one connection knows of its end.
#[derive(Debug, Default)]
pub(crate) struct Farewell {
    leaving: AtomicBool,
    http2: AtomicBool,
    seen_http2: Notify,
}

impl Farewell {
    /// A request has come.
    pub(crate) fn heard(&self, version: Version) {
        if version == Version::HTTP_2 && !self.http2.swap(true, Ordering::Relaxed) {
            self.seen_http2.notify_one();
        }
    }

    /// Says in an HTTP/1 response that it is the connection's last, if so.
    pub(crate) fn say<B>(&self, version: Version, response: &mut Response<B>) {
        if self.leaving.load(Ordering::Relaxed)
            && version != Version::HTTP_2
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
    }

    /// Serves `connection` to its end, which begins when `drain` is ready; `leave` has it take nothing new.
    pub(crate) async fn attend<C: Future>(
        &self,
        connection: C,
        leave: impl FnOnce(Pin<&mut C>),
        drain: impl Future<Output = ()>,
    ) -> C::Output {
        tokio::pin!(connection, drain);
        // Cancel-safe: the connection is polled on after the drain began.
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = drain => {}
        }
        self.leaving.store(true, Ordering::Relaxed);
        // Cancel-safe: as above. Where HTTP/2 has been heard already, the notification waits here.
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = self.seen_http2.notified() => {}
            () = sleep(LAST_REQUEST_GRACE) => {}
        }
        leave(connection.as_mut());
        connection.await
    }
}
