//! Matches of routes.

use std::collections::BTreeMap;

use reeve_core::model::{HeaderMatch, RouteMatch, StringMatch};

use crate::{
    Code,
    kinds::{GrpcMatchSpec, GrpcMethodSpec, HttpMatchSpec, NamedMatchSpec, PathMatchSpec},
    mesh::Match,
    resolve::values::Notes,
    source::path::Path,
};

/// No match is the prefix `/`.
pub(super) fn http<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    specs: &[HttpMatchSpec],
) -> Vec<Match> {
    let mut all = Vec::new();
    for (n, spec) in specs.iter().enumerate() {
        let path = path.index(n);
        let uri = self::path(notes, &path.key("path"), spec.path.as_ref());
        let method = spec.method.as_deref();
        if let Some(method) = method.filter(|m| !METHODS.contains(m)) {
            let hint = format!("use {}", METHODS.join(", "));
            let text = format!("{method:?} is no method");
            notes.hint(&path.key("method"), Code::Invalid, text, &hint);
        }
        all.push(of(RouteMatch {
            uri: Some(uri),
            method: method.map(|m| StringMatch::Exact(m.to_owned())),
            headers: named(notes, &path.key("headers"), &spec.headers, Names::Headers),
            query_params: named(
                notes,
                &path.key("queryParams"),
                &spec.query_params,
                Names::Query,
            ),
            ..RouteMatch::default()
        }));
    }
    or_everything(all)
}

/// A method is asked for by its path (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
pub(super) fn grpc<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    specs: &[GrpcMatchSpec],
) -> Vec<Match> {
    let mut all = Vec::new();
    for (n, spec) in specs.iter().enumerate() {
        let path = path.index(n);
        let method = spec.method.as_ref();
        all.push(of(RouteMatch {
            uri: method.and_then(|m| grpc_method(notes, &path.key("method"), m)),
            headers: named(notes, &path.key("headers"), &spec.headers, Names::Headers),
            ..RouteMatch::default()
        }));
    }
    or_everything(all)
}

fn or_everything(all: Vec<Match>) -> Vec<Match> {
    match all.is_empty() {
        true => vec![of(RouteMatch {
            uri: Some(StringMatch::PathPrefix("/".to_owned())),
            ..RouteMatch::default()
        })],
        false => all,
    }
}

fn of(request: RouteMatch) -> Match {
    Match {
        request,
        ..Match::default()
    }
}

const METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

fn path<S>(notes: &mut Notes<'_, S>, path: &Path, spec: Option<&PathMatchSpec>) -> StringMatch {
    let kind = spec
        .and_then(|p| p.r#type.as_deref())
        .unwrap_or("PathPrefix");
    let value = spec
        .and_then(|p| p.value.as_deref())
        .unwrap_or("/")
        .to_owned();
    let value_path = path.key("value");
    if kind != "RegularExpression" && (!value.starts_with('/') || value.contains("//")) {
        let text = format!("{value:?} is no path");
        notes.hint(
            &value_path,
            Code::Invalid,
            text,
            "it begins with a slash, and has no empty parts",
        );
    }
    match kind {
        "Exact" => StringMatch::Exact(value),
        "PathPrefix" => StringMatch::PathPrefix(value),
        "RegularExpression" => {
            notes.check_regex(&value_path, &value);
            StringMatch::Regex(value)
        }
        other => {
            let text = format!("{other:?} is no type of match");
            let hint = "use Exact, PathPrefix or RegularExpression";
            notes.hint(&path.key("type"), Code::Invalid, text, hint);
            StringMatch::Exact(value)
        }
    }
}

fn grpc_method<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    spec: &GrpcMethodSpec,
) -> Option<StringMatch> {
    let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let (service, method) = (text(&spec.service), text(&spec.method));
    match spec.r#type.as_deref().unwrap_or("Exact") {
        "Exact" => Some(match (service, method) {
            (Some(service), Some(method)) => StringMatch::Exact(format!("/{service}/{method}")),
            (Some(service), None) => StringMatch::Prefix(format!("/{service}/")),
            (None, Some(method)) => {
                StringMatch::Regex(format!("/[^/]+/{}", regex::escape(&method)))
            }
            (None, None) => {
                notes.error(path, Code::Missing, "give a service, a method or both");
                return None;
            }
        }),
        "RegularExpression" => {
            for (key, value) in [("service", &service), ("method", &method)] {
                if let Some(value) = value {
                    notes.check_regex(&path.key(key), value);
                }
            }
            let part = |value: Option<String>| value.unwrap_or_else(|| "[^/]+".to_owned());
            Some(StringMatch::Regex(format!(
                "/(?:{})/(?:{})",
                part(service),
                part(method)
            )))
        }
        other => {
            let text = format!("{other:?} is no type of match");
            notes.hint(
                &path.key("type"),
                Code::Invalid,
                text,
                "use Exact or RegularExpression",
            );
            None
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Headers,
    Query,
}

/// Of two entries of one name the first counts, as the specification has it.
fn named<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    specs: &[NamedMatchSpec],
    names: Names,
) -> BTreeMap<String, HeaderMatch> {
    let mut all = BTreeMap::new();
    for (n, spec) in specs.iter().enumerate() {
        let path = path.index(n);
        let key = match names {
            Names::Headers => {
                notes.header_name(&path.key("name"), &spec.name);
                spec.name.to_ascii_lowercase()
            }
            Names::Query => spec.name.clone(),
        };
        let value = match spec.r#type.as_deref().unwrap_or("Exact") {
            "Exact" => StringMatch::Exact(spec.value.clone()),
            "RegularExpression" => {
                notes.check_regex(&path.key("value"), &spec.value);
                StringMatch::Regex(spec.value.clone())
            }
            other => {
                let text = format!("{other:?} is no type of match");
                notes.hint(
                    &path.key("type"),
                    Code::Invalid,
                    text,
                    "use Exact or RegularExpression",
                );
                continue;
            }
        };
        all.entry(key).or_insert(HeaderMatch::Value(value));
    }
    all
}

/// Whether the match takes a part of the path that can be replaced.
pub(super) fn is_by_prefix(one: &Match) -> bool {
    matches!(one.request.uri, Some(StringMatch::PathPrefix(_)))
}
