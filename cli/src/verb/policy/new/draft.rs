//! A policy and its cases before they are written.

use std::path::Path;

use reeve_authz::{PolicySchema, format_policies};
use reeve_core::{Namespace, PolicyId};
use serde_json::{Map, Value, json};

use crate::problem::Problem;

/// One `AccessPolicy` with one policy, and cases for it.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) namespace: Namespace,
    /// The Cedar text, laid out anyhow.
    pub(super) cedar: String,
    /// Whether everything else is permitted while the cases run: a forbid alone permits nothing.
    pub(super) on_open_ground: bool,
    /// What every case's request begins with.
    pub(super) request: Value,
    pub(super) cases: Vec<Case>,
}

/// One case: the request changed, and what must come out.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) change: Value,
    pub(super) allowed: bool,
    /// Changes after which it must come out the other way.
    pub(super) twins: Vec<Value>,
}

/// How a policy is written, and what it is held to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form<'a> {
    pub(super) schema: &'a PolicySchema,
    pub(super) width: usize,
    /// The policy of a break-glass grant is bare Cedar text: it is signed, and no object of a mesh.
    pub(super) grant: bool,
}

/// The companion of a forbid under test.
const OPEN_GROUND: &str = "permit (principal, action, resource);";

impl Draft {
    /// The YAML of the `AccessPolicy`, or the text of a grant's policy.
    pub(super) fn policy(&self, form: Form<'_>) -> Result<String, Problem> {
        let text = self.formatted(form)?;
        if form.grant {
            return Ok(format!("{}\n", text.trim_end()));
        }
        let lines: Vec<_> = text
            .trim_end()
            .lines()
            .map(|l| format!("    {l}"))
            .collect();
        Ok(format!(
            "apiVersion: reeve.dev/v1alpha1\nkind: AccessPolicy\nmetadata:\n  name: {}\n  namespace: {}\n\
             spec:\n  cedar: |\n{}\n",
            self.name,
            self.namespace,
            lines.join("\n")
        ))
    }

    /// The Cedar text in Cedar's layout, if it is valid: a fault is one of the parameters.
    fn formatted(&self, form: Form<'_>) -> Result<String, Problem> {
        let wrong = |faults: Vec<reeve_authz::PolicyFault>| {
            let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
            Problem::new(format!(
                "the parameters make no valid policy\n{}",
                told.join("\n")
            ))
            .into_answer()
        };
        let id =
            PolicyId::parse(&format!("{}/{}", self.namespace, self.name)).map_err(|error| {
                Problem::because("the policy has no usable name", &error).into_answer()
            })?;
        let text = format_policies(&id, &self.cedar, form.width).map_err(wrong)?;
        // Whose resources it decides makes no difference to whether it is valid.
        let parsed = form
            .schema
            .parse_access_policy(None, &self.namespace, &self.name, &text);
        parsed.map_err(wrong)?;
        Ok(text)
    }

    /// The YAML of the cases; they try the policy in `file`, or their own copy of it.
    /// In the namespace `root`, a policy decides for the whole mesh.
    pub(super) fn cases(
        &self,
        file: Option<&Path>,
        root: &Namespace,
        form: Form<'_>,
    ) -> Result<String, Problem> {
        let scope = match self.namespace == *root {
            true => String::new(),
            false => format!("    scope: {}\n", self.namespace),
        };
        let mut out = format!(
            "# What the policy {}/{} must answer: reeve policy test FILE\ndocuments:\n",
            self.namespace, self.name
        );
        match file.filter(|_| !form.grant) {
            Some(file) => {
                let file = Value::String(file.display().to_string());
                out.push_str(&format!("  - {{ file: {} }}\n", flow(&file)));
            }
            None => {
                let text = self.formatted(form)?;
                let lines: Vec<_> = text
                    .trim_end()
                    .lines()
                    .map(|l| format!("      {l}"))
                    .collect();
                out.push_str(&format!(
                    "  - object: {}\n{scope}    text: |\n{}\n",
                    self.name,
                    lines.join("\n")
                ));
            }
        }
        if self.on_open_ground {
            out.push_str(
                "  # A forbid permits nothing by itself: here everything else is permitted.\n",
            );
            out.push_str(&format!(
                "  - object: open-ground\n{scope}    text: {OPEN_GROUND:?}\n"
            ));
        }
        out.push_str("request:\n");
        for (name, value) in self.request.as_object().into_iter().flatten() {
            out.push_str(&format!("  {name}: {}\n", flow(value)));
        }
        out.push_str("cases:\n");
        for case in &self.cases {
            out.push_str(&self.case(case));
        }
        Ok(out)
    }

    fn case(&self, case: &Case) -> String {
        let mut out = format!("  - name: {}\n", flow(&json!(case.name)));
        if case.change != json!({}) {
            out.push_str(&format!("    change: {}\n", flow(&case.change)));
        }
        out.push_str(&format!(
            "    expect: {}\n",
            flow(&self.expected(case.allowed))
        ));
        if !case.twins.is_empty() {
            out.push_str("    twins:\n");
        }
        for twin in &case.twins {
            let expect = self.expected(!case.allowed);
            out.push_str(&format!(
                "      - {{ change: {}, expect: {} }}\n",
                flow(twin),
                flow(&expect)
            ));
        }
        out
    }

    fn expected(&self, allowed: bool) -> Value {
        let own = format!("{}/{}", self.namespace, self.name);
        match (allowed, self.on_open_ground) {
            (true, false) => json!({"decision": "allow", "policies": [own]}),
            (true, true) => json!({"decision": "allow"}),
            (false, false) => json!({"decision": "deny", "reason": "no_permit"}),
            (false, true) => json!({"decision": "deny", "policies": [own]}),
        }
    }
}

/// A value in YAML's flow style, quoted where it has to be.
fn flow(value: &Value) -> String {
    match value {
        Value::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Object(entries) => format!("{{ {} }}", fields(entries)),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Value::String(text) if is_plain(text) => text.clone(),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn fields(entries: &Map<String, Value>) -> String {
    let fields: Vec<_> = entries
        .iter()
        .map(|(name, value)| format!("{}: {}", flow(&json!(name)), flow(value)))
        .collect();
    fields.join(", ")
}

/// Whether YAML reads it as that text when it stands bare, within flow collections too.
fn is_plain(text: &str) -> bool {
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let rest = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/._- ".contains(c));
    let word = !matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    let spiffe = text.strip_prefix("spiffe://").is_some_and(is_plain);
    spiffe || first && rest && word && !text.ends_with(' ')
}
