//! `reeve policy eval`.

use std::path::PathBuf;

use clap::Args;
use reeve_authz::eval::{EvalInput, EvalOutput, eval};
use reeve_core::decision::Effect;
use serde_json::json;

use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy eval question.json
  reeve policy eval -o json - < questions.jsonl > answers.jsonl

A question is {\"policies\": \"permit(...);\", \"schema\": null, \"entities\": [], \"request\": {\"principal\": ...,
\"action\": ..., \"resource\": ..., \"context\": {}}}, an answer {\"decision\", \"reasons\", \"errors\", \"validation\"}.

Exit codes: 0 = every answer is allow, 1 = one is deny, 2 = a question could not be answered.";

/// `reeve policy eval`.
#[derive(Args, Debug)]
pub(super) struct EvalArgs {
    /// A file of questions (one JSON value, or one per line), or - for standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &EvalArgs) -> Verdict {
    let questions: Vec<EvalInput> = input::json_values(&args.file)?;
    // CI must not take silence for an answer.
    if questions.is_empty() {
        return Err(Problem::new("there is no question")
            .at(input::shown(&args.file))
            .fix(
                "write {\"policies\", \"schema\", \"entities\", \"request\"} as JSON; see --help",
            ));
    }
    let (mut denied, mut unanswered) = (0, 0);
    for question in &questions {
        match eval(question) {
            Ok(answer) => {
                denied += usize::from(answer.decision == Effect::Deny);
                match args.output.output {
                    Format::Json => output::json_line(&answer)?,
                    Format::Human => output::line(&describe(&answer))?,
                }
            }
            Err(fault) => {
                unanswered += 1;
                match args.output.output {
                    Format::Json => output::json_line(&json!({"error": fault.to_string()}))?,
                    Format::Human => output::line(&format!("cannot be answered: {fault}"))?,
                }
            }
        }
    }
    if unanswered > 0 {
        return Err(Problem::new(format!(
            "{unanswered} of {} questions could not be answered",
            questions.len()
        ))
        .at(input::shown(&args.file))
        .fix("see the answers for the part of each question that cannot be read"));
    }
    Ok(Answer::from_fine(denied == 0))
}

fn describe(answer: &EvalOutput) -> String {
    let word = match answer.decision {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    };
    let mut text = word.to_owned();
    if !answer.reasons.is_empty() {
        text.push_str(&format!(", by {}", answer.reasons.join(", ")));
    }
    for error in &answer.errors {
        text.push_str(&format!(
            "\n  {} failed to evaluate: {}",
            error.policy, error.message
        ));
    }
    for finding in &answer.validation {
        text.push_str(&format!(
            "\n  {} is not valid: {}",
            finding.policy, finding.message
        ));
    }
    text
}
