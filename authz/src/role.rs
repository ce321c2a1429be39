//! Roles: Cedar templates that are written once, and bound to principals and resources by each namespace.
//!
//! A binding becomes static policies, so that nothing behind it knows of templates: what decides, is explained, tried and
//! proved is a policy that a person could have written.

use std::str::FromStr as _;

use cedar_policy::{EntityUid, Policy, Template};
use reeve_core::{Namespace, PolicyId};
use serde_json::{Map, Value, json};

use crate::{
    PolicyFault, PolicySchema,
    check::{self, Place},
    document::{self, MAX_DOCUMENT_POLICIES},
    mesh_schema::MeshSchema,
};

const PRINCIPAL: &str = "?principal";
const RESOURCE: &str = "?resource";
/// What a role can be given to, and for.
const PRINCIPALS: [&str; 5] = [
    "Workload",
    "ServiceAccount",
    "Namespace",
    "TrustDomain",
    "Unauthenticated",
];
const RESOURCES: [&str; 4] = ["Workload", "Service", "ServiceAccount", "Namespace"];
/// The templates of one `AccessRole`.
#[derive(Clone, Debug)]
pub struct Role {
    parts: Vec<Part>,
    /// The types of the mesh's own.
    groups: Vec<String>,
}

/// One template.
#[derive(Clone, Debug)]
struct Part {
    /// Its `@id`, or its number from 1.
    name: String,
    /// It, in Cedar's JSON form.
    json: Value,
}

/// Why a role cannot be bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// It has a slot that nothing is said for, or the other way round.
    #[error("{0}")]
    Slots(&'static str),
    /// No entity that can stand there.
    #[error("{text:?} is not {wanted}")]
    Entity {
        /// What was written.
        text: String,
        /// What can be written.
        wanted: String,
    },
    /// Too much at once.
    #[error("{0} policies come of it, at most {MAX_DOCUMENT_POLICIES} may")]
    TooMany(usize),
}

impl Role {
    /// Reads the Cedar text of the `AccessRole` `namespace/object`: templates alone, strictly validated.
    pub fn parse(
        schema: &PolicySchema,
        namespace: &Namespace,
        object: &str,
        text: &str,
    ) -> Result<Self, Vec<PolicyFault>> {
        let blame = PolicyId::from(namespace);
        let id = PolicyId::parse(&format!("{namespace}/{object}"))
            .map_err(|e| vec![PolicyFault::at(&blame, text, 0, e.to_string())])?;
        let whole = |message: String| vec![PolicyFault::at(&id, text, 0, message)];
        let mesh = schema.mesh(&id)?;
        let set = document::read(&id, "AccessRole", text)?;
        let mut faults: Vec<_> = mesh
            .validate(&set)
            .iter()
            .map(|(_, diagnostic)| PolicyFault::of_cedar(&id, text, diagnostic))
            .collect();
        for policy in set.policies() {
            let written = policy.to_cedar().unwrap_or_default();
            let offset = text.find(&written).unwrap_or_default();
            let message = "a policy of a role has a slot".to_owned();
            faults.push(
                PolicyFault::at(&id, text, offset, message).with_help(
                    "write ?principal or ?resource in its scope, or write an AccessPolicy",
                ),
            );
        }
        let mut templates: Vec<_> = set.templates().collect();
        templates.sort_by_key(|template| text.find(&template.to_cedar()));
        let mut parts: Vec<Part> = Vec::new();
        for (number, template) in templates.into_iter().enumerate() {
            match Part::read(mesh, (number + 1, template), &id, text) {
                Ok(part) if parts.iter().any(|known| known.name == part.name) => {
                    faults.extend(whole(format!("@id {:?} is there twice", part.name)));
                }
                Ok(part) => parts.push(part),
                Err(found) => faults.extend(found),
            }
        }
        if parts.is_empty() && faults.is_empty() {
            return Err(whole("there is no policy here".to_owned()));
        }
        match faults.is_empty() {
            true => Ok(Self {
                parts,
                groups: mesh.added.keys().cloned().collect(),
            }),
            false => Err(faults),
        }
    }

    /// The Cedar text of an `AccessPolicy` that gives the role to `principals` for `resources`: Cedar entities, such as
    /// `ServiceAccount::"mesh.local/ns/shop/sa/web"`.
    pub fn bind(&self, principals: &[String], resources: &[String]) -> Result<String, BindError> {
        let slots = |slot| self.parts.iter().any(|part| part.has(slot));
        match (slots(PRINCIPAL), principals.is_empty()) {
            (true, true) => return Err(BindError::Slots("the role asks for principals")),
            (false, false) => return Err(BindError::Slots("the role has no ?principal")),
            _ => {}
        }
        match (slots(RESOURCE), resources.is_empty()) {
            (true, true) => return Err(BindError::Slots("the role asks for resources")),
            (false, false) => return Err(BindError::Slots("the role has no ?resource")),
            _ => {}
        }
        let principals = entities(principals, &PRINCIPALS, &self.groups)?;
        let resources = entities(resources, &RESOURCES, &self.groups)?;
        let counts = self.parts.iter().map(|part| {
            let of = |slot, all: &[Value]| if part.has(slot) { all.len() } else { 1 };
            of(PRINCIPAL, &principals).saturating_mul(of(RESOURCE, &resources))
        });
        let count = counts.fold(0_usize, usize::saturating_add);
        if count > MAX_DOCUMENT_POLICIES {
            return Err(BindError::TooMany(count));
        }
        let texts: Vec<_> = self
            .parts
            .iter()
            .flat_map(|part| part.bound(&principals, &resources))
            .collect();
        Ok(texts.join("\n\n"))
    }
}

