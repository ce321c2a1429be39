//! What a route does: paths, headers, redirects, cross-origin answers. Each row has its negated twin.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use reeve_core::model::{CorsPolicy, DestinationHeaders, Redirect};

use super::*;
use crate::{head::Head, local::location};

fn rewritten(uri: Option<StringMatch>, rewrite: PathRewrite, path: &str) -> String {
    let matches = uri.map(|uri| RouteMatch {
        uri: Some(uri),
        ..RouteMatch::default()
    });
    let mut rule = route("r", matches.into_iter().collect());
    if let RouteAction::Forward { rewrite: old, .. } = &mut rule.action {
        old.path = Some(rewrite);
    }
    let table = compile(vec![host("h", &["h"], vec![rule])]).unwrap();
    let found = found(&table, &view("h", path, &HeaderMap::new()), None);
    found.trim_start_matches("h/r ").to_owned()
}

/// The table of Gateway API's `ReplacePrefixMatch`, and what Envoy does with expressions.
#[test]
fn paths_are_rewritten_by_prefix_whole_or_by_expression() {
    let elements = |text: &str| Some(StringMatch::PathPrefix(text.to_owned()));
    let to = |text: &str| PathRewrite::Matched(text.to_owned());
    for (matched, replaced, path, expected) in [
        ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/xyz", "/foo/", "/xyz/"),
        ("/foo", "", "/foo/bar", "/bar"),
        ("/foo", "", "/foo/", "/"),
        ("/foo", "", "/foo", "/"),
        ("/foo", "/", "/foo/", "/"),
        ("/foo", "/", "/foo", "/"),
    ] {
        let got = rewritten(elements(matched), to(replaced), path);
        assert_eq!(got, expected, "{matched} {replaced} {path}");
    }
    let by = |pattern: &str, substitution: &str| PathRewrite::Regex {
        pattern: pattern.to_owned(),
        substitution: substitution.to_owned(),
    };
    for (rewrite, path, expected) in [
        (
            by("^/service/([^/]+)(/.*)$", r"\2/instance/\1"),
            "/service/foo/v1/api",
            "/v1/api/instance/foo",
        ),
        (
            by("one", "two"),
            "/xxx/one/yyy/one/zzz",
            "/xxx/two/yyy/two/zzz",
        ),
        (
            by("^(.*?)one(.*)$", r"\1two\2"),
            "/xxx/one/yyy/one/zzz",
            "/xxx/two/yyy/one/zzz",
        ),
        (by("(?i)/xxx/", "/yyy/"), "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
        (by("^/a", "$1"), "/a/b", "/$1/b"),
        (by("nothing", "x"), "/a/b", "/a/b"),
        (PathRewrite::Full("/all".to_owned()), "/a/b", "/all"),
    ] {
        let what = format!("{rewrite:?} {path}");
        assert_eq!(rewritten(None, rewrite, path), expected, "{what}");
    }
}

#[test]
fn path_elements_match_whole_elements_only() {
    let none = HeaderMap::new();
    for (prefix, path, expected) in [
        ("/a", "/a", true),
        ("/a", "/a/", true),
        ("/a", "/a/b", true),
        ("/a", "/ab", false),
        ("/a/", "/a", true),
        ("/a/", "/ab", false),
        ("/", "/", true),
        ("/", "/x/y", true),
        ("/a/b", "/a", false),
        ("/a", "/A", false),
    ] {
        let rule = RouteMatch {
            uri: Some(StringMatch::PathPrefix(prefix.to_owned())),
            ..RouteMatch::default()
        };
        assert_eq!(
            holds(&rule, &view("a", path, &none)),
            expected,
            "{prefix} {path}"
        );
    }
}

#[test]
fn what_must_not_match_counts_as_empty_where_it_is_absent() {
    let none = HeaderMap::new();
    let there = headers(&[("x", "1")]);
    let value = HeaderMatch::Value;
    for (m, with, without) in [
        (value(exact("1")), false, true),
        (value(exact("2")), true, true),
        (value(exact("")), true, false),
        (value(regex(".*")), false, false),
        (value(regex("[0-9]+")), false, true),
        (HeaderMatch::Present, false, true),
    ] {
        let rule = RouteMatch {
            without_headers: BTreeMap::from([("x".to_owned(), m.clone())]),
            ..RouteMatch::default()
        };
        assert_eq!(holds(&rule, &view("a", "/", &there)), with, "{m:?}");
        assert_eq!(holds(&rule, &view("a", "/", &none)), without, "{m:?}");
    }
}

#[test]
fn shadow_traffic_is_told_by_its_trace_and_by_no_header() {
    let on = |headers: &HeaderMap| {
        let mark = HeaderMatch::Value(exact("true"));
        let rule = RouteMatch {
            headers: BTreeMap::from([("x-reeve-shadow".to_owned(), mark)]),
            ..RouteMatch::default()
        };
        holds(&rule, &view("a", "/", headers))
    };
    assert!(on(&headers(&[("tracestate", "reeve=shadow")])));
    assert!(!on(&headers(&[("x-reeve-shadow", "true")])));
    assert!(!on(&HeaderMap::new()));
}

fn ops(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderOps {
    let pairs = |list: &[(&str, &str)]| {
        let owned = list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        owned.collect()
    };
    HeaderOps {
        set: pairs(set),
        add: pairs(add),
        remove: remove.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn values<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    let all = headers.get_all(name).iter();
    all.map(|v| v.to_str().unwrap()).collect()
}

#[test]
fn headers_are_removed_then_set_then_added() {
    let edits = HeaderEdits::compile(
        &ops(
            &[("a", "set"), ("b", "set")],
            &[("a", "added"), ("c", "added")],
            &["a", "c", "d"],
        ),
        "r",
    );
    let mut headers = headers(&[("a", "old"), ("c", "old"), ("d", "old"), ("e", "old")]);
    edits.unwrap().apply(&mut headers);
    assert_eq!(values(&headers, "a"), ["set", "added"]);
    assert_eq!(values(&headers, "b"), ["set"]);
    assert_eq!(values(&headers, "c"), ["added"]);
    assert_eq!(values(&headers, "d"), <[&str; 0]>::default());
    assert_eq!(values(&headers, "e"), ["old"]);
}

/// A single destination's changes come after the route's; of several, before.
#[test]
fn destinations_have_changes_to_headers_of_their_own() {
    let with = |value: &str| Destination {
        headers: Some(Box::new(DestinationHeaders {
            request: ops(&[("x", value)], &[], &[]),
            response: ops(&[("y", value)], &[], &[]),
        })),
        ..to(1)
    };
    let compiled = |destinations: Vec<Destination>| {
        let mut rule = route("r", vec![]);
        rule.request_headers = ops(&[("x", "route")], &[], &[]);
        if let RouteAction::Forward {
            destinations: old, ..
        } = &mut rule.action
        {
            *old = destinations;
        }
        let table = compile(vec![host("h", &["h"], vec![rule])]).unwrap();
        let none = HeaderMap::new();
        let Found::Route { route, .. } = table.find(&view("h", "/", &none), None) else {
            panic!("no route");
        };
        route.clone()
    };
    let sent = |route: &CompiledRoute, at: usize| {
        let RouteAction::Forward { destinations, .. } = &route.rule.action else {
            panic!("not forwarded");
        };
        let mut headers = HeaderMap::new();
        if let Some(edits) = route.edits_of(&destinations[at]) {
            edits.request.apply(&mut headers);
        }
        route.request_edits.apply(&mut headers);
        headers["x"].to_str().unwrap().to_owned()
    };
    assert_eq!(sent(&compiled(vec![with("only")]), 0), "only");
    let two = compiled(vec![with("one"), to(1)]);
    assert_eq!(
        (sent(&two, 0), sent(&two, 1)),
        ("route".to_owned(), "route".to_owned())
    );
    assert!(two.destination_edits[0].is_some() && two.destination_edits[1].is_none());
}

fn head(authority: &str, target: &str) -> Head {
    let request = http::Request::builder()
        .uri(target)
        .header("host", authority);
    let (parts, ()) = request.body(()).unwrap().into_parts();
    Head::read(parts, reeve_core::model::PathNormalization::default()).unwrap()
}

#[test]
fn redirects_keep_what_they_do_not_name() {
    // scheme, authority, port, path, then who asks for what, then where that leads.
    let rows: &[(&str, &str, u16, &str, &str, &str, &str)] = &[
        ("", "", 0, "", "a:8080", "/x?q=1", "http://a:8080/x?q=1"),
        ("", "", 0, "/y", "a", "/x?q=1", "http://a/y?q=1"),
        ("", "", 0, "/y?z=2", "a", "/x?q=1", "http://a/y?z=2"),
        ("", "b", 0, "", "a:8080", "/x", "http://b/x"),
        ("https", "", 0, "", "a:80", "/x", "https://a/x"),
        ("https", "", 0, "", "a:8080", "/x", "https://a:8080/x"),
        ("", "", 8443, "", "a:8080", "/x", "http://a:8443/x"),
        ("", "", 80, "", "a:8080", "/x", "http://a/x"),
        ("https", "", 443, "", "a:8080", "/x", "https://a/x"),
        ("https", "", 80, "", "a", "/x", "https://a:80/x"),
        ("", "b", 9, "", "[::1]:80", "/", "http://b:9/"),
    ];
    for (scheme, authority, port, path, asked, target, expected) in rows {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let redirect = Redirect {
            scheme: some(scheme),
            authority: some(authority),
            port: (*port > 0).then_some(*port),
            path: None,
            code: 301,
        };
        let path = some(path);
        let got = location(&redirect, path.as_deref(), &head(asked, target), "http");
        assert_eq!(got, *expected, "{redirect:?} {asked} {target}");
    }
    let secure = Redirect::default();
    let got = location(&secure, None, &head("a:443", "/x"), "https");
    assert_eq!(got, "https://a:443/x");
}

fn cors(policy: CorsPolicy) -> Cors {
    Cors::compile(&policy, "r").unwrap()
}

fn shop() -> CorsPolicy {
    CorsPolicy {
        allow_origins: vec![
            exact("https://shop.example"),
            prefix("https://beta."),
            regex("https://[a-z]+\\.example\\.org"),
        ],
        allow_methods: vec!["GET".to_owned(), "POST".to_owned()],
        allow_headers: vec!["x-a".to_owned()],
        expose_headers: vec!["x-b".to_owned()],
        max_age: Some(Duration::from_secs(600)),
        allow_credentials: true,
        ignore_unmatched_preflights: false,
    }
}

#[test]
fn origins_are_allowed_exactly_by_prefix_or_by_expression() {
    for (origin, allowed) in [
        ("https://shop.example", true),
        ("https://shop.example.evil", false),
        ("https://beta.anything", true),
        ("http://beta.anything", false),
        ("https://a.example.org", true),
        ("https://a.example.org.evil", false),
        ("null", false),
        ("", false),
    ] {
        let request =
            HeaderMap::from_iter([(http::header::ORIGIN, HeaderValue::from_str(origin).unwrap())]);
        assert_eq!(
            cors(shop()).allowed(&request).is_some(),
            allowed,
            "{origin}"
        );
    }
    assert!(cors(shop()).allowed(&HeaderMap::new()).is_none());
    let any = CorsPolicy {
        allow_origins: vec![exact("*")],
        ..shop()
    };
    let request = headers(&[("origin", "https://who.ever")]);
    assert_eq!(cors(any).allowed(&request).unwrap(), "https://who.ever");
}

#[test]
fn preflights_are_answered_as_envoy_answers_them() {
    let preflight = |policy: CorsPolicy, method: Method, pairs: &[(&'static str, &'static str)]| {
        let answer = cors(policy).preflight(&method, &headers(pairs))?;
        assert_eq!(answer.status(), 200);
        let mut told: Vec<_> = answer
            .headers()
            .iter()
            .map(|(name, value): (&HeaderName, _)| {
                let name = name.as_str().strip_prefix("access-control-").unwrap();
                format!("{name}: {}", value.to_str().unwrap())
            })
            .collect();
        told.sort();
        Some(told.join("; "))
    };
    let asks = [
        ("origin", "https://shop.example"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-q,x-r"),
    ];
    let all = "allow-credentials: true; allow-headers: x-a; allow-methods: GET,POST; \
        allow-origin: https://shop.example; max-age: 600";
    assert_eq!(
        preflight(shop(), Method::OPTIONS, &asks).as_deref(),
        Some(all)
    );
    assert_eq!(preflight(shop(), Method::GET, &asks), None);
    assert_eq!(preflight(shop(), Method::OPTIONS, &asks[..1]), None);
    assert_eq!(preflight(shop(), Method::OPTIONS, &asks[1..]), None);
    let stranger = [("origin", "https://evil"), asks[1]];
    assert_eq!(
        preflight(shop(), Method::OPTIONS, &stranger),
        None,
        "forwarded"
    );
    let ignoring = CorsPolicy {
        ignore_unmatched_preflights: true,
        ..shop()
    };
    let refused = preflight(ignoring, Method::OPTIONS, &stranger).unwrap();
    assert!(!refused.contains("allow-origin"), "{refused}");
    let stars = CorsPolicy {
        allow_methods: vec!["*".to_owned()],
        allow_headers: vec!["*".to_owned()],
        max_age: None,
        allow_credentials: false,
        ..shop()
    };
    let echoed = "allow-headers: x-q,x-r; allow-methods: PUT; allow-origin: https://shop.example";
    assert_eq!(
        preflight(stars, Method::OPTIONS, &asks).as_deref(),
        Some(echoed)
    );
}

#[test]
fn answers_to_an_allowed_origin_are_readable() {
    let origin = HeaderValue::from_static("https://shop.example");
    let mut answer = headers(&[("access-control-allow-origin", "what the application said")]);
    cors(shop()).mark(&origin, &mut answer);
    assert_eq!(answer["access-control-allow-origin"], origin);
    assert_eq!(answer["access-control-allow-credentials"], "true");
    assert_eq!(answer["access-control-expose-headers"], "x-b");
    let mut bare = HeaderMap::new();
    cors(CorsPolicy {
        allow_origins: vec![exact("*")],
        ..CorsPolicy::default()
    })
    .mark(&origin, &mut bare);
    assert_eq!(bare.len(), 1, "{bare:?}");
}
