//! What policies and cases of several intents are put together from.

use std::collections::BTreeMap;

use reeve_core::decision::Action;
use serde_json::{Value, json};

use super::given::{Among, Caller, Given, Target, quoted, wrong};
use crate::problem::Problem;

/// A path, `*` standing for anything.
pub(super) struct Path(String);

impl Path {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        if !text.starts_with('/') || text.contains(['?', '#']) {
            return Err(wrong(format!("path: {text} is no path")).fix("write /reviews/*"));
        }
        quoted(text)?;
        Ok(Self(text.to_owned()))
    }

    pub(super) fn condition(&self) -> String {
        let word = if self.0.contains('*') { "like" } else { "==" };
        let text = self.0.replace('\\', "\\\\").replace('"', "\\\"");
        format!("context.path {word} \"{text}\"")
    }

    /// A path that matches.
    pub(super) fn inside(&self) -> String {
        self.0.replace('*', "x")
    }

    /// A path that does not, unless all do.
    pub(super) fn elsewhere(&self) -> Option<String> {
        let start = self.0.split('*').next().unwrap_or_default();
        (start.len() > 1).then(|| "/".to_owned())
    }
}

/// One policy's text.
pub(super) fn policy(
    effect: &str,
    about: &str,
    principal: &str,
    action: &str,
    resource: &str,
    when: &[String],
    unless: &[String],
) -> Result<String, Problem> {
    let mut text = format!(
        "@description({})\n{effect} ({principal}, {action}, {resource})",
        quoted(about)?
    );
    for condition in when {
        text.push_str(&format!("\nwhen {{ {condition} }}"));
    }
    for condition in unless {
        text.push_str(&format!("\nunless {{ {condition} }}"));
    }
    text.push(';');
    Ok(text)
}

/// Callers in a policy's scope, or beneath it.
pub(super) fn principals(
    callers: &[Caller],
    none: &Problem,
) -> Result<(String, Vec<String>), Problem> {
    let beneath = || {
        let principal = match all_labelled(callers) {
            true => "principal is Workload",
            false => "principal",
        };
        (principal.to_owned(), members(callers).into_iter().collect())
    };
    Ok(match callers {
        [] => return Err(none.clone()),
        [one] => match &one.among {
            Among::Exactly(entity) => (format!("principal == {entity}"), Vec::new()),
            Among::In(entity) => (format!("principal in {entity}"), Vec::new()),
            Among::Labelled(..) => beneath(),
        },
        _ => beneath(),
    })
}

fn all_labelled(callers: &[Caller]) -> bool {
    callers
        .iter()
        .all(|caller| matches!(caller.among, Among::Labelled(..)))
}

/// That the caller is one of them, or in one of them; a set of Cedar's holds entities of one type.
pub(super) fn members(callers: &[Caller]) -> Option<String> {
    let mut by_type: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut labels = Vec::new();
    let bare = all_labelled(callers);
    for caller in callers {
        match &caller.among {
            Among::Exactly(entity) | Among::In(entity) => {
                let (kind, _) = entity.split_once("::").unwrap_or_default();
                by_type.entry(kind).or_default().push(entity);
            }
            Among::Labelled(name, value) => {
                let has = format!(
                    "principal.hasTag({name:?}) && principal.getTag({name:?}).contains({value:?})"
                );
                labels.push(match bare {
                    true => has,
                    false => format!("principal is Workload && {has}"),
                });
            }
        }
    }
    let groups = by_type.values().map(|entities| match entities.as_slice() {
        [one] => format!("principal in {one}"),
        several => format!("principal in [{}]", several.join(", ")),
    });
    let each: Vec<_> = groups.chain(labels).collect();
    (!each.is_empty()).then(|| each.join(" || "))
}

pub(super) fn actions(methods: &[Action]) -> String {
    let each: Vec<_> = methods.iter().map(|m| format!("Action::\"{m}\"")).collect();
    match each.as_slice() {
        [one] => format!("action == {one}"),
        several => format!("action in [{}]", several.join(", ")),
    }
}

/// A method that is not among `methods`.
pub(super) fn unlisted(methods: &[Action]) -> Action {
    let all = [
        Action::Delete,
        Action::Put,
        Action::Patch,
        Action::Post,
        Action::Get,
    ];
    let other = all.into_iter().find(|action| !methods.contains(action));
    other.unwrap_or(Action::Other)
}

pub(super) fn http(target: Target) -> Result<Target, Problem> {
    match target.is_tcp {
        true => Err(wrong(format!("{} speaks no HTTP", target.name))),
        false => Ok(target),
    }
}

/// A token of the issuer whose claim has the value. Issuers are named, since a second one may be trusted one day.
pub(super) fn claim_condition(issuer: &str, claim: &str, value: &str) -> Result<String, Problem> {
    let (claim, value, issuer) = (quoted(claim)?, quoted(value)?, quoted(issuer)?);
    Ok(format!(
        "context has user && context.user.issuer == {issuer} && context.user.hasTag({claim}) && \
         context.user.getTag({claim}).contains({value})"
    ))
}

pub(super) fn user(issuer: &str, claim: &str, value: &str) -> Value {
    json!({"issuer": issuer, "subject": "alice", "claims": {claim: [value]}, "expires_at": null})
}

/// No token, another issuer's, one without the claim, one with another value.
pub(super) fn token_twins(claim: &str, other: &str) -> Vec<Value> {
    vec![
        json!({"user": null}),
        json!({"user": {"issuer": "https://other.example"}}),
        json!({"user": {"claims": {claim: null}}}),
        json!({"user": {"claims": {claim: [other]}}}),
    ]
}

pub(super) fn unauthenticated() -> Value {
    json!({"principal": "unauthenticated"})
}

/// A workload of the target's namespace that no policy names.
pub(super) fn stranger(given: &Given<'_>, target: &Target) -> Result<Value, Problem> {
    let account = reeve_core::ServiceAccount::parse("no-such-caller").map_err(Problem::new)?;
    // Where a whole namespace is let in, a neighbour is no stranger.
    let wide = ["namespace:", "::"];
    let all = wide.iter().any(|wide| given.text("callers").contains(wide));
    match all {
        true => stranger_from(given, "no-such-namespace"),
        false => Ok(json!(given.domain.workload(&target.namespace, &account))),
    }
}

pub(super) fn stranger_from(given: &Given<'_>, namespace: &str) -> Result<Value, Problem> {
    let namespace = reeve_core::Namespace::parse(namespace).map_err(Problem::new)?;
    let account = reeve_core::ServiceAccount::parse("no-such-caller").map_err(Problem::new)?;
    Ok(json!(given.domain.workload(&namespace, &account)))
}

pub(super) fn request(target: &Target, action: Action) -> Value {
    let mut request = json!({
        "principal": "unauthenticated",
        "action": action,
        "resource": target.sample,
        "context": {"port": target.port},
    });
    if action != Action::Connect
        && let Some(context) = request
            .pointer_mut("/context")
            .and_then(Value::as_object_mut)
    {
        context.insert("http".to_owned(), json!({"path": "/"}));
    }
    request
}

pub(super) fn merge_path(request: &mut Value, path: &str) {
    if let Some(slot) = request.pointer_mut("/context/http/path") {
        *slot = json!(path);
    }
}

/// A value as a part of an object's name.
pub(super) fn label(text: &str) -> String {
    let chars = text.chars().map(|c| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_lowercase(),
        false => '-',
    });
    let label: String = chars.collect();
    label.trim_matches('-').to_owned()
}
