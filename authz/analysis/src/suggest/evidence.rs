//! What was allowed, by target, caller and method.

use std::{collections::BTreeMap, fmt};

use foldhash::HashMap;
use reeve_audit::ScanError;
use reeve_core::{
    Namespace, ServiceName, SpiffeId,
    decision::{AccessRequest, Action, Principal},
};

use crate::{
    Wanted,
    line::{Interest, Line, Recorded},
    seen::Seen,
    shape::{self, Shape, Shapes},
};

/// Most questions that a thread remembers; beyond it, it forgets all of them.
const MAX_MET: usize = 100_000;
/// Most callers and methods of all services together.
const MAX_KINDS: usize = 20_000;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Target {
    /// A service's workloads, or a service without any. With several services, the first by name stands for them.
    Service(Namespace, ServiceName),
    /// A workload that no service selects.
    Workload(Namespace, SpiffeId),
}

impl Target {
    fn of(request: &AccessRequest) -> Option<Self> {
        let resource = &request.resource;
        let namespace = resource.namespace.clone();
        if resource.workload.is_none() && resource.services.len() != 1 {
            return None;
        }
        let service = resource.services.iter().min().cloned();
        match (service, &resource.workload) {
            (Some(service), _) => Some(Self::Service(namespace, service)),
            (None, Some(id)) => Some(Self::Workload(namespace, id.clone())),
            (None, None) => None,
        }
    }

    pub(super) fn namespace(&self) -> &Namespace {
        match self {
            Self::Service(namespace, _) | Self::Workload(namespace, _) => namespace,
        }
    }

    /// A name for the object, as Kubernetes allows it.
    pub(super) fn short(&self) -> String {
        let name = match self {
            Self::Service(_, name) => name.as_str().split('.').next().unwrap_or_default(),
            Self::Workload(_, id) => short(id),
        };
        let name: String = name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_lowercase()
                } else {
                    '-'
                }
            })
            .take(40)
            .collect();
        match name.trim_matches('-') {
            "" => "workload".to_owned(),
            name => name.to_owned(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(_, name) => name.fmt(f),
            Self::Workload(_, id) => id.fmt(f),
        }
    }
}

/// The last part of an identity: its service account.
pub(super) fn short(id: &SpiffeId) -> &str {
    id.path().rsplit('/').next().unwrap_or_default()
}

/// Requests by one method of one caller.
#[derive(Debug)]
pub(super) struct Evidence {
    pub(super) caller: Principal,
    pub(super) action: Action,
    pub(super) seen: Seen,
    /// Of HTTP requests.
    pub(super) shapes: Vec<Shape>,
    /// Of connections.
    pub(super) ports: Vec<u16>,
    /// A request that was seen.
    pub(super) sample: AccessRequest,
    /// The issuer of the tokens that all of them carried.
    pub(super) issuer: Option<String>,
}

/// Whose requests, by what.
type Kind = (Target, String, Action);

#[derive(Debug)]
struct Gathered {
    seen: Seen,
    shapes: Shapes,
    /// By [`shape::template`].
    paths: BTreeMap<String, u64>,
    ports: BTreeMap<u16, u64>,
    sample: AccessRequest,
    issuer: Issuer,
}

/// Who issued the tokens of all requests.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Issuer {
    One(String),
    /// None, or not always the same.
    Various,
}

impl Issuer {
    fn of(request: &AccessRequest) -> Self {
        let user = request.user.as_ref();
        user.map_or(Self::Various, |user| Self::One(user.issuer.clone()))
    }
}

/// What a thread gathers.
pub(super) struct Gatherer<'a> {
    wanted: &'a Wanted,
    findings: Partial,
    met: HashMap<Box<[u8]>, Met>,
    key: Vec<u8>,
}

/// What a thread gathered.
#[derive(Debug, Default)]
pub(super) struct Partial {
    decisions: u64,
    allowed: u64,
    unnamed: u64,
    transformed: u64,
    kinds: Vec<(Kind, Gathered)>,
    index: HashMap<Kind, usize>,
}

/// A question that was met before.
#[derive(Clone)]
enum Met {
    NotWanted,
    NotAllowed,
    Unnamed,
    Evidence {
        kind: usize,
        path: Option<String>,
        port: u16,
        transformed: bool,
    },
}

impl<'a> Gatherer<'a> {
    pub(super) fn new(wanted: &'a Wanted) -> Self {
        Self {
            wanted,
            findings: Partial::default(),
            met: HashMap::default(),
            key: Vec::new(),
        }
    }

    pub(super) fn line(&mut self, raw: &[u8]) -> Result<(), ScanError> {
        let Some(line) = Line::of(raw)? else {
            return Ok(());
        };
        if !self.wanted.at(line.time) {
            return Ok(());
        }
        line.key(Interest::Shape, &mut self.key);
        if !self.met.contains_key(self.key.as_slice()) {
            let recorded = Recorded::of(raw)?;
            let met = match self.wanted.request(&recorded.request) {
                true => self.findings.meet(recorded),
                false => Met::NotWanted,
            };
            if self.met.len() >= MAX_MET {
                self.met.clear();
            }
            self.met.insert(self.key.as_slice().into(), met);
        }
        if let Some(met) = self.met.get(self.key.as_slice()) {
            self.findings.count(met, &line);
        }
        Ok(())
    }

