//! Configuration: from a folder of YAML to what each proxy is told.
//!
//! Flow: `source` reads the folder into documents whose every value knows its line; `kinds` deserialises each
//! into a raw object; `resolve` checks all of them against each other and makes one [`Mesh`], or tells every
//! [`Fault`] there is; `index` derives from the mesh and from what runs ([`instances::Instances`]) the one
//! configuration that each proxy needs; [`Controller`] watches, numbers the generations and publishes them.
//!
//! Invariants: a folder with one fault changes nothing; a generation's number never goes back; nothing of a
//! configuration file can make this crate panic or allocate without bound.

mod analyze;
mod authorization;
mod check;
mod controller;
mod fault;
mod index;
pub mod instances;
mod jwks;
mod kinds;
mod mesh;
pub mod migration;
mod policy_folder;
mod policy_text;
mod resolve;
mod source;
mod split;

use std::path::Path;

pub use analyze::{Finding, Level, analyze};
pub use authorization::{Imported, ImportedObject, import};
pub use check::{CheckReport, DocumentReport, Verdict, check};
pub use controller::{
    AppliedConfig, Chaos, ChaosFault, ConfigEvents, Controller, ControllerOptions, FaultChanges,
    FaultState, ModeChange, ProxyStatus, StartError, Status,
};
pub use fault::{Code, Fault, Severity};
pub use index::{FetchedKeys, Place, Places, TokenKeys};
pub use jwks::KeyStatus;
pub use mesh::{
    AuditLevel, AuthorizationSettings, ClusterKeys, Entry, EntryAddress, EntryEndpoint,
    EntryLocation, EntryResolution, Health, KeyPlace, KubernetesTokens, ListedTransformation,
    LocalWorkload, Mesh, MeshSettings, MetricsPage, PlaceRules, Probe, RestartPolicy, ReviewAt,
    Service, TapSettings, TargetPort, TargetedPort, TransformationState, WitnessAt, Witnesses,
    WorkloadPort, WorkloadRole,
};
pub use policy_folder::{Change, Only, PolicyFolder, PolicyFolderError, PolicyKind, PolicyObject};
pub use policy_text::{PolicyDocument, PolicyTextFault, map_policy_texts, policy_documents};
pub use split::{Share, Split, SplitError, SplitQuery};

/// The namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Reads and resolves a folder of configuration; the error holds every fault, in order of file and line.
pub fn load(folder: &Path) -> Result<Mesh, Vec<Fault>> {
    let resolved = resolve::resolve(&source::Source::read(folder));
    resolved.mesh.ok_or(resolved.findings)
}

/// The schema that the policies of a folder are written against, whatever else may be wrong there.
pub fn policy_schema(folder: &Path) -> Result<reeve_authz::PolicySchema, Vec<Fault>> {
    let built = resolve::built(&source::Source::read(folder));
    let of_schema =
        |fault: &Fault| fault.is_error() && fault.kind.as_deref() == Some("AccessSchema");
    let faults: Vec<_> = built.findings.into_iter().filter(of_schema).collect();
    match faults.is_empty() {
        true => Ok(built.mesh.schema()),
        false => Err(faults),
    }
}

/// Reads every document of a file of configuration as `T`, which is not one of the mesh's own kinds. Unknown fields are
/// faults.
pub fn read_documents<T: serde::de::DeserializeOwned + Default>(
    file: &Path,
) -> Result<Vec<T>, Vec<Fault>> {
    let source = source::Source::read(file);
    let mut faults = source.faults;
    let mut values = Vec::new();
    for document in &source.documents {
        let fields = source::de::Fields {
            strict: true,
            unsupported: &[],
        };
        let (value, found) = source::de::read(&document.root, fields);
        faults.extend(document.place(found));
        values.push(value);
    }
    match faults.is_empty() {
        true => Ok(values),
        false => Err(faults),
    }
}
