//! What a mesh adds to the built-in schema: types of its own, and what the built-in types are in or have besides.
//!
//! Texts in Cedar's schema syntax are merged with the built-in schema before it is compiled. A declaration of a built-in
//! type adds to it. Nothing built in changes its meaning: what the mesh adds stands above the built-in types, never
//! between them, and every attribute that it adds may be absent.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{CedarSchemaError, SchemaFragment, ffi::DetailedError};
use serde_json::{Map, Value};

/// Longest text of one `AccessSchema`, in bytes.
pub(crate) const MAX_SCHEMA_BYTES: usize = 64 * 1024;
/// Most types that a mesh adds.
pub(crate) const MAX_ADDED_TYPES: usize = 64;
/// Most attributes of one type.
const MAX_TYPE_ATTRIBUTES: usize = 64;
/// Deepest nesting of types in one declaration.
const MAX_TYPE_NESTING: usize = 8;

/// The built-in types that can be in groups and have attributes.
pub(crate) const EXTENSIBLE: [&str; 5] = [
    "Workload",
    "ServiceAccount",
    "Service",
    "Namespace",
    "TrustDomain",
];
/// The built-in type of end users, who are in groups as their token says.
const USER: &str = "User";

/// One fault of a schema text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SchemaFault {
    /// Which of the texts, from 0.
    pub text: usize,
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// A type that the mesh adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddedType {
    /// `@claim` and `@issuer`: an end user is in those that this claim of such a token names.
    pub(crate) claim: Option<Claim>,
    /// `@label`: a workload, service or namespace is in that which this label names.
    pub(crate) label: Option<String>,
    /// Whether other types than the end user can be in it.
    pub(crate) has_members: bool,
}

/// Where the groups of an end user come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) issuer: String,
    pub(crate) name: String,
}

/// The built-in schema with what was added, in Cedar's JSON form.
pub(crate) struct Extended {
    pub(crate) json: Value,
    pub(crate) types: BTreeMap<String, AddedType>,
}

/// Merges `texts` into the built-in schema `base`.
pub(crate) fn extend(base: Value, texts: &[String]) -> Result<Extended, Vec<SchemaFault>> {
    let mut merging = Merging {
        built_in: names(&base, "entityTypes"),
        common: names(&base, "commonTypes"),
        json: base,
        types: BTreeMap::new(),
        faults: Vec::new(),
        at: Place {
            number: 0,
            text: "",
        },
    };
    for (number, text) in texts.iter().enumerate() {
        merging.at = Place { number, text };
        merging.add();
    }
    merging.finish(texts)
}

#[derive(Clone, Copy)]
struct Place<'a> {
    number: usize,
    text: &'a str,
}

impl Place<'_> {
    /// A fault where `name` first stands as a word.
    fn fault(self, name: &str, message: String) -> SchemaFault {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let mut starts = self.text.match_indices(name).filter(|(at, _)| {
            let before = self.text.get(..*at).and_then(|t| t.chars().next_back());
            let after = self
                .text
                .get(at + name.len()..)
                .and_then(|t| t.chars().next());
            !before.is_some_and(word) && !after.is_some_and(word)
        });
        let at = starts.next().map_or(0, |(at, _)| at);
        self.fault_at(at, message)
    }

    fn fault_at(self, offset: usize, message: String) -> SchemaFault {
        let before = self.text.bytes().take(offset);
        SchemaFault {
            text: self.number,
            line: 1 + before.filter(|byte| *byte == b'\n').count(),
            message,
            help: None,
        }
    }
}

struct Merging<'a> {
    built_in: BTreeSet<String>,
    common: BTreeSet<String>,
    json: Value,
    types: BTreeMap<String, AddedType>,
    faults: Vec<SchemaFault>,
    at: Place<'a>,
}

