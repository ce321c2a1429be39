//! Istio's `AuthorizationPolicy`, translated into Cedar that a person could have written.
//!
//! Flow: [`target`] says which services and workloads an object holds for, [`rule`] turns each of its rules into a head and
//! a condition, and [`translate`] writes the policies: a permit or a forbid for each rule, a forbid of connections where a
//! `DENY` rule looks at HTTP, and, where Istio would let pass what no `DENY` matches, a permit that says so.
//!
//! Invariants:
//! - What cannot be translated is refused by name, at its place.
//! - Where Cedar cannot say exactly what Istio would match, what allows is narrower and what denies is wider.
//!
//! <https://istio.io/latest/docs/reference/config/security/authorization-policy/>

mod cedar;
mod import;
mod impossible;
mod paths;
mod rule;
mod sources;
mod target;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use reeve_core::{Namespace, ServiceName, TrustDomain};

use self::{
    cedar::{Expr, quoted},
    rule::{Judgement, Reading, Rule},
    sources::Home,
    target::Target,
};
use crate::{
    Code, Fault, LocalWorkload, Service,
    kinds::{
        AccessPolicySpec, AccessRoleBindingSpec, AuthorizationPolicySpec, KubernetesGatewaySpec,
        Object, ServiceEntrySpec,
    },
    mesh::Scope,
    resolve::Notes,
    source::path::Path,
};

/// What translating needs to know of the mesh.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World<'a> {
    pub(crate) trust_domain: &'a TrustDomain,
    pub(crate) root: &'a Namespace,
    pub(crate) services: &'a BTreeMap<ServiceName, Arc<Service>>,
    pub(crate) workloads: &'a [LocalWorkload],
    /// Policies in Cedar count as `ALLOW` policies where they hold.
    pub(crate) access: &'a [Object<AccessPolicySpec>],
    /// So do roles that are bound.
    pub(crate) bindings: &'a [Object<AccessRoleBindingSpec>],
    /// Services outside the mesh, which may be targets.
    pub(crate) entries: &'a [Object<ServiceEntrySpec>],
    /// The mesh's `Gateway`s of the Gateway API.
    pub(crate) gateways: &'a [Object<KubernetesGatewaySpec>],
    /// Whether labels that pick nothing known may be taken for a service's: `app: x` for the service `x`.
    pub(crate) assume: bool,
}

pub use import::{Imported, ImportedObject, import};
pub(crate) use target::selections;

/// An object in Cedar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Translated {
    /// Which of the objects.
    pub(crate) object: usize,
    /// Its policies; empty where nothing needs to be said, as for an `ALLOW` that allows nothing.
    pub(crate) cedar: String,
    /// Which requests a provider is asked about, if it is for that.
    pub(crate) asks: Option<Asks>,
}

/// An object with action `CUSTOM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asks {
    /// Who is asked.
    pub(crate) provider: String,
    /// A forbid for each rule.
    pub(crate) cedar: String,
    /// The workloads that it is for.
    pub(crate) picks: Vec<Scope>,
}

/// What an object does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Deny,
    Audit,
    Custom,
}

/// An object that is read, and where it holds.
struct Read<'a> {
    number: usize,
    object: &'a Object<AuthorizationPolicySpec>,
    action: Action,
    dry: bool,
    target: Target,
}

