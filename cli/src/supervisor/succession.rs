//! Keeps a sidecar running, and replaces it by a new process of the same binary's path without a gap: the new one takes
//! the listening sockets over, the old one finishes what it has.

use std::{collections::BTreeMap, path::PathBuf, sync::Mutex, time::Instant};

use reeve_core::InstanceName;
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Duration, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    backoff::Backoff,
    keep::hint,
    process::{self, Running, Spec},
};
use crate::http::{self, Target};

/// How long a new process may take to get certificate and configuration and take the sockets over.
pub(crate) const TAKE_OVER: Duration = Duration::from_secs(30);
/// How often it is asked whether it has.
const ASK: Duration = Duration::from_millis(20);
/// Bound on one question.
const ANSWER: Duration = Duration::from_secs(1);
/// Requests that wait for the one before to end.
const QUEUE: usize = 4;

/// One process in the place of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Succeeded {
    pub(crate) instance: InstanceName,
    pub(crate) old_pid: u32,
    pub(crate) new_pid: u32,
    /// From the request to the moment when the new process served alone.
    pub(crate) took_ms: u64,
}

type Answer = oneshot::Sender<Result<Succeeded, String>>;

/// Where requests to restart a sidecar are taken.
#[derive(Debug, Default)]
pub(crate) struct Restarts(Mutex<BTreeMap<InstanceName, mpsc::Sender<Answer>>>);

impl Restarts {
    fn with<T>(
        &self,
        act: impl FnOnce(&mut BTreeMap<InstanceName, mpsc::Sender<Answer>>) -> T,
    ) -> T {
        let mut all = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        act(&mut all)
    }

    /// Takes requests for an instance, until the receiver is dropped.
    pub(crate) fn open(&self, instance: &InstanceName) -> mpsc::Receiver<Answer> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.with(|all| {
            all.retain(|_, sender| !sender.is_closed());
            all.insert(instance.clone(), sender)
        });
        receiver
    }

    /// Has an instance's sidecar replaced; one that still drains is waited for.
    pub(crate) async fn restart(&self, instance: &InstanceName) -> Result<Succeeded, String> {
        let sender = self.with(|all| all.get(instance).cloned());
        let gone = || format!("{instance} has no sidecar that runs");
        let (answer, answered) = oneshot::channel();
        let sender = sender.ok_or_else(gone)?;
        sender.try_send(answer).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                format!("{QUEUE} restarts of {instance} are waiting already")
            }
            mpsc::error::TrySendError::Closed(_) => gone(),
        })?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// What others see of a sidecar's processes.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The one that serves.
    pub(crate) pid: watch::Sender<Option<u32>>,
    /// The first of a line of processes that took over from each other: it changes only where there was a gap.
    pub(crate) line: watch::Sender<Option<u32>>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            pid: watch::Sender::new(None),
            line: watch::Sender::new(None),
        }
    }
}

/// The sidecar of one instance.
#[derive(Debug)]
pub(crate) struct Sidecar<'a> {
    pub(crate) context: &'a Context,
    pub(crate) instance: &'a InstanceName,
    pub(crate) spec: &'a Spec,
    pub(crate) admin: PathBuf,
    pub(crate) seen: &'a Seen,
}

