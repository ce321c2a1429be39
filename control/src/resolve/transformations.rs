//! `Transformation`: whose it is, until when it holds, and what it changes.

use reeve_core::{
    Clock as _, Namespace, SystemClock, UnixTime,
    model::{
        HeaderOps, QueryOps, RequestChanges, ResponseChanges, RouteMatch, Transformation,
        is_untouchable,
    },
};

use super::{
    hosts::{Services, advice, full},
    values::{Case, Notes},
};
use crate::{
    Code, Fault, LocalWorkload,
    kinds::{
        HeaderOpsSpec, Object, QueryOpsSpec, RequestChangesSpec, ResponseChangesSpec,
        TargetRefSpec, TransformationMatchSpec, TransformationSpec,
    },
    mesh::{Scope, Target, TargetedTransformation, TransformationState},
    source::path::Path,
};

mod body;

/// Longest name of an owner.
const MAX_OWNER_BYTES: usize = 128;
/// Alternatives in `match`.
const MAX_MATCHES: usize = 16;
/// Transformations of one mesh.
const MAX_TRANSFORMATIONS: usize = 1000;

type TransformationNotes<'a> = Notes<'a, TransformationSpec>;

/// Every transformation in the order in which they act: by namespace and name, those of the root namespace first.
pub(super) fn resolve(
    objects: &[Object<TransformationSpec>],
    root: &Namespace,
    (services, workloads): (&Services, &[LocalWorkload]),
    faults: &mut Vec<Fault>,
) -> Vec<TargetedTransformation> {
    let now = SystemClock.now();
    let mut objects: Vec<_> = objects.iter().collect();
    objects.sort_by_key(|o| (o.namespace != *root, o.namespace.clone(), o.name.clone()));
    if let Some(object) = objects.get(MAX_TRANSFORMATIONS) {
        let text = format!("there are more than {MAX_TRANSFORMATIONS} transformations");
        faults.push(object.error(&Path::of(&["kind"]), Code::TooLarge, text));
    }
    let mut all = Vec::new();
    for object in objects {
        let notes = &mut Notes { object, faults };
        let targets = targets(notes, root, services);
        warn_of_nobody(notes, &targets, services, workloads);
        if let Some(rule) = transformation(notes, now) {
            all.push(TargetedTransformation { targets, rule });
        }
    }
    all
}

fn transformation(notes: &mut TransformationNotes<'_>, now: UnixTime) -> Option<Transformation> {
    let object = notes.object;
    let spec = &object.spec;
    let owner = owner(notes);
    let expires = expires(notes, now);
    let matches = Path::of(&["spec", "match"]);
    if spec.r#match.len() > MAX_MATCHES {
        let text = format!("more than {MAX_MATCHES} alternatives");
        notes.error(&matches, Code::TooLarge, text);
    }
    let each = spec.r#match.iter().enumerate();
    let when = each
        .map(|(n, m)| condition(notes, &matches.index(n), m))
        .collect();
    let request = spec.request.as_ref();
    let request = request.map(|r| request_changes(notes, &Path::of(&["spec", "request"]), r));
    let response = spec.response.as_ref();
    let response = response.map(|r| response_changes(notes, &Path::of(&["spec", "response"]), r));
    let (request, response) = (request.unwrap_or_default(), response.unwrap_or_default());
    if request.is_empty() && response.is_empty() {
        let text = "it changes nothing";
        let hint = "give request or response: headers, queryParams, status, body";
        notes.hint(&Path::of(&["spec"]), Code::Missing, text, hint);
    }
    Some(Transformation {
        name: format!("{}/{}", object.namespace, object.name),
        owner: owner?,
        expires: expires?,
        when,
        request,
        response,
    })
}

fn owner(notes: &mut TransformationNotes<'_>) -> Option<String> {
    let path = Path::of(&["spec", "owner"]);
    let owner = notes.object.spec.owner.as_deref().unwrap_or_default();
    let owner = owner.trim();
    if owner.is_empty() {
        let text = "nobody answers for it";
        let hint = "name a team or person, such as owner: team-payments";
        notes.hint(&path, Code::Missing, text, hint);
        return None;
    }
    if owner.len() > MAX_OWNER_BYTES || owner.chars().any(char::is_control) {
        let text = format!("an owner is at most {MAX_OWNER_BYTES} bytes on one line");
        notes.error(&path, Code::Invalid, text);
        return None;
    }
    Some(owner.to_owned())
}

