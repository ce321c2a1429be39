//! Records in words.

use reeve_audit::{
    DecisionRecord, Entry,
    query::{Explained, Found},
};
use reeve_core::decision::{AccessRequest, Decision};

use crate::{supervisor::logfile::timestamp, verb::policy::told};

/// A record on one line.
pub(super) fn line(found: &Found) -> String {
    let record = &found.record;
    let time = timestamp(record.time);
    match &record.entry {
        Entry::Decision(decision) => {
            format!(
                "{time} {} {}",
                verdict(&decision.decision),
                question(&decision.request)
            ) + &format!("  {}", found.decision_id)
        }
        Entry::Outcome(outcome) => {
            let status = outcome
                .status
                .map_or("-".to_owned(), |status| status.to_string());
            format!(
                "{time} outcome of {}: {status}, {} bytes in, {} out, {} ms",
                outcome.decision,
                outcome.bytes_in,
                outcome.bytes_out,
                outcome.duration_us / 1000
            )
        }
        Entry::Event(event) => {
            let subject = event
                .subject
                .as_ref()
                .map(|id| format!(" {id}"))
                .unwrap_or_default();
            let detail: Vec<_> = event
                .detail
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            format!(
                "{time} event {}{subject} {}",
                word(&event.event),
                detail.join(" ")
            )
        }
        Entry::Aggregate(aggregate) => {
            format!(
                "{time} {} times {}",
                aggregate.count,
                word(&aggregate.event)
            )
        }
    }
}

/// An enum's word as it stands in records.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => "?".to_owned(),
    }
}

fn verdict(decision: &Decision) -> String {
    let word = if decision.is_allow() {
        "allowed"
    } else {
        "DENIED "
    };
    format!("{word} {}", decision.reason.as_str())
}

fn question(request: &AccessRequest) -> String {
    let target = request.resource.services.first().map(ToString::to_string);
    let target = target
        .or_else(|| request.resource.workload.as_ref().map(ToString::to_string))
        .unwrap_or_default();
    let path = request
        .context
        .http
        .as_ref()
        .map(|http| http.path.as_str())
        .unwrap_or_default();
    format!(
        "{} -> {} {target}:{}{path}",
        request.principal, request.action, request.context.port
    )
}

/// Where a record was found.
pub(super) fn place(found: &Found) -> String {
    let logged = if found.logged {
        "in the log's tree"
    } else {
        "not yet shipped to the log"
    };
    format!(
        "{} ({logged}; opaque id {})",
        found.place, found.decision_id
    )
}

/// A decision with everything around it.
pub(crate) fn explained(explained: &Explained) -> String {
    let mut lines = vec![line(&explained.found)];
    let record = &explained.found.record;
    match &record.entry {
        Entry::Decision(decision) => lines.extend(circumstances(decision)),
        Entry::Outcome(_) | Entry::Event(_) | Entry::Aggregate(_) => {}
    }
    if let Some(outcome) = &explained.outcome {
        lines.push(line(outcome));
    }
    lines.push(format!(
        "record   {} {}",
        record.id,
        place(&explained.found)
    ));
    if let Some(policies) = &explained.policies {
        lines.extend(judged_then(&record.entry, policies));
    }
    lines.join("\n")
}

/// What each policy of that time said, judged again by the same engine; or the set as it is stored.
fn judged_then(entry: &Entry, policies: &str) -> Vec<String> {
    let stored = || {
        let lines = policies.lines().map(|line| format!("  {line}"));
        std::iter::once("policies in force then:".to_owned())
            .chain(lines)
            .collect()
    };
    let Some(decision) = entry.as_decision() else {
        return Vec::new();
    };
    let Some(explanation) = told::by_recorded(policies, &decision.request) else {
        return stored();
    };
    let mut lines = vec!["by the policies in force then".to_owned()];
    lines.extend(told::policies(&explanation));
    lines
}

fn circumstances(record: &DecisionRecord) -> Vec<String> {
    let request = &record.request;
    let mut lines = vec![
        format!(
            "caller   {} ({})",
            request.principal,
            word(&record.authenticated_by)
        ),
        format!("asked    {} of {}", request.action, resource(request)),
        format!("because  {}", because(&record.decision)),
    ];
    if let Some(user) = &request.user {
        lines.push(format!("user     {} of {}", user.subject, user.issuer));
    }
    if let Some(http) = &request.context.http {
        lines.push(format!(
            "request  {} {}{}",
            http.method, http.host, http.path
        ));
    }
    if !record.transformations.is_empty() {
        lines.push(format!("after    {}", record.transformations.join(", ")));
    }
    let generation = record
        .generation
        .map_or("none".to_owned(), |g| g.to_string());
    lines.push(format!(
        "under    generation {generation}, policy set {}, mTLS mode {}",
        record.policy_hash,
        word(&record.mtls_mode)
    ));
    if record.strict_would_refuse {
        lines.push("note     STRICT would have refused this peer".to_owned());
    }
    let ids = [
        ("trace", &record.trace_id),
        ("request id", &record.request_id),
    ];
    let ids: Vec<_> = ids
        .into_iter()
        .filter_map(|(name, id)| Some(format!("{name} {}", id.as_ref()?)))
        .collect();
    if !ids.is_empty() {
        lines.push(format!("seen as  {}", ids.join(", ")));
    }
    lines
}

fn resource(request: &AccessRequest) -> String {
    let services: Vec<_> = request
        .resource
        .services
        .iter()
        .map(ToString::to_string)
        .collect();
    let workload = request
        .resource
        .workload
        .as_ref()
        .map(|id| format!("{id} "))
        .unwrap_or_default();
    format!(
        "{workload}({}) port {}",
        services.join(", "),
        request.context.port
    )
}

fn because(decision: &Decision) -> String {
    let mut text = decision.reason.as_str().to_owned();
    if !decision.policies.is_empty() {
        let ids: Vec<_> = decision.policies.iter().map(ToString::to_string).collect();
        text.push_str(&format!(" by {}", ids.join(", ")));
    }
    for error in &decision.errors {
        text.push_str(&format!(
            "; {} failed to evaluate: {}",
            error.policy, error.message
        ));
    }
    if let Some(shadow) = &decision.shadow {
        text.push_str(&format!("; in shadow: {}", verdict(shadow)));
    }
    text
}
