//! `reeve ratelimit`: the server of Envoy's rate limit service.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use reeve_control::Fault;
use reeve_core::SystemClock;
use reeve_ratelimit::{Limits, RateLimitServer, RawLimits, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    output,
    problem::{Answer, Problem, Verdict},
    supervisor::obey_signals,
    verb::daemon,
};

const SERVE_EXAMPLES: &str = "\
Examples:
  reeve ratelimit serve -f limits.yaml
  reeve ratelimit serve -f limits.yaml --listen 10.0.0.7:8081 --redis redis://10.0.0.8:6379

limits.yaml, in the form of Envoy's own server; several domains are several documents:
  domain: mesh
  descriptors:
    - key: path
      value: /login
      rate_limit: {unit: minute, requests_per_unit: 10}
    - key: user
      rate_limit: {unit: second, requests_per_unit: 50}

The file is read again when it changes; a faulty one is told, and the last good one kept. Without --redis, hits are counted
in this process. When Redis cannot be reached, callers get UNAVAILABLE and do what they are configured to do
(failure_mode_deny). The port has no TLS: keep it within the host, or behind a sidecar.

Exit codes: 0 = ended by a signal, 2 = it could not run.";

const CHECK_EXAMPLES: &str = "\
Examples:
  reeve ratelimit check -f limits.yaml

Exit codes: 0 = fine, 1 = there are faults.";

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// `reeve ratelimit`.
#[derive(Args, Debug)]
pub(crate) struct RateLimitArgs {
    /// What to do.
    #[command(subcommand)]
    verb: RateLimitVerb,
}

#[derive(Debug, Subcommand)]
enum RateLimitVerb {
    /// Serve Envoy's rate limit service, v3
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Say what is wrong with a file of limits
    #[command(after_help = CHECK_EXAMPLES)]
    Check(FileArgs),
}

#[derive(Args, Debug)]
struct FileArgs {
    /// The limits.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args, Debug)]
struct ServeArgs {
    #[command(flatten)]
    limits: FileArgs,
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// Count in this Redis, which several servers may share.
    #[arg(long, value_name = "URL", env = "REEVE_REDIS", hide_env_values = true)]
    redis: Option<String>,
}

/// Does it.
pub(crate) fn run(args: RateLimitArgs) -> Verdict {
    match args.verb {
        RateLimitVerb::Serve(args) => daemon(serve(args)),
        RateLimitVerb::Check(args) => {
            let limits = read(&args).map_err(Problem::into_answer)?;
            output::line(&format!("fine: {} domains", limits.domains()))?;
            Ok(Answer::Yes)
        }
    }
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let limits = read(&args.limits).map_err(|problem| anyhow::anyhow!("{problem}"))?;
    let clock = Arc::new(SystemClock);
    let store = match &args.redis {
        // The address may hold a password: it is not told.
        Some(url) => Store::redis(url).await.context("cannot reach Redis")?,
        None => Store::memory(clock.clone()),
    };
    let (sender, receiver) = watch::channel(Arc::new(limits));
    let listener = tokio::net::TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    output::note(&format!("rate limits on {}", listener.local_addr()?));
    let service = RateLimitServer::new(receiver, store, clock).into_service();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    obey_signals(stop.clone(), abort.clone()).map_err(|problem| anyhow::anyhow!("{problem}"))?;
    let serving = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned());
    // Cancel-safe: following only looks at a file, and whoever aborts waits for no request.
    tokio::select! {
        served = serving => served.context("the server ended"),
        () = follow(&args.limits, &sender) => Ok(()),
        () = abort.cancelled() => anyhow::bail!("ended with requests open"),
    }
}

/// Reads the file whenever it has changed, for ever.
async fn follow(args: &FileArgs, limits: &watch::Sender<Arc<Limits>>) {
    let seen = || {
        let metadata = std::fs::metadata(&args.file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    let mut last = seen();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = seen();
        if now == last {
            continue;
        }
        last = now;
        match read(args) {
            Ok(fresh) => {
                output::note(&format!("{}: read again", args.file.display()));
                limits.send_replace(Arc::new(fresh));
            }
            Err(problem) => {
                output::complain(&problem);
                output::note("the limits stay as they were");
            }
        }
    }
}

fn read(args: &FileArgs) -> Result<Limits, Problem> {
    let told = |faults: Vec<String>| {
        Problem::new(format!("the limits have faults\n  {}", faults.join("\n  ")))
            .at(args.file.display())
    };
    let domains = reeve_control::read_documents::<RawLimits>(&args.file)
        .map_err(|faults| told(faults.iter().map(Fault::to_string).collect()))?;
    if domains.is_empty() {
        return Err(told(vec!["there is no domain in it".to_owned()]));
    }
    Limits::compile(&domains)
        .map_err(|faults| told(faults.iter().map(ToString::to_string).collect()))
}
