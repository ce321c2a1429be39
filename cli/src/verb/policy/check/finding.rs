//! One thing that is wrong, or likely so, and where.

use reeve_authz::{PolicyFault, Remark};
use reeve_core::PolicyId;
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Error,
    Warning,
}

/// A fault or remark, placed in its file.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) policy: PolicyId,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) line: usize,
    pub(super) column: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) snippet: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) help: Option<String>,
    /// The column within the snippet.
    #[serde(skip)]
    pub(super) caret: usize,
}

impl Finding {
    /// A fault; its column is that of its snippet.
    pub(super) fn fault(fault: PolicyFault, (line, column): (usize, usize)) -> Self {
        Self {
            caret: fault.column,
            policy: fault.policy,
            code: "invalid",
            message: fault.message,
            snippet: fault.snippet,
            help: fault.help,
            line,
            column,
        }
    }

    pub(super) fn remark(remark: &Remark, fault: PolicyFault, place: (usize, usize)) -> Self {
        Self {
            code: remark.code.as_str(),
            ..Self::fault(fault, place)
        }
    }

    /// `file:line:column`, the message, and the line with a mark under the place.
    pub(super) fn told(&self, file: &str, level: Level) -> String {
        let level = match level {
            Level::Error => "error".to_owned(),
            Level::Warning => format!("warning[{}]", self.code),
        };
        let mut text = format!(
            "{file}:{}:{}: {level}: {}: {}",
            self.line, self.column, self.policy, self.message
        );
        if let Some(snippet) = &self.snippet {
            let number = self.line.to_string();
            let before = snippet.chars().take(self.caret.saturating_sub(1));
            // A tab is as wide above as below.
            let pad: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let gutter = " ".repeat(number.len());
            text.push_str(&format!("\n  {number} | {snippet}\n  {gutter} | {pad}^"));
        }
        if let Some(help) = &self.help {
            text.push_str(&format!("\n  fix: {help}"));
        }
        text
    }
}
