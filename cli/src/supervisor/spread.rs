//! News that an instance takes no new traffic reaches the proxies of its callers before anything of it is stopped.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Context;
use crate::{
    http::{self, Target},
    verb::mesh_api::Status,
};

/// The wait is never shorter: requests that were on their way when the news came have arrived after it.
const AT_LEAST: Duration = Duration::from_millis(200);
/// The wait is never longer: the mesh process may be away.
const AT_MOST: Duration = Duration::from_secs(2);
/// How often the mesh process is asked.
const ASK: Duration = Duration::from_millis(50);
/// Bound on one question.
const ANSWER: Duration = Duration::from_secs(1);

/// Does `change`, and waits until every connected proxy has acknowledged a generation that came after it.
pub(crate) async fn spread(context: &Context, change: impl FnOnce()) {
    let before = status(context).await.map(|status| status.generation);
    change();
    let known = async {
        loop {
            sleep(ASK).await;
            let Some(status) = status(context).await else {
                continue;
            };
            let newer = before.is_none_or(|before| status.generation > before);
            let mut connected = status.proxies.iter().filter(|proxy| proxy.connected);
            if newer && connected.all(|proxy| proxy.generation >= status.generation) {
                return;
            }
        }
    };
    // Cancel-safe: timers, questions and a flag.
    tokio::select! {
        (_, ()) = async { tokio::join!(timeout(AT_MOST, known), sleep(AT_LEAST)) } => {}
        () = context.stop.cancelled() => {}
    }
}

async fn status(context: &Context) -> Option<Status> {
    let api = Target::Tcp(context.roster.instances().mesh.api);
    let reply = http::get(&api, "/status", ANSWER).await.ok()?;
    serde_json::from_slice(&reply.body).ok()
}
