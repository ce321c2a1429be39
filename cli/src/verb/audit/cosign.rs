//! `reeve audit cosign`: asks witnesses for cosignatures of the log's checkpoint.

use std::{net::SocketAddr, path::Path, path::PathBuf, thread, time::Duration};

use bytes::Bytes;
use clap::Args;
use reeve_audit::witness::{CosignerKey, WitnessLine, ask, keep_cosigned};

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
        let asked = ask(dir, key, size, note.as_deref(), &Asked(*at)).map_err(|error| {
            Problem::because("the log cannot be read", &error)
                .at(dir.display())
                .fix("name the log's folder with --dir, or the mesh's state directory with --state")
        })?;
        match asked {
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

/// A witness over plain HTTP, asked from this thread.
#[derive(Debug)]
struct Asked(SocketAddr);

impl WitnessLine for Asked {
    fn add_checkpoint(&self, body: Vec<u8>) -> Result<(u16, String), String> {
        let target = Target::Tcp(self.0);
        let sent = http::post(&target, "/add-checkpoint", Bytes::from(body), PATIENCE);
        let reply = block_on(async { Ok(sent.await) }).map_err(|problem| format!("{problem:?}"))?;
        let reply = reply.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        Ok((reply.status.as_u16(), text))
    }
}
