//! Where a request and its response pass their transformations.

use http::{HeaderMap, Response};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use crate::{
    answer::Answer,
    body::{Source, Upload},
    exchange::Exchange,
    worker::Worker,
};

/// Changes the body of a permitted request, where a transformation asks for that.
pub(crate) async fn upload(
    worker: &Worker,
    headers: &HeaderMap,
    upload: &Upload,
    exchange: &mut Exchange,
) -> Result<(), Answer> {
    let (space, end) = (exchange.space(), exchange.end().clone());
    let (Some(space), Some(applying)) = (space, exchange.transforms()) else {
        return Ok(());
    };
    let with = (&space, &*worker.proxy.metrics);
    // On the heap, since few requests are changed. Cancel-safe: a request that is no longer permitted goes no further.
    let changing = Box::pin(applying.change_upload(headers, upload, with));
    tokio::select! {
        changed = changing => changed,
        () = end.wait() => Err(Answer::ended()),
    }
}

/// Changes a response, where a transformation asks for that.
pub(crate) async fn response(
    response: Response<Incoming>,
    deadline: Option<Instant>,
    exchange: &mut Exchange,
) -> Result<Response<Source>, Answer> {
    let (space, end) = (exchange.space(), exchange.end().clone());
    let metrics = exchange.proxy().metrics.clone();
    let (Some(space), Some(applying)) = (space, exchange.transforms()) else {
        return Ok(response.map(Source::from));
    };
    let with = (&space, &*metrics);
    // On the heap, since few responses are changed.
    let changing = Box::pin(applying.change_response(response, with));
    let in_time = async {
        match deadline {
            Some(at) => timeout_at(at, changing)
                .await
                .unwrap_or_else(|_| Err(Answer::timeout())),
            None => changing.await,
        }
    };
    // Cancel-safe: a response that is no longer permitted goes no further.
    tokio::select! {
        changed = in_time => changed,
        () = end.wait() => Err(Answer::ended()),
    }
}
