//! Files of decision cases: the format of `policies/cases`, in YAML or JSON.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use reeve_authz::PolicySchema;
use reeve_control::Mesh;
use reeve_core::{
    Clock as _, Namespace, PolicyId, SystemClock,
    decision::{AccessRequest, Decision, Effect, Reason},
    model::{PolicySlice, PolicySource},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::super::{explain, files::is_yaml};
use crate::{input, problem::Problem};

/// One file.
#[derive(Debug)]
pub(super) struct CaseFile {
    /// The policies to try, if they are not a mesh's.
    pub(super) documents: Vec<PolicyDocument>,
    /// What every case's request begins with.
    request: Value,
    pub(super) cases: Vec<Case>,
}

/// A file whose cases are not read yet, so that a fault can be told with its case.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawFile {
    documents: Vec<PolicyDocument>,
    request: Value,
    cases: Vec<Value>,
}

/// An `AccessPolicy` to try.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PolicyDocument {
    object: String,
    scope: Option<String>,
    file: Option<String>,
    text: Option<String>,
}

/// One case.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    /// Merged into the request.
    pub(super) change: Value,
    pub(super) expect: Expected,
    /// The same, changed once more; one of them must come out the other way.
    pub(super) twins: Vec<Twin>,
}

/// A case changed once more.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Twin {
    pub(super) change: Value,
    pub(super) expect: Expected,
}

/// What must be answered; what is not said is not looked at.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Expected {
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Effect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    /// The policies that determine it, in any order.
    #[serde(skip_serializing_if = "Option::is_none")]
    policies: Option<Vec<PolicyId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<Box<Self>>,
}

impl CaseFile {
    /// Reads the documents of a file as one.
    pub(super) fn read(path: &Path) -> Result<Self, Problem> {
        // Told apart here: what is not there is no fault of its text.
        input::text(path)?;
        let read = reeve_control::read_documents::<Value>(path).map_err(|faults| {
            let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
            Problem::new(format!("the cases cannot be read\n{}", faults.join("\n")))
                .at(path.display())
        })?;
        let [file] = <[Value; 1]>::try_from(read).map_err(|read| {
            Problem::new(format!("{} YAML documents where one belongs", read.len()))
                .at(path.display())
        })?;
        let raw: RawFile = typed(file, path.display())?;
        let cases = raw.cases.into_iter().enumerate().map(|(number, case)| {
            let name = case.get("name").and_then(Value::as_str);
            let name = name.map_or_else(|| format!("case {}", number + 1), str::to_owned);
            typed(case, format_args!("{}: {name}", path.display()))
        });
        let file = Self {
            documents: raw.documents,
            request: raw.request,
            cases: cases.collect::<Result<_, _>>()?,
        };
        file.check(path)?;
        Ok(file)
    }

    fn check(&self, path: &Path) -> Result<(), Problem> {
        for case in &self.cases {
            let twins = case.twins.iter().map(|twin| &twin.expect);
            if case.name.trim().is_empty() {
                return Err(Problem::new("a case has no name").at(path.display()));
            }
            if twins.chain([&case.expect]).any(Expected::says_nothing) {
                return Err(Problem::new("a case expects nothing")
                    .at(format!("{}: {}", path.display(), case.name))
                    .fix("say expect: {decision: allow} or deny, and which policies: […] decide"));
            }
        }
        Ok(())
    }