impl Merging<'_> {
    fn refuse(&mut self, name: &str, message: String, help: &str) {
        let mut fault = self.at.fault(name, message);
        fault.help = (!help.is_empty()).then(|| help.to_owned());
        self.faults.push(fault);
    }

    fn add(&mut self) {
        let text = self.at.text;
        if text.len() > MAX_SCHEMA_BYTES {
            let message = format!("a schema text is at most {MAX_SCHEMA_BYTES} bytes long");
            return self.refuse("", message, "");
        }
        if let Some(offset) = too_deep(text) {
            let message = format!("types are nested more than {MAX_TYPE_NESTING} deep");
            self.faults.push(self.at.fault_at(offset, message));
            return;
        }
        let fragment = match SchemaFragment::from_cedarschema_str(text) {
            Ok((fragment, _)) => fragment.to_json_value(),
            Err(error) => return self.unreadable(&error),
        };
        let Ok(Value::Object(spaces)) = fragment else {
            return self.refuse("", "the schema text cannot be read".to_owned(), "");
        };
        for (space, mut content) in spaces {
            if !space.is_empty() {
                let help = "declare the types outside of it";
                self.refuse(
                    &space,
                    format!("namespace {space} cannot be declared here"),
                    help,
                );
                continue;
            }
            for action in members(&mut content, "actions").keys() {
                let help = "what can be asked for is fixed: the HTTP methods and connect";
                self.refuse(
                    action,
                    format!("action {action:?} cannot be declared here"),
                    help,
                );
            }
            for (name, declared) in members(&mut content, "commonTypes") {
                self.common_type(&name, declared);
            }
            for (name, declared) in members(&mut content, "entityTypes") {
                match self.built_in.contains(&name) {
                    true => self.more_of(&name, declared),
                    false => self.new_type(&name, declared),
                }
            }
        }
    }

    fn unreadable(&mut self, error: &CedarSchemaError) {
        let detailed = DetailedError::from(error);
        let label = detailed.source_locations.first();
        let mut fault = self
            .at
            .fault_at(label.map_or(0, |l| l.loc.start), detailed.message.clone());
        fault.help = detailed
            .help
            .clone()
            .or_else(|| label.and_then(|l| l.label.clone()));
        self.faults.push(fault);
    }

    fn common_type(&mut self, name: &str, declared: Value) {
        let taken = self.common.contains(name) || self.built_in.contains(name);
        if taken || self.types.contains_key(name) {
            return self.refuse(
                name,
                format!("there is a type {name} already"),
                "choose another name",
            );
        }
        self.common.insert(name.to_owned());
        members_mut(&mut self.json, "commonTypes").insert(name.to_owned(), declared);
    }

    /// A type of the mesh's own.
    fn new_type(&mut self, name: &str, declared: Value) {
        if self.common.contains(name) || self.types.contains_key(name) {
            return self.refuse(
                name,
                format!("there is a type {name} already"),
                "choose another name",
            );
        }
        if self.types.len() >= MAX_ADDED_TYPES {
            let message = format!("a mesh adds at most {MAX_ADDED_TYPES} types");
            return self.refuse(name, message, "");
        }
        let added = self.annotated(name, &declared);
        self.parents(name, &declared);
        self.attributes(name, &declared);
        self.types.insert(name.to_owned(), added);
        members_mut(&mut self.json, "entityTypes").insert(name.to_owned(), declared);
    }

    /// More of a built-in type.
    fn more_of(&mut self, name: &str, mut declared: Value) {
        if name != USER && !EXTENSIBLE.contains(&name) {
            let help = format!("only {}, {USER} can be added to", EXTENSIBLE.join(", "));
            return self.refuse(name, format!("{name} is built in"), &help);
        }
        if let Some(annotation) = annotations(&declared).first() {
            let message = format!("@{} says nothing of a built-in type", annotation.0);
            return self.refuse(&annotation.0, message, "");
        }
        if declared.get("enum").is_some() || declared.get("tags").is_some() {
            let message = format!("{name} is built in: it has no other tags, and no list of ids");
            return self.refuse(name, message, "labels are its tags already");
        }
        self.parents(name, &declared);
        self.attributes(name, &declared);
        let attributes = members(&mut declared, "/shape/attributes");
        if name == USER && !attributes.is_empty() {
            let help = "what is known of an end user are the claims: context.user.getTag(\"…\")";
            return self.refuse(name, format!("{USER} has no other attributes"), help);
        }
        let parents = declared.get("memberOfTypes").and_then(Value::as_array);
        let parents = parents.cloned().unwrap_or_default();
        let built_in = members_mut(&mut self.json, "entityTypes");
        let built_in = object(built_in.entry(name.to_owned()).or_insert(Value::Null));
        let known = built_in
            .entry("memberOfTypes")
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(known) = known {
            let new: Vec<_> = parents.into_iter().filter(|p| !known.contains(p)).collect();
            known.extend(new);
        }
        if attributes.is_empty() {
            return;
        }
        let shape = object(built_in.entry("shape").or_insert(Value::Null));
        shape.insert("type".to_owned(), Value::from("Record"));
        let known = object(shape.entry("attributes").or_insert(Value::Null));
        let mut twice = Vec::new();
        for (attribute, declared) in attributes {
            match known.contains_key(&attribute) {
                true => twice.push(attribute),
                false => drop(known.insert(attribute, declared)),
            }
        }
        for attribute in twice {
            let message = format!("{name} has an attribute {attribute} already");
            self.refuse(&attribute, message, "choose another name");
        }
    }

    /// A type of the mesh's own stands above the built-in ones, never below.
    fn parents(&mut self, name: &str, declared: &Value) {
        let parents = declared.get("memberOfTypes").and_then(Value::as_array);
        for parent in parents.into_iter().flatten().filter_map(Value::as_str) {
            if self.built_in.contains(parent) {
                let help =
                    "a group is in groups of the mesh's own, and built-in types are in those";
                self.refuse(
                    name,
                    format!("{name} cannot be in {parent}, which is built in"),
                    help,
                );
            }
        }
    }

    fn attributes(&mut self, name: &str, declared: &Value) {
        let attributes = declared
            .pointer("/shape/attributes")
            .and_then(Value::as_object);
        let Some(attributes) = attributes else { return };
        if attributes.len() > MAX_TYPE_ATTRIBUTES {
            let message = format!("a type has at most {MAX_TYPE_ATTRIBUTES} attributes");
            self.refuse(name, message, "");
        }
        for (attribute, declared) in attributes {
            if declared.get("required") != Some(&Value::Bool(false)) {
                let help = format!("write {attribute}?: … and ask `has {attribute}` first");
                let message = format!(
                    "attribute {attribute} of {name} may be absent, where nothing is known of one"
                );
                self.refuse(attribute, message, &help);
            }
        }
    }

    fn annotated(&mut self, name: &str, declared: &Value) -> AddedType {
        let mut added = AddedType::default();
        let (mut claim, mut issuer) = (None, None);
        for (key, value) in annotations(declared) {
            match key.as_str() {
                "doc" => {}
                "label" if !value.is_empty() => added.label = Some(value),
                "claim" if !value.is_empty() => claim = Some(value),
                "issuer" if !value.is_empty() => issuer = Some(value),
                "label" | "claim" | "issuer" => {
                    self.refuse(&key, format!("@{key} needs a value"), "");
                }
                _ => {
                    let help = "known are @doc, @label, and @claim with @issuer";
                    self.refuse(&key, format!("unknown annotation @{key}"), help);
                }
            }
        }
        let from_labels = added.label.is_some();
        match (claim, issuer) {
            (Some(_), Some(_)) if from_labels => {
                let message = format!("{name} is filled either from a label or from a claim");
                self.refuse(name, message, "");
            }
            (Some(name), Some(issuer)) => added.claim = Some(Claim { issuer, name }),
            (Some(_), None) => {
                let help = "another issuer may be trusted one day, and say the same of others";
                self.refuse(name, format!("@claim on {name} needs an @issuer"), help);
            }
            (None, Some(_)) => {
                self.refuse(name, format!("@issuer on {name} needs a @claim"), "");
            }
            (None, None) => {}
        }
        added
    }

    /// What only shows when all texts are there.
    fn finish(mut self, texts: &[String]) -> Result<Extended, Vec<SchemaFault>> {
        let mut below: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (child, declared) in members_mut(&mut self.json, "entityTypes") {
            let parents = declared.get("memberOfTypes").and_then(Value::as_array);
            for parent in parents.into_iter().flatten().filter_map(Value::as_str) {
                below
                    .entry(parent.to_owned())
                    .or_default()
                    .push(child.clone());
            }
        }
        let mut wrong = Vec::new();
        for (name, added) in &mut self.types {
            let members = below.get(name).map_or(&[][..], Vec::as_slice);
            added.has_members = members.iter().any(|member| member != USER);
            let has = |kind: &str| members.iter().any(|member| member == kind);
            if added.claim.is_some() && !has(USER) {
                wrong.push((name, "@claim", format!("entity {USER} in [{name}];")));
            } else if added.claim.is_none() && has(USER) {
                wrong.push((
                    name,
                    "User",
                    format!("@claim(\"…\") @issuer(\"…\") entity {name};"),
                ));
            } else if added.label.is_some()
                && !["Workload", "Service", "Namespace"].into_iter().any(has)
            {
                wrong.push((name, "@label", format!("entity Workload in [{name}];")));
            }
        }
        for (name, what, missing) in wrong {
            let told = texts
                .iter()
                .enumerate()
                .map(|(number, text)| Place { number, text });
            let mut at = told.filter(|place| place.text.contains(name.as_str()));
            let place = at.next().unwrap_or(Place {
                number: 0,
                text: "",
            });
            let mut fault = place.fault(name, format!("{what}: nothing would be in {name}"));
            fault.help = Some(format!("write {missing}"));
            self.faults.push(fault);
        }
        match self.faults.is_empty() {
            true => Ok(Extended {
                json: self.json,
                types: self.types,
            }),
            false => Err(self.faults),
        }
    }
}

