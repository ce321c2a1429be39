//! What is known of entities, put into the policies that ask about it.
//!
//! The solver knows nothing of who is in which group. So a policy says it itself: `principal in Team::"a"` becomes the
//! workloads, accounts and namespaces that are in it, a label the values that workloads have, and an end user's group the claim
//! that says so. What is left speaks of built-in types alone, and each of two policy sets of what is known there.

use std::collections::{BTreeMap, BTreeSet};

use reeve_authz::PolicySchema;
use reeve_core::model::{EntityName, EntityRecord, PolicySlice};
use serde_json::{Map, Value, json};

/// Most entities that one group, attribute or label stands for.
const MAX_STANDING_FOR: usize = 1000;

/// What a policy set knows of entities.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    schema: PolicySchema,
    records: BTreeMap<EntityName, EntityRecord>,
    /// Everything that each is in.
    above: BTreeMap<EntityName, BTreeSet<EntityName>>,
}

impl Known {
    pub(crate) fn of(slice: &PolicySlice) -> Self {
        let records: BTreeMap<_, _> = slice
            .entities
            .iter()
            .map(|record| (record.uid.clone(), record.clone()))
            .collect();
        let mut above = BTreeMap::new();
        for (uid, record) in &records {
            let mut found = BTreeSet::new();
            let mut open: Vec<&EntityName> = record.parents.iter().collect();
            while let Some(next) = open.pop() {
                if found.insert(next.clone()) {
                    let parents = records.get(next).map(|record| &record.parents);
                    open.extend(parents.into_iter().flatten());
                }
            }
            above.insert(uid.clone(), found);
        }
        Self {
            schema: PolicySchema::of(&slice.schema),
            records,
            above,
        }
    }

    /// A policy in Cedar's JSON form, without what is not built in; nothing if it looks further than can be said so.
    pub(crate) fn put_into(&self, policy: &Value) -> Option<Value> {
        let mut policy = policy.clone();
        let mut conditions = Vec::new();
        for side in ["principal", "resource"] {
            let Some(scope) = policy.get_mut(side).and_then(Value::as_object_mut) else {
                continue;
            };
            let within = match scope.get("op").and_then(Value::as_str) {
                Some("in") => scope.get("entity"),
                Some("is") => scope.get("in").and_then(|within| within.get("entity")),
                _ => None,
            };
            let Some(group) = within.and_then(|uid| self.group(uid)) else {
                continue;
            };
            if scope.remove("in").is_none() {
                *scope = Map::from_iter([("op".to_owned(), json!("All"))]);
            }
            let body = self.members(&json!({"Var": side}), &group)?;
            conditions.push(json!({"kind": "when", "body": body}));
        }
        let own = policy.get("conditions").and_then(Value::as_array);
        for clause in own.into_iter().flatten() {
            let body = self.expression(clause.get("body")?)?;
            conditions.push(json!({"kind": clause.get("kind")?, "body": body}));
        }
        policy
            .as_object_mut()?
            .insert("conditions".to_owned(), Value::Array(conditions));
        (!self.mentions_groups(&policy)).then_some(policy)
    }

    /// The entity, if it is of a type that is not built in.
    fn group(&self, uid: &Value) -> Option<EntityName> {
        let uid = uid.get("__entity").unwrap_or(uid);
        let name: EntityName = serde_json::from_value(uid.clone()).ok()?;
        let added = self.schema.added().any(|kind| kind == name.kind);
        added.then_some(name)
    }