impl Sidecar<'_> {
    /// Runs the sidecar again and again, with growing waits between, until `stop`.
    pub(crate) async fn keep(&self, stop: &CancellationToken) {
        let mut requests = self.context.restarts.open(self.instance);
        let mut backoff = Backoff::default();
        while !stop.is_cancelled() {
            let started = Instant::now();
            let what = match self.start(self.spec) {
                Ok(running) => match self.attend(running, &mut requests, stop).await {
                    Some(end) => end,
                    None => return,
                },
                Err(error) => format!("could not be started: {error}"),
            };
            let wait = backoff.after(started.elapsed());
            self.context.notices.tell(format!(
                "{}: {what}; starting it again in {} ms{}",
                self.spec.title,
                wait.as_millis(),
                hint(self.spec),
            ));
            // Cancel-safe: a timer and a flag.
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    fn start(&self, spec: &Spec) -> std::io::Result<Watched<'_>> {
        let running = process::start(&self.context.reeve, spec)?;
        Ok(Watched::new(self.context, self.instance, running))
    }

    /// Attends to a process and those that succeed it; says how the last one ended, `None` if it was told to.
    async fn attend<'s>(
        &'s self,
        first: Watched<'s>,
        requests: &mut mpsc::Receiver<Answer>,
        stop: &CancellationToken,
    ) -> Option<String> {
        let mut serving = first;
        let mut draining: Option<Watched<'_>> = None;
        self.seen.pid.send_replace(Some(serving.pid()));
        self.seen.line.send_replace(Some(serving.pid()));
        let end = loop {
            // Cancel-safe: `wait` may be dropped and called again; a request is taken or not.
            tokio::select! {
                what = serving.wait() => break Some(what),
                () = stop.cancelled() => break None,
                _ = wait_for(&mut draining) => draining = None,
                Some(answer) = requests.recv(), if draining.is_none() => {
                    let began = Instant::now();
                    let done = self.succeed(stop).await.map(|new| {
                        let old = std::mem::replace(&mut serving, new);
                        self.seen.pid.send_replace(Some(serving.pid()));
                        let succeeded = Succeeded {
                            instance: self.instance.clone(),
                            old_pid: old.pid(),
                            new_pid: serving.pid(),
                            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                        };
                        draining = Some(old);
                        succeeded
                    });
                    // Who asked may have gone.
                    drop(answer.send(done));
                }
            }
        };
        let abort = &self.context.abort;
        let rest = async {
            if let Some(old) = draining {
                old.stop(abort).await;
            }
        };
        match end {
            // A write-ahead log is one process's at a time: what drains must end before a fresh start.
            Some(_) => rest.await,
            None => drop(tokio::join!(serving.stop(abort), rest)),
        }
        self.seen.pid.send_replace(None);
        self.seen.line.send_replace(None);
        end
    }

    /// Starts a process beside the one that serves, and waits until it has taken over.
    async fn succeed(&self, stop: &CancellationToken) -> Result<Watched<'_>, String> {
        let mut spec = self.spec.clone();
        spec.command.push("--take-over".into());
        let new = self.start(&spec);
        let mut new =
            new.map_err(|error| format!("a new process could not be started: {error}"))?;
        let pid = new.pid();
        // Cancel-safe: as above; questions may be dropped.
        let failed = tokio::select! {
            what = new.wait() => {
                return Err(format!("the new process {what}, and the old one goes on{}", hint(&spec)));
            }
            () = self.serves(pid) => return Ok(new),
            () = sleep(TAKE_OVER) => format!(
                "the new process did not take over within {} s, and the old one goes on{}",
                TAKE_OVER.as_secs(),
                hint(&spec)
            ),
            () = stop.cancelled() => "the sidecar is being stopped".to_owned(),
        };
        new.stop(&self.context.abort).await;
        Err(failed)
    }

    /// Ready when the process `pid` answers on the admin socket: it does so only when it serves alone.
    async fn serves(&self, pid: u32) {
        let target = Target::Unix(self.admin.clone());
        loop {
            let reply = http::get(&target, "/ready", ANSWER).await;
            let answer = reply
                .ok()
                .and_then(|reply| serde_json::from_slice::<serde_json::Value>(&reply.body).ok());
            let who = answer.and_then(|answer| answer.get("pid")?.as_u64());
            if who == Some(pid.into()) {
                return;
            }
            sleep(ASK).await;
        }
    }
}

async fn wait_for(process: &mut Option<Watched<'_>>) {
    match process {
        Some(process) => drop(process.wait().await),
        None => std::future::pending().await,
    }
}

/// A process that the guard and the roster know of for as long as this is held.
#[derive(Debug)]
struct Watched<'a> {
    context: &'a Context,
    instance: &'a InstanceName,
    running: Running,
    pid: u32,
}

impl<'a> Watched<'a> {
    fn new(context: &'a Context, instance: &'a InstanceName, running: Running) -> Self {
        let pid = running.pid();
        context
            .guard
            .watch_group(pid, crate::verb::run::DeathSignal::Term);
        context
            .roster
            .update(instance, |live| live.sidecars.push(pid));
        Self {
            context,
            instance,
            running,
            pid,
        }
    }

    fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end and tells how it came. Cancel-safe.
    async fn wait(&mut self) -> String {
        let ended = self.running.wait().await;
        let what = ended.map_or_else(|error| error.to_string(), process::describe);
        format!("ended with {what}")
    }

    async fn stop(mut self, abort: &CancellationToken) {
        self.running.stop(abort).await;
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.running.sweep();
        let pid = self.pid;
        self.context.guard.forget_group(pid);
        self.context.roster.update(self.instance, |live| {
            live.sidecars.retain(|other| *other != pid)
        });
    }
}