/// The end; one that is over, or soon will be, is warned of.
fn expires(notes: &mut TransformationNotes<'_>, now: UnixTime) -> Option<UnixTime> {
    let path = Path::of(&["spec", "expires"]);
    let hint = "write a date or a time as RFC 3339 has them: 2026-12-31 (that day is its last, by UTC) or 2026-12-31T18:00:00Z";
    let Some(text) = &notes.object.spec.expires else {
        notes.hint(&path, Code::Missing, "it says no end", hint);
        return None;
    };
    let Some(end) = end_of(text) else {
        let said = format!("{text:?} is neither a date nor a time");
        notes.hint(&path, Code::Invalid, said, hint);
        return None;
    };
    match TransformationState::at(now, end) {
        TransformationState::Active => {}
        TransformationState::ExpiresSoon => notes.warn(
            &path,
            Code::Expiring,
            format!("it ends soon ({text})"),
            "remove what needs it, or give it another end",
        ),
        TransformationState::Expired => notes.warn(
            &path,
            Code::Expired,
            format!("it has ended ({text}) and does nothing"),
            "remove it, or give it another end",
        ),
    }
    Some(end)
}

/// A date ends with its last moment by UTC.
pub(super) fn end_of(text: &str) -> Option<UnixTime> {
    let time = match text.parse::<jiff::Timestamp>() {
        Ok(time) => time,
        Err(_) => {
            // Nothing but a date, as RFC 3339 writes it.
            let date = text.parse::<jiff::civil::Date>().ok();
            let date = date.filter(|date| date.to_string() == text)?;
            let next = date.tomorrow().ok()?;
            next.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()
        }
    };
    let millis = u64::try_from(time.as_millisecond()).ok()?;
    Some(UnixTime::from_millis(millis))
}

fn targets(
    notes: &mut TransformationNotes<'_>,
    root: &Namespace,
    services: &Services,
) -> Vec<Target> {
    let object = notes.object;
    let (selector, refs) = (&object.spec.selector, &object.spec.target_refs);
    let path = Path::of(&["spec", "targetRefs"]);
    if selector.is_some() && !refs.is_empty() {
        notes.error(
            &path,
            Code::Conflict,
            "give selector or targetRefs, not both",
        );
    }
    if refs.is_empty() {
        let labels = selector.as_ref().map(|s| s.match_labels.clone());
        return vec![Target::Scope(Scope {
            namespace: (object.namespace != *root).then(|| object.namespace.clone()),
            selector: labels.unwrap_or_default(),
        })];
    }
    let each = refs.iter().enumerate();
    each.filter_map(|(n, target)| target_of(notes, &path.index(n), target, services))
        .collect()
}

/// SECURITY: a namespace transforms what its own workloads get and say, and nobody else's.
fn target_of(
    notes: &mut TransformationNotes<'_>,
    path: &Path,
    target: &TargetRefSpec,
    services: &Services,
) -> Option<Target> {
    let namespace = notes.object.namespace.clone();
    match (target.group.as_str(), target.kind.as_str()) {
        ("" | "core", "Service") => {
            let host = full(&target.name, &namespace);
            let found = services.values().find(|s| s.host.as_str() == host);
            let own = found.filter(|s| s.namespace == namespace);
            if own.is_none() {
                let text = format!("there is no service {host} in namespace {namespace}");
                let hint = advice(&host, services);
                notes.hint(&path.key("name"), Code::UnknownReference, text, &hint);
            }
            own.map(|s| Target::Service(s.host.clone()))
        }
        ("gateway.networking.k8s.io", "Gateway") => Some(Target::Scope(Scope {
            namespace: Some(namespace),
            selector: [(super::gateway_api::LABEL.to_owned(), target.name.clone())].into(),
        })),
        (group, kind) => {
            let text = format!("{kind:?} of group {group:?} is no target");
            let hint = "use kind: Service, or group: gateway.networking.k8s.io with kind: Gateway";
            notes.hint(&path.key("kind"), Code::Invalid, text, hint);
            None
        }
    }
}

