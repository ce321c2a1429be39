//! Keeps one process running until it is told to stop.

use std::time::Instant;

use reeve_control::RestartPolicy;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    backoff::Backoff,
    logfile,
    process::{self, Running, Spec},
};

/// The exit code of a program that cannot be started (the shell's, POSIX).
const NOT_STARTED: i32 = 127;

/// How a process ended.
struct End {
    what: String,
    code: i32,
}

/// Runs the process again and again, with growing waits between, until `stop`. `pid` shows the process of the moment.
/// Returns the exit code of a process that is not to be started again.
pub(crate) async fn keep(
    context: &Context,
    spec: &Spec,
    policy: RestartPolicy,
    pid: &watch::Sender<Option<u32>>,
    stop: &CancellationToken,
) -> Option<i32> {
    let mut backoff = Backoff::default();
    while !stop.is_cancelled() {
        let started = Instant::now();
        let End { what, code } = match process::start(&context.reeve, spec) {
            Ok(running) => attend(context, spec, running, pid, stop).await?,
            Err(error) => End {
                what: format!("could not be started: {error}"),
                code: NOT_STARTED,
            },
        };
        if !policy.restarts(code) {
            let hint = if code == 0 { String::new() } else { hint(spec) };
            context
                .notices
                .tell(format!("{}: {what}; it is done{hint}", spec.title));
            return Some(code);
        }
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
    None
}

/// Waits for the process's end; `None` if it ended because it was told to.
async fn attend(
    context: &Context,
    spec: &Spec,
    mut running: Running,
    pid: &watch::Sender<Option<u32>>,
    stop: &CancellationToken,
) -> Option<End> {
    let id = running.pid();
    context.guard.watch_group(id, spec.death);
    pid.send_replace(Some(id));
    // Cancel-safe: `wait` may be dropped and called again.
    let ended = tokio::select! {
        ended = running.wait() => Some(ended),
        () = stop.cancelled() => None,
    };
    let end = match ended {
        Some(ended) => {
            running.sweep();
            Some(End {
                code: ended
                    .as_ref()
                    .map_or(NOT_STARTED, |status| process::exit_code(*status)),
                what: ended.map_or_else(|error| error.to_string(), process::describe),
            })
        }
        None => {
            running.stop(&context.abort).await;
            None
        }
    };
    pid.send_replace(None);
    context.guard.forget_group(id);
    end.map(|end| End {
        what: format!("ended with {}", end.what),
        ..end
    })
}

/// What it last said, and where the rest is.
pub(crate) fn hint(spec: &Spec) -> String {
    let (process::Output::File(path) | process::Output::Lines(path)) = &spec.output;
    let said = logfile::last_line(path).map(|line| format!("; it said: {line}"));
    format!("{} ({})", said.unwrap_or_default(), path.display())
}
