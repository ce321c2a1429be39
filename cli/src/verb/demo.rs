//! `reeve demo`: Bookinfo as a mesh of local processes, with traffic.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use reeve_core::model::Generation;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    demo::{
        folder::{self, GATEWAY_PORT, GATEWAY_WORKLOAD},
        summary::Summary,
        table,
        traffic::Visitors,
        view::View,
    },
    mesh::CustodyArgs,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::{StateArgs, StateDir},
    supervisor::{BaseClaim, Notices, Options, Roster, Supervisor, load, obey_signals},
    verb::{audit::verify_state, block_on, duration, mesh_api::MeshApi, status},
};

const EXAMPLES: &str = "\
Examples:
  reeve demo                                 live table, product page and traffic until Ctrl-C
  reeve demo --headless --for 30s -o json    for scripts: ends with a summary

The configuration is written to <state>/demo; edit it there and watch the mesh follow.
A request counts as failed when it was answered 5xx, with a part of the page missing, or not at all.

Exit codes: 0 = fine, 1 = a request failed or the audit log did not verify, 2 = the demo could not run.";

/// `reeve demo`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Run without a terminal: no table, only the summary at the end.
    #[arg(long)]
    pub(crate) headless: bool,
    /// Stop by itself after this long, such as 30s or 5m.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub(crate) run_for: Option<Duration>,
    /// Requests per second through the gateway; 0 sends none.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) rps: u32,
    /// Keep the mesh's state in DIR instead of a directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Use addresses 127.X.*; the next free X is taken otherwise.
    #[arg(long, value_name = "X", value_parser = clap::value_parser!(u8).range(1..=254))]
    pub(crate) base: Option<u8>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// How long the mesh may take until everything is healthy.
const START: Duration = Duration::from_secs(60);
/// How often the table is drawn.
const DRAW: Duration = Duration::from_secs(1);
/// Notices shown below the table.
const NOTICES: usize = 5;
/// Where to begin to look for free addresses.
const FIRST_BASE: u8 = 77;

/// Runs the demo.
pub(crate) fn run(args: DemoArgs) -> Verdict {
    // One thread that lives as long as the supervisor (see `supervisor::process::start`).
    block_on(demo(args))
}

async fn demo(args: DemoArgs) -> Verdict {
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    obey_signals(stop.clone(), abort.clone())?;
    let (notices, told) = Notices::new();
    let base = match args.base {
        Some(base) => BaseClaim::take(base)?,
        None => BaseClaim::take_next_free(FIRST_BASE)?,
    };
    let temporary = args.state.is_none();
    let state = args
        .state
        .clone()
        .map_or_else(own_dir, StateDir::new)
        .claim()?;
    let state_dir = (*state).clone();
    let folder = folder::write(state.path()).map_err(|error| {
        Problem::because("Bookinfo's configuration cannot be written", &error)
            .at(state.path().display())
    })?;
    check_bookinfo()?;
    let certificate_ttl = load(&folder)?.settings.certificate_ttl;
    let options = Options {
        folder,
        state,
        base,
        intercept: None,
        custody: CustodyArgs::default(),
        audit_store: None,
        temporary,
        notices,
        stop: stop.clone(),
        abort: abort.clone(),
    };
    let supervisor = Supervisor::start(options).await?;
    let mut show = Show::new(&args, &state_dir, told);
    let roster = supervisor.roster();
    let running = tokio::spawn(supervisor.run());
    let (visitors, rotations) = accompany(
        &args,
        &roster,
        &state_dir,
        &mut show,
        &stop,
        certificate_ttl,
    )
    .await;
    stop.cancel();
    show.close();
    let workloads = roster.instances().instances.len();
    let stopped = running
        .await
        .map_err(|error| Problem::because("the supervisor ended unexpectedly", &error))?;
    let report = verify_state(&state_dir);
    let summary = report.map(|report| {
        for finding in &report.findings {
            output::note(&format!("{}: {}", finding.place, finding.what));
        }
        Summary::new(workloads, rotations, &visitors.seen(), &report, &state_dir)
    });
    if let Some(failure) = visitors.seen().last_failure {
        output::note(&format!("the last request that failed: {failure}"));
    }
    stopped.finish();
    conclude(&summary?, args.output.output)
}

