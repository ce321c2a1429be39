//! `AccessSchema` and `AccessEntities`: what a mesh adds to the schema of policies, and what is known of its entities –
//! said there, and told by labels.
//!
//! Both stand in the root namespace: they say of the whole mesh who is in which group.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use reeve_authz::PolicySchema;
use reeve_core::{
    Namespace, ServiceName, SpiffeId, TrustDomain,
    model::{EntityName, EntityRecord},
};
use serde_json::Value;

use super::{hosts::Services, policies};
use crate::{
    Code, Fault, LocalWorkload,
    kinds::{AccessEntitiesSpec, AccessSchemaSpec, EntitySpec, Object, Objects},
    source::{Document, path::Path},
};

/// The schema; nothing if it is faulty, which has then been said.
pub(super) fn schema(
    objects: &[Object<AccessSchemaSpec>],
    root: &Namespace,
    faults: &mut Vec<Fault>,
) -> Option<PolicySchema> {
    let mut ordered: Vec<_> = objects.iter().collect();
    ordered.sort_by_key(|object| (&object.namespace, &object.name));
    let path = Path::of(&["spec", "cedar"]);
    let before = faults.len();
    for object in &ordered {
        faults.extend(elsewhere(object, root));
        if object.spec.cedar.trim().is_empty() {
            faults.push(object.error(&path, Code::Missing, "there is no schema text"));
        }
    }
    let texts: Vec<_> = ordered.iter().map(|o| o.spec.cedar.clone()).collect();
    match PolicySchema::new(&texts) {
        Ok(schema) => (faults.len() == before).then_some(schema),
        Err(found) => {
            for fault in found {
                let Some(object) = ordered.get(fault.text) else {
                    continue;
                };
                let text = format!("schema: {}", fault.message);
                let mut placed = policies::in_text(&object.document, &path, text, fault.line);
                placed.hint = fault.help;
                faults.push(placed);
            }
            None
        }
    }
}

/// What is said of a whole mesh stands in its root namespace.
fn elsewhere<S>(object: &Object<S>, root: &Namespace) -> Option<Fault> {
    let path = Path::of(&["metadata", "namespace"]);
    let text = "this says something of the whole mesh, and so stands in its root namespace";
    let fault = || object.error(&path, Code::Invalid, text);
    let hint = || format!("write namespace: {root}");
    (object.namespace != *root).then(|| fault().with_hint(hint()))
}

/// What is said of entities, each with its place.
#[derive(Debug, Default)]
pub(super) struct Stated<'a> {
    records: BTreeMap<EntityName, EntityRecord>,
    places: BTreeMap<EntityName, (&'a Arc<Document>, Path)>,
}

/// Everything that is said; only how it is written is checked.
pub(super) fn stated<'a>(
    objects: &'a [Object<AccessEntitiesSpec>],
    root: &Namespace,
    faults: &mut Vec<Fault>,
) -> Stated<'a> {
    let mut stated = Stated::default();
    for object in objects {
        faults.extend(elsewhere(object, root));
        for (number, spec) in object.spec.entities.iter().enumerate() {
            let path = Path::of(&["spec", "entities"]).index(number);
            match record(spec) {
                Ok(record) => {
                    let place = (&object.document, path.clone());
                    let uid = record.uid.clone();
                    if stated.places.insert(uid.clone(), place).is_some() {
                        let text = format!("{}::{:?} is there twice", uid.kind, uid.id);
                        faults.push(object.error(&path, Code::DuplicateObject, text));
                    }
                    stated.records.insert(uid, record);
                }
                Err((key, text)) => {
                    let hint = "write Team::\"payments\" in quotes, or {type: Team, id: payments}";
                    let fault = object.error(&path.key(key), Code::Invalid, text);
                    faults.push(fault.with_hint(hint));
                }
            }
        }
    }
    stated
}

fn record(spec: &EntitySpec) -> Result<EntityRecord, (&'static str, String)> {
    let uid = name(&spec.uid).map_err(|text| ("uid", text))?;
    let parents = spec.parents.iter().map(name);
    let parents: Result<BTreeSet<_>, _> = parents.collect();
    Ok(EntityRecord {
        attrs: spec.attrs.clone(),
        parents: parents
            .map_err(|text| ("parents", text))?
            .into_iter()
            .collect(),
        tags: spec.tags.clone(),
        uid,
    })
}

/// An entity in any of Cedar's forms.
fn name(written: &Value) -> Result<EntityName, String> {
    let wrong = || format!("{written} is no entity");
    if let Value::String(text) = written {
        return reeve_authz::entity_name(text).ok_or_else(wrong);
    }
    let inner = written.get("__entity").unwrap_or(written);
    serde_json::from_value(inner.clone()).map_err(|_| wrong())
}

/// What labels are read of.
pub(super) struct Labelled<'a> {
    pub(super) objects: &'a Objects,
    pub(super) services: &'a Services,
    pub(super) workloads: &'a [LocalWorkload],
    pub(super) home: &'a TrustDomain,
}

