//! A policy set as the solver sees it.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use cedar_policy::{Effect, Policy, PolicySet, RequestEnv, Schema};
use reeve_authz::Engine;
use reeve_core::{
    PolicyId, TrustDomain, UnixTime,
    model::{PolicyMode, PolicySlice, PolicySource},
};
use serde_json::{Value, json};

use crate::{
    VerifyError,
    known::Known,
    literals::Literals,
    world::{Part, Place, World},
};

/// The policies of a mesh that bind, and the engine that judges by them.
#[derive(Clone, Debug)]
pub struct Policies {
    all: Vec<Arc<Stated>>,
    engine: Arc<Engine>,
    home: TrustDomain,
    /// What they rest on.
    slice: PolicySlice,
}

/// One policy. Its first conditions are its end and its namespace: it decides nothing else.
#[derive(Debug)]
pub(crate) struct Stated {
    pub(crate) source: PolicySource,
    pub(crate) effect: Effect,
    /// The types of requests for which it is not trivially false.
    pub(crate) envs: Vec<RequestEnv>,
    json: Value,
}

impl Policies {
    /// Those of `slice` that bind, in a mesh whose trust domain is `home`.
    pub fn new(slice: &PolicySlice, home: &TrustDomain) -> Result<Self, VerifyError> {
        let known = Known::of(slice);
        let bind = slice.policies.iter();
        let bind = bind.filter(|s| s.mode == PolicyMode::Enforce);
        let all = bind.map(|source| Stated::new(source, &known, home).map(Arc::new));
        Self::of(all.collect::<Result<_, _>>()?, home, slice, None)
    }

    /// The same without one policy.
    pub fn without(&self, id: &PolicyId) -> Result<Self, VerifyError> {
        let others = self.all.iter().filter(|p| p.source.id != *id);
        let others = others.cloned().collect();
        Self::of(others, &self.home, &self.slice, Some(&self.engine))
    }

    /// The policies' ids, in the order given.
    pub fn ids(&self) -> impl Iterator<Item = &PolicyId> {
        self.all.iter().map(|policy| &policy.source.id)
    }

