//! Where a mode is written: found in a file's text, and what another word or more lines make of that text.

use crate::{
    DEFAULT_NAMESPACE, PolicyFolder,
    kinds::{Object, PeerAuthenticationSpec},
    source::{Document, Source, node::Node},
};

use super::{Edit, FlipError};

/// The word that ports are flipped to.
pub(super) const STRICT: &str = "STRICT";

/// An object in a file.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub(super) file: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl At {
    /// Where `object` is written.
    pub(super) fn of(object: &Object<PeerAuthenticationSpec>) -> Self {
        Self {
            file: object.document.file.clone(),
            namespace: object.namespace.to_string(),
            name: object.name.clone(),
        }
    }

    /// Makes one mode of it STRICT; no edit if it is.
    pub(super) fn strict(
        &self,
        port: Option<u16>,
        files: &mut PolicyFolder,
    ) -> Result<Option<Edit>, FlipError> {
        let (text, document) = self.find(files)?;
        let edit = match self.mode(&document, port) {
            Some(mode) => {
                let from = mode.text().unwrap_or_default().to_owned();
                if from == STRICT {
                    return Ok(None);
                }
                Edit::Set {
                    file: self.file.clone(),
                    namespace: self.namespace.clone(),
                    name: self.name.clone(),
                    port,
                    from,
                }
            }
            None => Edit::Insert {
                file: self.file.clone(),
                namespace: self.namespace.clone(),
                name: self.name.clone(),
                port,
                lines: self.new_lines(&text, &document, port)?.1,
            },
        };
        edit.apply(files)?;
        Ok(Some(edit))
    }

    pub(super) fn find(&self, files: &PolicyFolder) -> Result<(String, Document), FlipError> {
        let changed = || FlipError::Changed(format!("{} {}", self.file, self.name));
        let text = files.text(&self.file).ok_or_else(changed)?;
        let mut source = Source::default();
        source.add(&self.file, text);
        let meant = |d: &Document| {
            let namespace = d.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
            d.kind.as_deref() == Some("PeerAuthentication")
                && namespace == self.namespace
                && d.name.as_deref() == Some(&self.name)
        };
        let documents = source.documents.into_iter();
        let mut documents = documents.filter_map(std::sync::Arc::into_inner);
        let found = documents.find(meant).ok_or_else(changed)?;
        Ok((text.to_owned(), found))
    }

    /// The value of a mode.
    pub(super) fn mode<'d>(&self, document: &'d Document, port: Option<u16>) -> Option<&'d Node> {
        let spec = &document.root.get("spec")?.value;
        let within = match port {
            None => spec.get("mtls")?,
            Some(port) => spec.get("portLevelMtls")?.value.get(&port.to_string())?,
        };
        Some(&within.value.get("mode")?.value)
    }

    /// Lines that add a mode, and after which line they come.
    pub(super) fn new_lines(
        &self,
        text: &str,
        document: &Document,
        port: Option<u16>,
    ) -> Result<(usize, String), FlipError> {
        let form = |line: usize| FlipError::Form(format!("{}:{line}", self.file));
        let spec = document
            .root
            .get("spec")
            .ok_or_else(|| form(document.root.line))?;
        let indent = |entry: &crate::source::node::Entry| -> Result<String, FlipError> {
            let first = entry.value.line;
            if first <= entry.line {
                return Err(form(entry.line));
            }
            let line = text.lines().nth(first - 1).unwrap_or_default();
            Ok(line.chars().take_while(|c| *c == ' ').collect())
        };
        let within = indent(spec)?;
        match port {
            None if spec.value.get("mtls").is_some() => Err(form(spec.line)),
            None => Ok((
                spec.line,
                format!("{within}mtls:\n{within}  mode: STRICT\n"),
            )),
            Some(port) => match spec.value.get("portLevelMtls") {
                Some(ports) if ports.value.get(&port.to_string()).is_some() => {
                    Err(form(ports.line))
                }
                Some(ports) => {
                    let deeper = indent(ports)?;
                    let lines = format!("{deeper}\"{port}\":\n{deeper}  mode: STRICT\n");
                    Ok((ports.line, lines))
                }
                None => {
                    let lines = format!(
                        "{within}portLevelMtls:\n{within}  \"{port}\":\n{within}    mode: STRICT\n"
                    );
                    Ok((spec.line, lines))
                }
            },
        }
    }

    /// The file's text with another word for a mode.
    pub(super) fn word(
        &self,
        files: &PolicyFolder,
        port: Option<u16>,
        (from, to): (&str, &str),
    ) -> Result<String, FlipError> {
        let (text, document) = self.find(files)?;
        let place = |line: usize| format!("{}:{line}", self.file);
        let node = self.mode(&document, port);
        let line = node.map(|node| node.line).unwrap_or_default();
        if node.and_then(Node::text) != Some(from) {
            return Err(FlipError::Changed(place(line)));
        }
        let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        let found = line.checked_sub(1).and_then(|n| lines.get_mut(n));
        let found = found.ok_or_else(|| FlipError::Changed(place(line)))?;
        let at = word_after_mode(found, from).ok_or_else(|| FlipError::Form(place(line)))?;
        found.replace_range(at..at + from.len(), to);
        Ok(lines.concat())
    }
}

/// Where `word` stands as the one `mode` of a line.
fn word_after_mode(line: &str, word: &str) -> Option<usize> {
    let mut values = line.match_indices("mode").filter_map(|(at, key)| {
        let rest = line.get(at + key.len()..)?;
        let rest = rest.trim_start_matches(['"', '\'']).trim_start();
        Some(
            rest.strip_prefix(':')?
                .trim_start()
                .trim_start_matches(['"', '\'']),
        )
    });
    let value = values.next()?;
    let alone = values.next().is_none() && value.starts_with(word);
    alone.then(|| line.len() - value.len())
}
