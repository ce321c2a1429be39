//! What came before `security.istio.io`: `ServiceRole` and `ServiceRoleBinding` with `ClusterRbacConfig`, and `Policy` and
//! `MeshPolicy` (<https://istio.io/v1.4/docs/reference/config/authorization/istio.rbac.v1alpha1/>).

mod authentication;

use std::{collections::BTreeMap, sync::Arc};

use reeve_core::Namespace;
use serde_json::{Value, json};

use super::{Imported, Origin, access_policy, yaml::yaml};
use crate::{
    Code,
    authorization::{
        Action, Read, World,
        cedar::{Expr, Match, quoted},
        rule::{Reading, Rule},
        sources::Home,
        target::{Target, resource},
    },
    kinds::{
        AuthorizationFromSpec, AuthorizationPolicySpec, AuthorizationRuleSpec, AuthorizationToSpec,
        ConditionSpec, LegacyObjects, Object, OperationSpec, RbacConfigSpec, RoleBindingSpec,
        RoleRuleSpec, RoleSubjectSpec, ServiceRoleSpec, SourceSpec,
    },
    resolve::Notes,
    source::{Document, path::Path},
};

/// Whether it is of one of these kinds.
pub(super) fn is_legacy(document: &Document) -> bool {
    let version = document.api_version.as_deref();
    let group = version.and_then(|version| version.split('/').next());
    matches!(group, Some("rbac.istio.io" | "authentication.istio.io"))
}

/// Translates them.
pub(super) fn import(documents: &[Arc<Document>], world: World<'_>, imported: &mut Imported) {
    let (objects, faults) = LegacyObjects::read(documents);
    imported.faults.extend(faults);
    for binding in &objects.bindings {
        bind(binding, &objects.roles, world, imported);
    }
    let named = objects.roles.iter().filter(|role| !role.name.is_empty());
    for role in named {
        let bound = |b: &Object<RoleBindingSpec>| {
            b.namespace == role.namespace && name_of(b) == Some(role.name.as_str())
        };
        let text = match objects.bindings.iter().any(bound) {
            true => "# Its rules stand where it is bound.\n",
            false => "# Nobody is bound to it: it permits nothing.\n",
        };
        let of = origin(role);
        let text = format!("{}{text}", of.comment());
        imported.objects.push(of.imported(text));
    }
    for config in &objects.configs {
        let of = origin(config);
        let mut notes = Notes {
            object: config,
            faults: &mut imported.faults,
        };
        let Some(states) = states(&mut notes) else {
            continue;
        };
        let whole = json!({
            "apiVersion": "reeve.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "mesh"},
            "spec": {"authorization": states},
        });
        let note = "# Merge it into the mesh's MeshConfig.\n";
        let text = format!("{}{note}{}", of.comment(), yaml(&whole));
        imported.objects.push(of.imported(text));
    }
    for policy in &objects.policies {
        authentication::import(policy, world, imported);
    }
}

fn origin<S>(object: &Object<S>) -> Origin<'_> {
    Origin {
        document: &object.document,
        namespace: &object.namespace,
        name: &object.name,
    }
}

fn name_of(binding: &Object<RoleBindingSpec>) -> Option<&str> {
    binding
        .spec
        .role_ref
        .as_ref()
        .map(|role| role.name.as_str())
}

