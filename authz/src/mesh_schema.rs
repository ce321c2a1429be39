//! The schema that every policy is validated against: the built-in one, and what a mesh adds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use cedar_policy::{
    EntityId, EntityTypeName, EntityUid, PolicySet, Schema, SchemaFragment, ValidationMode,
    ValidationWarning, Validator, ffi::DetailedError,
};
use cedar_policy_core::ast::{Entity, EntityType, EntityUID, Name};
use reeve_core::decision::Action;
use serde_json::Value;

use crate::{
    extension::{self, AddedType, SchemaFault},
    fault::IMPOSSIBLE,
};

/// Extended schemas that a process remembers: that of the folder in force, of a candidate, and a few of the past.
const MAX_REMEMBERED_SCHEMAS: usize = 8;

/// The mesh's Cedar schema in its human-readable form (`policies/mesh.cedarschema`).
pub fn schema() -> &'static str {
    include_str!("../../policies/mesh.cedarschema")
}

/// The built-in schema in Cedar's JSON form.
fn built_in_json() -> Result<Value, String> {
    let (fragment, warnings) =
        SchemaFragment::from_cedarschema_str(schema()).map_err(|e| e.to_string())?;
    let warnings: Vec<_> = warnings.map(|w| w.to_string()).collect();
    if !warnings.is_empty() {
        return Err(warnings.join("; "));
    }
    fragment.to_json_value().map_err(|e| e.to_string())
}

/// The built-in schema is broken: a fault of this build, found by its tests.
fn broken(message: String) -> SchemaFault {
    SchemaFault {
        text: 0,
        line: 1,
        message: format!("the built-in policy schema cannot be used: {message}"),
        help: None,
    }
}

/// The compiled schema and the names that requests are built with.
#[derive(Debug)]
pub(crate) struct MeshSchema {
    /// What extends the built-in schema.
    pub(crate) texts: Vec<String>,
    pub(crate) schema: Schema,
    /// All of it in Cedar's JSON form.
    pub(crate) json: Value,
    /// The types that a mesh adds.
    pub(crate) added: BTreeMap<String, AddedType>,
    added_types: BTreeMap<String, EntityType>,
    validator: Validator,
    actions: Vec<(Action, EntityUID, Entity)>,
    /// Each action with its own id and those of the groups it is in.
    memberships: Vec<(Action, Vec<String>)>,
    pub(crate) types: EntityTypes,
    pub(crate) functions: Functions,
}

/// The extension functions that make values of requests.
#[derive(Debug)]
pub(crate) struct Functions {
    pub(crate) ip: Name,
    pub(crate) datetime: Name,
}

/// The schema's entity types.
#[derive(Debug)]
pub(crate) struct EntityTypes {
    pub(crate) trust_domain: EntityType,
    pub(crate) namespace: EntityType,
    pub(crate) service_account: EntityType,
    pub(crate) service: EntityType,
    pub(crate) workload: EntityType,
    pub(crate) unauthenticated: EntityType,
    pub(crate) headers: EntityType,
    pub(crate) header_text: EntityType,
    pub(crate) claim_lines: EntityType,
    pub(crate) query: EntityType,
    pub(crate) user: EntityType,
}

impl MeshSchema {
    /// The built-in schema, compiled once per process.
    pub(crate) fn get() -> Result<Arc<Self>, SchemaFault> {
        static SCHEMA: OnceLock<Result<Arc<MeshSchema>, SchemaFault>> = OnceLock::new();
        let built = SCHEMA.get_or_init(|| {
            let built = built_in_json().and_then(|json| Self::build(json, BTreeMap::new(), &[]));
            built.map(Arc::new).map_err(broken)
        });
        built.clone()
    }

    /// The built-in schema with what `texts` add; the last few are remembered.
    pub(crate) fn extended(texts: &[String]) -> Result<Arc<Self>, Vec<SchemaFault>> {
        type Known = Vec<Arc<MeshSchema>>;
        static KNOWN: Mutex<Known> = Mutex::new(Vec::new());
        if texts.is_empty() {
            return Self::get().map_err(|fault| vec![fault]);
        }
        let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().iter().find(|known| known.texts == texts) {
            return Ok(Arc::clone(found));
        }
        let base = built_in_json().map_err(|e| vec![broken(e)])?;
        let extended = extension::extend(base, texts)?;
        let built = Self::build(extended.json, extended.types, texts);
        let built = Arc::new(built.map_err(|e| vec![extension::of_all(texts, e)])?);
        let mut known = known();
        if known.len() >= MAX_REMEMBERED_SCHEMAS {
            known.remove(0);
        }
        known.push(Arc::clone(&built));
        Ok(built)
    }

