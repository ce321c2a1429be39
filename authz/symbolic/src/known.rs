//! What is known of entities, put into the policies that ask about it.
//!
//! The solver knows nothing of who is in which group. So a policy says it itself: `principal in Team::"a"` becomes the
//! workloads, accounts and namespaces that are in it, a label the values that workloads have, and an end user's group the claim
//! that says so, and `principal.team.lead` what is found from one entity to the next. What is left speaks of built-in types alone, and each of two policy sets of what is known there.

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
        // SECURITY: what was not replaced would be asked of entities of which nothing is known, and seem to be false.
        (!self.mentions_groups(&policy) && !looks_further(&policy)).then_some(policy)
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
        match operator {
            "in" => {
                let right = operands.get("right")?;
                match (Reached::by(left), Reached::by(right)) {
                    (_, Some(group)) if !group.steps.is_empty() => {
                        Some(self.in_reached(left, &group))
                    }
                    (Some(who), _) if !who.steps.is_empty() => Some(self.reached_in(&who, right)),
                    _ => self.within(left, right),
                }
            }
            "is" => {
                let group = self.within(left, operands.get("in")?)?;
                let mut kind = operands.clone();
                kind.as_object_mut()?.remove("in");
                Some(group.map(|group| and(&json!({"is": kind}), &group)))
            }
            "==" | "!=" => {
                let right = operands.get("right")?;
                let (reached, named) =
                    [(left, right), (right, left)]
                        .into_iter()
                        .find_map(|(a, b)| {
                            let reached =
                                Reached::by(a).filter(|reached| !reached.steps.is_empty())?;
                            Some((reached, self.group(b.get("Value")?)?))
                        })?;
                let same = |value: &Value| entity(value).is_some_and(|found| found == named);
                let same = self.where_it(&reached, &|of| {
                    self.value(of, &reached.steps).is_some_and(|v| same(&v))
                });
                Some(same.map(|same| match operator {
                    "==" => same,
                    _ => json!({"!": {"arg": same}}),
                }))
            }
            "." | "has" => {
                let reached = Reached::by(left)?;
                let mut steps = reached.steps.clone();
                let attributes = operands.get("attr")?;
                match attributes.as_str() {
                    Some(attribute) => steps.push(attribute),
                    // `has a.b.c`
                    None => {
                        let several = attributes.as_array()?.iter();
                        steps.extend(several.filter_map(Value::as_str));
                    }
                }
                let value = |of: &EntityName| self.value(of, &steps);
                Some(self.looked_up(&reached, operator == "has", &value))
            }
            "getTag" | "hasTag" => {
                let reached = Reached::by(left)?;
                let label = operands.get("right")?.get("Value")?.as_str()?;
                let value = |of: &EntityName| {
                    let holder = match reached.steps.as_slice() {
                        [] => of.clone(),
                        steps => entity(&self.value(of, steps)?)?,
                    };
                    self.records.get(&holder)?.tags.get(label).cloned()
                };
                Some(self.looked_up(&reached, operator == "hasTag", &value))
            }
            _ => None,
        }
    }

    /// What is reached from an entity by its attributes, those of what they name, and members of records.
    fn value(&self, of: &EntityName, steps: &[&str]) -> Option<Value> {
        let mut at = json!({"__entity": of});
        for step in steps {
            at = match entity(&at) {
                Some(uid) => self.records.get(&uid)?.attrs.get(*step)?.clone(),
                None => at.get(*step)?.clone(),
            };
        }
        Some(at)
    }

    /// That the party is one of those of which this holds, of the entity itself where one is named.
    fn where_it(
        &self,
        reached: &Reached<'_>,
        holds: &dyn Fn(&EntityName) -> bool,
    ) -> Option<Value> {
        self.looked_up(reached, true, &|of| holds(of).then_some(Value::Null))
    }

    /// That what a party's attributes lead to is in one of these.
    fn reached_in(&self, who: &Reached<'_>, groups: &Value) -> Option<Value> {
        let groups = match groups.get("Set").and_then(Value::as_array) {
            Some(groups) => groups.clone(),
            None => vec![groups.clone()],
        };
        let groups = groups.iter().map(|group| entity(group.get("Value")?));
        let groups: Vec<_> = groups.collect::<Option<_>>()?;
        // What is in what is built in is told by names, which nobody wrote down here.
        if groups
            .iter()
            .any(|group| self.schema.added().all(|kind| kind != group.kind))
        {
            return None;
        }
        self.where_it(who, &|of| {
            let found = self.value(of, &who.steps).and_then(|value| entity(&value));
            found.is_some_and(|found| {
                let above = self.above.get(&found);
                groups
                    .iter()
                    .any(|group| *group == found || above.is_some_and(|a| a.contains(group)))
            })
        })
    }

    /// That `who` is in what a party's attributes lead to.
    fn in_reached(&self, who: &Value, group: &Reached<'_>) -> Option<Value> {
        let Root::Party(party) = &group.root else {
            let Root::Named(of) = &group.root else {
                return None;
            };
            return self.member_of(who, &entity(&self.value(of, &group.steps)?)?);
        };
        let mut each = Vec::new();
        for of in self.records.keys().filter(|uid| self.is_built_in(uid)) {
            let Some(group) = self.value(of, &group.steps).and_then(|v| entity(&v)) else {
                continue;
            };
            each.push(and(&is(party, of), &self.member_of(who, &group)?));
        }
        (each.len() <= MAX_STANDING_FOR).then(|| any(&each))
    }

    /// That `who` is this group, or in it.
    fn member_of(&self, who: &Value, group: &EntityName) -> Option<Value> {
        match self.is_built_in(group) {
            true => Some(json!({"in": {"left": who, "right": {"Value": {"__entity": group}}}})),
            false => self.members(who, group),
        }
    }

    fn is_built_in(&self, uid: &EntityName) -> bool {
        self.schema.added().all(|kind| kind != uid.kind)
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
        let each = inside
            .iter()
            .filter(|uid| self.is_built_in(uid))
            .map(|uid| {
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

    /// What is reached from a party, or an entity that is named: whether it is there, or what it is.
    fn looked_up(
        &self,
        reached: &Reached<'_>,
        whether: bool,
        value: &dyn Fn(&EntityName) -> Option<Value>,
    ) -> Option<Value> {
        let who = match &reached.root {
            Root::Named(of) => {
                let found = value(of);
                return match whether {
                    true => Some(json!({"Value": found.is_some()})),
                    false => self.literal(&found?),
                };
            }
            Root::Party(who) => *who,
        };
        let there = self.records.keys().filter(|uid| self.is_built_in(uid));
        let there = there.filter_map(|uid| Some((uid, value(uid)?)));
        let there: Vec<_> = there.collect();
        if there.len() > MAX_STANDING_FOR {
            return None;
        }
        if whether {
            let each: Vec<_> = there.iter().map(|(uid, _)| is(who, uid)).collect();
            return Some(any(&each));
        }
        let mut values = there
            .into_iter()
            .map(|(uid, value)| Some((is(who, uid), self.literal(&value)?)));
        // Whether it is there was asked before, so that the last one needs no condition.
        let last = values.next()?;
        let mut chosen = last?.1;
        for next in values {
            let (is, value) = next?;
            chosen = json!({"if-then-else": {"if": is, "then": value, "else": chosen}});
        }
        Some(chosen)
    }

    /// A value of Cedar's JSON as an expression.
    fn literal(&self, value: &Value) -> Option<Value> {
        match value {
            Value::Array(members) => {
                let members: Option<Vec<_>> = members.iter().map(|m| self.literal(m)).collect();
                Some(json!({"Set": members?}))
            }
            Value::String(_) | Value::Bool(_) | Value::Number(_) => Some(json!({"Value": value})),
            Value::Object(members) => {
                if let Some(uid) = entity(value) {
                    return self
                        .is_built_in(&uid)
                        .then(|| json!({"Value": {"__entity": uid}}));
                }
                let special = members.keys().any(|key| key.starts_with("__"));
                let each = members.iter().filter(|_| !special);
                let each = each.map(|(name, member)| Some((name.clone(), self.literal(member)?)));
                let record: Map<_, _> = each.collect::<Option<_>>()?;
                (!special).then(|| json!({"Record": record}))
            }
            Value::Null => None,
        }
    }
}

/// Where an expression begins that goes from attribute to attribute.
#[derive(Debug)]
enum Root<'e> {
    /// `principal` or `resource`.
    Party(&'e Value),
    Named(EntityName),
}

/// `principal.team.lead`: where it begins, and the attributes.
#[derive(Debug)]
struct Reached<'e> {
    root: Root<'e>,
    steps: Vec<&'e str>,
}

impl<'e> Reached<'e> {
    fn by(expr: &'e Value) -> Option<Self> {
        let mut steps = Vec::new();
        let mut at = expr;
        while let Some(step) = at.get(".") {
            steps.push(step.get("attr")?.as_str()?);
            at = step.get("left")?;
        }
        steps.reverse();
        let party = at.get("Var").and_then(Value::as_str);
        let root = match party {
            Some("principal" | "resource") => Root::Party(at),
            Some(_) => return None,
            None => Root::Named(entity(at.get("Value")?)?),
        };
        Some(Self { root, steps })
    }
}

/// Whether an attribute or tag of anything but the context is asked for.
fn looks_further(json: &Value) -> bool {
    match json {
        Value::Array(members) => members.iter().any(looks_further),
        Value::Object(members) => {
            let asked = |(operator, operands): (&String, &Value)| {
                let looks = matches!(operator.as_str(), "." | "has" | "getTag" | "hasTag");
                looks
                    && operands
                        .get("left")
                        .is_some_and(|left| !is_of_context(left))
            };
            members.iter().any(asked) || members.values().any(looks_further)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// `context`, `context.a.b`
fn is_of_context(expr: &Value) -> bool {
    match expr.get(".").and_then(|step| step.get("left")) {
        Some(left) => is_of_context(left),
        None => expr.get("Var").is_some_and(|var| var == "context"),
    }
}

/// The entity that a value refers to.
fn entity(value: &Value) -> Option<EntityName> {
    serde_json::from_value(value.get("__entity")?.clone()).ok()
}

/// That a party is this entity.
fn is(who: &Value, uid: &EntityName) -> Value {
    json!({"==": {"left": who, "right": {"Value": {"__entity": uid}}}})
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