    fn mentions_groups(&self, json: &Value) -> bool {
        match json {
            Value::Array(members) => members.iter().any(|member| self.mentions_groups(member)),
            Value::Object(members) => {
                self.group(json).is_some()
                    || members.values().any(|member| self.mentions_groups(member))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }

    // Cedar bounds the depth of an expression when it parses it.
    fn expression(&self, expr: &Value) -> Option<Value> {
        let members = match expr {
            Value::Array(members) => {
                return members
                    .iter()
                    .map(|member| self.expression(member))
                    .collect();
            }
            Value::Object(members) => members,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                return Some(expr.clone());
            }
        };
        if members.contains_key("Value") {
            return Some(expr.clone());
        }
        if let (Some((operator, operands)), 1) = (members.iter().next(), members.len())
            && let Some(said) = self.said(operator, operands)
        {
            return said;
        }
        let each = members.iter();
        each.map(|(key, member)| Some((key.clone(), self.expression(member)?)))
            .collect::<Option<Map<_, _>>>()
            .map(Value::Object)
    }

    /// What an operation comes to, if it asks for what is known; nothing at all if that cannot be said.
    #[expect(clippy::option_option, reason = "not asked for, and not to be said")]
    fn said(&self, operator: &str, operands: &Value) -> Option<Option<Value>> {
        let left = operands.get("left")?;
        let party = left.get("Var").and_then(Value::as_str);
        let party = party.filter(|var| matches!(*var, "principal" | "resource"));
        match operator {
            "in" => self.within(left, operands.get("right")?),
            "is" => {
                let group = self.within(left, operands.get("in")?)?;
                let mut kind = operands.clone();
                kind.as_object_mut()?.remove("in");
                Some(group.map(|group| and(&json!({"is": kind}), &group)))
            }
            "." | "has" => {
                party?;
                let attribute = operands.get("attr")?.as_str()?;
                let value = |record: &EntityRecord| record.attrs.get(attribute).cloned();
                Some(self.looked_up(left, operator == "has", &value))
            }
            "getTag" | "hasTag" => {
                party?;
                let label = operands.get("right")?.get("Value")?.as_str()?;
                let value = |record: &EntityRecord| record.tags.get(label).cloned();
                Some(self.looked_up(left, operator == "hasTag", &value))
            }
            _ => None,
        }
    }

    #[expect(clippy::option_option, reason = "as above")]
    fn within(&self, who: &Value, groups: &Value) -> Option<Option<Value>> {
        let groups = match groups.get("Set").and_then(Value::as_array) {
            Some(groups) => groups.clone(),
            None => vec![groups.clone()],
        };
        let named = |group: &Value| self.group(group.get("Value").unwrap_or(group));
        groups.iter().find_map(named)?;
        let each = groups.iter().map(|group| match named(group) {
            Some(name) => self.members(who, &name),
            None => Some(json!({"in": {"left": who, "right": group}})),
        });
        Some(each.collect::<Option<Vec<_>>>().map(|all| any(&all)))
    }

    /// That `who` is in `group`.
    fn members(&self, who: &Value, group: &EntityName) -> Option<Value> {
        let inside = self.above.iter().filter(|(_, above)| above.contains(group));
        let inside: Vec<_> = inside.map(|(uid, _)| uid).collect();
        if inside.len() > MAX_STANDING_FOR {
            return None;
        }
        if who.get("Value").is_some() {
            let uid = who.pointer("/Value/__entity")?;
            let uid: EntityName = serde_json::from_value(uid.clone()).ok()?;
            let within = uid == *group || inside.contains(&&uid);
            return Some(json!({"Value": within}));
        }
        if *who == json!({".": {"left": {"Var": "context"}, "attr": "user"}}) {
            let claims = inside.into_iter().chain([group]);
            let claims = claims.filter_map(|group| self.claimed(who, group));
            return Some(any(&claims.collect::<Vec<_>>()));
        }
        who.get("Var")?;
        let built_in = |uid: &&&EntityName| self.schema.added().all(|kind| kind != uid.kind);
        let each = inside.iter().filter(built_in).map(|uid| {
            let entity = json!({"Value": {"__entity": uid}});
            let operator = if uid.kind == "Workload" { "==" } else { "in" };
            json!({operator: {"left": who, "right": entity}})
        });
        Some(any(&each.collect::<Vec<_>>()))
    }

    /// That an end user is in a group as a claim says, if that type of group is one of those.
    fn claimed(&self, user: &Value, group: &EntityName) -> Option<Value> {
        let (_, issuer, claim) = self
            .schema
            .claimed()
            .find(|(kind, ..)| *kind == group.kind)?;
        let issuer = json!({"==": {
            "left": {".": {"left": user, "attr": "issuer"}}, "right": {"Value": issuer},
        }});
        let has = json!({"hasTag": {"left": user, "right": {"Value": claim}}});
        let tag = json!({"getTag": {"left": user, "right": {"Value": claim}}});
        let contains = json!({"contains": {"left": tag, "right": {"Value": group.id}}});
        Some(and(&issuer, &and(&has, &contains)))
    }

    /// An attribute or label of a party: whether it is there, or what it is.
    fn looked_up(
        &self,
        who: &Value,
        whether: bool,
        value: &dyn Fn(&EntityRecord) -> Option<Value>,
    ) -> Option<Value> {
        let party = |uid: &EntityName| self.schema.added().all(|kind| kind != uid.kind);
        let there = self.records.iter().filter(|(uid, _)| party(uid));
        let there = there.filter_map(|(uid, record)| Some((uid, value(record)?)));
        let there: Vec<_> = there.collect();
        if there.len() > MAX_STANDING_FOR {
            return None;
        }
        let is =
            |uid: &EntityName| json!({"==": {"left": who, "right": {"Value": {"__entity": uid}}}});
        if whether {
            let each: Vec<_> = there.iter().map(|(uid, _)| is(uid)).collect();
            return Some(any(&each));
        }
        let mut values = there
            .into_iter()
            .map(|(uid, value)| Some((is(uid), literal(&value)?)));
        // Whether it is there was asked before, so that the last one needs no condition.
        let last = values.next()?;
        let mut chosen = last?.1;
        for next in values {
            let (is, value) = next?;
            chosen = json!({"if-then-else": {"if": is, "then": value, "else": chosen}});
        }
        Some(chosen)
    }
}

/// A value of Cedar's JSON as an expression.
fn literal(value: &Value) -> Option<Value> {
    match value {
        Value::Array(members) => {
            let members: Option<Vec<_>> = members.iter().map(literal).collect();
            Some(json!({"Set": members?}))
        }
        Value::String(_) | Value::Bool(_) | Value::Number(_) => Some(json!({"Value": value})),
        Value::Null | Value::Object(_) => None,
    }
}

fn and(left: &Value, right: &Value) -> Value {
    json!({"&&": {"left": left, "right": right}})
}

/// A disjunction, nested no deeper than need be.
fn any(parts: &[Value]) -> Value {
    match parts {
        [] => json!({"Value": false}),
        [one] => one.clone(),
        more => {
            let (left, right) = more.split_at(more.len() / 2);
            json!({"||": {"left": any(left), "right": any(right)}})
        }
    }
}