    fn build(
        json: Value,
        added: BTreeMap<String, AddedType>,
        texts: &[String],
    ) -> Result<Self, String> {
        let schema = Schema::from_json_value(json.clone()).map_err(|e| {
            let detailed = DetailedError::from(&e);
            match detailed.help {
                Some(help) => format!("{}; {help}", detailed.message),
                None => detailed.message,
            }
        })?;
        let entities = schema.action_entities().map_err(|e| e.to_string())?;
        let action_type: EntityTypeName = "Action".parse().map_err(|_| "no Action type")?;
        let mut actions = Vec::new();
        let mut memberships = Vec::new();
        for action in Action::ALL {
            let id = EntityId::new(action.as_str());
            let uid = EntityUid::from_type_name_and_id(action_type.clone(), id);
            let entity = entities
                .get(&uid)
                .ok_or_else(|| format!("no action {action}"))?;
            let above = entities.ancestors(&uid).into_iter().flatten();
            let ids = above.chain([&uid]).map(|e| e.id().unescaped().to_owned());
            memberships.push((action, ids.collect()));
            actions.push((action, uid.as_ref().clone(), entity.as_ref().clone()));
        }
        let named = |name: &str| {
            let found = schema.entity_types().find(|t| t.basename() == name);
            found
                .map(|t| t.as_ref().clone())
                .ok_or_else(|| format!("no entity type {name}"))
        };
        let added_types = added.keys().map(|name| Ok((name.clone(), named(name)?)));
        let added_types = added_types.collect::<Result<_, String>>()?;
        let function = |name: &str| Name::parse_unqualified_name(name).map_err(|e| e.to_string());
        Ok(Self {
            types: EntityTypes {
                trust_domain: named("TrustDomain")?,
                namespace: named("Namespace")?,
                service_account: named("ServiceAccount")?,
                service: named("Service")?,
                workload: named("Workload")?,
                unauthenticated: named("Unauthenticated")?,
                headers: named("Headers")?,
                header_text: named("HeaderText")?,
                claim_lines: named("ClaimLines")?,
                query: named("Query")?,
                user: named("User")?,
            },
            functions: Functions {
                ip: function("ip")?,
                datetime: function("datetime")?,
            },
            actions,
            memberships,
            validator: Validator::new(schema.clone()),
            texts: texts.to_vec(),
            schema,
            json,
            added,
            added_types,
        })
    }

    /// The groups that an end user is in as a claim of their token says.
    pub(crate) fn claimed(&self) -> impl Iterator<Item = (&str, &extension::Claim)> {
        self.added
            .iter()
            .filter_map(|(name, added)| Some((name.as_str(), added.claim.as_ref()?)))
    }

    /// A type that the mesh adds.
    pub(crate) fn added_type(&self, name: &str) -> Option<&EntityType> {
        self.added_types.get(name)
    }

    /// The action's entity, with its groups as parents.
    pub(crate) fn action(&self, action: Action) -> Option<(&EntityUID, &Entity)> {
        let found = self.actions.iter().find(|(a, _, _)| *a == action);
        found.map(|(_, uid, entity)| (uid, entity))
    }

    /// Whether `action` is the action or in the group with the id `name`.
    pub(crate) fn is_action_in(&self, action: Action, name: &str) -> bool {
        let found = self.memberships.iter().find(|(a, _)| *a == action);
        found.is_some_and(|(_, ids)| ids.iter().any(|id| id == name))
    }

    /// Strict validation: Cedar's id of each faulty policy, and the diagnostic.
    ///
    /// Warnings count as faults: a policy that can never apply is a mistake (a `forbid` that never applies leaves a
    /// door open), and look-alike or bidirectional characters hide what a policy says.
    pub(crate) fn validate(&self, policies: &PolicySet) -> Vec<(String, DetailedError)> {
        let result = self.validator.validate(policies, ValidationMode::Strict);
        let errors = result
            .validation_errors()
            .map(|e| (e.policy_id().to_string(), DetailedError::from(e)));
        let warnings = result.validation_warnings().map(|warning| {
            let mut diagnostic = DetailedError::from(warning);
            if matches!(warning, ValidationWarning::ImpossiblePolicy(_)) {
                diagnostic.code = Some(IMPOSSIBLE.to_owned());
            }
            (warning.policy_id().to_string(), diagnostic)
        });
        errors.chain(warnings).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_schema_compiles_without_warnings() {
        let mesh = MeshSchema::get().unwrap();
        for action in Action::ALL {
            assert!(mesh.action(action).is_some(), "{action}");
        }
    }
}
