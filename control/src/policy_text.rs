//! Rewriting the Cedar text of `AccessPolicy` documents where it stands: all other bytes of the file are kept.

use reeve_authz::PolicyFault;
use reeve_core::{Namespace, PolicyId};
use serde::Serialize;

use crate::{
    DEFAULT_NAMESPACE, Fault,
    source::{Document, Source, path::Path},
};

/// Why the policies of a file are left as they are. Lines and columns count from 1, in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyTextFault {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// The line's text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snippet: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl PolicyTextFault {
    /// A fault of a whole line.
    pub fn new(line: usize, message: impl Into<String>) -> Self {
        Self {
            line,
            column: 1,
            message: message.into(),
            snippet: None,
            help: None,
        }
    }
}

impl From<PolicyFault> for PolicyTextFault {
    fn from(fault: PolicyFault) -> Self {
        Self {
            line: fault.line,
            column: fault.column,
            message: fault.message,
            snippet: fault.snippet,
            help: fault.help,
        }
    }
}

/// The Cedar text of one `AccessPolicy`, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDocument {
    /// The file, relative to the folder that was read.
    pub file: String,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The text.
    pub cedar: String,
    /// Lines before its first.
    before: usize,
    /// Characters before each line's first; absent if it is no literal block, whose lines cannot be told.
    indent: Option<usize>,
}

impl PolicyDocument {
    /// The line and column in the file of a line and column of the text, all from 1.
    pub fn place(&self, line: usize, column: usize) -> (usize, usize) {
        match self.indent {
            Some(indent) => (self.before + line, indent + column),
            None => (self.before, 1),
        }
    }
}

/// Every `AccessPolicy` in `path`, a folder or a file, that has Cedar text.
pub fn policy_documents(path: &std::path::Path) -> Result<Vec<PolicyDocument>, Vec<Fault>> {
    let source = Source::read(path);
    if !source.faults.is_empty() {
        return Err(source.faults);
    }
    let placed = source.documents.iter().filter_map(|document| {
        let (line, cedar) = cedar(document)?;
        let file = match path.is_dir() {
            true => path.join(&document.file),
            false => path.to_owned(),
        };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let block = Block::find(&lines, line, cedar);
        Some(PolicyDocument {
            file: document.file.clone(),
            namespace: document
                .namespace
                .as_deref()
                .unwrap_or(DEFAULT_NAMESPACE)
                .to_owned(),
            name: document.name.clone().unwrap_or_default(),
            cedar: cedar.to_owned(),
            before: block.as_ref().map_or(line, |block| block.first),
            indent: block.map(|block| block.indent.chars().count()),
        })
    });
    Ok(placed.collect())
}