/// Label → every value, of an entity.
type Labels = BTreeMap<EntityName, BTreeMap<String, BTreeSet<String>>>;

impl Labelled<'_> {
    /// Every label of every workload's identity, service and namespace.
    fn all(&self) -> Labels {
        let mut all = Labels::new();
        let mut add = |kind: &str, id: &str, labels: &BTreeMap<String, String>| {
            let uid = EntityName {
                id: id.to_owned(),
                kind: kind.to_owned(),
            };
            let known = all.entry(uid).or_default();
            for (label, value) in labels {
                known
                    .entry(label.clone())
                    .or_default()
                    .insert(value.clone());
            }
        };
        for workload in self.workloads {
            if let Some(identity) = &workload.identity {
                add("Workload", identity.as_str(), &workload.labels);
            }
        }
        for service in self.services.values() {
            let entry = service.entry.iter().flat_map(|entry| &entry.endpoints);
            for endpoint in entry {
                let account = endpoint.service_account.as_ref();
                let identity = account.and_then(|account| {
                    let namespace = &service.namespace;
                    let id = format!("spiffe://{}/ns/{namespace}/sa/{account}", self.home);
                    SpiffeId::parse(&id).ok()
                });
                if let Some(identity) = identity {
                    add("Workload", identity.as_str(), &endpoint.labels);
                }
            }
        }
        let objects = self.objects;
        for object in &objects.services {
            let own = |service: &&Arc<crate::Service>| {
                service.name == object.name && service.namespace == object.namespace
            };
            if let Some(service) = self.services.values().find(own) {
                add("Service", service.host.as_str(), &object.labels);
            }
        }
        for object in &objects.service_entries {
            let hosts = object.spec.hosts.iter();
            for host in hosts.filter_map(|host| ServiceName::parse(host).ok()) {
                add("Service", host.as_str(), &object.labels);
            }
        }
        for object in &objects.namespaces {
            let id = format!("{}/ns/{}", self.home, object.name);
            add("Namespace", &id, &object.labels);
        }
        all
    }
}

impl<'a> Stated<'a> {
    /// What is known of entities: what is said, their labels, and the groups that labels put them into.
    pub(super) fn with_labels(
        &self,
        schema: &PolicySchema,
        labelled: &Labelled<'_>,
    ) -> Arc<Vec<EntityRecord>> {
        let mut records = self.records.clone();
        let groups: Vec<_> = schema.labelled().collect();
        for (uid, labels) in labelled.all() {
            let mut parents = BTreeSet::new();
            for (group, label) in &groups {
                let values = labels.get(*label).into_iter().flatten();
                let values = values.filter(|value| !value.is_empty());
                if schema.can_be_in(&uid.kind, group) {
                    parents.extend(values.map(|value| EntityName {
                        id: value.clone(),
                        kind: (*group).to_owned(),
                    }));
                }
            }
            // A namespace has no labels that policies could look at.
            let tags = labels.iter().filter(|_| uid.kind != "Namespace");
            let tags: BTreeMap<_, Value> = tags
                .map(|(name, values)| (name.clone(), values.iter().cloned().collect()))
                .collect();
            if parents.is_empty() && tags.is_empty() {
                continue;
            }
            let empty = || EntityRecord {
                attrs: BTreeMap::new(),
                parents: Vec::new(),
                tags: BTreeMap::new(),
                uid: uid.clone(),
            };
            let record = records.entry(uid.clone()).or_insert_with(empty);
            parents.extend(record.parents.drain(..));
            record.parents = parents.into_iter().collect();
            record.tags.extend(tags);
        }
        Arc::new(records.into_values().collect())
    }

    /// Faults of `records`, placed where they are said.
    pub(super) fn check(
        &self,
        schema: &PolicySchema,
        records: &Arc<Vec<EntityRecord>>,
        fallback: Option<&Arc<Document>>,
        faults: &mut Vec<Fault>,
    ) {
        for (uid, (document, path)) in &self.places {
            let ours = matches!(uid.kind.as_str(), "Workload" | "Service");
            if ours && self.records.get(uid).is_some_and(|r| !r.tags.is_empty()) {
                let text = format!("the tags of a {} are its labels", uid.kind);
                let fault = document.error(&path.key("tags"), Code::Invalid, text);
                faults.push(fault.with_hint("write them into the object's labels, or use attrs"));
            }
        }
        for fault in schema.check_entities(records).err().into_iter().flatten() {
            let uid = records.get(fault.record).map(|record| &record.uid);
            let place = uid.and_then(|uid| self.places.get(uid));
            match place {
                Some((document, path)) => {
                    faults.push(document.error(path, Code::Policy, fault.message));
                }
                // What labels come to is said of the schema that asks for them.
                None => faults.extend(fallback.map(|document| {
                    document.error(&Path::of(&["spec"]), Code::Policy, fault.message)
                })),
            }
        }
    }
}