    /// Whether each of them is a `permit`.
    pub fn are_permits(&self) -> bool {
        self.all.iter().all(|p| p.effect == Effect::Permit)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn all(&self) -> &[Arc<Stated>] {
        &self.all
    }

    pub(crate) fn get(&self, id: &PolicyId) -> Option<&Stated> {
        let found = self.all.iter().find(|policy| policy.source.id == *id);
        found.map(AsRef::as_ref)
    }

    /// Adds what those policies name that may apply to requests that `part` describes.
    pub(crate) fn read_literals(&self, part: &Part<'_>, literals: &mut Literals) {
        for policy in self.all.iter().filter(|p| part.concerns(p)) {
            policy.read_literals(literals);
        }
    }

    /// Whether a permit may apply to such requests.
    pub(crate) fn permits_some(&self, part: &Part<'_>) -> bool {
        let mut permits = self.all.iter().filter(|p| p.effect == Effect::Permit);
        permits.any(|policy| part.concerns(policy))
    }

    /// Adds every namespace that is named, or whose policies these are.
    pub(crate) fn read_places(&self, world: &World, places: &mut BTreeSet<Place>) {
        let named = self.all.iter().filter_map(|policy| world.namespace(policy));
        places.extend(named.map(Place::Namespace));
    }

    /// Those that may apply to requests that `part` describes, in Cedar's form; where `guard` does not hold, nothing is
    /// allowed.
    pub(crate) fn set(
        &self,
        part: &Part<'_>,
        guard: Option<&Value>,
    ) -> Result<PolicySet, VerifyError> {
        let mut set = PolicySet::new();
        for policy in self.all.iter().filter(|p| part.concerns(p)) {
            set.add(policy.guarded(None)?).map_err(VerifyError::cedar)?;
        }
        if let Some(guard) = guard {
            let whole = json!({"op": "All"});
            let elsewhere = json!({
                "effect": "forbid",
                "principal": whole, "action": whole, "resource": whole,
                "conditions": [{"kind": "unless", "body": guard}],
            });
            // No policy of a mesh has an id without an object.
            let id = cedar_policy::PolicyId::new("world");
            let elsewhere = Policy::from_json(Some(id), elsewhere).map_err(VerifyError::cedar)?;
            set.add(elsewhere).map_err(VerifyError::cedar)?;
        }
        Ok(set)
    }

    fn of(
        all: Vec<Arc<Stated>>,
        home: &TrustDomain,
        ground: &PolicySlice,
        before: Option<&Engine>,
    ) -> Result<Self, VerifyError> {
        let slice = PolicySlice {
            mesh_hash: String::new(),
            policies: all.iter().map(|policy| policy.source.clone()).collect(),
            schema: ground.schema.clone(),
            entities: Arc::clone(&ground.entities),
        };
        let engine =
            Engine::compile_after(&slice, before).map_err(|faults| VerifyError::Policies {
                faults: faults.iter().map(ToString::to_string).collect(),
            })?;
        Ok(Self {
            all,
            engine: Arc::new(engine.in_trust_domain(home.clone())),
            home: home.clone(),
            slice,
        })
    }
}

impl Stated {
    fn new(source: &PolicySource, known: &Known, home: &TrustDomain) -> Result<Self, VerifyError> {
        let wrong = |what: String| VerifyError::Policies {
            faults: vec![format!("{}: {what}", source.id)],
        };
        let policy = Policy::parse(None, &source.text).map_err(|e| wrong(e.to_string()))?;
        let json = policy.to_json().map_err(VerifyError::cedar)?;
        let mut json = known
            .put_into(&json)
            .ok_or_else(|| wrong("it asks for more of entities than can be proved".to_owned()))?;
        let plain = Policy::from_json(None, json.clone()).map_err(VerifyError::cedar)?;
        if let Some(namespace) = &source.scope {
            let id = format!("{home}/ns/{namespace}");
            let inside = json!({"in": {
                "left": {"Var": "resource"},
                "right": {"Value": {"__entity": {"type": "Namespace", "id": id}}},
            }});
            put_first(&mut json, &inside);
        }
        if let Some(until) = policy
            .annotation("until")
            .and_then(reeve_authz::parse_until)
        {
            put_first(&mut json, &before(until));
        }
        Ok(Self {
            source: source.clone(),
            effect: policy.effect(),
            envs: plain.get_valid_request_envs(schema()?).collect(),
            json,
        })
    }

    /// Adds what it names.
    pub(crate) fn read_literals(&self, literals: &mut Literals) {
        literals.read(&self.json);
    }

    /// What its scope names as the resource, or as what the resource is in: type and id.
    pub(crate) fn resource(&self) -> Option<(&str, &str)> {
        let entity = self.json.pointer("/resource/entity")?;
        Some((entity.get("type")?.as_str()?, entity.get("id")?.as_str()?))
    }

    /// The policy, with one more condition before its own.
    pub(crate) fn guarded(&self, guard: Option<&Value>) -> Result<Policy, VerifyError> {
        let mut json = self.json.clone();
        if let Some(guard) = guard {
            put_first(&mut json, guard);
        }
        let id = cedar_policy::PolicyId::new(self.source.id.as_str());
        Policy::from_json(Some(id), json).map_err(VerifyError::cedar)
    }
}

/// The mesh's schema, compiled once per process.
pub(crate) fn schema() -> Result<&'static Schema, VerifyError> {
    static SCHEMA: OnceLock<Option<Schema>> = OnceLock::new();
    let compile = || Schema::from_cedarschema_str(reeve_authz::schema()).ok();
    let compiled = SCHEMA.get_or_init(|| compile().map(|(schema, _)| schema));
    compiled.as_ref().ok_or(VerifyError::Schema)
}

/// It is asked before `time`.
fn before(time: UnixTime) -> Value {
    json!({"<": {
        "left": {".": {"left": {"Var": "context"}, "attr": "time"}},
        "right": {"datetime": [{"Value": reeve_authz::datetime(time)}]},
    }})
}

fn put_first(policy: &mut Value, body: &Value) {
    let clause = json!({"kind": "when", "body": body});
    if let Some(Value::Array(clauses)) = policy.get_mut("conditions") {
        clauses.insert(0, clause);
    }
}
