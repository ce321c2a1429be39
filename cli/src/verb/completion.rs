//! `reeve completion`: a completion script for a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{
    args::Cli,
    output,
    problem::{Answer, Problem, Verdict},
};

const EXAMPLES: &str = "\
Examples:
  reeve completion bash > ~/.local/share/bash-completion/completions/reeve
  reeve completion zsh > ~/.zfunc/_reeve
  reeve completion fish > ~/.config/fish/completions/reeve.fish";

/// `reeve completion`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionArgs {
    /// Which shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionArgs) -> Verdict {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "reeve", &mut script);
    let script = String::from_utf8(script)
        .map_err(|error| Problem::because("the completion script is not text", &error))?;
    output::line(script.trim_end())?;
    Ok(Answer::Yes)
}