/// A binding with its role's rules: a permit for each subject and rule.
fn bind(
    binding: &Object<RoleBindingSpec>,
    roles: &[Object<ServiceRoleSpec>],
    world: World<'_>,
    imported: &mut Imported,
) {
    let before = imported.faults.len();
    let mut notes = Notes {
        object: binding,
        faults: &mut imported.faults,
    };
    let role = roles
        .iter()
        .find(|r| r.namespace == binding.namespace && name_of(binding) == Some(r.name.as_str()));
    if role.is_none() {
        let path = Path::of(&["spec", "roleRef"]);
        let text = "there is no such ServiceRole in its namespace";
        notes.error(&path, Code::UnknownReference, text);
    }
    let dry = match binding.spec.mode.as_deref() {
        None | Some("ENFORCED") => false,
        Some("PERMISSIVE") => true,
        Some(other) => {
            let text = format!("{other:?} is no mode");
            notes.error(&Path::of(&["spec", "mode"]), Code::Invalid, text);
            false
        }
    };
    let Some(role) = role else { return };
    let made = Object {
        document: Arc::clone(&binding.document),
        namespace: binding.namespace.clone(),
        name: binding.name.clone(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        spec: AuthorizationPolicySpec::default(),
    };
    let policies = permits((binding, role), (&made, dry), world, imported);
    if imported.faults.len() > before {
        return;
    }
    let of = origin(binding);
    let role = format!(
        "{}# With the rules of ServiceRole {}/{}.\n",
        of.comment(),
        role.namespace,
        role.name
    );
    let text = match policies.is_empty() {
        true => format!("{role}# It permits nothing.\n"),
        false => {
            let policy = access_policy(&of, &binding.namespace, &policies.join("\n\n"));
            policy.replacen(&of.comment(), &role, 1)
        }
    };
    imported.objects.push(of.imported(text));
}

/// The policies of a role's rules for a binding's subjects.
fn permits(
    (binding, role): (&Object<RoleBindingSpec>, &Object<ServiceRoleSpec>),
    (made, dry): (&Object<AuthorizationPolicySpec>, bool),
    world: World<'_>,
    imported: &mut Imported,
) -> Vec<String> {
    let reading = Reading {
        asks: false,
        home: Home {
            domain: world.trust_domain,
            namespace: &binding.namespace,
        },
        denies: false,
    };
    let mut policies = Vec::new();
    for (n, rule) in role.spec.rules.iter().enumerate() {
        let mut notes = Notes {
            object: role,
            faults: &mut imported.faults,
        };
        let path = Path::of(&["spec", "rules"]).index(n);
        let Some(target) = target(&mut notes, &path, rule, world) else {
            continue;
        };
        let read = Read {
            number: 0,
            object: made,
            action: Action::Allow,
            dry,
            target,
        };
        for (m, subject) in binding.spec.subjects.iter().enumerate() {
            let mut notes = Notes {
                object: made,
                faults: &mut imported.faults,
            };
            let path = Path::of(&["spec", "subjects"]).index(m);
            let rule = Rule::read(&mut notes, reading, &path, &together(subject, rule));
            let name = format!("rule-{}-subject-{}", n + 1, m + 1);
            policies.extend(read.policies(&rule, &name));
        }
    }
    policies
}

/// Where a role's rule holds.
fn target(
    notes: &mut Notes<'_, ServiceRoleSpec>,
    path: &Path,
    rule: &RoleRuleSpec,
    world: World<'_>,
) -> Option<Target> {
    let namespace = &notes.object.namespace;
    let mut hosts: Vec<String> = Vec::new();
    for (n, value) in rule.services.iter().enumerate() {
        let known = |wanted: &dyn Fn(&str) -> bool| {
            let own = world
                .services
                .values()
                .filter(|s| s.namespace == *namespace);
            let hosts = own.map(|s| s.host.to_string()).filter(|host| wanted(host));
            hosts.collect::<Vec<_>>()
        };
        let found = match Match::of(value) {
            Match::Present => {
                return Some(everything(namespace));
            }
            Match::Exact(name) if name.contains('.') => vec![name.to_owned()],
            Match::Exact(name) => vec![format!("{name}.{namespace}.svc.cluster.local")],
            Match::Prefix(start) => known(&|host| host.starts_with(start)),
            Match::Suffix(end) => known(&|host| host.ends_with(end)),
        };
        if found.is_empty() {
            let text =
                format!("no service of namespace {namespace} that is known is called {value:?}");
            let hint = "name the folder with the mesh's services with -f";
            notes.hint(
                &path.key("services").index(n),
                Code::UnknownReference,
                text,
                hint,
            );
            return None;
        }
        hosts.extend(found);
    }
    let tests: Vec<String> = hosts
        .iter()
        .map(|host| format!("resource in Service::{}", quoted(host)))
        .collect();
    if tests.is_empty() {
        notes.error(path, Code::Missing, "the rule names no services");
        return None;
    }
    Some(Target {
        resource: resource(&tests),
        ..everything(namespace)
    })
}

fn everything(namespace: &Namespace) -> Target {
    Target {
        picks: Vec::new(),
        scope: Some(namespace.clone()),
        resource: Some(("resource".to_owned(), Expr::ALWAYS)),
    }
}

/// A subject and a role's rule as one rule of today's kind.
fn together(subject: &RoleSubjectSpec, rule: &RoleRuleSpec) -> AuthorizationRuleSpec {
    let mut source = SourceSpec::default();
    let mut when = Vec::new();
    let mut whole = |key: &str, value: &str| {
        when.push(ConditionSpec {
            key: key.to_owned(),
            values: vec![value.to_owned()],
            not_values: Vec::new(),
        })
    };
    // `*` is everybody, whether they have proved anything or not.
    match subject.user.as_deref() {
        None | Some("*") => {}
        Some(user) => source.principals.push(user.to_owned()),
    }
    if let Some(group) = &subject.group {
        whole("request.auth.claims[groups]", group);
    }
    for (key, value) in &subject.properties {
        whole(key, value);
    }
    when.extend(rule.constraints.iter().map(|constraint| ConditionSpec {
        key: constraint.key.clone(),
        values: constraint.values.clone(),
        not_values: Vec::new(),
    }));
    let some = |values: &[String]| match values.iter().any(|value| value == "*") {
        true => Vec::new(),
        false => values.to_vec(),
    };
    let operation = OperationSpec {
        methods: some(&rule.methods),
        paths: some(&rule.paths),
        ..OperationSpec::default()
    };
    AuthorizationRuleSpec {
        from: Some(vec![AuthorizationFromSpec {
            source: Some(source),
        }]),
        to: Some(vec![AuthorizationToSpec {
            operation: Some(operation),
        }]),
        when,
    }
}

/// Which services are enforced.
fn states(notes: &mut Notes<'_, RbacConfigSpec>) -> Option<Value> {
    let spec = &notes.object.spec;
    let listed = |names: &[String], state: &str| {
        let pairs = names.iter().map(|name| (name.clone(), Value::from(state)));
        Value::Object(pairs.collect())
    };
    let enforced = match spec.enforcement_mode.as_deref() {
        Some("PERMISSIVE") => "shadow",
        _ => "enforced",
    };
    Some(match spec.mode.as_deref() {
        None | Some("OFF") => json!({"state": "open"}),
        Some("ON") => json!({"state": enforced}),
        Some("ON_WITH_INCLUSION") => json!({
            "state": "open",
            "namespaces": listed(&spec.inclusion.namespaces, enforced),
            "services": listed(&spec.inclusion.services, enforced),
        }),
        Some("ON_WITH_EXCLUSION") => json!({
            "state": enforced,
            "namespaces": listed(&spec.exclusion.namespaces, "open"),
            "services": listed(&spec.exclusion.services, "open"),
        }),
        Some(other) => {
            let text = format!("{other:?} is no mode");
            notes.error(&Path::of(&["spec", "mode"]), Code::Invalid, text);
            return None;
        }
    })
}
