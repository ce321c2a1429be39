//! Modes changed where they are written: one word of an object that is there, or an object of the migration's own.
//!
//! What is made is checked against what was meant before it is handed out: the targets are STRICT then, and no other port
//! has another mode than before.

mod place;

use std::collections::{BTreeMap, BTreeSet};

use reeve_core::{Namespace, model::MtlsMode};
use serde::{Deserialize, Serialize};

use self::place::{At, STRICT};
use super::{
    landscape::{Landscape, WorkloadKey},
    planning::Target,
};
use crate::{PolicyFolder, resolve::exemption, source::node::Node};

/// One change of the configuration's text, which can be taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "edit", rename_all = "snake_case")]
pub enum Edit {
    /// A mode that is written gets another word.
    Set {
        /// Relative to the folder.
        file: String,
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// For one port; for the whole otherwise.
        port: Option<u16>,
        /// The word that stood there.
        from: String,
    },
    /// A mode is added to an object.
    Insert {
        /// Relative to the folder.
        file: String,
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// For one port; for the whole otherwise.
        port: Option<u16>,
        /// The lines that come in.
        lines: String,
    },
    /// A file with one object comes in.
    Create {
        /// Relative to the folder.
        file: String,
        /// Its text.
        text: String,
    },
}

/// Why a mode cannot be changed where it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlipError {
    /// It is not in the configuration.
    #[error("there is no workload {0} with a sidecar in the configuration")]
    Unknown(String),
    /// No object can select it.
    #[error("workload {0} has no labels that a PeerAuthentication could select it by")]
    NoLabels(WorkloadKey),
    /// One object is about more than is to be flipped.
    #[error(
        "{target} is flipped together with {others}, which are not in this wave or have other ports in it"
    )]
    Together {
        /// What is to be flipped.
        target: WorkloadKey,
        /// What is flipped with it.
        others: String,
    },
    /// The YAML is written in a form that is not edited.
    #[error("{0}: this is not edited by a machine; give each mode a line of its own")]
    Form(String),
    /// It is not as it was.
    #[error("{0}: it was changed by somebody else meanwhile")]
    Changed(String),
    /// It would not do what is meant.
    #[error("the change would not do what is meant: {0}")]
    Ineffective(String),
}

impl Landscape {
    /// The edits that make `targets` STRICT and change nothing else, and the folder with them.
    pub fn flip(&self, targets: &[Target]) -> Result<(Vec<Edit>, PolicyFolder), FlipError> {
        let mut files = self.files.clone();
        let mut edits = Vec::new();
        let mut done = BTreeSet::new();
        for target in targets {
            match target {
                Target::Namespace(name) => self.namespace(name, &mut files, &mut edits)?,
                Target::Workload(key, ports) => {
                    if done.contains(key) {
                        continue;
                    }
                    let members = self.together(key, ports, targets)?;
                    self.workload_modes(key, ports, &mut files, &mut edits)?;
                    done.extend(members);
                }
            }
        }
        self.check(targets, &files)?;
        Ok((edits, files))
    }

    /// The folder with `edits` taken back, last first.
    pub fn revert(&self, edits: &[Edit]) -> Result<PolicyFolder, FlipError> {
        let mut files = self.files.clone();
        for edit in edits.iter().rev() {
            edit.revert(&mut files)?;
        }
        Ok(files)
    }

    /// The folder as it stands.
    pub fn files(&self) -> &PolicyFolder {
        &self.files
    }

    /// Whether every target is STRICT in the folder as it stands.
    pub fn is_flipped(&self, targets: &[Target]) -> bool {
        let ports = self.ports();
        let strict = |target: &Target| match target {
            Target::Namespace(name) => self.strict_namespace(name),
            Target::Workload(key, only) => {
                let own = ports
                    .iter()
                    .filter(|p| p.workload == *key && p.exemption.is_none());
                let mut meant = own.filter(|p| only.is_empty() || only.contains(&p.port));
                meant.all(|p| p.mode == MtlsMode::Strict)
            }
        };
        targets.iter().all(strict)
    }

    fn strict_namespace(&self, name: &Namespace) -> bool {
        self.mode_of_new(name) == MtlsMode::Strict
    }

