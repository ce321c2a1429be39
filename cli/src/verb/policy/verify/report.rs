//! What was proved, for people and programs.

use std::path::Path;

use reeve_core::decision::{AccessRequest, Effect, Principal};
use reeve_symbolic::{Answer, Counterexample, Property};
use serde::Serialize;

/// What came of all properties.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) properties: Vec<Outcome>,
    pub(super) held: usize,
    pub(super) failed: usize,
    pub(super) unknown: usize,
    /// Where policies do not bind, whatever was proved of them.
    pub(super) not_enforced: Vec<String>,
}

/// What came of one property.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    name: String,
    property: &'static str,
    #[serde(flatten)]
    answer: Answer,
}

impl Report {
    pub(super) fn add(&mut self, outcome: Outcome) {
        match outcome.answer {
            Answer::Holds => self.held += 1,
            Answer::Fails { .. } => self.failed += 1,
            Answer::Unknown { .. } => self.unknown += 1,
        }
        self.properties.push(outcome);
    }

    pub(super) fn summary(&self) -> String {
        let mut text = format!(
            "{} properties: {} hold, {} do not, {} unknown",
            self.properties.len(),
            self.held,
            self.failed,
            self.unknown
        );
        if !self.not_enforced.is_empty() {
            text.push_str(&format!(
                "\nnote: authorization is not enforced for {}; there, policies do not bind",
                self.not_enforced.join(", ")
            ));
        }
        text
    }
}

impl Outcome {
    pub(super) fn new(name: String, property: &Property, answer: Answer) -> Self {
        let property = match property {
            Property::Never(_) => "never",
            Property::Always(_) => "always",
            Property::NoMoreThan(_) => "no_more_than",
            Property::SameAs(_) => "same_as",
            Property::Matters(_) => "matters",
            Property::NeverFails(_) => "never_fails",
        };
        Self {
            name,
            property,
            answer,
        }
    }

    /// A line, and beneath it what refutes it; the policies are those of `folder`.
    pub(super) fn told(&self, folder: &Path) -> String {
        let name = self.name.trim_end().replace('\n', "\n         ");
        match &self.answer {
            Answer::Holds => format!("holds    {name}"),
            Answer::Unknown { why } => format!("unknown  {name}\n         {why}"),
            Answer::Fails {
                counterexample: None,
            } => format!("FAILS    {name}\n         every request is answered the same without it"),
            Answer::Fails {
                counterexample: Some(example),
            } => format!(
                "FAILS    {name}\n         {}\n         try: {}",
                shown(example),
                reproduced(&example.request, folder)
            ),
        }
    }
}

/// The request and the answer to it in one sentence.
fn shown(example: &Counterexample) -> String {
    let request = &example.request;
    let effect = match example.decision.effect {
        Effect::Allow => "allowed",
        Effect::Deny => "denied",
    };
    let mut text = format!("{} ", request.action);
    let http = request.context.http.as_ref();
    if let Some(http) = http.filter(|_| looks_at(example, &["path", "path_segments"])) {
        text.push_str(&format!("{:?} ", http.path));
    }
    text.push_str(&format!("by {} to {}", request.principal, target(request)));
    let facts = facts(example);
    if !facts.is_empty() {
        text.push_str(&format!(" with {}", facts.join(", ")));
    }
    let by: Vec<_> = example
        .decision
        .policies
        .iter()
        .map(ToString::to_string)
        .collect();
    let why = match by.is_empty() {
        true => example.decision.reason.as_str().to_owned(),
        false => by.join(", "),
    };
    format!("{text} is {effect} ({why})")
}

fn looks_at(example: &Counterexample, attributes: &[&str]) -> bool {
    let mut looked_at = example.looked_at.iter();
    looked_at.any(|name| attributes.contains(&name.as_str()))
}

fn target(request: &AccessRequest) -> String {
    let resource = &request.resource;
    match (resource.services.first(), &resource.workload) {
        (Some(service), _) => service.to_string(),
        (None, Some(workload)) => workload.to_string(),
        (None, None) => format!("something in namespace {}", resource.namespace),
    }
}

/// What else of the request policies look at.
fn facts(example: &Counterexample) -> Vec<String> {
    let context = &example.request.context;
    let mut facts = Vec::new();
    let mut note = |attribute: &str, fact: String| {
        if looks_at(example, &[attribute]) {
            facts.push(fact);
        }
    };
    note("port", format!("port {}", context.port));
    note("mtls", format!("mtls {}", context.mtls));
    note("source_ip", format!("source_ip {}", context.source_ip));
    note("remote_ip", format!("remote_ip {}", context.client_ip()));
    if let Some(address) = context.destination_ip {
        note("destination_ip", format!("destination_ip {address}"));
    }
    if let Some(name) = &context.sni {
        note("sni", format!("sni {name:?}"));
    }
    note(
        "time",
        format!("time {}", reeve_authz::datetime(context.time)),
    );
    if let Some(http) = &context.http {
        note("host", format!("host {:?}", http.host));
        note("method", format!("method {:?}", http.method));
        if let Some(grpc) = &http.grpc {
            note("grpc", format!("gRPC {}/{}", grpc.service, grpc.method));
        }
        for (name, values) in &http.headers {
            note("headers", format!("header {name}: {values:?}"));
        }
        for (name, values) in &http.query {
            note("query", format!("query {name}={values:?}"));
        }
    }
    if let Some(user) = &example.request.user {
        note(
            "user",
            format!("user {:?} of {:?}", user.subject, user.issuer),
        );
        for (name, values) in &user.claims {
            note("user", format!("claim {name}: {values:?}"));
        }
    }
    facts
}

/// The command that asks about this request.
fn reproduced(request: &AccessRequest, folder: &Path) -> String {
    let folder = folder.display();
    let resource = &request.resource;
    let to = match (resource.services.as_slice(), &resource.workload) {
        ([service], _) => Some(service.to_string()),
        ([], Some(workload)) => Some(workload.to_string()),
        _ => None,
    };
    let authenticated = request.principal != Principal::Unauthenticated;
    let http = request.context.http.as_ref();
    let plain = http.is_none_or(|http| http.grpc.is_none() && http.query.is_empty());
    if let Some(to) = to
        && plain
        && request.user.is_none()
        && request.context.mtls == authenticated
    {
        let mut command = format!(
            "reeve policy explain -f {folder} --from {} --to {to} --action {} --port {} --source-ip {}",
            request.principal, request.action, request.context.port, request.context.source_ip
        );
        let context = &request.context;
        if context.client_ip() != context.source_ip {
            command.push_str(&format!(" --remote-ip {}", context.client_ip()));
        }
        if let Some(address) = context.destination_ip {
            command.push_str(&format!(" --destination-ip {address}"));
        }
        if let Some(name) = &context.sni {
            command.push_str(&format!(" --sni {}", word(name)));
        }
        if let Some(http) = http {
            command.push_str(&format!(" --path {}", word(&http.path)));
            for (name, values) in &http.headers {
                for value in values {
                    command.push_str(&format!(" --header {}", word(&format!("{name}={value}"))));
                }
            }
        }
        return command;
    }
    let json = serde_json::to_string(request).unwrap_or_default();
    format!(
        "echo {} | reeve policy explain -f {folder} --requests -",
        word(&json)
    )
}

/// A word of the shell.
fn word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