    /// The policies of `documents`, of a mesh whose root namespace is `root`; with `mesh`, against its schema and entities.
    pub(super) fn policies(
        &self,
        path: &Path,
        root: &Namespace,
        mesh: Option<&Mesh>,
    ) -> Result<PolicySlice, Problem> {
        let schema = mesh.map(Mesh::schema).unwrap_or_default();
        let mut policies = Vec::new();
        for document in &self.documents {
            if let Some(file) = document.file.as_deref().filter(|f| is_yaml(Path::new(f))) {
                policies.extend(document.of_yaml(&schema, &place_of(path, file), root)?);
                continue;
            }
            let wrong = |what: String| {
                Problem::new(what).at(format!("{}: {}", path.display(), document.object))
            };
            let text = match (&document.file, &document.text) {
                (Some(file), None) => beside(path, file)?,
                (None, Some(text)) => text.clone(),
                _ => return Err(wrong("a document has either file or text".to_owned())),
            };
            let scope = document.scope.as_deref().map(Namespace::parse);
            let scope = scope.transpose().map_err(|e| wrong(e.to_string()))?;
            let home = scope.clone().unwrap_or_else(|| root.clone());
            let parsed = schema.parse_access_policy(scope.as_ref(), &home, &document.object, &text);
            policies.extend(parsed.map_err(|faults| {
                let told = |f: &reeve_authz::PolicyFault| {
                    format!("{}:{}: {}: {}", f.line, f.column, f.policy, f.message)
                };
                wrong(faults.iter().map(told).collect::<Vec<_>>().join("\n")).into_answer()
            })?);
        }
        match mesh {
            Some(mesh) => mesh.slice_of(policies).map_err(|faults| {
                let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
                Problem::new(told.join("\n"))
                    .at(path.display())
                    .into_answer()
            }),
            None => Ok(PolicySlice {
                mesh_hash: reeve_authz::mesh_hash(&policies),
                policies,
                ..PolicySlice::default()
            }),
        }
    }

    /// The request with `changes` merged into it.
    pub(super) fn request<'a>(&self, changes: impl Iterator<Item = &'a Value>) -> Value {
        let mut request = match self.request.is_null() {
            true => Value::Object(Map::new()),
            false => self.request.clone(),
        };
        changes
            .filter(|change| !change.is_null())
            .for_each(|change| merge(&mut request, change));
        request
    }
}

fn typed<T: DeserializeOwned>(value: Value, place: impl fmt::Display) -> Result<T, Problem> {
    serde_json::from_value(value)
        .map_err(|error| Problem::because("the cases cannot be read", &error).at(place))
}

impl PolicyDocument {
    /// Every `AccessPolicy` of a YAML file.
    fn of_yaml(
        &self,
        schema: &PolicySchema,
        file: &Path,
        root: &Namespace,
    ) -> Result<Vec<PolicySource>, Problem> {
        let wrong = |what: String| Problem::new(what).at(file.display()).into_answer();
        if self.text.is_some() || self.scope.is_some() || !self.object.is_empty() {
            return Err(wrong(
                "a document of YAML has no object, scope or text: its AccessPolicies say them"
                    .to_owned(),
            ));
        }
        input::text(file)?;
        let told = |faults: Vec<String>| wrong(faults.join("\n"));
        let documents = reeve_control::policy_documents(file)
            .map_err(|faults| told(faults.iter().map(ToString::to_string).collect()))?;
        let mut policies = Vec::new();
        for document in &documents {
            let home = Namespace::parse(&document.namespace).map_err(|e| wrong(e.to_string()))?;
            let scope = (home != *root).then_some(&home);
            let (name, cedar) = (&document.name, &document.cedar);
            let parsed = schema.parse_access_policy(scope, &home, name, cedar);
            policies.extend(parsed.map_err(|faults| {
                let placed = faults.iter().map(|fault| {
                    let (line, column) = document.place(fault.line, fault.column);
                    format!("{line}:{column}: {}: {}", fault.policy, fault.message)
                });
                told(placed.collect())
            })?);
        }
        match policies.is_empty() {
            true => Err(wrong("there is no AccessPolicy here".to_owned())),
            false => Ok(policies),
        }
    }
}

/// The text of `file`, which stands relative to the file of cases or to the folder above it.
fn beside(path: &Path, file: &str) -> Result<String, Problem> {
    input::text(&place_of(path, file))
}

fn place_of(path: &Path, file: &str) -> PathBuf {
    let mut folders = path.ancestors().skip(1).take(2).map(|f| f.join(file));
    let found = folders.clone().find(|f| f.is_file());
    found.or_else(|| folders.next()).unwrap_or_default()
}

