//! `reeve audit rotate-key`.

use std::{fs, path::Path, thread, time::Duration};

use clap::Args;

use crate::{
    output,
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve audit rotate-key                          the mesh's log gets a new key within seconds
  reeve audit verify --key 'mesh.local/audit+…'   the old key still verifies the log: it signed for the new one

Exit codes: 0 = the log has a new key, 2 = it has not.";

/// How long the log may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// `reeve audit rotate-key`.
#[derive(Args, Debug)]
pub(super) struct RotateArgs {
    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(args: &RotateArgs) -> Verdict {
    let dir = args.state.existing()?.audit();
    let (public, wanted) = (dir.join("log.vkey"), dir.join("log.key.wanted"));
    let old = read(&public)?;
    fs::write(&wanted, "").map_err(|error| {
        Problem::because("a new key cannot be asked for", &error).at(wanted.display())
    })?;
    // The log looks with each batch that it takes, and the mesh process writes one now and then.
    let looks = PATIENCE.as_millis() / LOOK.as_millis();
    for _ in 0..looks {
        let new = read(&public)?;
        if new != old && !wanted.exists() {
            output::line(&format!("{}\nsigned for by\n{}", new.trim(), old.trim()))?;
            return Ok(Answer::Yes);
        }
        thread::sleep(LOOK);
    }
    Err(
        Problem::new("the log has taken no record since, and so has no new key yet")
            .fix("it gets one with the next record; see that the mesh runs with `reeve status`"),
    )
}

fn read(path: &Path) -> Result<String, Problem> {
    fs::read_to_string(path).map_err(|error| {
        Problem::because("the log's public key cannot be read", &error).at(path.display())
    })
}
