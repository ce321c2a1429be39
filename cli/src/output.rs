//! Writing answers: text for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use comfy_table::Table;
use serde::Serialize;

use crate::problem::Problem;

/// `-o`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputArgs {
    /// How to print the answer.
    #[arg(short = 'o', long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    #[value(alias = "table")]
    Human,
    /// For programs.
    Json,
}

/// Prints one line (or block) to standard output. A closed pipe ends the verb's output quietly.
pub(crate) fn line(text: &str) -> Result<(), Problem> {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"));
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Problem::because(
            "the answer could not be written to standard output",
            &error,
        )),
    }
}

/// Prints a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Problem> {
    line(&encode(serde_json::to_string_pretty(value))?)
}

/// Prints a value as one line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Problem> {
    line(&encode(serde_json::to_string(value))?)
}

fn encode(encoded: serde_json::Result<String>) -> Result<String, Problem> {
    encoded.map_err(|error| Problem::because("the answer could not be encoded as JSON", &error))
}

/// An empty table without borders.
pub(crate) fn plain_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header);
    table
}

/// Tells a problem on standard error.
pub(crate) fn complain(problem: &Problem) {
    note(&problem.to_string());
}

/// Tells people something on standard error; nothing can be done if that fails.
pub(crate) fn note(text: &str) {
    let mut err = io::stderr().lock();
    drop(writeln!(err, "{text}"));
}

/// Whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}