/// Sends visitors and shows what is to be seen, until it is time to stop.
async fn accompany(
    args: &DemoArgs,
    roster: &Roster,
    state: &StateDir,
    show: &mut Show,
    stop: &CancellationToken,
    certificate_ttl: Duration,
) -> (Visitors, u64) {
    let visitors = Visitors::default();
    let leave = stop.child_token();
    let mut view = View::new(certificate_ttl);
    let mut coming = None;
    let began = Instant::now();
    let mut since = None;
    let mut known = None;
    let mut rotations = 0.0;
    let mut draw = tokio::time::interval(DRAW);
    while !stop.is_cancelled() {
        // Cancel-safe: a tick and a flag.
        tokio::select! {
            _ = draw.tick() => {}
            () = stop.cancelled() => break,
        }
        let rows = view.look(roster).await;
        rotations = f64::max(rotations, rows.iter().map(|row| row.rotations).sum());
        let gateway = gateway(roster);
        show.draw(&rows, &visitors, gateway);
        let healthy = !rows.is_empty() && rows.iter().all(|row| row.healthy);
        let ready = coming.is_none() && healthy && is_told(state, &mut known).await;
        if coming.is_none() && (ready || began.elapsed() > START) {
            if !ready {
                output::note("not everything is healthy yet; visitors come anyway");
            }
            let (visitors, leave, rps) = (visitors.clone(), leave.clone(), args.rps);
            coming = gateway.map(|gateway| {
                tokio::spawn(async move { visitors.run(gateway, rps, leave).await })
            });
            since = Some(Instant::now());
        }
        if since
            .zip(args.run_for)
            .is_some_and(|(since, limit)| since.elapsed() >= limit)
        {
            break;
        }
    }
    // Visitors leave before the mesh is taken down.
    leave.cancel();
    if let Some(coming) = coming {
        drop(coming.await);
    }
    (visitors, whole(rotations))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a small count that Prometheus writes as a float"
)]
fn whole(count: f64) -> u64 {
    count.max(0.0) as u64
}

/// Whether every proxy knows what is healthy: all have the newest generation, and it is that of the look before.
async fn is_told(state: &StateDir, known: &mut Option<Generation>) -> bool {
    let Ok(api) = MeshApi::of(state) else {
        return false;
    };
    let now = api.status().await.ok().filter(status::is_everywhere);
    let now = now.map(|status| status.generation);
    std::mem::replace(known, now) == now && now.is_some()
}

/// Where the gateway takes visitors.
fn gateway(roster: &Roster) -> Option<SocketAddr> {
    let instances = roster.instances().instances;
    let gateway = instances
        .iter()
        .find(|i| i.workload.as_str() == GATEWAY_WORKLOAD);
    gateway.map(|instance| SocketAddr::new(IpAddr::V4(instance.address), GATEWAY_PORT))
}

/// A directory for this run alone: the one that other verbs look in by themselves, if nothing is there.
fn own_dir() -> StateDir {
    let usual = StateArgs::default().dir();
    if !usual.path().exists() {
        return usual;
    }
    let name = format!("reeve-demo-{}", hex::encode(rand::random::<[u8; 4]>()));
    StateDir::new(usual.path().with_file_name(name))
}

/// The applications are a program of their own, built beside this one.
fn check_bookinfo() -> Result<(), Problem> {
    let reeve = std::env::current_exe()
        .map_err(|error| Problem::because("the running reeve binary cannot be found", &error))?;
    let bookinfo = reeve.with_file_name("reeve-bookinfo");
    if bookinfo.is_file() {
        return Ok(());
    }
    Err(Problem::new("Bookinfo's program is missing")
        .at(bookinfo.display())
        .fix("build it with `cargo build -p reeve-bookinfo`, or run `make demo`"))
}