    pub(super) fn end(self) -> Partial {
        self.findings
    }
}

impl Partial {
    fn meet(&mut self, recorded: Recorded) -> Met {
        if !recorded.decision.is_allow() {
            return Met::NotAllowed;
        }
        let request = recorded.request;
        let Some(target) = Target::of(&request) else {
            return Met::Unnamed;
        };
        let kind = (target, request.principal.to_string(), request.action);
        if self.kinds.len() >= MAX_KINDS && !self.index.contains_key(&kind) {
            return Met::Unnamed;
        }
        let at = *self.index.entry(kind.clone()).or_insert_with(|| {
            self.kinds.push((kind, Gathered::new(request.clone())));
            self.kinds.len() - 1
        });
        let path = request.context.http.as_ref().map(|http| &http.path);
        if let Some((_, gathered)) = self.kinds.get_mut(at) {
            if gathered.issuer != Issuer::of(&request) {
                gathered.issuer = Issuer::Various;
            }
            if let Some(path) = path {
                // Counted later; here the values are learnt that wildcards stand for.
                gathered.shapes.add(path, 0);
            }
        }
        Met::Evidence {
            kind: at,
            path: path.map(|path| shape::template(path)),
            port: request.context.port,
            transformed: !recorded.transformations.is_empty(),
        }
    }

    fn count(&mut self, met: &Met, line: &Line<'_>) {
        self.decisions += u64::from(!matches!(met, Met::NotWanted));
        match met {
            Met::NotWanted | Met::NotAllowed => {}
            Met::Unnamed => self.unnamed += 1,
            Met::Evidence {
                kind,
                path,
                port,
                transformed,
            } => {
                self.allowed += 1;
                self.transformed += u64::from(*transformed);
                let Some((_, gathered)) = self.kinds.get_mut(*kind) else {
                    return;
                };
                gathered.seen.add(line.time, line.id);
                match path.as_ref() {
                    Some(path) => match gathered.paths.get_mut(path) {
                        Some(count) => *count += 1,
                        None => {
                            gathered.paths.insert(path.clone(), 1);
                        }
                    },
                    None => *gathered.ports.entry(*port).or_default() += 1,
                }
            }
        }
    }
}

impl Gathered {
    fn new(sample: AccessRequest) -> Self {
        Self {
            seen: Seen::default(),
            shapes: Shapes::default(),
            paths: BTreeMap::new(),
            ports: BTreeMap::new(),
            issuer: Issuer::of(&sample),
            sample,
        }
    }

    fn merge(&mut self, other: Self) {
        self.seen.merge(other.seen);
        self.shapes.merge(other.shapes);
        for (path, count) in other.paths {
            *self.paths.entry(path).or_default() += count;
        }
        for (port, count) in other.ports {
            *self.ports.entry(port).or_default() += count;
        }
        if self.issuer != other.issuer {
            self.issuer = Issuer::Various;
        }
        // Whoever gathered it, the earliest stands for all.
        if other.sample.context.time < self.sample.context.time {
            self.sample = other.sample;
        }
    }

    fn finish(mut self) -> Evidence {
        for (path, count) in &self.paths {
            self.shapes.add(path, *count);
        }
        self.shapes.generalise();
        Evidence {
            caller: self.sample.principal.clone(),
            action: self.sample.action,
            seen: self.seen,
            shapes: self.shapes.shapes(),
            ports: self.ports.into_keys().collect(),
            sample: self.sample,
            issuer: match self.issuer {
                Issuer::One(issuer) => Some(issuer),
                Issuer::Various => None,
            },
        }
    }
}

/// What all threads gathered.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) decisions: u64,
    pub(super) allowed: u64,
    pub(super) unnamed: u64,
    pub(super) transformed: u64,
    pub(super) targets: BTreeMap<Target, Vec<Evidence>>,
}

impl Findings {
    pub(super) fn of(partials: Vec<Partial>) -> Self {
        let mut this = Self::default();
        let mut kinds = BTreeMap::<Kind, Gathered>::new();
        for partial in partials {
            this.decisions += partial.decisions;
            this.allowed += partial.allowed;
            this.unnamed += partial.unnamed;
            this.transformed += partial.transformed;
            for (kind, gathered) in partial.kinds {
                match kinds.get_mut(&kind) {
                    Some(known) => known.merge(gathered),
                    None => {
                        kinds.insert(kind, gathered);
                    }
                }
            }
        }
        for ((target, _, _), gathered) in kinds {
            let evidence = this.targets.entry(target).or_default();
            evidence.push(gathered.finish());
        }
        this
    }
}
