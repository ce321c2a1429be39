//! `reeve policy import`: Istio's policies as objects of ours, for people to read, keep and change.

mod legacy;
mod yaml;

use std::path::Path as FsPath;

use reeve_authz::format_policies;
use reeve_core::{Namespace, PolicyId, TrustDomain};
use serde::Serialize;

use super::{World, translate};
use crate::{
    Code, Fault,
    kinds::Objects,
    resolve::built,
    source::{Document, Source, path::Path},
};

/// Columns of the Cedar text.
const WIDTH: usize = 80;

/// What became of all documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// In the order in which they were read.
    pub objects: Vec<ImportedObject>,
    /// What could not be translated, and what to look at.
    pub faults: Vec<Fault>,
}

/// What became of one document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImportedObject {
    /// Its file, relative to what was named.
    pub file: String,
    /// Its first line.
    pub line: usize,
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Objects of ours in YAML, with comments; only comments where nothing needs to be said.
    pub yaml: String,
}

/// Translates every policy of Istio's in `path` (a folder or a file). `mesh` is a folder that has the services and workloads
/// which labels stand for; those in `path` count too.
pub fn import(
    path: &FsPath,
    mesh: Option<&FsPath>,
    trust_domain: Option<&TrustDomain>,
) -> Imported {
    let source = Source::read(path);
    let mut imported = Imported {
        objects: Vec::new(),
        faults: source.faults.clone(),
    };
    let (policies, rest): (Vec<_>, Vec<_>) = source
        .documents
        .into_iter()
        .partition(|document| is_policy(document));
    let mut surroundings = mesh.map(Source::read).unwrap_or_default();
    surroundings.documents.extend(rest);
    surroundings
        .documents
        .retain(|document| !is_policy(document));
    let surroundings = built(&surroundings);
    let settings = &surroundings.mesh.settings;
    let world = World {
        trust_domain: trust_domain.unwrap_or(&settings.trust_domain),
        root: &settings.root_namespace,
        services: &surroundings.mesh.services,
        workloads: &surroundings.mesh.workloads,
        access: &surroundings.objects.access_policies,
        bindings: &surroundings.objects.access_role_bindings,
        entries: &surroundings.objects.service_entries,
        gateways: &surroundings.objects.kubernetes_gateways,
        assume: true,
    };
    let roots = [
        Namespace::parse("istio-system").ok(),
        Some(world.root.clone()),
    ];
    let world_root = roots.into_iter().flatten().find(|root| {
        policies
            .iter()
            .any(|d| d.namespace.as_deref() == Some(root.as_str()))
    });
    let world = World {
        root: world_root.as_ref().unwrap_or(world.root),
        ..world
    };
    let (old, new): (Vec<_>, Vec<_>) = policies.into_iter().partition(|d| legacy::is_legacy(d));
    let (objects, faults) = Objects::read(&new);
    imported.faults.extend(faults);
    authorization(&objects, world, &mut imported);
    legacy::import(&old, world, &mut imported);
    let place = |o: &ImportedObject| (o.file.clone(), o.line);
    imported.objects.sort_by_key(place);
    imported
        .faults
        .sort_by(|a, b| (&a.file, a.line, &a.path).cmp(&(&b.file, b.line, &b.path)));
    imported.faults.dedup();
    imported
}

fn is_policy(document: &Document) -> bool {
    document.kind.as_deref() == Some("AuthorizationPolicy") || legacy::is_legacy(document)
}

fn authorization(objects: &Objects, world: World<'_>, imported: &mut Imported) {
    let all = &objects.authorization_policies;
    for translated in translate(all, world, &mut imported.faults) {
        let Some(object) = all.get(translated.object) else {
            continue;
        };
        let own = |fault: &&Fault| {
            fault.is_error()
                && fault.file == object.document.file
                && fault.name.as_deref() == Some(&object.name)
        };
        if imported.faults.iter().any(|fault| own(&fault)) {
            continue;
        }
        if translated.asks.is_some() {
            let path = Path::of(&["spec", "action"]);
            let text = "CUSTOM asks a provider, which no Cedar text can";
            let hint = "keep the object: a configuration folder takes it as it is";
            let fault = object.error(&path, Code::Unsupported, text);
            imported.faults.push(fault.with_hint(hint));
            continue;
        }
        let of = Origin {
            document: &object.document,
            namespace: &object.namespace,
            name: &object.name,
        };
        let home = match object.namespace == *world.root {
            true => Namespace::parse("reeve-system").unwrap_or_else(|_| object.namespace.clone()),
            false => object.namespace.clone(),
        };
        let yaml = match (translated.cedar.is_empty(), object.spec.action.as_deref()) {
            (false, _) => access_policy(&of, &home, &translated.cedar),
            (true, None | Some("ALLOW")) => format!(
                "{}# It permits nothing, and needs no policy: what no policy permits is denied.\n",
                of.comment()
            ),
            (true, Some("AUDIT")) => format!(
                "{}# It needs no policy: every decision is recorded. `reeve audit query` finds what it names.\n",
                of.comment()
            ),
            (true, Some("CUSTOM")) => String::new(),
            (true, Some(_)) => format!("{}# It holds for nothing that is known.\n", of.comment()),
        };
        imported.objects.push(of.imported(yaml));
    }
}

/// Where an object comes from.
struct Origin<'a> {
    document: &'a Document,
    namespace: &'a Namespace,
    name: &'a str,
}

impl Origin<'_> {
    fn kind(&self) -> &str {
        self.document.kind.as_deref().unwrap_or_default()
    }

    fn comment(&self) -> String {
        let Self {
            document,
            namespace,
            name,
        } = self;
        let line = document.root.line;
        format!(
            "# From {} {namespace}/{name} ({}:{line}).\n",
            self.kind(),
            document.file
        )
    }

    fn imported(&self, yaml: String) -> ImportedObject {
        ImportedObject {
            file: self.document.file.clone(),
            line: self.document.root.line,
            kind: self.kind().to_owned(),
            namespace: self.namespace.to_string(),
            name: self.name.to_owned(),
            yaml,
        }
    }
}

/// An `AccessPolicy` with this text, laid out as Cedar's own tools do.
fn access_policy(of: &Origin<'_>, home: &Namespace, cedar: &str) -> String {
    let laid = PolicyId::parse(&format!("{home}/{}", of.name))
        .ok()
        .and_then(|id| format_policies(&id, cedar, WIDTH).ok());
    let text = laid.unwrap_or_else(|| cedar.to_owned());
    let mut yaml = of.comment();
    yaml.push_str(&format!(
        "apiVersion: reeve.dev/v1alpha1\nkind: AccessPolicy\nmetadata:\n  name: {}\n  namespace: {home}\nspec:\n  cedar: |\n",
        of.name
    ));
    for line in text.trim_end().lines() {
        match line.is_empty() {
            true => yaml.push('\n'),
            false => yaml.push_str(&format!("    {line}\n")),
        }
    }
    yaml
}