fn conclude(summary: &Summary, format: Format) -> Verdict {
    match format {
        Format::Json => output::json(summary)?,
        Format::Human => output::line(&format!(
            "{} workloads, {} requests, {} failed, {} decisions allowed, {} denied, {} certificates renewed, \
             {} records, audit log {}, p50 {} ms, p99 {} ms",
            summary.workloads,
            summary.requests,
            summary.failed,
            summary.allowed,
            summary.denied,
            summary.rotations,
            summary.records,
            if summary.verified {
                "verified"
            } else {
                "NOT VERIFIED"
            },
            summary.p50_ms,
            summary.p99_ms,
        ))?,
    }
    Ok(Answer::from_fine(summary.is_fine()))
}

/// What people see: a live table on a terminal, else notices alone.
struct Show {
    live: bool,
    next: String,
    told: mpsc::Receiver<String>,
    notices: VecDeque<String>,
    greeted: bool,
}

/// Terminal control (ECMA-48, xterm): the alternate screen, its start, and the way back.
const OPEN: &str = "\x1b[?1049h";
const HOME: &str = "\x1b[H\x1b[J";
const CLOSE: &str = "\x1b[?1049l";

impl Show {
    fn new(args: &DemoArgs, state: &StateDir, told: mpsc::Receiver<String>) -> Self {
        let live = !args.headless && args.output.output == Format::Human && output::is_terminal();
        if live {
            output::note(OPEN);
        }
        Self {
            live,
            next: next_steps(state),
            told,
            notices: VecDeque::new(),
            greeted: false,
        }
    }

    fn draw(
        &mut self,
        rows: &[crate::demo::view::Row],
        visitors: &Visitors,
        gateway: Option<SocketAddr>,
    ) {
        while let Ok(notice) = self.told.try_recv() {
            if !self.live {
                output::note(&notice);
            }
            self.notices.push_back(notice);
            if self.notices.len() > NOTICES {
                self.notices.pop_front();
            }
        }
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), GATEWAY_PORT);
        let page = format!("http://{}/productpage", gateway.unwrap_or(nowhere));
        if self.live {
            let notices = self.notices.make_contiguous();
            let screen = table::screen(rows, &visitors.seen(), &page, &self.next, notices);
            output::note(&format!("{HOME}{screen}"));
        } else if !self.greeted && gateway.is_some() {
            output::note(&format!("{page}\n{}", self.next));
            self.greeted = true;
        }
    }

    fn close(&mut self) {
        if self.live {
            output::note(CLOSE);
            self.live = false;
        }
        output::note("taking the mesh down and verifying its audit log...");
    }
}

/// Five commands worth trying next.
fn next_steps(state: &StateDir) -> String {
    let reeve = shown_program();
    let dir = state.path().display();
    let export = if *state == StateArgs::default().dir() {
        String::new()
    } else {
        format!("  export REEVE_STATE={dir}\n")
    };
    format!(
        "\ntry in another terminal:\n{export}\
         \x20 {reeve} audit tail -f --denied          every denial as it happens; explain one with `audit explain ID`\n\
         \x20 {reeve} logs reviews-v2 -f               application output and access log, joined by trace\n\
         \x20 {reeve} drill run rotate-root            rotate the root under load; the report says what was lost\n\
         \x20 ${{EDITOR:-vi}} {dir}/demo/access.yaml      permit what is denied; it applies as you save\n\
         \x20 {reeve} audit verify                     prove that no record was altered or left out\n"
    )
}

/// How this program was called.
fn shown_program() -> String {
    let called = std::env::args().next().unwrap_or_default();
    match Path::new(&called).file_name() {
        Some(name) if Path::new(&called) == Path::new(name) => called,
        _ => std::env::current_exe().map_or(called, |path| path.display().to_string()),
    }
}
