//! Filters of rules and of backends.

use std::collections::BTreeMap;

use reeve_core::model::{DestinationHeaders, HeaderOps, PathRewrite, Redirect, Rewrite};

use super::{Kind, Known, backends};
use crate::{
    Code,
    kinds::{
        FilterSpec, HeaderFilterSpec, HeaderOpsSpec, MirrorFilterSpec, NamedValueSpec,
        PathChangeSpec, RedirectFilterSpec, RewriteFilterSpec,
    },
    mesh::{Headers, HttpRoute, MirrorTo, RouteTo},
    resolve::values::Notes,
    source::path::Path,
};

/// Puts what the filters say into `route`. `by_prefix` = every match has a prefix that can be replaced.
pub(super) fn apply<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    specs: &[FilterSpec],
    kind: Kind,
    by_prefix: bool,
    route: &mut HttpRoute,
    known: &Known<'_>,
) {
    let mut seen: Vec<&str> = Vec::new();
    for (n, spec) in specs.iter().enumerate() {
        let path = path.index(n);
        let name = spec.r#type.as_str();
        if seen.contains(&name) && name != "RequestMirror" {
            let text = format!("there are two filters {name}");
            notes.error(&path.key("type"), Code::Conflict, text);
        }
        seen.push(name);
        match (name, kind) {
            ("RequestHeaderModifier", _) => {
                let ops = headers(
                    notes,
                    &path.key("requestHeaderModifier"),
                    spec.request_header_modifier.as_ref(),
                );
                route.headers.get_or_insert_default().request = ops;
            }
            ("ResponseHeaderModifier", _) => {
                let ops = headers(
                    notes,
                    &path.key("responseHeaderModifier"),
                    spec.response_header_modifier.as_ref(),
                );
                route.headers.get_or_insert_default().response = ops;
            }
            ("RequestMirror", _) => {
                let path = path.key("requestMirror");
                match &spec.request_mirror {
                    Some(mirror) => {
                        let found = self::mirror(notes, &path, mirror, kind, known);
                        route.mirrors.get_or_insert_default().extend(found);
                    }
                    None => notes.error(&path, Code::Missing, "the filter says nothing"),
                }
            }
            ("RequestRedirect", Kind::Http) => {
                let path = path.key("requestRedirect");
                let found = spec.request_redirect.as_ref();
                redirect(notes, &path, found, by_prefix, route);
            }
            ("URLRewrite", Kind::Http) => {
                let found = spec.url_rewrite.as_ref();
                route.rewrite = rewrite(notes, &path.key("urlRewrite"), found, by_prefix);
            }
            ("ExtensionRef" | "CORS" | "ExternalAuth", _) => {
                let text = format!("the filter {name} is known, but not supported in this version");
                notes.hint(
                    &path.key("type"),
                    Code::Unsupported,
                    text,
                    "remove it; it would have no effect",
                );
            }
            _ => {
                let text = format!("{name:?} is no filter of a {}", kind.name());
                notes.error(&path.key("type"), Code::Invalid, text);
            }
        }
    }
    if seen.contains(&"RequestRedirect") && seen.contains(&"URLRewrite") {
        let text = "give one of RequestRedirect and URLRewrite";
        notes.error(path, Code::Conflict, text);
    }
}

/// A backend may have changes to headers; nothing else is supported there.
pub(super) fn of_backend<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    specs: &[FilterSpec],
) -> Option<Box<DestinationHeaders>> {
    let mut found: Option<Headers> = None;
    for (n, spec) in specs.iter().enumerate() {
        let path = path.index(n);
        match spec.r#type.as_str() {
            "RequestHeaderModifier" => {
                let ops = headers(
                    notes,
                    &path.key("requestHeaderModifier"),
                    spec.request_header_modifier.as_ref(),
                );
                found.get_or_insert_default().request = ops;
            }
            "ResponseHeaderModifier" => {
                let ops = headers(
                    notes,
                    &path.key("responseHeaderModifier"),
                    spec.response_header_modifier.as_ref(),
                );
                found.get_or_insert_default().response = ops;
            }
            other => {
                let text =
                    format!("the filter {other} is not supported for a backend in this version");
                notes.hint(
                    &path.key("type"),
                    Code::Unsupported,
                    text,
                    "give it to the rule",
                );
            }
        }
    }
    found.map(|headers| {
        Box::new(DestinationHeaders {
            request: headers.request,
            response: headers.response,
        })
    })
}

