//! Recorded decisions as verbs take them: where the log is, which decisions, and how far reading it has come.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use clap::Args;
use reeve_analysis::{Candidate, Place, Places, Wanted};
use reeve_audit::Scan;
use reeve_control::Mesh;
use reeve_core::{
    Clock as _, Namespace, ServiceName, SpiffeId, SystemClock,
    decision::ResourceRef,
    error_chain,
    model::{PolicyMode, ServiceState},
};
use std::path::Path;

use super::explain::{self, full_name};
use crate::{
    input,
    problem::Problem,
    state::StateArgs,
    verb::audit::{LogArgs, unreadable},
};

/// How often progress is told.
const TOLD: Duration = Duration::from_millis(200);

/// Which recorded decisions.
#[derive(Args, Debug, Default)]
pub(super) struct TrailArgs {
    /// Not before this time: RFC 3339, seconds since 1970, or 5m for five minutes ago.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The caller: a SPIFFE ID, or `unauthenticated`.
    #[arg(long, value_name = "SPIFFE_ID")]
    from: Option<String>,
    /// The SPIFFE ID of the workload asked.
    #[arg(long, value_name = "SPIFFE_ID")]
    workload: Option<SpiffeId>,
    /// The service asked (`reviews`, `reviews.shop`).
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// The namespace of the workload asked.
    #[arg(long, value_name = "NS")]
    namespace: Option<Namespace>,
    /// How the path begins.
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    #[command(flatten)]
    log: LogArgs,
}

/// What there is to read, and what of it counts.
pub(super) struct Trail {
    pub(super) scan: Scan,
    pub(super) wanted: Wanted,
    log: LogArgs,
}

impl Trail {
    /// Puts on record that it was read, and how many decisions of it counted.
    pub(super) fn tell(&self, decisions: u64) {
        self.log.tell(decisions);
    }
}

impl TrailArgs {
    /// All that the mesh of `state` has recorded since then.
    pub(super) fn since(state: &StateArgs, since: &str) -> Self {
        Self {
            since: Some(since.to_owned()),
            log: LogArgs::of(state),
            ..Self::default()
        }
    }

    /// Looks at the log.
    pub(super) fn open(&self) -> Result<Trail, Problem> {
        let now = SystemClock.now();
        let time = |text: &Option<String>| {
            let parsed = text.as_deref().map(|text| input::time(text, now));
            parsed.transpose().map_err(Problem::new)
        };
        let service = self.service.as_deref().map(full_name);
        let service = service.map(|name| ServiceName::parse(&name)).transpose();
        let wanted = Wanted {
            since: time(&self.since)?,
            until: time(&self.until)?,
            principal: self.from.as_deref().map(explain::principal).transpose()?,
            workload: self.workload.clone(),
            service: service.map_err(Problem::new)?,
            namespace: self.namespace.clone(),
            path: self.path.clone(),
        };
        let scan = self.log.open()?.scan(wanted.since);
        Ok(Trail {
            scan: scan.map_err(|error| unreadable(&error))?,
            wanted,
            log: self.log.clone(),
        })
    }
}

/// Runs `work`, which counts the records that it has read, and tells people at a terminal how far it is.
pub(super) fn with_progress<T>(total: u64, work: impl FnOnce(&AtomicU64) -> T) -> T {
    let read = AtomicU64::new(0);
    if !io::stderr().is_terminal() {
        return work(&read);
    }
    let (done, until) = mpsc::sync_channel::<()>(1);
    thread::scope(|scope| {
        let read = &read;
        scope.spawn(move || {
            let mut told = false;
            while until.recv_timeout(TOLD) == Err(mpsc::RecvTimeoutError::Timeout) {
                told = true;
                let so_far = read.load(Ordering::Relaxed);
                let mut err = io::stderr().lock();
                drop(write!(err, "\r{so_far} of {total} records\x1b[K"));
                drop(err.flush());
            }
            if told {
                drop(write!(io::stderr().lock(), "\r\x1b[K"));
            }
        });
        let answer = work(read);
        drop(done);
        answer
    })
}

/// The trail could not be read to its end.
pub(super) fn broken(error: &reeve_audit::ScanError) -> Problem {
    Problem::new(error_chain(error)).fix("`reeve audit verify` tells what is wrong with a log")
}

/// What of a candidate binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// What it says itself.
    AsWritten,
    /// All policies, shadow ones as well, at every service, whatever its state.
    Everything,
}

/// The policies of `mesh`, which was read from `folder`, as a candidate.
pub(super) fn candidate(
    mut mesh: Mesh,
    folder: &Path,
    binding: Binding,
) -> Result<Candidate, Problem> {
    if binding == Binding::Everything {
        for policy in &mut mesh.policies {
            policy.mode = PolicyMode::Enforce;
        }
    }
    let engine = explain::engine(&mesh, folder)?;
    Ok(Candidate::new(engine, Box::new(OfMesh { mesh, binding })))
}

/// A folder's mesh says where policies bind.
struct OfMesh {
    mesh: Mesh,
    binding: Binding,
}

impl Places for OfMesh {
    fn place(&self, resource: &ResourceRef, port: u16) -> Place {
        let rules = self.mesh.place(resource, port);
        Place {
            state: match self.binding {
                Binding::AsWritten => rules.state,
                Binding::Everything => ServiceState::Enforced,
            },
            http: rules.http,
            tokens: rules.tokens,
        }
    }
}
