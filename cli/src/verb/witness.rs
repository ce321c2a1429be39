//! `reeve witness`: cosigns the checkpoints of logs that only grow (C2SP tlog-witness).

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use axum::{Router, body::Bytes, extract::State, response::IntoResponse, routing::post};
use clap::Args;
use http::{StatusCode, header::CONTENT_TYPE};
use reeve_audit::{
    seal::SealKey,
    witness::{MAX_WITNESS_REQUEST, Witness},
};
use reeve_core::SystemClock;

use super::audit::log_key;
use crate::{mesh, output, problem::Verdict, verb};

pub(crate) const EXAMPLES: &str = "\
Examples:
  reeve witness --dir /var/lib/witness --name witness.example/w1 --log 'mesh.local/audit+…'
  reeve audit cosign --witness 192.0.2.7:15040 --witness-key 'witness.example/w1+…'   beside the log
  reeve audit verify --witness 'witness.example/w1+…'

A witness cosigns a checkpoint only if it continues the last one that it cosigned, and remembers that one on its disk.
Run it where the log's operator has no access: then the operator cannot rewrite the log either. After
`reeve audit rotate-key` start it with both keys (--log repeated).

Exit codes: 0 = told to end, 2 = could not run.";

/// `reeve witness`.
#[derive(Args, Debug)]
pub(crate) struct WitnessArgs {
    /// Where to serve `POST /add-checkpoint`.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:15040")]
    listen: SocketAddr,
    /// The witness's folder: its sealed key, and the last checkpoint of each log.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The witness's name: a URL without its scheme.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The public key of a log to cosign (`name+hash+key`), or a file with it; repeat for several.
    #[arg(long, value_name = "KEY", required = true)]
    log: Vec<String>,
    /// File with the key (32 bytes in hex) that seals the witness's own; by default seal.key in its folder.
    #[arg(long, value_name = "FILE")]
    seal_key: Option<PathBuf>,
}

pub(crate) fn run(args: &WitnessArgs) -> Verdict {
    let logs: Vec<_> = args
        .log
        .iter()
        .map(|key| log_key(key))
        .collect::<Result<_, _>>()?;
    verb::daemon(serve(args, logs))
}

async fn serve(args: &WitnessArgs, logs: Vec<String>) -> anyhow::Result<()> {
    reeve_sidecar::hardening::forbid_core_dumps()?;
    std::fs::create_dir_all(&args.dir).with_context(|| args.dir.display().to_string())?;
    let seal = args.seal_key.clone();
    let seal = seal.unwrap_or_else(|| args.dir.join("seal.key"));
    if !args.dir.join("witness.key").exists() {
        mesh::ensure_key(&seal, &[])?;
    }
    let seal = SealKey::from_file(&seal)?;
    let clock = Arc::new(SystemClock);
    let witness = Arc::new(Witness::open(&args.dir, &args.name, &seal, &logs, clock)?);
    let listener = tokio::net::TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("cannot listen at {}", args.listen))?;
    output::note(&format!(
        "the witness serves at http://{}\n{}",
        listener.local_addr()?,
        witness.verifier_key()
    ));
    let router = Router::new()
        .route("/add-checkpoint", post(add))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_WITNESS_REQUEST))
        .with_state(witness);
    axum::serve(listener, router)
        .await
        .context("the witness's port")
}

async fn add(State(witness): State<Arc<Witness>>, body: Bytes) -> impl IntoResponse {
    let answered = tokio::task::spawn_blocking(move || witness.add_checkpoint(&body)).await;
    match answered {
        Ok(answer) => (
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            [(CONTENT_TYPE, answer.content_type)],
            answer.body,
        ),
        Err(_panic) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(CONTENT_TYPE, "text/plain; charset=utf-8")],
            "the witness cannot cosign now\n".to_owned(),
        ),
    }
}