    /// The workloads that are flipped with `key`, which must all be targets with the same ports.
    fn together(
        &self,
        key: &WorkloadKey,
        ports: &[u16],
        targets: &[Target],
    ) -> Result<Vec<WorkloadKey>, FlipError> {
        if !self.ports().iter().any(|port| port.workload == *key) {
            return Err(FlipError::Unknown(key.to_string()));
        }
        let members = self
            .flipped_with(key)
            .ok_or_else(|| FlipError::NoLabels(key.clone()))?;
        let own = |member: &WorkloadKey| -> Vec<u16> {
            let all = self.ports().into_iter().filter(|p| p.workload == *member);
            all.map(|p| p.port).collect()
        };
        let meant = |member: &&WorkloadKey| {
            let wanted: Vec<u16> = own(member)
                .into_iter()
                .filter(|p| ports.contains(p))
                .collect();
            let nothing = own(member).is_empty() || !ports.is_empty() && wanted.is_empty();
            let same = |target: &Target| match target {
                Target::Workload(key, ports) => key == *member && *ports == wanted,
                Target::Namespace(_) => false,
            };
            nothing || targets.iter().any(same)
        };
        let others: Vec<_> = members.iter().filter(|m| !meant(m)).collect();
        if others.is_empty() {
            return Ok(members);
        }
        let others: Vec<_> = others.into_iter().map(ToString::to_string).collect();
        Err(FlipError::Together {
            target: key.clone(),
            others: others.join(", "),
        })
    }

    fn workload_modes(
        &self,
        key: &WorkloadKey,
        ports: &[u16],
        files: &mut PolicyFolder,
        edits: &mut Vec<Edit>,
    ) -> Result<(), FlipError> {
        let own = self
            .own_object(key)
            .and_then(|(at, _)| self.objects.get(at));
        let Some(object) = own else {
            let labels = self.labels(key).cloned().unwrap_or_default();
            let name = format!("strict-{}", key.workload);
            let edit = self.create(&key.namespace, &name, &labels, ports);
            edit.apply(files)?;
            edits.push(edit);
            return Ok(());
        };
        let at = At::of(object);
        let mut wanted: Vec<Option<u16>> = ports.iter().map(|port| Some(*port)).collect();
        if ports.is_empty() {
            wanted.push(None);
            // Plaintext that somebody answers for stays.
            if exemption(&object.annotations).is_none() {
                let said = object.spec.port_level_mtls.iter();
                let loose = said.filter(|(_, m)| m.mode.as_deref() != Some(STRICT));
                wanted.extend(loose.filter_map(|(port, _)| Some(Some(port.parse().ok()?))));
            }
        }
        for port in wanted {
            edits.extend(at.strict(port, files)?);
        }
        Ok(())
    }

    fn namespace(
        &self,
        name: &Namespace,
        files: &mut PolicyFolder,
        edits: &mut Vec<Edit>,
    ) -> Result<(), FlipError> {
        let whole = |scope: &crate::mesh::Scope| {
            let root = *name == self.mesh.settings.root_namespace;
            let here = match &scope.namespace {
                Some(of) => of == name,
                None => root,
            };
            here && scope.selector.is_empty()
        };
        let mut all = self.mesh.peer_authentications.iter().zip(&self.objects);
        let found = all.find(|(rule, _)| whole(&rule.scope)).map(|(_, o)| o);
        let Some(object) = found else {
            let edit = self.create(name, "strict", &BTreeMap::new(), &[]);
            edit.apply(files)?;
            edits.push(edit);
            return Ok(());
        };
        let at = At::of(object);
        edits.extend(at.strict(None, files)?);
        Ok(())
    }