fn headers<S>(notes: &mut Notes<'_, S>, path: &Path, spec: Option<&HeaderFilterSpec>) -> HeaderOps {
    let Some(spec) = spec else {
        notes.error(path, Code::Missing, "the filter says nothing");
        return HeaderOps::default();
    };
    // Of two entries of one name the first counts.
    let map = |list: &[NamedValueSpec]| -> BTreeMap<String, String> {
        let pairs = list.iter().rev();
        pairs
            .map(|pair| {
                (
                    pair.name.to_ascii_lowercase(),
                    pair.value.replace('%', "%%"),
                )
            })
            .collect()
    };
    let ops = HeaderOpsSpec {
        set: map(&spec.set),
        add: map(&spec.add),
        remove: spec.remove.clone(),
    };
    notes.header_ops(path, &ops)
}

fn mirror<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    spec: &MirrorFilterSpec,
    kind: Kind,
    known: &Known<'_>,
) -> Option<MirrorTo> {
    let to = backends::one(
        notes,
        &path.key("backendRef"),
        &spec.backend_ref,
        kind,
        known,
    )?;
    let per_million = match (spec.percent, &spec.fraction) {
        (Some(_), Some(_)) => {
            notes.error(path, Code::Conflict, "give one of percent and fraction");
            None
        }
        (None, None) => Some(1_000_000),
        (Some(percent), None) => (percent <= 100).then(|| percent.saturating_mul(10_000)),
        (None, Some(fraction)) => {
            let whole = fraction.denominator.unwrap_or(100);
            let share = u64::from(fraction.numerator) * 1_000_000;
            let share = share.checked_div(u64::from(whole));
            share
                .and_then(|s| u32::try_from(s).ok())
                .filter(|s| *s <= 1_000_000)
        }
    };
    let Some(per_million) = per_million else {
        notes.error(path, Code::Invalid, "the share is 0 to 100 percent");
        return None;
    };
    (per_million > 0).then_some(MirrorTo {
        to,
        per_million,
        headers: BTreeMap::new(),
        remove_headers: Vec::new(),
    })
}

fn redirect<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    spec: Option<&RedirectFilterSpec>,
    by_prefix: bool,
    route: &mut HttpRoute,
) {
    let Some(spec) = spec else {
        notes.error(path, Code::Missing, "the filter says nothing");
        return;
    };
    if !matches!(&route.to, RouteTo::Forward(to) if to.is_empty()) {
        notes.error(
            path,
            Code::Conflict,
            "a rule that redirects has no backendRefs",
        );
    }
    let code = spec.status_code.unwrap_or(302);
    if !matches!(code, 301 | 302 | 303 | 307 | 308) {
        let text = format!("{code} is no redirect");
        let hint = "use 301, 302, 303, 307 or 308";
        notes.hint(&path.key("statusCode"), Code::Invalid, text, hint);
    }
    if let Some(scheme) = &spec.scheme {
        let words = [("http", ()), ("https", ())];
        notes.word(&path.key("scheme"), scheme, &words);
    }
    let change = spec.path.as_ref();
    route.to = RouteTo::Redirect {
        redirect: Redirect {
            scheme: spec.scheme.clone(),
            authority: spec.hostname.clone(),
            port: spec.port,
            path: change.and_then(|c| path_change(notes, &path.key("path"), c, by_prefix)),
            code,
        },
        // Without a scheme of its own, a redirect stays at the port that was asked.
        request_port: spec.port.is_none() && spec.scheme.is_none(),
    };
}

fn rewrite<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    spec: Option<&RewriteFilterSpec>,
    by_prefix: bool,
) -> Option<Rewrite> {
    let Some(spec) = spec else {
        notes.error(path, Code::Missing, "the filter says nothing");
        return None;
    };
    let change = spec.path.as_ref();
    Some(Rewrite {
        path: change.and_then(|c| path_change(notes, &path.key("path"), c, by_prefix)),
        authority: spec.hostname.clone(),
    })
}

fn path_change<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    spec: &PathChangeSpec,
    by_prefix: bool,
) -> Option<PathRewrite> {
    match (
        spec.r#type.as_str(),
        &spec.replace_full_path,
        &spec.replace_prefix_match,
    ) {
        ("ReplaceFullPath", Some(full), None) => Some(PathRewrite::Full(full.clone())),
        ("ReplacePrefixMatch", None, Some(prefix)) if by_prefix => {
            Some(PathRewrite::Matched(prefix.clone()))
        }
        ("ReplacePrefixMatch", None, Some(_)) => {
            let text = "a prefix can be replaced only where every match is a PathPrefix";
            notes.error(path, Code::Conflict, text);
            None
        }
        _ => {
            let text = "say ReplaceFullPath with replaceFullPath, or ReplacePrefixMatch with replacePrefixMatch";
            notes.error(path, Code::Invalid, text);
            None
        }
    }
}
