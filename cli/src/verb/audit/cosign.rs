//! `reeve audit cosign`: asks witnesses for cosignatures of the log's checkpoint.

use std::{net::SocketAddr, path::Path, path::PathBuf, thread, time::Duration};

use bytes::Bytes;
use clap::Args;
use reeve_audit::witness::{CosignerKey, cosigned, keep_cosigned, request};

use crate::{
    http::{self, Target},
    output,
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    verb::{block_on, duration},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve audit cosign --witness 192.0.2.7:15040 --witness-key 'witness.example/w1+…'
  reeve audit cosign --witness 192.0.2.7:15040 --witness-key 'witness.example/w1+…' --every 5s

The witnesses are asked by C2SP tlog-witness over HTTP, in the order given; the cosigned checkpoint is put beside the
log as checkpoint.cosigned.

Exit codes: 0 = all of them have cosigned, 1 = one has not (the reason is told), 2 = could not run.";

/// How long a witness may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a witness is asked again with the size that it named.
const MAX_ATTEMPTS: usize = 3;

/// `reeve audit cosign`.
#[derive(Args, Debug)]
pub(super) struct CosignArgs {
    /// Where a witness serves; repeat for several.
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    witness: Vec<SocketAddr>,
    /// The witness's key (`name+hash+key`); one for each, in the same order.
    #[arg(long, value_name = "KEY", required = true)]
    witness_key: Vec<String>,
    /// Go on, and ask so often.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    every: Option<Duration>,
    /// The log's folder, if it is not that of the mesh in the state directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(args: &CosignArgs) -> Verdict {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => args.state.existing()?.audit(),
    };
    if args.witness.len() != args.witness_key.len() {
        return Err(Problem::new("there are not as many keys as witnesses")
            .fix("give --witness-key once for each --witness"));
    }
    let keys = cosigners(&args.witness_key)?;
    let mut asked: Vec<_> = args
        .witness
        .iter()
        .zip(keys)
        .map(|(at, key)| (*at, key, 0))
        .collect();
    loop {
        let fine = round(&dir, &mut asked)?;
        match args.every {
            None => return Ok(Answer::from_fine(fine)),
            Some(every) => thread::sleep(every),
        }
    }
}

/// The keys of witnesses, as they are given.
pub(super) fn cosigners(keys: &[String]) -> Result<Vec<CosignerKey>, Problem> {
    let keys = keys
        .iter()
        .map(|key| CosignerKey::parse(key).map_err(Problem::new));
    keys.collect()
}

/// Asks each for the checkpoint as it is now; whether all have cosigned.
fn round(dir: &Path, asked: &mut [(SocketAddr, CosignerKey, u64)]) -> Result<bool, Problem> {
    let mut note: Option<String> = None;
    let mut all = true;
    for (at, key, size) in asked {
        match ask(dir, *at, key, size, note.as_deref())? {
            Ok(cosigned) => note = Some(cosigned),
            Err(what) => {
                all = false;
                output::note(&format!("{}: {what}", key.name()));
            }
        }
    }
    if let Some(note) = note {
        keep_cosigned(dir, &note).map_err(|error| {
            Problem::because("the cosigned checkpoint cannot be kept", &error).at(dir.display())
        })?;
        output::line(note.trim_end())?;
    }
    Ok(all)
}

/// The checkpoint with one more cosignature, or why there is none. `before` is what others have cosigned in this round.
fn ask(
    dir: &Path,
    at: SocketAddr,
    key: &CosignerKey,
    size: &mut u64,
    before: Option<&str>,
) -> Result<Result<String, String>, Problem> {
    let target = Target::Tcp(at);
    for _ in 0..MAX_ATTEMPTS {
        let (note, body) = request(dir, *size).map_err(|error| {
            Problem::because("the log cannot be read", &error)
                .at(dir.display())
                .fix("name the log's folder with --dir, or the mesh's state directory with --state")
        })?;
        let text = |note: &str| note.split("\n\n").next().unwrap_or_default().to_owned();
        let so_far = match before {
            Some(before) if text(before) == text(&note) => before,
            _ => note.as_str(),
        };
        let sent = http::post(&target, "/add-checkpoint", Bytes::from(body), PATIENCE);
        let reply = match block_on(async { Ok(sent.await) })? {
            Ok(reply) => reply,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let answer = String::from_utf8_lossy(&reply.body);
        match reply.status.as_u16() {
            200 => {
                let cosigned = cosigned(so_far, &answer, key);
                let grown = note.lines().nth(1).and_then(|line| line.parse().ok());
                *size = grown.unwrap_or(*size);
                return Ok(cosigned);
            }
            409 => match answer.trim().parse() {
                Ok(named) if named != *size => *size = named,
                _ => return Ok(Err(answer.trim().to_owned())),
            },
            status => return Ok(Err(format!("HTTP status {status}: {}", answer.trim()))),
        }
    }
    Ok(Err("the log grew while it was asked".to_owned()))
}
