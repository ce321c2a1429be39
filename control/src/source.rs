//! A folder of YAML as documents, with every fault of reading it.

pub(crate) mod de;
pub(crate) mod node;
mod parse;
pub(crate) mod path;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path as FsPath, PathBuf},
    sync::Arc,
};

use crate::{
    Code, Fault, Severity,
    policy_folder::{self, FolderLock},
};
use node::{Node, Value};
use path::{Path, Step};

/// Largest file in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Most files of a folder.
const MAX_FILES: usize = 2000;
/// Most bytes of a folder.
const MAX_FOLDER_BYTES: u64 = 64 * 1024 * 1024;
/// Deepest folder within the folder.
const MAX_FOLDER_DEPTH: usize = 16;

/// What stands in a folder.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// Every document, in order of file and line.
    pub(crate) documents: Vec<Arc<Document>>,
    /// Faults of files and of their text.
    pub(crate) faults: Vec<Fault>,
}

/// One YAML document, and who it says it is.
#[derive(Debug)]
pub(crate) struct Document {
    /// Relative to the folder.
    pub(crate) file: String,
    pub(crate) root: Node,
    pub(crate) api_version: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
}

impl Document {
    pub(crate) fn new(file: String, root: Node) -> Self {
        let top = |key: &str| Some(root.get(key)?.value.text()?.to_owned());
        let metadata = root.get("metadata").map(|e| &e.value);
        let within = |key: &str| Some(metadata?.get(key)?.value.text()?.to_owned());
        Self {
            api_version: top("apiVersion"),
            kind: top("kind"),
            namespace: within("namespace"),
            name: within("name"),
            file,
            root,
        }
    }

    /// The line of `path`, or of the nearest thing above it that is there.
    pub(crate) fn line_of(&self, path: &Path) -> usize {
        let (mut node, mut line) = (&self.root, self.root.line);
        for step in path.steps() {
            match step {
                Step::Key(key) => match node.get(key) {
                    Some(entry) => (node, line) = (&entry.value, entry.line),
                    None => break,
                },
                Step::Index(index) => match node.element(*index) {
                    Some(element) => (node, line) = (element, element.line),
                    None => break,
                },
            }
        }
        line
    }

    /// The value at `path`.
    pub(crate) fn at(&self, path: &Path) -> Option<&Node> {
        path.steps()
            .iter()
            .try_fold(&self.root, |node, step| match step {
                Step::Key(key) => node.get(key).map(|e| &e.value),
                Step::Index(index) => node.element(*index),
            })
    }

    /// An error at `path`.
    pub(crate) fn error(&self, path: &Path, code: Code, text: impl Into<String>) -> Fault {
        Fault {
            severity: Severity::Error,
            code,
            file: self.file.clone(),
            line: self.line_of(path),
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            path: path.to_string(),
            text: text.into(),
            hint: None,
        }
    }

    /// Faults of reading this document, with its file.
    pub(crate) fn place(&self, faults: Vec<de::PlacedFault>) -> impl Iterator<Item = Fault> {
        faults.into_iter().map(|fault| Fault {
            line: fault.line,
            hint: fault.hint,
            ..self.error(&fault.path, fault.code, fault.text)
        })
    }

    /// A warning at `path`.
    pub(crate) fn warning(&self, path: &Path, code: Code, text: impl Into<String>) -> Fault {
        Fault {
            severity: Severity::Warning,
            ..self.error(path, code, text)
        }
    }
}

impl Fault {
    /// Adds advice.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A fault of the folder as a whole.
    pub(crate) fn of_folder(text: String) -> Self {
        Self::of_file(".", 1, Code::Unreadable, text)
    }

    /// A fault of a file rather than of a document in it.
    fn of_file(file: &str, line: usize, code: Code, text: String) -> Self {
        Self {
            severity: Severity::Error,
            code,
            file: file.to_owned(),
            line,
            kind: None,
            namespace: None,
            name: None,
            path: String::new(),
            text,
            hint: None,
        }
    }
}

/// The objects of a `kind: List`, as `kubectl get -o yaml` prints them; else the document itself. A list within a list
/// stays one, and is refused as a kind.
fn listed(root: Node) -> Vec<Node> {
    let says = |key: &str, text: &str| root.get(key).and_then(|e| e.value.text()) == Some(text);
    let items = match says("kind", "List") && says("apiVersion", "v1") {
        true => root.get("items").map(|items| &items.value.value),
        false => None,
    };
    match items {
        Some(Value::Sequence(items)) => items.clone(),
        Some(Value::Scalar { .. } | Value::Mapping(_)) | None => vec![root],
    }
}

