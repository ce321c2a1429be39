//! Running a program to its end.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::process::Command;

/// What a program did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Outcome {
    /// stdout and stderr, for messages and for finding a word in either.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// stdout as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}) in {self:?}"))
    }

    /// stdout as JSON lines, or the members of one JSON array.
    pub fn json_lines(&self) -> Vec<Value> {
        let lines: Result<Vec<Value>, _> = self
            .stdout
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(serde_json::from_str)
            .collect();
        match (lines, serde_json::from_str::<Value>(&self.stdout)) {
            (Ok(lines), _) if !matches!(lines.as_slice(), [Value::Array(_)]) => lines,
            (_, Ok(Value::Array(members))) => members,
            (lines, _) => panic!("no JSON lines ({lines:?}) in {self:?}"),
        }
    }
}

/// Runs a program for at most `limit`.
///
/// # Panics
/// When it cannot be started or does not end in time.
pub async fn run(program: &Path, args: &[&str], envs: &[(&str, &str)], limit: Duration) -> Outcome {
    let mut command = Command::new(program);
    command
        .args(args)
        .envs(envs.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(limit, command.output()).await;
    let shown = format!("{} {}", program.display(), args.join(" "));
    let output = ended
        .unwrap_or_else(|_| panic!("`{shown}` did not end within {limit:?}"))
        .unwrap_or_else(|error| panic!("`{shown}` did not start: {error}"));
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
