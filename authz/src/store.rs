//! What is known of entities beside what their names say: groups, attributes and labels.
//!
//! It is data of a policy set, like the policies themselves: the answer to a request depends on the request, the policies
//! and this. An entity that nothing is known of is in nothing, and has neither attributes nor labels.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use cedar_policy::ffi::DetailedError;
use cedar_policy_core::ast::{Entity, EntityUID, Literal, PartialValue, Value, ValueKind};
use reeve_core::model::{EntityName, EntityRecord};

use crate::{extension::EXTENSIBLE, ids, mesh_schema::MeshSchema};

/// Most entities that anything is known of.
pub(crate) const MAX_ENTITIES: usize = 20_000;
/// Most groups that one entity is in, those of its groups among them.
const MAX_ANCESTORS: usize = 256;
/// Longest data of one entity, in bytes of JSON.
const MAX_ENTITY_BYTES: usize = 16 * 1024;

/// Labels and their values.
pub(crate) type Labels = BTreeMap<String, BTreeSet<String>>;

/// What is wrong with what is said of an entity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EntityFault {
    /// Which of the records, from 0.
    pub record: usize,
    /// What is wrong.
    pub message: String,
}

/// Everything that is known of entities.
#[derive(Debug, Default)]
pub(crate) struct Store {
    records: Arc<Vec<EntityRecord>>,
    /// By type, then id.
    nodes: HashMap<String, HashMap<String, Node>>,
    /// Most groups that one entity is in.
    pub(crate) most_ancestors: usize,
}

/// What is known of one entity.
#[derive(Debug)]
pub(crate) struct Node {
    /// The entity itself, its own groups as parents.
    pub(crate) entity: Entity,
    /// All that it is in.
    pub(crate) ancestors: Vec<EntityUID>,
    pub(crate) labels: Labels,
}

impl Node {
    /// The entities that it leads to: its groups, and those that its attributes and tags name.
    pub(crate) fn leads_to(&self) -> Vec<&EntityUID> {
        let mut found: Vec<_> = self.entity.parents().collect();
        let values = self.entity.attrs().chain(self.entity.tags());
        for (_, value) in values {
            if let PartialValue::Value(value) = value {
                named(value, &mut found);
            }
        }
        found
    }
}

// Cedar bounds the depth of a value when it parses it.
fn named<'v>(value: &'v Value, found: &mut Vec<&'v EntityUID>) {
    match &value.value {
        ValueKind::Lit(Literal::EntityUID(uid)) => found.push(uid),
        ValueKind::Lit(_) | ValueKind::ExtensionValue(_) => {}
        ValueKind::Set(set) => set.iter().for_each(|member| named(member, found)),
        ValueKind::Record(record) => record.values().for_each(|member| named(member, found)),
    }
}