impl Source {
    /// Reads every `*.yaml` and `*.yml` in `path` (a folder, with its sub-folders, or one file), sorted by name.
    pub(crate) fn read(path: &FsPath) -> Self {
        let (texts, faults) = Self::texts(path);
        let mut source = Self {
            documents: Vec::new(),
            faults,
        };
        for (name, text) in texts {
            source.add(&name, &text);
        }
        source.faults.sort_by(|a, b| a.file.cmp(&b.file));
        source
    }

    /// The files that are read, by name, and their texts.
    pub(crate) fn texts(path: &FsPath) -> (Vec<(String, String)>, Vec<Fault>) {
        // Half a set of policies is not what anybody wrote.
        let Some(_lock) = FolderLock::shared(path) else {
            let text = "the folder is being changed".to_owned();
            let fault = Fault::of_file(".", 1, Code::Unreadable, text);
            return (Vec::new(), vec![fault]);
        };
        if policy_folder::is_pending(path) {
            let text = "a change of policies was interrupted here".to_owned();
            let hint = "`reeve policy apply`, `reeve policy rollback` or `reeve up` finishes it";
            let mut fault = Fault::of_file(".", 1, Code::Unreadable, text);
            fault.hint = Some(hint.to_owned());
            return (Vec::new(), vec![fault]);
        }
        Self::texts_unlocked(path)
    }

    /// The same for who holds the folder's lock.
    pub(crate) fn texts_unlocked(path: &FsPath) -> (Vec<(String, String)>, Vec<Fault>) {
        let mut source = Self::default();
        let mut files = Vec::new();
        if path.is_dir() {
            source.list(path, path, 0, &mut files);
        } else {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            files.push((name.into_owned(), path.to_owned()));
        }
        files.sort();
        if files.len() > MAX_FILES {
            let text = format!("more than {MAX_FILES} files");
            source
                .faults
                .push(Fault::of_file(".", 1, Code::TooLarge, text));
            files.truncate(MAX_FILES);
        }
        let mut bytes = 0;
        let mut texts = Vec::new();
        for (name, path) in files {
            match read_file(&path) {
                Ok(text) => {
                    bytes += text.len() as u64;
                    if bytes > MAX_FOLDER_BYTES {
                        let text = format!("the folder has more than {MAX_FOLDER_BYTES} bytes");
                        let fault = Fault::of_file(&name, 1, Code::TooLarge, text);
                        source.faults.push(fault);
                        break;
                    }
                    texts.push((name, text));
                }
                Err((code, text)) => source.faults.push(Fault::of_file(&name, 1, code, text)),
            }
        }
        (texts, source.faults)
    }

    /// Adds the documents of one file.
    pub(crate) fn add(&mut self, file: &str, text: &str) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (documents, faults) = parse::parse(text);
        let documents = documents.into_iter().flat_map(listed);
        let documents: Vec<_> = documents
            .map(|root| Arc::new(Document::new(file.to_owned(), root)))
            .collect();
        for fault in faults {
            let owner = documents.iter().rev().find(|d| d.root.line <= fault.line);
            let mut shown = Fault::of_file(file, fault.line, fault.code, fault.text);
            shown.hint = fault.hint.map(str::to_owned);
            if let Some(owner) = owner.filter(|_| fault.code == Code::DuplicateKey) {
                shown.kind.clone_from(&owner.kind);
                shown.namespace.clone_from(&owner.namespace);
                shown.name.clone_from(&owner.name);
            }
            self.faults.push(shown);
        }
        self.documents.extend(documents);
    }

    fn list(
        &mut self,
        root: &FsPath,
        folder: &FsPath,
        depth: usize,
        files: &mut Vec<(String, PathBuf)>,
    ) {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                let name = folder.display().to_string();
                let text = format!("the folder cannot be read: {error}");
                self.faults
                    .push(Fault::of_file(&name, 1, Code::Unreadable, text));
                return;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if name.to_string_lossy().starts_with('.') || files.len() > MAX_FILES {
                continue;
            }
            if path.is_dir() {
                // A link to a folder may lead round in circles; links to files are fine.
                let linked = entry.file_type().is_ok_and(|t| t.is_symlink());
                if depth < MAX_FOLDER_DEPTH && !linked {
                    self.list(root, &path, depth + 1, files);
                }
            } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
                let relative = path.strip_prefix(root).unwrap_or(&path);
                files.push((relative.display().to_string(), path.clone()));
            }
        }
    }
}

/// The text of a file of at most 4 MiB; else what is wrong with it.
pub(crate) fn read_file(path: &FsPath) -> Result<String, (Code, String)> {
    let unreadable = |e: io::Error| (Code::Unreadable, format!("the file cannot be read: {e}"));
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err((Code::Unreadable, "not a regular file".to_owned()));
    }
    if metadata.len() > MAX_FILE_BYTES {
        let text = format!("{} bytes, more than {MAX_FILE_BYTES}", metadata.len());
        return Err((Code::TooLarge, text));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|e| (Code::Syntax, format!("not UTF-8: {e}")))
}