fn warn_of_nobody(
    notes: &mut TransformationNotes<'_>,
    targets: &[Target],
    services: &Services,
    workloads: &[LocalWorkload],
) {
    let concerned = |target: &Target| match target {
        Target::Scope(scope) => workloads.iter().any(|w| scope.covers(w)),
        Target::Service(name) => {
            let service = services.get(name);
            service.is_some_and(|s| workloads.iter().any(|w| s.selects(w)))
        }
    };
    if !targets.is_empty() && !targets.iter().any(concerned) {
        let path = match notes.object.spec.target_refs.is_empty() {
            true => Path::of(&["spec", "selector"]),
            false => Path::of(&["spec", "targetRefs"]),
        };
        let text = "it concerns no workload";
        notes.warn(
            &path,
            Code::Unreachable,
            text,
            "look at labels and namespace",
        );
    }
}

fn condition(
    notes: &mut TransformationNotes<'_>,
    path: &Path,
    spec: &TransformationMatchSpec,
) -> RouteMatch {
    let mut text = |key: &str, value: &Option<_>| {
        let value = value.as_ref();
        value.and_then(|value| notes.string_match(&path.key(key), value))
    };
    let (uri, method) = (text("uri", &spec.uri), text("method", &spec.method));
    let authority = text("authority", &spec.authority);
    let headers = notes.header_matches(&path.key("headers"), &spec.headers, Case::Lower);
    let without = path.key("withoutHeaders");
    let without_headers = notes.header_matches(&without, &spec.without_headers, Case::Lower);
    let query = path.key("queryParams");
    RouteMatch {
        uri,
        method,
        authority,
        headers,
        without_headers,
        query_params: notes.header_matches(&query, &spec.query_params, Case::Kept),
        ..RouteMatch::default()
    }
}

fn request_changes(
    notes: &mut TransformationNotes<'_>,
    path: &Path,
    spec: &RequestChangesSpec,
) -> RequestChanges {
    let body = spec.body.as_ref();
    RequestChanges {
        headers: headers(notes, &path.key("headers"), &spec.headers),
        query: query(notes, &path.key("queryParams"), &spec.query_params),
        body: body.and_then(|b| body::changes(notes, &path.key("body"), b)),
    }
}

fn response_changes(
    notes: &mut TransformationNotes<'_>,
    path: &Path,
    spec: &ResponseChangesSpec,
) -> ResponseChanges {
    for (n, status) in spec.when_status.iter().enumerate() {
        if !(200..=599).contains(status) {
            let path = path.key("whenStatus").index(n);
            notes.error(&path, Code::Invalid, "a status is 200 to 599");
        }
    }
    if let Some(status) = spec.status
        && (!(200..=599).contains(&status) || matches!(status, 204 | 205 | 304))
    {
        let text = format!("{status} is no status to change to");
        let hint = "use 200 to 599, but none that has no body (204, 205, 304)";
        notes.hint(&path.key("status"), Code::Invalid, text, hint);
    }
    let body = spec.body.as_ref();
    ResponseChanges {
        when_status: spec.when_status.clone(),
        status: spec.status,
        headers: headers(notes, &path.key("headers"), &spec.headers),
        body: body.and_then(|b| body::changes(notes, &path.key("body"), b)),
    }
}

fn headers(notes: &mut TransformationNotes<'_>, path: &Path, spec: &HeaderOpsSpec) -> HeaderOps {
    let ops = notes.header_ops(path, spec);
    let set = ops.set.keys().map(|name| (path.key("set").key(name), name));
    let add = ops.add.keys().map(|name| (path.key("add").key(name), name));
    let remove = ops.remove.iter().enumerate();
    let remove = remove.map(|(n, name)| (path.key("remove").index(n), name));
    for (path, name) in set.chain(add).chain(remove) {
        if is_untouchable(name) {
            let text = format!("{name} is not to be transformed");
            let hint = "it frames or routes messages, proves who asks, or is the mesh's own to say";
            notes.hint(&path, Code::Invalid, text, hint);
        }
    }
    ops
}

fn query(notes: &mut TransformationNotes<'_>, path: &Path, spec: &QueryOpsSpec) -> QueryOps {
    let names = spec.set.keys().chain(spec.add.keys()).chain(&spec.remove);
    if names.into_iter().any(String::is_empty) {
        notes.error(path, Code::Invalid, "a parameter has a name");
    }
    QueryOps {
        set: spec.set.clone(),
        add: spec.add.clone(),
        remove: spec.remove.clone(),
    }
}