/// The YAML file `text` with the Cedar text of every `AccessPolicy` replaced by what `map` makes of it.
///
/// Only literal blocks (`cedar: |`) can be written back. What comes out is read again: it must say the same, but for
/// the Cedar text, or nothing is changed.
pub fn map_policy_texts(
    text: &str,
    mut map: impl FnMut(&PolicyId, &str) -> Result<String, Vec<PolicyFault>>,
) -> Result<String, Vec<PolicyTextFault>> {
    let documents = read(text)?;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut faults = Vec::new();
    let mut edits = Vec::new();
    let mut expected = Vec::new();
    for document in &documents {
        let Some((line, cedar)) = cedar(document) else {
            expected.push(None);
            continue;
        };
        let edit = Block::find(&lines, line, cedar).ok_or_else(|| not_a_block(line));
        match edit.and_then(|block| Ok((mapped(document, cedar, &block, &mut map)?, block))) {
            Ok((new, block)) => {
                edits.push((block, new.clone()));
                expected.push(Some(new));
            }
            Err(found) => faults.extend(found),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let written = splice(&lines, &edits);
    let again = read(&written)?;
    let same = again.len() == documents.len()
        && documents
            .iter()
            .zip(&again)
            .zip(&expected)
            .all(|((a, b), expected)| {
                let text = |document| cedar(document).map(|(_, text)| text.trim_end());
                let wanted = expected.as_deref().map(str::trim_end);
                text(b) == wanted && without_cedar(a) == without_cedar(b)
            });
    match same {
        true => Ok(written),
        false => Err(vec![PolicyTextFault::new(
            1,
            "the file would say something else; it is left as it is",
        )]),
    }
}

fn read(text: &str) -> Result<Vec<std::sync::Arc<Document>>, Vec<PolicyTextFault>> {
    let mut source = Source::default();
    source.add("", text);
    if source.faults.is_empty() {
        return Ok(source.documents);
    }
    let fault = |fault: Fault| PolicyTextFault {
        help: fault.hint,
        ..PolicyTextFault::new(fault.line, fault.text)
    };
    Err(source.faults.into_iter().map(fault).collect())
}

/// The Cedar text of an `AccessPolicy` and its line, unless there is none.
fn cedar(document: &Document) -> Option<(usize, &str)> {
    let ours = document.kind.as_deref() == Some("AccessPolicy");
    let node = document
        .at(&Path::of(&["spec", "cedar"]))
        .filter(|_| ours)?;
    let text = node.text().filter(|_| !node.is_null())?;
    (!text.trim().is_empty()).then_some((node.line, text))
}

/// Everything else that the document says, as text; lines may differ.
fn without_cedar(document: &Document) -> String {
    fn say(node: &crate::source::node::Node, depth: usize, out: &mut String) {
        use crate::source::node::Value;
        match &node.value {
            Value::Scalar { text, style } => out.push_str(&format!("{style:?} {text:?}\n")),
            Value::Sequence(elements) => {
                out.push_str(&format!("[{}\n", elements.len()));
                elements.iter().for_each(|e| say(e, depth + 1, out));
            }
            Value::Mapping(entries) => {
                out.push_str(&format!("{{{}\n", entries.len()));
                for entry in entries {
                    out.push_str(&format!("{:?}: ", entry.key));
                    if depth == 1 && entry.key == "cedar" {
                        out.push_str("…\n");
                    } else {
                        say(&entry.value, depth + 1, out);
                    }
                }
            }
        }
    }
    let mut out = String::new();
    say(&document.root, 0, &mut out);
    out
}

fn not_a_block(line: usize) -> Vec<PolicyTextFault> {
    vec![PolicyTextFault {
        help: Some(
            "write it as a block: `cedar: |`, and the policies indented on the lines below"
                .to_owned(),
        ),
        ..PolicyTextFault::new(
            line,
            "the Cedar text is not a literal block, so it cannot be formatted in place",
        )
    }]
}

fn mapped(
    document: &Document,
    cedar: &str,
    block: &Block<'_>,
    map: &mut impl FnMut(&PolicyId, &str) -> Result<String, Vec<PolicyFault>>,
) -> Result<String, Vec<PolicyTextFault>> {
    let at = |message: String| vec![PolicyTextFault::new(block.first, message)];
    let namespace = document.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let namespace = Namespace::parse(namespace).map_err(|e| at(e.to_string()))?;
    let name = document.name.as_deref().unwrap_or_default();
    let id = PolicyId::parse(&format!("{namespace}/{name}")).map_err(|e| at(e.to_string()))?;
    map(&id, cedar).map_err(|faults| {
        let placed = faults.into_iter().map(|fault| PolicyTextFault {
            line: block.first + fault.line,
            column: block.indent.chars().count() + fault.column,
            ..fault.into()
        });
        placed.collect()
    })
}

/// A literal block: the lines `first..end` (from 0) of the file, `first` being the one after the indicator.
struct Block<'a> {
    first: usize,
    end: usize,
    indent: &'a str,
    line_break: &'static str,
}

impl<'a> Block<'a> {
    /// The block whose indicator stands on `line` (from 1), if it holds just `cedar`.
    fn find(lines: &[&'a str], line: usize, cedar: &str) -> Option<Self> {
        let header = lines.get(line.checked_sub(1)?)?;
        let (_, indicator) = header.rsplit_once('|')?;
        let indicator = indicator.trim_end();
        let flags = indicator.trim_start_matches(|c: char| matches!(c, '+' | '-' | '1'..='9'));
        if !(flags.is_empty() || flags.trim_start().starts_with('#') && flags.starts_with(' ')) {
            return None;
        }
        let blank = |line: &str| line.trim().is_empty();
        let leading = |line: &str| line.len() - line.trim_start_matches(' ').len();
        // The block's indentation is what the file's line has before what the text's line has.
        let rest = lines.get(line..)?;
        let shown = rest.iter().find(|l| !blank(l))?;
        let said = cedar.lines().find(|l| !blank(l))?;
        let indent = shown.get(..leading(shown).checked_sub(leading(said))?)?;
        let inside = |l: &&&str| blank(l) || l.starts_with(indent);
        let mut count = rest.iter().take_while(inside).count();
        while count > 0 && rest.get(count - 1).is_some_and(|l| blank(l)) {
            count -= 1;
        }
        let block = rest.get(..count)?;
        let unindented = block.iter().map(|l| l.trim_end_matches(['\r', '\n']));
        let unindented: Vec<_> = unindented
            .map(|l| l.strip_prefix(indent).unwrap_or_default())
            .collect();
        let held = cedar.trim_end_matches('\n').split('\n');
        // Lines of blanks alone may be shorter than the indentation.
        let same = unindented.len() == held.clone().count()
            && unindented.iter().zip(held).all(|(a, b)| *a == b);
        (same && !indent.is_empty()).then_some(Self {
            first: line,
            end: line + count,
            indent,
            line_break: if header.ends_with("\r\n") {
                "\r\n"
            } else {
                "\n"
            },
        })
    }
}

fn splice(lines: &[&str], edits: &[(Block<'_>, String)]) -> String {
    let mut out = String::new();
    let mut next = 0;
    for (block, new) in edits {
        let between = lines.get(next..block.first).unwrap_or_default();
        out.extend(between.iter().copied());
        let ended = block.end < lines.len() || lines.last().is_some_and(|l| l.ends_with('\n'));
        let mut written = new.trim_end().split('\n').peekable();
        while let Some(line) = written.next() {
            if !line.is_empty() {
                out.push_str(block.indent);
                out.push_str(line);
            }
            if ended || written.peek().is_some() {
                out.push_str(block.line_break);
            }
        }
        next = block.end;
    }
    out.extend(lines.get(next..).unwrap_or_default().iter().copied());
    out
}

#[cfg(test)]
mod tests;
