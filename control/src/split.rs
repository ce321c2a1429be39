//! The weights of two subsets in a `VirtualService`, found and changed where they stand.
//!
//! A rollout moves traffic by editing the configuration itself, so that what is in force and what is written never
//! differ. Only the two numbers change: comments, order and everything else stay as they are.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path as FsPath, PathBuf},
};

use reeve_core::{Namespace, ServiceName};

use crate::{
    mesh::DestinationRule,
    resolve::hosts::full as full_host,
    source::{Document, Source, node::Node},
};

/// Which weights are meant.
#[derive(Clone, Debug)]
pub struct SplitQuery {
    /// Where the `VirtualService` is.
    pub namespace: Namespace,
    /// The service, by its short name in that namespace or its full name.
    pub host: String,
    /// The subset that traffic leaves.
    pub from: String,
    /// The subset that traffic moves to.
    pub to: String,
    /// `http[].name`, where several rules name both subsets.
    pub rule: Option<String>,
}

/// One subset's part of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its weight.
    pub weight: u32,
    /// The labels that its `DestinationRule` selects endpoints by.
    pub labels: BTreeMap<String, String>,
    /// The line of the weight, from 1.
    line: usize,
}

/// Two weights of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The service's full name.
    pub service: ServiceName,
    /// Where they stand: file, line and key path, for people.
    pub place: String,
    /// Of the subset that traffic leaves.
    pub from: Share,
    /// Of the subset that traffic moves to.
    pub to: Share,
    file: PathBuf,
}

/// Why there is no such split, or it could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// The folder is not valid as it is.
    #[error("the configuration has {0} faults; `reeve config check` names them")]
    Invalid(usize),
    /// Nothing splits traffic between the two.
    #[error(
        "no http rule of a VirtualService for {service} sends traffic to both subsets, each with a weight"
    )]
    Missing {
        /// The service.
        service: String,
    },
    /// More than one does.
    #[error("several rules split that traffic: {}", .0.join(", "))]
    Several(Vec<String>),
    /// A weight that does not stand alone on its line.
    #[error("{place}: the line has more than this one weight")]
    Crowded {
        /// Where.
        place: String,
    },
    /// The file is not as it was when it was read.
    #[error("{place}: the file was changed by somebody else; nothing was written")]
    Changed {
        /// Where.
        place: String,
    },
    /// The operating system said no.
    #[error("{path}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Split {
    /// Finds it in the configuration folder.
    pub fn find(folder: &FsPath, query: &SplitQuery) -> Result<Self, SplitError> {
        let source = Source::read(folder);
        let mesh = crate::load(folder).map_err(|faults| SplitError::Invalid(faults.len()))?;
        let host = full_host(&query.host, &query.namespace);
        let mut found = Vec::new();
        for document in &source.documents {
            found.extend(in_document(document, query, &host));
        }
        let missing = || SplitError::Missing {
            service: host.clone(),
        };
        let places = || found.iter().map(|f| f.place.clone()).collect();
        let [one] = found.as_slice() else {
            return Err(match found.is_empty() {
                true => missing(),
                false => SplitError::Several(places()),
            });
        };
        let service = ServiceName::parse(&host).map_err(|_| missing())?;
        let rule = mesh.rules.get(&service);
        let share = |subset: &str, (weight, line): (u32, usize)| {
            let labels = rule.and_then(|r| labels(r, subset)).ok_or_else(missing)?;
            Ok(Share {
                weight,
                labels,
                line,
            })
        };
        Ok(Self {
            from: share(&query.from, one.from)?,
            to: share(&query.to, one.to)?,
            service,
            place: one.place.clone(),
            file: match folder.is_dir() {
                true => folder.join(&one.file),
                false => folder.to_owned(),
            },
        })
    }

    /// Writes other weights in their place, as a whole or not at all.
    pub fn set(&mut self, from: u32, to: u32) -> Result<(), SplitError> {
        let io = |source| SplitError::Io {
            path: self.file.display().to_string(),
            source,
        };
        let text = fs::read_to_string(&self.file).map_err(io)?;
        let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        for (share, weight) in [(&self.from, from), (&self.to, to)] {
            let place = || format!("{}:{}", self.file.display(), share.line);
            let line = share.line.checked_sub(1).and_then(|n| lines.get_mut(n));
            let changed = || SplitError::Changed { place: place() };
            let line = line.ok_or_else(changed)?;
            let (start, end) = weight_in(line)
                .ok_or_else(changed)?
                .map_err(|Crowded| SplitError::Crowded { place: place() })?;
            if line.get(start..end).and_then(|w| w.parse().ok()) != Some(share.weight) {
                return Err(changed());
            }
            line.replace_range(start..end, &weight.to_string());
        }
        reeve_files::replace(&self.file, lines.concat().as_bytes()).map_err(io)?;
        (self.from.weight, self.to.weight) = (from, to);
        Ok(())
    }
}

