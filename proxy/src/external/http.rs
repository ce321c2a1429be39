//! Asking by HTTP: the request's own method and path, and those of its headers that are to be shown
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/ext_authz_filter>).

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use reeve_core::model::{HttpCheck, NamePattern};

use super::{
    Answered, Asking, PARTIAL_BODY, Refusal, Ruling, Shown, Site, Unanswered, head, own_head,
};
use crate::{head::Head, headers, judge::Question};

/// What a caller that is denied gets beside what is named.
const ALWAYS_TOLD: [HeaderName; 3] = [
    header::LOCATION,
    header::WWW_AUTHENTICATE,
    header::CONTENT_TYPE,
];

pub(super) async fn ask(
    asking: &Asking,
    check: &HttpCheck,
    site: Site<'_>,
    (question, content): (&Question, Option<&Shown>),
) -> Result<Ruling, Unanswered> {
    // A connection has no method and no path.
    let about = question.head.as_deref().ok_or(Unanswered::Connection)?;
    let mut head = shown(check, about);
    if let Some(content) = content {
        let partial = HeaderValue::from_static(match content.is_partial {
            true => "true",
            false => "false",
        });
        head.headers.insert(PARTIAL_BODY, partial);
    }
    let body = content.map(|content| content.bytes.clone());
    let answered = asking.call(site, head, body.unwrap_or_default()).await?;
    ruling(check, &answered)
}

pub(super) fn shown(check: &HttpCheck, about: &Head) -> Head {
    let path = match check.path_prefix.is_empty() {
        true => about.path.clone(),
        false => format!("{}{}", check.path_prefix, about.path),
    };
    let to = (about.authority.clone(), path);
    let mut head = own_head(Some(about), about.method.clone(), Version::HTTP_11, to);
    head.query.clone_from(&about.query);
    let is_shown = |name: &HeaderName| {
        // As Envoy shows it, named or not.
        *name == header::AUTHORIZATION || check.shown.iter().any(|p| p.matches(name.as_str()))
    };
    for (name, value) in about.headers.iter().filter(|(name, _)| is_shown(name)) {
        if !is_of_a_body(name) {
            head.headers.append(name.clone(), value.clone());
        }
    }
    for (name, value) in &check.added {
        let pair = (HeaderName::try_from(name), HeaderValue::try_from(value));
        if let (Ok(name), Ok(value)) = pair {
            head.headers.insert(name, value);
        }
    }
    headers::remove_hop_by_hop(&mut head.headers);
    head
}

/// The question has none.
fn is_of_a_body(name: &HeaderName) -> bool {
    [
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::TRANSFER_ENCODING,
    ]
    .contains(name)
}

pub(super) fn ruling(check: &HttpCheck, answered: &Answered) -> Result<Ruling, Unanswered> {
    let status = answered.status;
    if status.is_server_error() {
        return Err(Unanswered::Status(status.as_u16()));
    }
    let named = |patterns: &[NamePattern]| picked(&answered.headers, |n| matches(patterns, n));
    if status == StatusCode::OK {
        let edits = head::Edits {
            set: named(&check.upstream_on_allow),
            told: named(&check.downstream_on_allow),
            ..head::Edits::default()
        };
        return Ok(Ruling::Allowed(Box::new(edits)));
    }
    let told = |name: &HeaderName| match check.downstream_on_deny.as_slice() {
        [] => true,
        patterns => ALWAYS_TOLD.contains(name) || matches(patterns, name),
    };
    Ok(Ruling::Denied(Box::new(Refusal {
        // What allows nothing is no success either.
        status: if status.is_success() {
            StatusCode::FORBIDDEN
        } else {
            status
        },
        headers: picked(&answered.headers, told),
        body: answered.body.clone(),
    })))
}

fn matches(patterns: &[NamePattern], name: &HeaderName) -> bool {
    patterns
        .iter()
        .any(|pattern| pattern.matches(name.as_str()))
}

/// Those headers of an answer that may be handed on.
fn picked(from: &HeaderMap, wanted: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let wanted = from.iter().filter(|(name, _)| wanted(name));
    let mut all: HeaderMap = wanted.map(|(n, v)| (n.clone(), v.clone())).collect();
    head::clean(&mut all);
    all
}
