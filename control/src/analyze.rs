//! `reeve config analyze`: findings across objects, under the codes of `istioctl analyze`
//! (<https://istio.io/latest/docs/reference/config/analysis/>).
//!
//! What `config check` says of a single place is said again under its code, so that one list has all; beside it stands
//! what only several objects together tell.

mod gateways;
mod routes;
mod services;
#[cfg(test)]
mod tests;

use std::path::Path as FilePath;

use serde::Serialize;

use crate::{
    Code, Fault, Mesh, Severity,
    kinds::{Object, Objects},
    resolve::{self, Built},
    source::{Source, path::Path},
};

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Istio's code, such as `IST0101`.
    pub message: &'static str,
    /// Its name there, such as `ReferencedResourceNotFound`.
    pub title: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What and where.
    #[serde(flatten)]
    pub fault: Fault,
}

/// How bad a [`Finding`] is, as Istio grades it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Good to know.
    Info,
    /// Likely not what was meant.
    Warning,
    /// It does not work.
    Error,
}

/// A message of Istio's.
type Message = (&'static str, &'static str, Level);

const NOT_FOUND: Message = ("IST0101", "ReferencedResourceNotFound", Level::Error);
const SCHEMA: Message = ("IST0106", "SchemaValidationError", Level::Error);
const MESH_HOSTS: Message = (
    "IST0109",
    "ConflictingMeshGatewayVirtualServiceHosts",
    Level::Error,
);
const PORT_NAME: Message = ("IST0118", "PortNameIsNotUnderNamingConvention", Level::Info);
const REGEX: Message = ("IST0122", "InvalidRegexp", Level::Warning);
const UNVERIFIED: Message = (
    "IST0128",
    "NoServerCertificateVerificationDestinationLevel",
    Level::Warning,
);
const UNVERIFIED_PORT: Message = (
    "IST0129",
    "NoServerCertificateVerificationPortLevel",
    Level::Warning,
);
const CREDENTIAL: Message = ("IST0161", "InvalidGatewayCredential", Level::Error);
const UNREACHABLE: Message = ("IST0130", "VirtualServiceUnreachableRule", Level::Warning);
/// Reeve's own: Istio has no such objects.
const EXPIRY: Message = ("RVE0001", "TransformationExpires", Level::Warning);
/// Reeve's own: Istio does not see callers.
const PLAINTEXT: Message = ("RVE0002", "PlaintextToStrictPort", Level::Warning);
const SCHEMA_WARNING: Message = ("IST0133", "SchemaWarning", Level::Warning);

/// Analyzes the configuration in `path`: a folder, or a single file.
pub fn analyze(path: &FilePath) -> Vec<Finding> {
    of_source(&Source::read(path))
}

fn of_source(source: &Source) -> Vec<Finding> {
    let Built {
        objects,
        mesh,
        findings,
    } = resolve::built(source);
    let mut all: Vec<Finding> = findings.into_iter().map(named).collect();
    let mut told = Findings {
        objects: &objects,
        mesh: &mesh,
        all: Vec::new(),
    };
    told.routes();
    told.services();
    told.gateways();
    all.extend(told.all);
    all.sort_by(|a, b| place(a).cmp(&place(b)));
    all.dedup();
    all
}

fn place(finding: &Finding) -> (&str, usize, &str, &str) {
    let fault = &finding.fault;
    (&fault.file, fault.line, &fault.path, finding.message)
}

/// A fault under its code.
fn named(fault: Fault) -> Finding {
    let kind = fault.kind.as_deref().unwrap_or_default();
    let (message, title, level) = match (kind, fault.code) {
        ("Gateway", Code::UnknownReference) if fault.text.contains("Secret") => CREDENTIAL,
        (_, Code::UnknownReference) => NOT_FOUND,
        ("DestinationRule", Code::Insecure) if fault.path.contains("portLevelSettings") => {
            UNVERIFIED_PORT
        }
        ("DestinationRule", Code::Insecure) => UNVERIFIED,
        ("LocalMesh", Code::Insecure) if fault.path.ends_with(".role") => PLAINTEXT,
        ("VirtualService", Code::Unreachable) => UNREACHABLE,
        ("VirtualService", Code::Conflict) if fault.text.contains("is routed by") => MESH_HOSTS,
        ("Service", Code::Invalid) if fault.path.ends_with(".name") => PORT_NAME,
        (_, Code::Invalid) if fault.path.ends_with("regex") => REGEX,
        ("Transformation", Code::Expired | Code::Expiring) => EXPIRY,
        _ if fault.severity == Severity::Error => SCHEMA,
        _ => SCHEMA_WARNING,
    };
    Finding {
        message,
        title,
        level,
        fault,
    }
}

/// What is looked at, and what was found.
struct Findings<'a> {
    objects: &'a Objects,
    mesh: &'a Mesh,
    all: Vec<Finding>,
}

impl Findings<'_> {
    fn say<S>(
        &mut self,
        object: &Object<S>,
        (message, title, level): Message,
        (path, code): (&Path, Code),
        text: String,
        hint: &str,
    ) {
        let fault = match level {
            Level::Error => object.error(path, code, text),
            Level::Info | Level::Warning => object.warning(path, code, text),
        };
        self.all.push(Finding {
            message,
            title,
            level,
            fault: fault.with_hint(hint),
        });
    }
}