impl Store {
    /// Checks `records` against the schema, and works out what each is in.
    pub(crate) fn new(
        mesh: &MeshSchema,
        records: &Arc<Vec<EntityRecord>>,
    ) -> Result<Self, Vec<EntityFault>> {
        let fault = |record: usize, message: String| EntityFault { record, message };
        if records.len() > MAX_ENTITIES {
            let message = format!("something is said of at most {MAX_ENTITIES} entities");
            return Err(vec![fault(MAX_ENTITIES, message)]);
        }
        let mut faults = Vec::new();
        let mut store = Self {
            records: Arc::clone(records),
            ..Self::default()
        };
        for (number, record) in records.iter().enumerate() {
            match read(mesh, record) {
                Ok(node) => {
                    let of_type = store.nodes.entry(record.uid.kind.clone()).or_default();
                    if of_type.insert(record.uid.id.clone(), node).is_some() {
                        let message = format!("{} is there twice", shown(&record.uid));
                        faults.push(fault(number, message));
                    }
                }
                Err(message) => faults.push(fault(number, message)),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        for (number, record) in records.iter().enumerate() {
            match store.above(record) {
                Ok(ancestors) => {
                    store.most_ancestors = store.most_ancestors.max(ancestors.len());
                    let of_type = store.nodes.get_mut(&record.uid.kind);
                    let node = of_type.and_then(|nodes| nodes.get_mut(&record.uid.id));
                    if let Some(node) = node {
                        node.ancestors = ancestors;
                    }
                }
                Err(message) => faults.push(fault(number, message)),
            }
        }
        match faults.is_empty() {
            true => Ok(store),
            false => Err(faults),
        }
    }

    /// What is known of an entity.
    pub(crate) fn node(&self, kind: &str, id: &str) -> Option<&Node> {
        self.nodes.get(kind)?.get(id)
    }

    /// The same.
    pub(crate) fn of(&self, uid: &EntityUID) -> Option<&Node> {
        let kind = uid.entity_type().name().basename_as_ref().as_ref();
        self.node(kind, uid.eid().as_ref())
    }

    /// Everything that an entity is in, beside what its name says.
    pub(crate) fn ancestors(&self, uid: &EntityUID) -> &[EntityUID] {
        self.of(uid).map_or(&[], |node| &node.ancestors)
    }

    /// The labels of an entity.
    pub(crate) fn labels(&self, kind: &str, id: &str) -> Option<&Labels> {
        self.node(kind, id).map(|node| &node.labels)
    }

    /// What it was made of.
    pub(crate) fn records(&self) -> &Arc<Vec<EntityRecord>> {
        &self.records
    }

    fn above(&self, record: &EntityRecord) -> Result<Vec<EntityUID>, String> {
        let mut found: BTreeSet<EntityUID> = BTreeSet::new();
        let own = self.node(&record.uid.kind, &record.uid.id);
        let mut open: Vec<&EntityUID> = own.into_iter().flat_map(|n| n.entity.parents()).collect();
        while let Some(uid) = open.pop() {
            if !found.insert(uid.clone()) {
                continue;
            }
            if found.len() > MAX_ANCESTORS {
                let name = shown(&record.uid);
                return Err(format!("{name} is in more than {MAX_ANCESTORS} groups"));
            }
            open.extend(
                self.of(uid)
                    .into_iter()
                    .flat_map(|node| node.entity.parents()),
            );
        }
        match found
            .iter()
            .any(|uid| own.is_some_and(|own| own.entity.uid() == uid))
        {
            true => Err(format!("{} is in itself", shown(&record.uid))),
            false => Ok(found.into_iter().collect()),
        }
    }
}

fn read(mesh: &MeshSchema, record: &EntityRecord) -> Result<Node, String> {
    let name = shown(&record.uid);
    let ours = EXTENSIBLE.contains(&record.uid.kind.as_str());
    if !ours && !mesh.added.contains_key(&record.uid.kind) {
        let known = EXTENSIBLE
            .iter()
            .copied()
            .chain(mesh.added.keys().map(String::as_str));
        let near = crate::nearest(&record.uid.kind, known);
        let near = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
        return Err(format!(
            "there is no type {} to say something of{near}",
            record.uid.kind
        ));
    }
    let json = serde_json::to_value(record).map_err(|e| e.to_string())?;
    if json.to_string().len() > MAX_ENTITY_BYTES {
        return Err(format!(
            "what is said of {name} is longer than {MAX_ENTITY_BYTES} bytes"
        ));
    }
    let entity = cedar_policy::Entity::from_json_value(json, Some(&mesh.schema)).map_err(|e| {
        let detailed = DetailedError::from(&e);
        let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}"));
        format!("{}{}", detailed.message, cause.unwrap_or_default())
    })?;
    if let Some((message, help)) = ids::misspelt(&entity.uid()) {
        return Err(format!("{message}; {help}"));
    }
    let entity: Entity = entity.as_ref().clone();
    for parent in &record.parents {
        // SECURITY: what is in what is built in is told by its name alone.
        if !mesh.added.contains_key(&parent.kind) {
            let built_in = shown(parent);
            return Err(format!(
                "{name} cannot be put in {built_in}: what is in a {} is told by its name",
                parent.kind
            ));
        }
        if mesh
            .added
            .get(&parent.kind)
            .is_some_and(|added| added.claim.is_some())
        {
            let message = "whose members are told by their tokens alone";
            if ours {
                return Err(format!("{name} cannot be in {}, {message}", shown(parent)));
            }
        }
    }
    Ok(Node {
        labels: if ours { labels(record) } else { Labels::new() },
        entity,
        ancestors: Vec::new(),
    })
}

fn labels(record: &EntityRecord) -> Labels {
    let values = |value: &serde_json::Value| {
        let members = value.as_array().into_iter().flatten();
        members
            .filter_map(|v| v.as_str())
            .map(str::to_owned)
            .collect()
    };
    let tags = record.tags.iter();
    tags.map(|(name, value)| (name.clone(), values(value)))
        .collect()
}

/// An entity as Cedar writes it.
pub(crate) fn shown(name: &EntityName) -> String {
    format!("{}::{:?}", name.kind, name.id)
}

#[cfg(test)]
mod tests;
