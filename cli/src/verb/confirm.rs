//! Asking before something is done that breaks requests.

use std::io::{self, BufRead as _, IsTerminal as _};

use crate::{output, problem::Problem};

/// Says what would break, and asks whether to go on, unless that was said before (`--yes`). Where it is declined, the
/// problem says `otherwise`.
pub(crate) fn confirm(yes: bool, warning: &str, otherwise: &str) -> Result<(), Problem> {
    output::note(warning);
    if yes {
        return Ok(());
    }
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Problem::new("nobody is there to say yes").fix("add --yes"));
    }
    output::note("Go on? [y/N]");
    let mut answer = String::new();
    let read = stdin.lock().read_line(&mut answer);
    read.map_err(|error| Problem::because("the answer cannot be read", &error))?;
    match answer.trim() {
        "y" | "yes" => Ok(()),
        _ => Err(Problem::new(otherwise)),
    }
}
