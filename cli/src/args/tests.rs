use clap::{Command, CommandFactory};
use expect_test::expect_file;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

/// Every verb's long help, one after the other (`UPDATE_EXPECT=1` writes the file), save those that only our own
/// processes call.
#[test]
fn help_texts_are_as_reviewed() {
    let mut text = String::new();
    gather(Cli::command().term_width(120), "reeve", &mut text);
    let text: String = text
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect();
    expect_file!["help.txt"].assert_eq(&text);
}

#[test]
fn every_verb_that_people_use_has_examples() {
    let command = Cli::command();
    let mut without = Vec::new();
    for verb in leaves(&command, "reeve") {
        let examples = verb
            .1
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        if !verb.1.is_hide_set() && !examples.contains("Examples:") {
            without.push(verb.0);
        }
    }
    assert_eq!(without, ["reeve proxy run"]);
}

fn gather(command: Command, name: &str, text: &mut String) {
    let mut command = command.bin_name(name);
    text.push_str(&format!(
        "==== {name} ====\n{}\n",
        command.render_long_help()
    ));
    let shown = |sub: &&Command| !sub.is_hide_set() && sub.get_name() != "help";
    let subcommands: Vec<_> = command.get_subcommands().filter(shown).cloned().collect();
    for subcommand in subcommands {
        let name = format!("{name} {}", subcommand.get_name());
        if name != "reeve proxy run" {
            gather(subcommand.term_width(120), &name, text);
        }
    }
}

fn leaves<'a>(command: &'a Command, name: &str) -> Vec<(String, &'a Command)> {
    let mut found = Vec::new();
    for subcommand in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let name = format!("{name} {}", subcommand.get_name());
        if subcommand.has_subcommands() {
            found.extend(leaves(subcommand, &name));
        } else {
            found.push((name, subcommand));
        }
    }
    found
}
