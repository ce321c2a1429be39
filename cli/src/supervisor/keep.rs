//! Keeps one process running until it is told to stop.

use std::time::Instant;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    backoff::Backoff,
    logfile,
    process::{self, Running, Spec},
};

/// Runs the process again and again, with growing waits between, until `stop`. `pid` shows the process of the moment.
pub(crate) async fn keep(
    context: &Context,
    spec: &Spec,
    pid: &watch::Sender<Option<u32>>,
    stop: &CancellationToken,
) {
    let mut backoff = Backoff::default();
    while !stop.is_cancelled() {
        let started = Instant::now();
        let what = match process::start(&context.reeve, spec) {
            Ok(running) => match attend(context, spec, running, pid, stop).await {
                Some(end) => end,
                None => return,
            },
            Err(error) => format!("could not be started: {error}"),
        };
        let wait = backoff.after(started.elapsed());
        context.notices.tell(format!(
            "{}: {what}; starting it again in {} ms{}",
            spec.title,
            wait.as_millis(),
            hint(spec),
        ));
        // Cancel-safe: a timer and a flag.
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Waits for the process's end; `None` if it ended because it was told to.
async fn attend(
    context: &Context,
    spec: &Spec,
    mut running: Running,
    pid: &watch::Sender<Option<u32>>,
    stop: &CancellationToken,
) -> Option<String> {
    let id = running.pid();
    context.guard.watch_group(id, spec.death);
    pid.send_replace(Some(id));
    // Cancel-safe: `wait` may be dropped and called again.
    let ended = tokio::select! {
        ended = running.wait() => Some(ended),
        () = stop.cancelled() => None,
    };
    let what = match ended {
        Some(ended) => {
            running.sweep();
            Some(ended.map_or_else(|error| error.to_string(), process::describe))
        }
        None => {
            running.stop(&context.abort).await;
            None
        }
    };
    pid.send_replace(None);
    context.guard.forget_group(id);
    what.map(|what| format!("ended with {what}"))
}

/// What it last said, and where the rest is.
fn hint(spec: &Spec) -> String {
    let (process::Output::File(path) | process::Output::Lines(path)) = &spec.output;
    let said = logfile::last_line(path).map(|line| format!("; it said: {line}"));
    format!("{} ({})", said.unwrap_or_default(), path.display())
}
