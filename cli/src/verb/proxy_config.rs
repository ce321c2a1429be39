//! `reeve proxy-config`: what is in force in a sidecar, asked of the sidecar itself.

mod show;

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use reeve_core::{
    InstanceName,
    model::{ProxyConfig, Resource},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    http::{self, FetchError, Reply, Target},
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    verb::block_on,
};

const EXAMPLES: &str = "\
Examples:
  reeve proxy-config listeners reviews-v1-0
  reeve proxy-config routes productpage-v1-0 --name 9080
  reeve proxy-config endpoints productpage-v1-0 --name reviews
  reeve proxy-config secrets reviews-v1-0          serials and validity; a private key is never shown
  reeve proxy-config policies reviews-v1-0 -o json
  reeve proxy-config log reviews-v1-0 --level reeve_proxy=debug
  reeve proxy-config all reviews-v1-0 -o json

Exit codes: 0 = fine, 1 = the sidecar has no configuration yet, nothing of that name, or refused the level, 2 = it could not be asked.";

/// How long a sidecar may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// `reeve proxy-config`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ProxyConfigArgs {
    /// What to show.
    #[arg(value_enum, value_name = "WHAT")]
    what: What,
    /// The instance whose sidecar is asked, such as reviews-v1-0.
    #[arg(value_name = "INSTANCE", required_unless_present = "socket")]
    instance: Option<InstanceName>,
    /// The admin socket to ask instead of the one in the state directory.
    #[arg(long, value_name = "PATH", conflicts_with = "instance")]
    socket: Option<PathBuf>,
    /// Only what has this text in its name, host, address or id.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// With `log`: what the sidecar's own log tells from now on (a level, or directives such as info,reeve_proxy=debug).
    #[arg(long, value_name = "FILTER")]
    level: Option<String>,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Everything below.
    All,
    /// Addresses that are listened at, and what happens there.
    #[value(alias = "listener")]
    Listeners,
    /// Virtual hosts and their routes, in the order in which they are tried.
    #[value(alias = "route")]
    Routes,
    /// Services and subsets, and how they are spoken to.
    #[value(alias = "cluster")]
    Clusters,
    /// Where services run.
    #[value(alias = "endpoint")]
    Endpoints,
    /// The Cedar policies that this sidecar judges by.
    #[value(alias = "policy")]
    Policies,
    /// Certificates: serials, validity, trust bundle.
    #[value(alias = "secret")]
    Secrets,
    /// How the sidecar was started.
    Bootstrap,
    /// What the sidecar's own log tells.
    Log,
}

/// What [`What::All`] is made of.
const PARTS: [What; 8] = [
    What::Listeners,
    What::Routes,
    What::Clusters,
    What::Endpoints,
    What::Policies,
    What::Secrets,
    What::Bootstrap,
    What::Log,
];

/// The part of `/config_dump` that is needed here.
#[derive(Deserialize)]
struct Dump {
    resources: Vec<Resource>,
}

/// Asks a sidecar.
pub(crate) fn run(args: ProxyConfigArgs) -> Verdict {
    block_on(async move { answer(&args).await })
}

async fn answer(args: &ProxyConfigArgs) -> Verdict {
    if args.level.is_some() && args.what != What::Log {
        return Err(Problem::new("--level belongs to `reeve proxy-config log`"));
    }
    let asked = Asked::of(args)?;
    if args.what == What::Log
        && let Some(level) = &args.level
    {
        asked.set_level(level).await?;
    }
    let parts: &[What] = if args.what == What::All {
        &PARTS
    } else {
        std::slice::from_ref(&args.what)
    };
    let mut answers = Vec::new();
    for what in parts {
        answers.push((*what, asked.part(*what, args.name.as_deref()).await?));
    }
    let fine = answers.iter().all(|(_, part)| !part.is_empty);
    print(args, answers)?;
    Ok(Answer::from_fine(fine))
}

fn print(args: &ProxyConfigArgs, answers: Vec<(What, Part)>) -> Result<(), Problem> {
    let single = args.what != What::All;
    if args.output.output == Format::Json {
        let mut all = serde_json::Map::new();
        for (what, part) in answers {
            if single {
                return output::json(&part.json);
            }
            all.insert(what.key().to_owned(), part.json);
        }
        return output::json(&all);
    }
    for (what, part) in answers {
        if !single {
            output::line(&format!("== {} ==", what.key()))?;
        }
        output::line(&part.text)?;
    }
    Ok(())
}