/// RFC 7396: objects are merged, null removes, all else replaces.
fn merge(target: &mut Value, change: &Value) {
    let Value::Object(changes) = change else {
        *target = change.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (name, value) in changes {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// A request with what was left out: see `policies/README.md`.
pub(super) fn complete(request: Value, mesh: Option<&Mesh>) -> Result<AccessRequest, Problem> {
    let Value::Object(mut request) = request else {
        return Err(Problem::new("the request is no mapping"));
    };
    if let Some(Value::String(id)) = request.get("principal")
        && id != "unauthenticated"
    {
        let workload = json!({ "workload": id });
        request.insert("principal".to_owned(), workload);
    }
    if let Some(Value::String(name)) = request.get("resource") {
        let mesh = mesh.ok_or_else(|| {
            Problem::new(format!("resource: {name} can only be looked up in a mesh"))
                .fix("name its folder with -f, or write resource: {workload, namespace, services}")
        })?;
        let found = serde_json::to_value(explain::resource(name, mesh)?);
        request.insert("resource".to_owned(), found.map_err(Problem::new)?);
    }
    let defaults = defaults(&request);
    let mut whole = defaults;
    merge(&mut whole, &Value::Object(request));
    // A field that is there, but is none of a request's, would be a mistake that makes no difference.
    let parsed: AccessRequest = serde_json::from_value(whole.clone())
        .map_err(|error| Problem::because("the request is incomplete or wrong", &error))?;
    let again = serde_json::to_value(&parsed).map_err(Problem::new)?;
    match unknown(&whole, &again) {
        None => Ok(parsed),
        Some(field) => Err(Problem::new(format!("a request has no {field}"))),
    }
}

fn defaults(request: &Map<String, Value>) -> Value {
    let known = request
        .get("principal")
        .is_some_and(|p| p.get("workload").is_some());
    let action = request
        .get("action")
        .and_then(Value::as_str)
        .unwrap_or("GET");
    let service = request
        .get("resource")
        .and_then(|r| r.pointer("/services/0"));
    let mut context = json!({
        "source_ip": "127.0.0.1",
        "port": 80,
        "mtls": known,
        "time": SystemClock.now(),
    });
    if action != "connect"
        && let Some(context) = context.as_object_mut()
    {
        let host = service.cloned().unwrap_or_else(|| json!(""));
        context.insert(
            "http".to_owned(),
            json!({"method": action, "host": host, "path": "/"}),
        );
    }
    json!({ "action": action, "context": context })
}

/// The first thing said in `given` that `read` does not have.
fn unknown(given: &Value, read: &Value) -> Option<String> {
    let (Value::Object(given), read) = (given, read) else {
        return None;
    };
    given.iter().find_map(|(name, value)| {
        let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        match read.get(name) {
            None if empty => None,
            None => Some(name.clone()),
            Some(read) => unknown(value, read).map(|field| format!("{name}.{field}")),
        }
    })
}

impl Expected {
    fn says_nothing(&self) -> bool {
        self.decision.is_none() && self.reason.is_none()
    }

    /// Whether `decision` is what is expected.
    pub(super) fn is_met(&self, decision: &Decision) -> bool {
        let policies = self.policies.as_ref().is_none_or(|expected| {
            let mut expected = expected.clone();
            expected.sort();
            expected == decision.policies
        });
        let shadow = match (&self.shadow, &decision.shadow) {
            (Some(expected), Some(shadow)) => expected.is_met(shadow),
            (Some(_), None) => false,
            (None, _) => true,
        };
        policies
            && shadow
            && self.decision.is_none_or(|effect| effect == decision.effect)
            && self.reason.is_none_or(|reason| reason == decision.reason)
    }

    /// The policies that are expected to decide.
    pub(super) fn policies(&self) -> &[PolicyId] {
        self.policies.as_deref().unwrap_or_default()
    }

    /// Whether an "allow" is expected.
    pub(super) fn allows(&self) -> bool {
        self.decision == Some(Effect::Allow) || self.reason == Some(Reason::Permitted)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = self.decision.map(super::report::effect_word);
        let reason = self.reason.map(Reason::as_str);
        let mut words: Vec<_> = decision
            .into_iter()
            .chain(reason)
            .map(str::to_owned)
            .collect();
        words.extend(self.policies.iter().flatten().map(ToString::to_string));
        f.write_str(&words.join(" "))?;
        match &self.shadow {
            Some(shadow) => write!(f, ", in shadow {shadow}"),
            None => Ok(()),
        }
    }
}