    /// A file of its own for one new object.
    fn create(
        &self,
        namespace: &Namespace,
        name: &str,
        labels: &BTreeMap<String, String>,
        ports: &[u16],
    ) -> Edit {
        let taken = |name: &str| {
            let same = |o: &&crate::kinds::Object<_>| o.namespace == *namespace && o.name == name;
            let file = file_of(namespace, name);
            self.objects.iter().any(|o| same(&o)) || self.files.text(&file).is_some()
        };
        let numbered = (2..).map(|n| format!("{name}-{n}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        let name = names.find(|name| !taken(name)).unwrap_or_default();
        let mut text = format!(
            "# Written by `reeve mtls migrate`; `reeve mtls rollback` takes it away.\napiVersion: security.istio.io/v1\n\
             kind: PeerAuthentication\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n"
        );
        if !labels.is_empty() {
            text.push_str("  selector:\n    matchLabels:\n");
            for (label, value) in labels {
                text.push_str(&format!("      {}: {}\n", quoted(label), quoted(value)));
            }
        }
        match ports {
            [] => text.push_str("  mtls:\n    mode: STRICT\n"),
            ports => {
                text.push_str("  portLevelMtls:\n");
                for port in ports {
                    text.push_str(&format!("    \"{port}\":\n      mode: STRICT\n"));
                }
            }
        }
        Edit::Create {
            file: file_of(namespace, &name),
            text,
        }
    }

    /// Whether `files` make the targets STRICT and change nothing else.
    fn check(&self, targets: &[Target], files: &PolicyFolder) -> Result<(), FlipError> {
        let after = Self::of(files.clone()).map_err(|faults| {
            let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
            FlipError::Ineffective(faults.join("; "))
        })?;
        if !after.is_flipped(targets) {
            let text = "not every target would be STRICT; another object says otherwise";
            return Err(FlipError::Ineffective(text.to_owned()));
        }
        let meant = |port: &super::Port| {
            targets.iter().any(|target| match target {
                Target::Workload(key, only) => {
                    port.workload == *key && (only.is_empty() || only.contains(&port.port))
                }
                Target::Namespace(_) => false,
            })
        };
        let before = self.ports();
        let both = before.iter().zip(after.ports());
        let other = both
            .filter(|(before, _)| !meant(before))
            .find(|(before, after)| before.mode != after.mode);
        match other {
            None => Ok(()),
            Some((port, _)) => Err(FlipError::Ineffective(format!(
                "port {} of {} would change as well",
                port.port, port.workload
            ))),
        }
    }
}

fn file_of(namespace: &Namespace, name: &str) -> String {
    format!("mtls-{name}.{namespace}.yaml")
}

/// A YAML scalar that is text whatever it looks like; JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Edit {
    /// The file that it changes.
    pub fn file(&self) -> &str {
        match self {
            Self::Set { file, .. } | Self::Insert { file, .. } | Self::Create { file, .. } => file,
        }
    }

    fn at(&self) -> Option<(At, Option<u16>)> {
        match self {
            Self::Create { .. } => None,
            Self::Set {
                file,
                namespace,
                name,
                port,
                ..
            }
            | Self::Insert {
                file,
                namespace,
                name,
                port,
                ..
            } => {
                let at = At {
                    file: file.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                };
                Some((at, *port))
            }
        }
    }

    fn apply(&self, files: &mut PolicyFolder) -> Result<(), FlipError> {
        match (self, self.at()) {
            (Self::Create { file, text }, _) => files.put(file, Some(text.clone())),
            (Self::Set { file, from, .. }, Some((at, port))) => {
                let text = at.word(files, port, (from, STRICT))?;
                files.put(file, Some(text));
            }
            (Self::Insert { file, lines, .. }, Some((at, port))) => {
                let (text, document) = at.find(files)?;
                let (after, _) = at.new_lines(&text, &document, port)?;
                let mut all: Vec<&str> = text.split_inclusive('\n').collect();
                all.insert(after.min(all.len()), lines);
                files.put(file, Some(all.concat()));
            }
            (Self::Set { .. } | Self::Insert { .. }, None) => {}
        }
        Ok(())
    }

    /// Takes it back. What is back already is left alone, so that this can be done again.
    fn revert(&self, files: &mut PolicyFolder) -> Result<(), FlipError> {
        match (self, self.at()) {
            (Self::Create { file, .. }, _) => files.put(file, None),
            (Self::Set { file, from, .. }, Some((at, port))) => {
                let (_, document) = at.find(files)?;
                let now = at.mode(&document, port).and_then(Node::text);
                if now != Some(from) {
                    let text = at.word(files, port, (STRICT, from))?;
                    files.put(file, Some(text));
                }
            }
            (Self::Insert { file, lines, .. }, Some((at, port))) => {
                let (text, document) = at.find(files)?;
                if at.mode(&document, port).is_some() {
                    let (before, after) = text
                        .split_once(lines)
                        .ok_or_else(|| FlipError::Changed(file.clone()))?;
                    files.put(file, Some(format!("{before}{after}")));
                }
            }
            (Self::Set { .. } | Self::Insert { .. }, None) => {}
        }
        Ok(())
    }
}
