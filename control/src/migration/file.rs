//! A plan as a file: written for people, read back after they have edited it.

use std::{collections::BTreeSet, path::Path, time::Duration};

use reeve_core::{Namespace, UnixTime};
use serde::{Deserialize, Serialize};

use super::{
    landscape::WorkloadKey,
    planning::{Plan, Target},
    stand::{Standing, Window, words},
};
use crate::{Code, Fault, Severity, read_documents, source::de::Anything};

/// Most waves of a plan.
const MAX_WAVES: usize = 1_000;

/// A plan that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanFile {
    /// Its name.
    pub name: String,
    /// The time that it rests on.
    pub window: Window,
    /// The longest cycle of callers that it reckons with.
    pub cycle: Duration,
    /// First to last.
    pub waves: Vec<PlannedWave>,
}

/// One wave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedWave {
    /// Its name.
    pub name: String,
    /// What is flipped.
    pub targets: Vec<Target>,
    /// Who calls it.
    pub senders: BTreeSet<WorkloadKey>,
}

/// A target as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RawTarget {
    namespace: String,
    workload: Option<String>,
    ports: Vec<u16>,
    #[serde(rename = "because")]
    _because: Anything,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    observed: Observed,
    cycle: String,
    waves: Vec<RawWave>,
    /// What is in no wave is for people.
    #[serde(rename = "blocked")]
    _blocked: Anything,
    #[serde(rename = "notes")]
    _notes: Anything,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Observed {
    from: String,
    to: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawWave {
    name: String,
    senders: Vec<String>,
    targets: Vec<RawTarget>,
}

impl PlanFile {
    /// What a plan comes to in a file.
    pub fn of(name: &str, plan: &Plan, asked: &Standing) -> Self {
        let waves = (1..).zip(&plan.waves).map(|(number, wave)| PlannedWave {
            name: format!("wave-{number}"),
            targets: wave.targets.iter().map(|(t, _)| t.clone()).collect(),
            senders: wave.senders.clone(),
        });
        Self {
            name: name.to_owned(),
            window: asked.window,
            cycle: asked.cycle,
            waves: waves.collect(),
        }
    }

    /// The file's text, with everything that a person should know.
    pub fn text(&self, plan: &Plan) -> String {
        let mut text = format!(
            "# A plan of `reeve mtls plan`. Review it; take targets out, or move them to later waves; then\n\
             #   reeve mtls migrate --plan FILE\n\
             apiVersion: reeve.dev/v1alpha1\nkind: MtlsPlan\nmetadata:\n  name: {}\nspec:\n  # Verdicts rest on {}.\n  \
             observed:\n    from: {}\n    to: {}\n  # The longest cycle in which callers are known to come.\n  cycle: {}s\n",
            self.name,
            words(self.window.length()),
            time(self.window.from),
            time(self.window.to),
            self.cycle.as_secs(),
        );
        text.push_str(if plan.waves.is_empty() {
            "  waves: []\n"
        } else {
            "  waves:\n"
        });
        for (wave, planned) in self.waves.iter().zip(&plan.waves) {
            line(&mut text, format_args!("    - name: {}", wave.name));
            line(
                &mut text,
                format_args!("      # Their sidecars acknowledge all that went before, first."),
            );
            let senders: Vec<_> = wave
                .senders
                .iter()
                .map(|key| quoted(&key.to_string()))
                .collect();
            line(
                &mut text,
                format_args!("      senders: [{}]", senders.join(", ")),
            );
            line(&mut text, format_args!("      targets:"));
            for (target, because) in &planned.targets {
                target_lines(&mut text, target, because);
            }
        }
        blocked_lines(&mut text, plan);
        text
    }

    /// Reads a file; the error holds every fault.
    pub fn read(path: &Path) -> Result<Self, Vec<Fault>> {
        let mut documents = read_documents::<Raw>(path)?;
        let fault = |path: &str, text: String| vec![fault(path, text)];
        let (Some(raw), true) = (documents.pop(), documents.is_empty()) else {
            return Err(fault("", "a plan is one document".to_owned()));
        };
        if raw.kind != "MtlsPlan" || raw.api_version != "reeve.dev/v1alpha1" {
            return Err(fault(
                "kind",
                "this is no MtlsPlan of reeve.dev/v1alpha1".to_owned(),
            ));
        }
        let mut faults = Vec::new();
        let file = raw.checked(&mut faults);
        match file {
            Some(file) if faults.is_empty() => Ok(file),
            _ => Err(faults),
        }
    }
}

impl Raw {
    fn checked(self, faults: &mut Vec<Fault>) -> Option<PlanFile> {
        let spec = self.spec;
        let mut at = |path: &str, text: &str| {
            let time = text.parse::<jiff::Timestamp>().ok();
            let millis = time.and_then(|at| u64::try_from(at.as_millisecond()).ok());
            if millis.is_none() {
                faults.push(fault(path, format!("{text:?} is not a time")));
            }
            millis.map(UnixTime::from_millis)
        };
        let from = at("spec.observed.from", &spec.observed.from);
        let to = at("spec.observed.to", &spec.observed.to);
        let cycle = spec
            .cycle
            .strip_suffix('s')
            .and_then(|secs| secs.parse().ok());
        if cycle.is_none() {
            faults.push(fault(
                "spec.cycle",
                "write seconds, such as 86400s".to_owned(),
            ));
        }
        if spec.waves.len() > MAX_WAVES {
            faults.push(fault("spec.waves", format!("more than {MAX_WAVES} waves")));
        }
        let waves: Vec<_> = (0..)
            .zip(spec.waves)
            .take(MAX_WAVES)
            .map(|(n, wave)| wave.checked(n, faults))
            .collect();
        let mut seen = BTreeSet::new();
        for target in waves.iter().flat_map(|wave| &wave.targets) {
            let ports: Vec<Option<u16>> = match target {
                Target::Workload(_, ports) if !ports.is_empty() => {
                    ports.iter().copied().map(Some).collect()
                }
                Target::Workload(..) | Target::Namespace(_) => vec![None],
            };
            let whole = match target {
                Target::Workload(key, _) => Target::Workload(key.clone(), Vec::new()),
                Target::Namespace(name) => Target::Namespace(name.clone()),
            };
            if ports
                .into_iter()
                .any(|port| !seen.insert((whole.clone(), port)))
            {
                let text = format!("{} is there twice", described(target));
                faults.push(fault("spec.waves", text));
            }
        }
        Some(PlanFile {
            name: self.metadata.name,
            window: Window {
                from: from?,
                to: to?,
            },
            cycle: Duration::from_secs(cycle?),
            waves,
        })
    }
}

impl RawWave {
    fn checked(self, n: usize, faults: &mut Vec<Fault>) -> PlannedWave {
        let path = format!("spec.waves[{n}]");
        let mut targets = Vec::new();
        for target in self.targets {
            let namespace = target.namespace.parse::<Namespace>();
            let workload = target.workload.as_deref().map(str::parse).transpose();
            match (namespace, workload) {
                (Ok(namespace), Ok(Some(workload))) => {
                    let key = WorkloadKey {
                        namespace,
                        workload,
                    };
                    targets.push(Target::Workload(key, target.ports));
                }
                (Ok(namespace), Ok(None)) if target.ports.is_empty() => {
                    targets.push(Target::Namespace(namespace));
                }
                _ => {
                    let text = "a target is a namespace, perhaps a workload of it, and of that perhaps ports";
                    faults.push(fault(&format!("{path}.targets"), text.to_owned()));
                }
            }
        }
        let mut senders = BTreeSet::new();
        for text in &self.senders {
            let parts = text.split_once('/');
            let key = parts.and_then(|(namespace, workload)| {
                Some(WorkloadKey {
                    namespace: namespace.parse().ok()?,
                    workload: workload.parse().ok()?,
                })
            });
            match key {
                Some(key) => drop(senders.insert(key)),
                None => faults.push(fault(
                    &format!("{path}.senders"),
                    format!("{text:?} is not NAMESPACE/WORKLOAD"),
                )),
            }
        }
        PlannedWave {
            name: self.name,
            targets,
            senders,
        }
    }
}

/// A target, for people.
pub(super) fn described(target: &Target) -> String {
    match target {
        Target::Namespace(name) => format!("namespace {name}"),
        Target::Workload(key, ports) if ports.is_empty() => format!("workload {key}"),
        Target::Workload(key, ports) => {
            let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
            format!("workload {key} port {}", ports.join(", "))
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&described(self))
    }
}

fn target_lines(text: &mut String, target: &Target, because: &str) {
    match target {
        Target::Namespace(name) => line(text, format_args!("        - namespace: {name}")),
        Target::Workload(key, ports) => {
            line(text, format_args!("        - namespace: {}", key.namespace));
            line(text, format_args!("          workload: {}", key.workload));
            if !ports.is_empty() {
                let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
                line(
                    text,
                    format_args!("          ports: [{}]", ports.join(", ")),
                );
            }
        }
    }
    line(text, format_args!("          because: {}", quoted(because)));
}

fn blocked_lines(text: &mut String, plan: &Plan) {
    text.push_str(if plan.blocked.is_empty() {
        "  blocked: []\n"
    } else {
        "  # In no wave, and what to do about it. Then plan again.\n  blocked:\n"
    });
    for blocked in &plan.blocked {
        line(
            text,
            format_args!("    - workload: {}", quoted(&blocked.workload.to_string())),
        );
        line(text, format_args!("      port: {}", blocked.port));
        line(
            text,
            format_args!("      reason: {}", quoted(&blocked.reason)),
        );
        if blocked.obstacles.is_empty() {
            continue;
        }
        line(text, format_args!("      obstacles:"));
        for obstacle in &blocked.obstacles {
            line(
                text,
                format_args!("        - what: {}", quoted(&obstacle.what)),
            );
            line(
                text,
                format_args!("          remedy: {}", quoted(&obstacle.remedy)),
            );
        }
    }
    if !plan.notes.is_empty() {
        text.push_str("  notes:\n");
        for note in &plan.notes {
            line(text, format_args!("    - {}", quoted(note)));
        }
    }
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    text.push_str(&format!("{words}\n"));
}

/// A YAML scalar that is text whatever it looks like; JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn time(at: UnixTime) -> String {
    let millis = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis)
        .map(|at| at.to_string())
        .unwrap_or_default()
}

fn fault(path: &str, text: String) -> Fault {
    Fault {
        severity: Severity::Error,
        code: Code::Invalid,
        file: "plan".to_owned(),
        line: 1,
        kind: Some("MtlsPlan".to_owned()),
        namespace: None,
        name: None,
        path: path.to_owned(),
        text,
        hint: None,
    }
}