/// A rule that names both subsets.
struct Found {
    file: String,
    place: String,
    from: (u32, usize),
    to: (u32, usize),
}

fn in_document(document: &Document, query: &SplitQuery, host: &str) -> Vec<Found> {
    let namespace = document.namespace.as_deref();
    let is_meant = document.kind.as_deref() == Some("VirtualService")
        && namespace.unwrap_or(crate::DEFAULT_NAMESPACE) == query.namespace.as_str();
    let http = document.root.get("spec").and_then(|s| s.value.get("http"));
    let Some(http) = http.filter(|_| is_meant) else {
        return Vec::new();
    };
    let rules = (0..).map_while(|n| Some((n, http.value.element(n)?)));
    let found = rules.filter_map(|(n, rule)| {
        let name = rule.get("name").and_then(|e| e.value.text());
        if query.rule.is_some() && query.rule.as_deref() != name {
            return None;
        }
        Some(Found {
            file: document.file.clone(),
            place: format!("{}:{} spec.http[{n}]", document.file, rule.line),
            from: weight_of(rule, host, &query.from, &query.namespace)?,
            to: weight_of(rule, host, &query.to, &query.namespace)?,
        })
    });
    found.collect()
}

/// The weight that `rule` gives to a subset of `host`, and its line.
fn weight_of(rule: &Node, host: &str, subset: &str, namespace: &Namespace) -> Option<(u32, usize)> {
    let routes = &rule.get("route")?.value;
    let mut routes = (0..).map_while(|n| routes.element(n));
    let text = |node: &Node, key: &str| Some(node.get(key)?.value.text()?.to_owned());
    let meant = routes.find(|route| {
        let Some(destination) = route.get("destination").map(|e| &e.value) else {
            return false;
        };
        let named = text(destination, "host").is_some_and(|h| full_host(&h, namespace) == host);
        named && text(destination, "subset").as_deref() == Some(subset)
    })?;
    let weight = meant.get("weight")?;
    Some((weight.value.text()?.parse().ok()?, weight.value.line))
}

fn labels(rule: &DestinationRule, subset: &str) -> Option<BTreeMap<String, String>> {
    let subset = rule.subsets.iter().find(|s| s.name == subset)?;
    Some(subset.labels.clone())
}

/// There is more than one weight.
struct Crowded;

/// Where the number of `weight: 50`, or in JSON `"weight": 50`, stands in `line`; `None` without one.
fn weight_in(line: &str) -> Option<Result<(usize, usize), Crowded>> {
    let mut values = line.match_indices("weight").filter_map(|(at, key)| {
        let rest = line.get(at + key.len()..)?;
        let rest = rest.trim_start_matches(['"', '\'']).trim_start();
        Some(rest.strip_prefix(':')?.trim_start())
    });
    let value = values.next()?;
    if values.next().is_some() {
        return Some(Err(Crowded));
    }
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let start = line.len() - value.len();
    (digits > 0).then_some(Ok((start, start + digits)))
}

#[cfg(test)]
mod tests;
