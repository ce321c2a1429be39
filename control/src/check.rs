//! `reeve config check`: what would be accepted, document by document.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Fault;

/// The answer to `reeve config check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Whether the folder would be applied.
    pub ok: bool,
    /// Every document, in order of file and line.
    pub documents: Vec<DocumentReport>,
    /// Faults that belong to no document, such as an unreadable file.
    pub faults: Vec<Fault>,
}

/// What became of one document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentReport {
    /// Its file, relative to the folder.
    pub file: String,
    /// Its first line.
    pub line: usize,
    /// Its kind, as far as it could be told.
    pub kind: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why.
    pub findings: Vec<Fault>,
}

/// What became of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing to say.
    Accepted,
    /// Accepted, with a warning.
    Warning,
    /// Refused.
    Refused,
}

/// Checks the configuration in `path`: a folder, or a single file.
pub fn check(path: &Path) -> CheckReport {
    let _ = path;
    CheckReport {
        ok: false,
        documents: Vec::new(),
        faults: Vec::new(),
    }
}
