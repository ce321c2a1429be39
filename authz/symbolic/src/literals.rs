//! What policies name: entities, paths, parts of paths.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What the policies of a question name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Literals {
    /// Entity type → ids.
    entities: BTreeMap<String, BTreeSet<String>>,
    /// What `context.path` is compared with.
    pub(crate) paths: BTreeSet<String>,
    /// What patterns on `context.path` begin with, and whether nothing but a star follows.
    pub(crate) path_patterns: BTreeSet<(String, bool)>,
    /// The number of a part of the path → what it is compared with.
    pub(crate) segments: BTreeMap<usize, BTreeSet<String>>,
    /// The attributes of the context that are looked at.
    pub(crate) attributes: BTreeSet<String>,
}

impl Literals {
    /// Adds what a policy in Cedar's JSON form names.
    pub(crate) fn read(&mut self, json: &Value) {
        match json {
            Value::Array(members) => members.iter().for_each(|member| self.read(member)),
            Value::Object(members) => {
                if let (Some(kind), Some(id)) = (text(json, "type"), text(json, "id")) {
                    self.add(kind, id);
                }
                for (key, member) in members {
                    self.read_operator(key, member);
                    self.read(member);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Adds an entity.
    pub(crate) fn add(&mut self, kind: &str, id: &str) {
        let ids = self.entities.entry(kind.to_owned()).or_default();
        ids.insert(id.to_owned());
    }

    /// The ids of one type that are named.
    pub(crate) fn of(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.entities
            .get(kind)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// Whether the parts of the path are looked at as well as the path.
    pub(crate) fn both_forms_of_path(&self) -> bool {
        self.attributes.contains("path") && self.attributes.contains("path_segments")
    }

    fn read_operator(&mut self, operator: &str, operands: &Value) {
        let side = |name| operands.get(name).unwrap_or(&Value::Null);
        match operator {
            "." | "has" => {
                if *side("left") == serde_json::json!({"Var": "context"})
                    && let Some(attribute) = text(operands, "attr")
                {
                    self.attributes.insert(attribute.to_owned());
                }
            }
            "==" => {
                self.compared(side("left"), side("right"));
                self.compared(side("right"), side("left"));
            }
            "contains" => {
                let members = side("left").get("Set").and_then(Value::as_array);
                for member in members.into_iter().flatten() {
                    self.compared(side("right"), member);
                }
            }
            "like" if is_path(side("left")) => {
                let parts = side("pattern").as_array().map(Vec::as_slice);
                let parts = parts.unwrap_or_default();
                let first = parts.first().and_then(|part| text(part, "Literal"));
                let only = matches!(parts, [_, Value::String(star)] if star == "Wildcard");
                if let Some(first) = first {
                    self.path_patterns.insert((first.to_owned(), only));
                }
            }
            _ => {}
        }
    }

    fn compared(&mut self, what: &Value, with: &Value) {
        let Some(with) = text(with, "Value") else {
            return;
        };
        if is_path(what) {
            self.paths.insert(with.to_owned());
        } else if let Some(number) = segment_number(what) {
            let known = self.segments.entry(number).or_default();
            known.insert(with.to_owned());
        }
    }
}

fn text<'a>(json: &'a Value, key: &str) -> Option<&'a str> {
    json.get(key)?.as_str()
}

fn is_path(json: &Value) -> bool {
    attribute(json)
        .is_some_and(|(of, name)| *of == serde_json::json!({"Var": "context"}) && name == "path")
}

/// `context.path_segments.s3` is 3.
fn segment_number(json: &Value) -> Option<usize> {
    let (of, name) = attribute(json)?;
    let (_, of) = attribute(of)?;
    let number = name.strip_prefix('s').filter(|_| of == "path_segments")?;
    number.parse().ok()
}

fn attribute(json: &Value) -> Option<(&Value, &str)> {
    let access = json.get(".")?;
    Some((access.get("left")?, text(access, "attr")?))
}