/// Translates every object.
pub(crate) fn translate(
    objects: &[Object<AuthorizationPolicySpec>],
    world: World<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<Translated> {
    let mut read = Vec::new();
    for (number, object) in objects.iter().enumerate() {
        let mut notes = Notes { object, faults };
        let Some(action) = action(&mut notes) else {
            continue;
        };
        let dry = dry_run(&mut notes);
        foreign_root(&mut notes, world);
        if let Some(target) = target::of(&mut notes, world) {
            read.push(Read {
                number,
                object,
                action,
                dry,
                target,
            });
        }
    }
    let allowing: Vec<&Read<'_>> = read
        .iter()
        .filter(|r| r.action == Action::Allow && !r.dry)
        .collect();
    let mut told = BTreeSet::new();
    read.iter()
        .map(|one| {
            let mut notes = Notes {
                object: one.object,
                faults,
            };
            let (cedar, asked) = one.cedar(&mut notes, world, &allowing, &mut told);
            let provider = one.object.spec.provider.as_ref();
            let provider = provider.filter(|_| one.action == Action::Custom);
            Translated {
                object: one.number,
                cedar,
                asks: provider.map(|provider| Asks {
                    provider: provider.name.clone(),
                    cedar: asked,
                    picks: one.target.picks.clone(),
                }),
            }
        })
        .collect()
}

fn action(notes: &mut Notes<'_, AuthorizationPolicySpec>) -> Option<Action> {
    let spec = &notes.object.spec;
    let path = Path::of(&["spec", "action"]);
    let action = match spec.action.as_deref() {
        None | Some("ALLOW") => Action::Allow,
        Some("DENY") => Action::Deny,
        Some("AUDIT") => Action::Audit,
        Some("CUSTOM") => Action::Custom,
        Some(other) => {
            let text = format!("{other:?} is no action");
            let hint = "use ALLOW, DENY, AUDIT or CUSTOM";
            notes.hint(&path, Code::Invalid, text, hint);
            return None;
        }
    };
    let provider = spec.provider.as_ref().map(|p| p.name.as_str());
    if action == Action::Custom && provider.is_none_or(str::is_empty) {
        let text = "CUSTOM names no provider";
        let hint = "name one of MeshConfig.spec.extensionProviders";
        let path = Path::of(&["spec", "provider", "name"]);
        notes.hint(&path, Code::Missing, text, hint);
    }
    if action != Action::Custom && provider.is_some() {
        let path = Path::of(&["spec", "provider"]);
        notes.error(&path, Code::Invalid, "a provider belongs to action CUSTOM");
    }
    if action != Action::Allow && spec.rules.is_empty() {
        let text = "without rules it never matches anything";
        notes.hint(
            &path,
            Code::Missing,
            text,
            "write rules: [{}] to match everything",
        );
    }
    if action == Action::Audit {
        let text = "every decision is recorded already: this changes nothing";
        notes.warn(
            &path,
            Code::Unreachable,
            text,
            "remove it; `reeve audit query` finds what it names",
        );
    }
    Some(action)
}

/// SECURITY: who means the whole mesh must not get one namespace alone.
fn foreign_root(notes: &mut Notes<'_, AuthorizationPolicySpec>, world: World<'_>) {
    let namespace = &notes.object.namespace;
    let lives = world.workloads.iter().any(|w| w.namespace == *namespace);
    if namespace.as_str() == "istio-system" && namespace != world.root && !lives {
        let text = format!(
            "this mesh's root namespace is {}: the policy holds for {namespace} alone, where nothing runs",
            world.root
        );
        let hint = "move it there, or set MeshConfig.spec.rootNamespace";
        let path = Path::of(&["metadata", "namespace"]);
        notes.warn(&path, Code::UnknownReference, text, hint);
    }
}

/// Istio's annotation for policies that are tried and not enforced.
fn dry_run(notes: &mut Notes<'_, AuthorizationPolicySpec>) -> bool {
    let name = "istio.io/dry-run";
    let said = notes.object.annotations.get(name).map(String::as_str);
    match said {
        Some("true" | "TRUE" | "True" | "t" | "T" | "1") => true,
        None | Some("false" | "FALSE" | "False" | "f" | "F" | "0") => false,
        Some(other) => {
            let text = format!("{other:?} is neither true nor false");
            let path = Path::of(&["metadata", "annotations"]).key(name);
            notes.error(&path, Code::Invalid, text);
            true
        }
    }
}

impl Read<'_> {
    /// What decides, and what says whom to ask.
    fn cedar(
        &self,
        notes: &mut Notes<'_, AuthorizationPolicySpec>,
        world: World<'_>,
        allowing: &[&Self],
        told: &mut BTreeSet<(Option<Namespace>, String)>,
    ) -> (String, String) {
        let reading = Reading {
            home: Home {
                domain: world.trust_domain,
                namespace: &self.object.namespace,
            },
            denies: matches!(self.action, Action::Deny | Action::Custom),
            asks: self.action == Action::Custom,
        };
        let mut policies = Vec::new();
        for (n, spec) in self.object.spec.rules.iter().enumerate() {
            let path = Path::of(&["spec", "rules"]).index(n);
            let rule = Rule::read(notes, reading, &path, spec);
            let name = format!("rule-{}", n + 1);
            for policy in self.policies(&rule, &name) {
                match impossible::is_impossible(&policy) {
                    true => notes.warn(
                        &path,
                        Code::Unreachable,
                        "the rule contradicts itself: nothing ever matches it",
                        "see its values and their opposites (not…)",
                    ),
                    false => policies.push(policy),
                }
            }
        }
        let asked = match self.action {
            Action::Custom => std::mem::take(&mut policies).join("\n\n"),
            Action::Allow | Action::Deny | Action::Audit => String::new(),
        };
        let denies = matches!(self.action, Action::Deny | Action::Custom);
        if denies && !self.dry && !self.object.spec.rules.is_empty() {
            let permit = self.without_allow(notes, world, allowing);
            let key = |text: &String| (self.target.scope.clone(), text.clone());
            policies.extend(permit.filter(|text| told.insert(key(text))));
        }
        (policies.join("\n\n"), asked)
    }

    /// A rule's policies.
    fn policies(&self, rule: &Rule, name: &str) -> Vec<String> {
        let effect = match self.action {
            Action::Allow => "permit",
            Action::Deny | Action::Custom => "forbid",
            Action::Audit => return Vec::new(),
        };
        let mut policies = Vec::new();
        policies.extend(self.policy(effect, name, &rule.judgement()));
        // On a connection a DENY rule loses what only HTTP has, and matches more; an ALLOW rule matches none.
        if effect == "forbid" && rule.looks_at_http() {
            let name = format!("{name}-connections");
            policies.extend(self.policy(effect, &name, &rule.of_connections()));
        }
        policies
    }

    fn policy(&self, effect: &str, name: &str, judgement: &Judgement) -> Option<String> {
        if judgement.when == Expr::NEVER || self.target.resource.is_none() {
            return None;
        }
        let (head, test) = self.target.resource.clone()?;
        let Judgement {
            principal,
            action,
            when,
        } = judgement;
        let when = Expr::all([test, when.clone()]);
        let mut text = self.annotations(name, None);
        text.push_str(&format!("{effect} ({principal}, {action}, {head})"));
        if when != Expr::ALWAYS {
            text.push_str(&format!("\nwhen {{ {when} }}"));
        }
        text.push(';');
        Some(text)
    }

    fn annotations(&self, name: &str, description: Option<&str>) -> String {
        let mut text = format!("@id({})\n", quoted(name));
        if let Some(description) = description {
            text.push_str(&format!("@description({})\n", quoted(description)));
        }
        if self.dry {
            text.push_str("@mode(\"shadow\")\n");
        }
        text
    }

    /// Istio lets pass what no `DENY` matches, where no `ALLOW` policy holds.
    fn without_allow(
        &self,
        notes: &mut Notes<'_, AuthorizationPolicySpec>,
        world: World<'_>,
        allowing: &[&Self],
    ) -> Option<String> {
        let own = self.target.scope.as_ref();
        let (head, test) = self.target.resource.clone()?;
        let mut except: Vec<Expr> = Vec::new();
        let namespaced = |namespace: &Namespace| {
            let name = format!("{}/ns/{namespace}", world.trust_domain);
            Expr::test(format!("resource in Namespace::{}", quoted(&name)))
        };
        let access = world.access.iter().map(|o| &o.namespace);
        let bound = world.bindings.iter().map(|o| &o.namespace);
        let written: BTreeSet<&Namespace> = access.chain(bound).collect();
        for namespace in written {
            if namespace == world.root || Some(namespace) == own {
                return None;
            }
            if own.is_none() {
                except.push(namespaced(namespace));
            }
        }
        for allow in allowing {
            let scope = allow.target.scope.as_ref();
            if scope.is_some() && own.is_some() && scope != own {
                continue;
            }
            let Some((_, covered)) = allow.target.told() else {
                continue;
            };
            let covered = match (scope, own) {
                (Some(namespace), None) => Expr::all([namespaced(namespace), covered]),
                _ => covered,
            };
            if covered == Expr::ALWAYS || self.target.told().is_some_and(|(_, t)| t == covered) {
                return None;
            }
            if !except.contains(&covered) {
                except.push(covered);
            }
        }
        let text = match self.action {
            Action::Custom => {
                "no ALLOW policy holds for all that this one holds for: as in Istio, what the provider allows there is allowed"
            }
            Action::Allow | Action::Deny | Action::Audit => {
                "no ALLOW policy holds for all that this one holds for: as in Istio, what no DENY matches there is allowed"
            }
        };
        let hint = "add an ALLOW policy, or an AccessPolicy, to close it";
        notes.warn(&Path::of(&["spec", "action"]), Code::Insecure, text, hint);
        let description =
            "Istio allows what no DENY policy matches, where there is no ALLOW policy";
        let description = match self.action {
            Action::Custom => {
                "Istio allows what the provider allows, where there is no ALLOW policy"
            }
            Action::Allow | Action::Deny | Action::Audit => description,
        };
        let mut policy = self.annotations("without-allow", Some(description));
        policy.push_str(&format!("permit (principal, action, {head})"));
        if test != Expr::ALWAYS {
            policy.push_str(&format!("\nwhen {{ {test} }}"));
        }
        if !except.is_empty() {
            policy.push_str(&format!("\nunless {{ {} }}", Expr::any(except)));
        }
        policy.push(';');
        Some(policy)
    }
}