impl What {
    fn key(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Listeners => "listeners",
            Self::Routes => "routes",
            Self::Clusters => "clusters",
            Self::Endpoints => "endpoints",
            Self::Policies => "policies",
            Self::Secrets => "secrets",
            Self::Bootstrap => "bootstrap",
            Self::Log => "log",
        }
    }
}

/// One answer in both forms.
struct Part {
    json: Value,
    text: String,
    is_empty: bool,
}

/// The sidecar that is asked.
struct Asked {
    socket: PathBuf,
}

impl Asked {
    fn of(args: &ProxyConfigArgs) -> Result<Self, Problem> {
        let socket = match (&args.socket, &args.instance) {
            (Some(socket), _) => socket.clone(),
            (None, Some(instance)) => args.state.existing()?.admin_socket(instance),
            (None, None) => {
                return Err(Problem::new("name an instance, or a socket with --socket"));
            }
        };
        Ok(Self { socket })
    }

    async fn part(&self, what: What, name: Option<&str>) -> Result<Part, Problem> {
        match what {
            What::Secrets => Ok(tell(self.get("/secrets").await?, show::secrets)),
            What::Bootstrap => Ok(tell(self.get("/bootstrap").await?, show::members)),
            What::Log => Ok(tell(self.get("/log").await?, show::members)),
            What::All
            | What::Listeners
            | What::Routes
            | What::Clusters
            | What::Endpoints
            | What::Policies => {
                let dump: Dump = self.parse(&self.fetch("/config_dump").await?)?;
                if dump.resources.is_empty() {
                    return Ok(Part {
                        json: json!([]),
                        text: "the sidecar has no configuration yet".to_owned(),
                        is_empty: true,
                    });
                }
                let config = ProxyConfig::from_resources(dump.resources).map_err(|error| {
                    Problem::because("the sidecar's configuration is not whole", &error)
                        .at(self.socket.display())
                })?;
                self.of_config(what, &config, name.unwrap_or_default())
            }
        }
    }

    fn of_config(&self, what: What, config: &ProxyConfig, name: &str) -> Result<Part, Problem> {
        let (json, text) = match what {
            What::Routes => show::routes(config, name),
            What::Clusters => show::clusters(config, name),
            What::Endpoints => show::endpoints(config, name),
            What::Policies => show::policies(config, name),
            What::All | What::Listeners | What::Secrets | What::Bootstrap | What::Log => {
                show::listeners(config, name)
            }
        }
        .map_err(|error| Problem::because("the answer could not be encoded as JSON", &error))?;
        let is_empty = !name.is_empty() && json.as_array().is_some_and(Vec::is_empty);
        Ok(Part {
            json,
            text,
            is_empty,
        })
    }

    async fn get(&self, path: &str) -> Result<Value, Problem> {
        self.parse(&self.fetch(path).await?)
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, reply: &Reply) -> Result<T, Problem> {
        serde_json::from_slice(&reply.body).map_err(|error| {
            Problem::because("the sidecar's answer cannot be read", &error)
                .at(self.socket.display())
                .fix("is the sidecar of the same version as this `reeve`?")
        })
    }

    async fn fetch(&self, path: &str) -> Result<Reply, Problem> {
        let target = Target::Unix(self.socket.clone());
        let reply = http::get(&target, path, PATIENCE).await;
        let reply = reply.map_err(|error| self.unanswered(&error))?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        Err(
            Problem::new(format!("the sidecar answered {} to {path}", reply.status))
                .at(self.socket.display()),
        )
    }

    async fn set_level(&self, level: &str) -> Result<(), Problem> {
        let target = Target::Unix(self.socket.clone());
        let path = format!("/log?filter={}", percent_encoded(level));
        let reply = http::post(&target, &path, Bytes::new(), PATIENCE).await;
        let reply = reply.map_err(|error| self.unanswered(&error))?;
        if reply.status.is_success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&reply.body);
        Err(Problem::new(why.trim()).into_answer())
    }

    fn unanswered(&self, error: &FetchError) -> Problem {
        Problem::because("the sidecar does not answer", error)
            .at(self.socket.display())
            .fix("see `reeve status` for the instances that run, and `reeve logs INSTANCE --internal` for why")
    }
}

fn tell(json: Value, show: fn(&Value) -> String) -> Part {
    Part {
        text: show(&json),
        json,
        is_empty: false,
    }
}

/// A query parameter's value (RFC 3986 section 2.1).
fn percent_encoded(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(b).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}