/// A fault that Cedar finds in all of it together, placed where a name that it tells stands.
pub(crate) fn of_all(texts: &[String], message: String) -> SchemaFault {
    let told: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let names = told.iter().flat_map(|name| name.split([',', ' ', '"']));
    let places = names.filter(|name| !name.is_empty()).flat_map(|name| {
        let texts = texts.iter().enumerate();
        let texts = texts.map(move |(number, text)| (Place { number, text }, name));
        texts.filter(|(place, name)| place.text.contains(name))
    });
    let place = places
        .map(|(place, name)| place.fault(name, message.clone()))
        .next();
    place.unwrap_or_else(|| {
        Place {
            number: 0,
            text: "",
        }
        .fault("", message.clone())
    })
}

/// Where brackets, of types with parameters too, are nested too deep for a parser that recurses.
fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '<' | '{' | '[' | '(' => depth += 1,
            '>' | '}' | ']' | ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        (depth > MAX_TYPE_NESTING).then_some(at)
    })
}

fn annotations(declared: &Value) -> Vec<(String, String)> {
    let all = declared.get("annotations").and_then(Value::as_object);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pairs = all.into_iter().flatten();
    pairs
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

/// The names of what is declared in a schema's own namespace.
fn names(schema: &Value, what: &str) -> BTreeSet<String> {
    let declared = schema.get("").and_then(|space| space.get(what));
    let declared = declared.and_then(Value::as_object);
    declared
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect()
}

/// Takes what is declared under a name, or a path.
fn members(content: &mut Value, what: &str) -> Map<String, Value> {
    let found = match what.starts_with('/') {
        true => content.pointer_mut(what),
        false => content.get_mut(what),
    };
    let found = found.map(Value::take);
    found
        .and_then(|found| serde_json::from_value(found).ok())
        .unwrap_or_default()
}

/// What is declared in a schema's own namespace.
fn members_mut<'v>(schema: &'v mut Value, what: &str) -> &'v mut Map<String, Value> {
    let space = object(object(schema).entry(String::new()).or_insert(Value::Null));
    object(space.entry(what.to_owned()).or_insert(Value::Null))
}

/// The value as an object; an empty one in the place of anything else.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)) => {
            *other = Value::Object(Map::new());
            object(other)
        }
    }
}

#[cfg(test)]
mod tests;
