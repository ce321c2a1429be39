//! The verbs, one module each.

pub(crate) mod agent;
pub(crate) mod audit;
pub(crate) mod authz;
pub(crate) mod break_glass;
pub(crate) mod ca;
pub(crate) mod chaos;
pub(crate) mod compare;
pub(crate) mod completion;
pub(crate) mod config;
mod confirm;
pub(crate) mod demo;
pub(crate) mod drill;
pub(crate) mod guard;
pub(crate) mod identity;
pub(crate) mod intercept;
pub(crate) mod jwt;
pub(crate) mod logs;
pub(crate) mod mesh_api;
pub(crate) mod mtls;
pub(crate) mod operator;
pub(crate) mod policy;
pub(crate) mod proxy;
pub(crate) mod proxy_config;
pub(crate) mod ratelimit;
pub(crate) mod rollout;
pub(crate) mod route;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod tap;
pub(crate) mod up;
pub(crate) mod witness;

use std::{future::Future, path::Path, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    args::{ControlVerb, Verb},
    mesh,
    problem::{Answer, Problem, Verdict},
};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// Does what the command line says.
pub(crate) fn run(verb: Verb) -> Verdict {
    match verb {
        Verb::Demo(args) => demo::run(args),
        Verb::Up(args) => up::run(args),
        Verb::Status(args) => status::run(&args),
        Verb::Logs(args) => logs::run(&args),
        Verb::Config(args) => config::run(&args),
        Verb::Route(args) => route::run(&args),
        Verb::Rollout(args) => rollout::run(&args),
        Verb::Compare(args) => compare::run(&args),
        Verb::RateLimit(args) => ratelimit::run(args),
        Verb::Policy(args) => policy::run(&args),
        Verb::BreakGlass(args) => break_glass::run(&args),
        Verb::Jwt(args) => jwt::run(&args),
        Verb::Authz(args) => authz::run(args),
        Verb::Audit(args) => audit::run(&args),
        Verb::Witness(args) => witness::run(&args),
        Verb::Identity(args) => identity::run(&args),
        Verb::Ca(args) => ca::run(&args),
        Verb::Drill(args) => drill::run(&args),
        Verb::Agent(args) => agent::run(*args),
        Verb::Mtls(args) => mtls::run(&args),
        Verb::Proxy(args) => proxy::run(args),
        Verb::Tap(args) => tap::run(&args),
        Verb::Chaos(args) => chaos::run(&args),
        Verb::ProxyConfig(args) => proxy_config::run(args),
        Verb::Intercept(args) => intercept::run(args),
        Verb::Control(command) => match command.verb {
            ControlVerb::Run(args) => daemon(mesh::run(args)),
        },
        Verb::Run(args) => run::run(args),
        Verb::Guard(args) => guard::run(&args),
        Verb::Completion(args) => completion::run(&args),
    }
}

/// Runs a long-lived process's main future on all cores.
pub(crate) fn daemon(main: impl Future<Output = anyhow::Result<()>>) -> Verdict {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::because("the runtime could not start", &error))?;
    match runtime.block_on(main) {
        Ok(()) => Ok(Answer::Yes),
        Err(error) => Err(Problem::new(format!("{error:#}"))),
    }
}

/// Runs a short verb's future on this thread.
pub(crate) fn block_on<T>(main: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::because("the runtime could not start", &error))?;
    runtime.block_on(main)
}

/// A gRPC channel to a Unix socket.
pub(crate) async fn unix_channel(path: &Path) -> Result<Channel, Problem> {
    let socket = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The name is never looked up.
    Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT)
        .connect_with_connector(connector)
        .await
        .map_err(|error| {
            Problem::because("the socket cannot be reached", &error)
                .at(path.display())
                .fix("is the mesh running? see `reeve status`")
        })
}

/// Parses `250ms`, `30s`, `5m`, `2h`, `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong_duration(text))?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    };
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| wrong_duration(text))
}

fn wrong_duration(text: &str) -> String {
    format!("{text:?} is not a time; write a number and ms, s, m, h or d, such as 30s")
}
