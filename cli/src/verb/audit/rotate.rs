//! `reeve audit rotate-key`.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use clap::Args;

use crate::{
    output,
    problem::{Answer, Problem, Verdict},
    state::{StateArgs, all_logs},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve audit rotate-key                                        the mesh log and its replicas on this machine
  reeve audit rotate-key --dir /var/lib/reeve-audit/audit       a replica that runs elsewhere: there
  reeve audit verify --key 'mesh.local/audit+…'                 the old key still verifies the log: it signed for the new one

Exit codes: 0 = each log has a new key, 2 = one has not.";

/// How long the logs may take together.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// `reeve audit rotate-key`.
#[derive(Args, Debug)]
pub(super) struct RotateArgs {
    /// The folder of one log, if not those of the mesh in the state directory are meant.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(args: &RotateArgs) -> Verdict {
    let dirs = match &args.dir {
        Some(dir) => vec![dir.clone()],
        None => all_logs(&args.state.existing()?.audit()).collect(),
    };
    let asked: Result<Vec<_>, _> = dirs.iter().map(|dir| Asked::of(dir)).collect();
    let mut asked = asked?;
    // Who has a log open looks every second.
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        thread::sleep(LOOK);
        let mut waiting = Vec::new();
        for log in asked {
            match log.answer()? {
                Some(new) => output::line(&format!("{new}\nsigned for by\n{}", log.old))?,
                None => waiting.push(log),
            }
        }
        if waiting.is_empty() {
            return Ok(Answer::Yes);
        }
        asked = waiting;
    }
    let problem = |log: &Asked| {
        Problem::new("the log has no new key yet: no process seems to have it open")
            .at(log.public.display())
            .fix("it gets one once a process has; see what runs with `reeve status`")
    };
    for log in asked.iter().skip(1) {
        output::note(&problem(log).to_string());
    }
    asked
        .first()
        .map_or(Ok(Answer::Yes), |log| Err(problem(log)))
}

/// A log that was asked for a new key.
struct Asked {
    public: PathBuf,
    wanted: PathBuf,
    old: String,
}

impl Asked {
    fn of(dir: &Path) -> Result<Self, Problem> {
        let (public, wanted) = (dir.join("log.vkey"), dir.join("log.key.wanted"));
        let old = read(&public)?;
        fs::write(&wanted, "").map_err(|error| {
            Problem::because("a new key cannot be asked for", &error).at(wanted.display())
        })?;
        Ok(Self {
            public,
            wanted,
            old,
        })
    }

    /// The new key, once there is one.
    fn answer(&self) -> Result<Option<String>, Problem> {
        let new = read(&self.public)?;
        Ok((new != self.old && !self.wanted.exists()).then_some(new))
    }
}

fn read(path: &Path) -> Result<String, Problem> {
    let key = fs::read_to_string(path).map_err(|error| {
        Problem::because("the log's public key cannot be read", &error).at(path.display())
    })?;
    Ok(key.trim().to_owned())
}
