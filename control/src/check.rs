//! `reeve config check`: what would be accepted, document by document.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    Fault,
    resolve::resolve,
    source::{Document, Source},
};

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
    let source = Source::read(path);
    let findings = resolve(&source).findings;
    let mut report = CheckReport {
        ok: !findings.iter().any(Fault::is_error),
        documents: source
            .documents
            .iter()
            .map(|d| DocumentReport::of(d))
            .collect(),
        faults: Vec::new(),
    };
    for finding in findings {
        let owner = report.documents.iter_mut().rev();
        // A fault of the text itself names no document, even if one stands above it.
        let named = finding.kind.is_some() || finding.name.is_some() || !finding.path.is_empty();
        let owner = owner
            .filter(|d| named && d.file == finding.file && d.line <= finding.line)
            .max_by_key(|d| d.line);
        match owner {
            Some(document) => document.add(finding),
            None => report.faults.push(finding),
        }
    }
    report
}

impl DocumentReport {
    fn of(document: &Document) -> Self {
        Self {
            file: document.file.clone(),
            line: document.root.line,
            kind: document.kind.clone(),
            namespace: document.namespace.clone(),
            name: document.name.clone(),
            verdict: Verdict::Accepted,
            findings: Vec::new(),
        }
    }

    fn add(&mut self, finding: Fault) {
        self.verdict = match finding.is_error() || self.verdict == Verdict::Refused {
            true => Verdict::Refused,
            false => Verdict::Warning,
        };
        self.findings.push(finding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_document_gets_its_verdict() {
        let folder = tempfile::tempdir().expect("a folder");
        let bad = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: security.istio.io/v1\n\
            kind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: ON}}\n---\n\
            apiVersion: reeve.dev/v1alpha1\nkind: LocalMesh\nmetadata: {name: l}\nspec: {workloads: [{name: w}]}\n";
        std::fs::write(folder.path().join("a.yaml"), bad).expect("written");
        std::fs::write(folder.path().join("b.yaml"), "a: [").expect("written");
        let report = check(folder.path());
        let verdicts: Vec<_> = report
            .documents
            .iter()
            .map(|d| (d.line, d.verdict))
            .collect();
        assert_eq!(
            verdicts,
            [
                (1, Verdict::Accepted),
                (5, Verdict::Refused),
                (10, Verdict::Warning)
            ]
        );
        assert!(!report.ok);
        assert_eq!(report.faults.len(), 1, "{:?}", report.faults);
        let json = serde_json::to_value(&report.documents[1].findings[0]).expect("JSON");
        assert_eq!(json["code"], "invalid");
        assert_eq!(
            (&json["file"], &json["line"]),
            (&"a.yaml".into(), &8.into())
        );
        assert_eq!(json["path"], "spec.mtls.mode");
    }
}
