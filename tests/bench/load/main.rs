//! Load generator and backend of the side-by-side benchmark. See `tests/bench/README.md`.
//!
//! The figures of a proxy under load are only as good as the load: one thread, no allocation in the loop that matters,
//! latencies kept one by one.

#[path = "backend.rs"]
mod backend;
#[path = "grpc.rs"]
mod grpc;
#[path = "load.rs"]
mod load;
#[path = "stream.rs"]
mod stream;
#[path = "sys.rs"]
mod sys;
#[path = "tokens.rs"]
mod tokens;

use std::{collections::BTreeMap, io, process::ExitCode};

const USAGE: &str = "\
usage: meshbench backend --listen IP:PORT [--stream yes] [--grpc yes]
       meshbench load --target IP:PORT [--host H] [--path /b/1024] [--header 'k: v'] [--conns 64] [--rate 0]
                      [--warmup 1] [--duration 5] [--newconn yes] [--timeout 5] [--tokens FILE] [--skip 0]
                      [--requests N]
       meshbench stream --target IP:PORT [--conns 4] [--warmup 1] [--duration 5]
       meshbench hold --target IP:PORT [--conns 1000] [--duration 5] [--header 'k: v']
       meshbench grpc --target IP:PORT [--host H] [--conns 64] [--streams 128] [--spread hot|even] [--warmup 1]
                      [--duration 5]
       meshbench tokens --key FILE.pk8 --issuer I --audience A --count N --out FILE";

/// The options given, by name.
struct Given(BTreeMap<String, String>);

impl Given {
    fn parse(args: impl Iterator<Item = String>) -> Option<Self> {
        let mut args = args;
        let mut given = BTreeMap::new();
        while let Some(name) = args.next() {
            given.insert(name.strip_prefix("--")?.to_owned(), args.next()?);
        }
        Some(Self(given))
    }

    fn text(&self, name: &str, default: &str) -> String {
        self.0.get(name).map_or(default, String::as_str).to_owned()
    }

    fn value<T: std::str::FromStr>(&self, name: &str, default: &str) -> io::Result<T> {
        let text = self.text(name, default);
        let wrong = |_| io::Error::other(format!("--{name} cannot be {text:?}"));
        text.parse().map_err(wrong)
    }

    fn load(&self) -> io::Result<load::Opts> {
        let tokens = match self.0.get("tokens") {
            Some(path) => std::fs::read_to_string(path)?
                .lines()
                .map(str::to_owned)
                .collect(),
            None => Vec::new(),
        };
        Ok(load::Opts {
            target: self.value("target", "127.0.0.1:8080")?,
            host: self.text("host", "server.bench.internal"),
            path: self.text("path", "/b/1024"),
            headers: self.0.get("header").cloned().into_iter().collect(),
            conns: self.value("conns", "64")?,
            rate: self.value("rate", "0")?,
            warmup: self.value("warmup", "1")?,
            duration: self.value("duration", "5")?,
            newconn: self.0.contains_key("newconn"),
            timeout: self.value("timeout", "5")?,
            tokens,
            skip: self.value("skip", "0")?,
            requests: self.0.get("requests").and_then(|n| n.parse().ok()),
        })
    }
}

fn run(mode: &str, given: &Given) -> io::Result<()> {
    match mode {
        "backend" if given.0.contains_key("grpc") => {
            grpc::serve(&given.text("listen", "127.0.0.1:8080"))
        }
        "backend" => backend::run(
            &given.text("listen", "127.0.0.1:8080"),
            given.0.contains_key("stream"),
        ),
        "load" => load::run(&given.load()?),
        "grpc" => grpc::load(&grpc::Opts {
            target: given.value("target", "127.0.0.1:8080")?,
            host: given.text("host", "server.bench.internal"),
            conns: given.value("conns", "64")?,
            streams: given.value("streams", "128")?,
            hot: given.text("spread", "even") == "hot",
            warmup: given.value("warmup", "1")?,
            duration: given.value("duration", "5")?,
        }),
        "stream" => stream::run(&given.load()?),
        "hold" => stream::hold(&given.load()?),
        "tokens" => tokens::write(&tokens::Wanted {
            key: given.text("key", ""),
            issuer: given.text("issuer", ""),
            audience: given.text("audience", ""),
            count: given.value("count", "1")?,
            out: given.text("out", "/dev/stdout"),
        }),
        _ => Err(io::Error::other(USAGE)),
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_default();
    let Some(given) = Given::parse(args) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&mode, &given) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshbench: {error}");
            ExitCode::from(2)
        }
    }
}
