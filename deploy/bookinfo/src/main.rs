//! Bookinfo's small services: `details`, `reviews`, `ratings` and the `store` behind ratings v2, plus the `echo`
//! servers that end-to-end tests put behind sidecars.
//!
//! They know nothing of the mesh. Each listens on `HOST:PORT`, finds others through `<NAME>_SERVICE_HOST` and
//! `<NAME>_SERVICE_PORT`, and passes on no header but those that Bookinfo's originals pass on (trace headers and
//! `end-user`). The product page is `mesh/productpage.py`.

mod backend;
mod details;
mod echo;
mod passed_on;
mod ratings;
mod reviews;
mod server;
mod store;
mod tcp_echo;

use std::{env, net::SocketAddr, process::ExitCode};

use anyhow::{Context as _, Result, bail};
const USAGE: &str = "\
usage: reeve-bookinfo SERVICE

  details [--version v1|v2]   book details; v2 asks an external book service for them, at the host that BOOKS names
  reviews --version v1|v2|v3  reviews; v2 adds black stars, v3 red ones, both from `ratings`
  ratings --version v1|v2     ratings; v2 reads them from `store`
  store                       ratings over a line protocol on TCP
  echo                        answers each HTTP request with a description of it (HTTP/1.1 and HTTP/2)
  tcp-echo                    sends back each byte

HOST and PORT say where to listen; services are found through <NAME>_SERVICE_HOST and <NAME>_SERVICE_PORT.";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&words).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reeve-bookinfo: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(words: &[&str]) -> Result<()> {
    match words {
        ["details"] => details::serve(listen_address(9080)?, "v1").await,
        ["details", "--version", version] => details::serve(listen_address(9080)?, version).await,
        ["reviews", "--version", version] => reviews::serve(listen_address(9080)?, version).await,
        ["ratings", "--version", version] => ratings::serve(listen_address(9080)?, version).await,
        ["store"] => store::serve(listen_address(27017)?).await,
        ["echo"] => echo::serve(listen_address(9080)?).await,
        ["tcp-echo"] => tcp_echo::serve(listen_address(9090)?).await,
        _ => bail!("{USAGE}"),
    }
}

/// `HOST:PORT`, or `127.0.0.1` and the service's usual port.
fn listen_address(usual_port: u16) -> Result<SocketAddr> {
    let host = env::var("HOST").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let host = host
        .parse()
        .with_context(|| format!("HOST is no IP address: {host:?}"))?;
    let port = match env::var("PORT") {
        Ok(port) => port
            .parse()
            .with_context(|| format!("PORT is no port number: {port:?}"))?,
        Err(_) => usual_port,
    };
    Ok(SocketAddr::new(host, port))
}