impl Part {
    fn read(
        mesh: &MeshSchema,
        (number, template): (usize, &Template),
        id: &PolicyId,
        text: &str,
    ) -> Result<Self, Vec<PolicyFault>> {
        let offset = text.find(&template.to_cedar()).unwrap_or_default();
        let place = Place {
            id,
            document: text,
            offset,
        };
        let fault = |message: String| vec![PolicyFault::at(id, text, offset, message)];
        let name = template.annotation("id").map(str::to_owned);
        let json = template.to_json().map_err(|e| fault(e.to_string()))?;
        let part = Self {
            name: name.unwrap_or_else(|| number.to_string()),
            json,
        };
        // To look at the template with; any would do.
        let principal = json!({"type": "Workload", "id": "spiffe://example.org/ns/some/sa/some"});
        let resource = json!({"type": "Service", "id": "some.some.svc.cluster.local"});
        let bound = filled(&part.json, &principal, &resource);
        let policy = Policy::from_json(None, bound).map_err(|e| fault(e.to_string()))?;
        check::check(mesh, &policy, place)?;
        Ok(part)
    }

    fn has(&self, slot: &str) -> bool {
        mentions(&self.json, slot)
    }

    /// A policy for each pair, as text; each has the part's name, numbered if there are several.
    fn bound(&self, principals: &[Value], resources: &[Value]) -> Vec<String> {
        let unused = [Value::Null];
        let of = |slot, all| {
            if self.has(slot) {
                all
            } else {
                unused.as_slice()
            }
        };
        let (principals, resources) = (of(PRINCIPAL, principals), of(RESOURCE, resources));
        let several = principals.len() * resources.len() > 1;
        let pairs = principals
            .iter()
            .flat_map(|principal| resources.iter().map(move |resource| (principal, resource)));
        let policies = pairs
            .enumerate()
            .filter_map(|(number, (principal, resource))| {
                let mut json = filled(&self.json, principal, resource);
                let name = match several {
                    true => format!("{}-{}", self.name, number + 1),
                    // A bare number is no @id.
                    false if self.name.parse::<usize>().is_ok() => format!("part-{}", self.name),
                    false => self.name.clone(),
                };
                json.as_object_mut()?
                    .entry("annotations")
                    .or_insert_with(|| json!({}))
                    .as_object_mut()?
                    .insert("id".to_owned(), Value::String(name));
                Policy::from_json(None, json).ok()?.to_cedar()
            });
        policies.collect()
    }
}

/// Parses entities, each of one of these types.
fn entities(texts: &[String], types: &[&str], groups: &[String]) -> Result<Vec<Value>, BindError> {
    let groups = groups.iter().map(String::as_str);
    let types: Vec<_> = types.iter().copied().chain(groups).collect();
    let parse = |text: &String| {
        let uid = EntityUid::from_str(text).ok();
        let known = uid.filter(|uid| types.contains(&uid.type_name().to_string().as_str()));
        known
            .map(|uid| entity(&uid))
            .ok_or_else(|| BindError::Entity {
                text: text.clone(),
                wanted: format!("a Cedar entity of type {}", types.join(", ")),
            })
    };
    texts.iter().map(parse).collect()
}

fn entity(uid: &EntityUid) -> Value {
    json!({"type": uid.type_name().to_string(), "id": uid.id().unescaped()})
}

/// The policy with its slots filled, in Cedar's JSON form.
fn filled(json: &Value, principal: &Value, resource: &Value) -> Value {
    let of = |slot: &Value| match slot.as_str() {
        Some(PRINCIPAL) => principal.clone(),
        _ => resource.clone(),
    };
    match json {
        Value::Array(members) => members
            .iter()
            .map(|member| filled(member, principal, resource))
            .collect(),
        Value::Object(members) => {
            if let (Some(slot), 1) = (members.get("Slot"), members.len()) {
                return json!({"Value": {"__entity": of(slot)}});
            }
            let fill = |(key, member): (&String, &Value)| match key.as_str() {
                "slot" => ("entity".to_owned(), of(member)),
                _ => (key.clone(), filled(member, principal, resource)),
            };
            Value::Object(members.iter().map(fill).collect::<Map<_, _>>())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => json.clone(),
    }
}

fn mentions(json: &Value, slot: &str) -> bool {
    match json {
        Value::Array(members) => members.iter().any(|member| mentions(member, slot)),
        Value::Object(members) => members.iter().any(|(key, member)| {
            let here = matches!(key.as_str(), "slot" | "Slot") && member.as_str() == Some(slot);
            here || mentions(member, slot)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests;
