use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};
use reeve_core::{
    ServiceName,
    model::{
        Destination, HeaderMatch, HeaderOps, PathRewrite, RetryPolicy, Route, RouteAction,
        RouteMatch, RouteTable, RouteTableName, StringMatch, VirtualHost,
    },
};

use super::*;

mod actions;
mod lookup;

fn to(weight: u32) -> Destination {
    Destination {
        weight,
        ..Destination::new("a.default.svc.cluster.local".parse().unwrap(), 80)
    }
}

fn route(name: &str, matches: Vec<RouteMatch>) -> Route {
    Route {
        name: Some(name.to_owned()),
        matches,
        ..Route::to("a.default.svc.cluster.local".parse().unwrap(), 80)
    }
}

fn host(name: &str, domains: &[&str], routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: name.to_owned(),
        domains: domains.iter().map(|d| (*d).to_owned()).collect(),
        routes,
        path_normalization: None,
    }
}

fn compile(virtual_hosts: Vec<VirtualHost>) -> Result<Table, RouteError> {
    let name = RouteTableName("t".to_owned());
    Table::compile(&RouteTable::new(name, virtual_hosts), None)
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &'static str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    pairs.iter().map(pair).collect()
}

fn view<'a>(authority: &'a str, path: &'a str, headers: &'a HeaderMap) -> RequestView<'a> {
    RequestView {
        scheme: "http",
        authority,
        method: "GET",
        path,
        query: None,
        headers,
        claims: None,
    }
}

/// `host/route` of what was found.
fn found(table: &Table, request: &RequestView<'_>, service: Option<&(ServiceName, u16)>) -> String {
    match table.find(request, service) {
        Found::NoHost => "-".to_owned(),
        Found::NoRoute(host) => format!("{}/-", host.name),
        Found::Route {
            host, route, taken, ..
        } => {
            let rewritten = taken
                .path
                .map(|path| format!(" {path}"))
                .unwrap_or_default();
            format!(
                "{}/{}{rewritten}",
                host.name,
                route.rule.name.as_deref().unwrap()
            )
        }
    }
}

fn holds(rule: &RouteMatch, request: &RequestView<'_>) -> bool {
    Matcher::compile(rule, "test").unwrap().holds(request)
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.to_owned())
}

fn prefix(text: &str) -> StringMatch {
    StringMatch::Prefix(text.to_owned())
}

fn regex(text: &str) -> StringMatch {
    StringMatch::Regex(text.to_owned())
}

#[test]
fn authorities_match_exactly_then_by_the_longest_suffix_then_any() {
    let one = |name: &str, domains: &[&str]| host(name, domains, vec![route("r", vec![])]);
    let table = compile(vec![
        one("any", &["*"]),
        one("wide", &["*.com"]),
        one("narrow", &["*.example.com"]),
        one("exact", &["a.example.com", "B.example.com:81"]),
    ])
    .unwrap();
    let none = HeaderMap::new();
    for (authority, expected) in [
        ("a.example.com", "exact/r"),
        ("a.example.com:8080", "exact/r"),
        ("b.example.com:81", "exact/r"),
        ("b.example.com:82", "narrow/r"),
        ("x.y.example.com", "narrow/r"),
        ("example.com", "wide/r"),
        (".example.com", "wide/r"),
        ("com", "any/r"),
        ("[::1]:80", "any/r"),
    ] {
        assert_eq!(
            found(&table, &view(authority, "/", &none), None),
            expected,
            "{authority}"
        );
    }
}

#[test]
fn an_address_that_stands_for_a_service_means_that_service_unless_another_is_named() {
    let one = |name: &str, domains: &[&str]| host(name, domains, vec![route("r", vec![])]);
    let reviews = "reviews.default.svc.cluster.local";
    let table = compile(vec![
        one("any", &["*"]),
        one("reviews", &[reviews]),
        one("b", &["b"]),
    ]);
    let (table, none) = (table.unwrap(), HeaderMap::new());
    let service = Some(&(reviews.parse().unwrap(), 9080)).cloned();
    let at = |authority| found(&table, &view(authority, "/", &none), service.as_ref());
    assert_eq!(at("127.77.3.10:9080"), "reviews/r");
    assert_eq!(at("b"), "b/r");
    let other = Some(("other.default.svc.cluster.local".parse().unwrap(), 9080));
    let unnamed = found(
        &table,
        &view("127.77.3.11:9080", "/", &none),
        other.as_ref(),
    );
    assert_eq!(
        unnamed, "-",
        "never the catch-all: the address says where it goes"
    );
}

#[test]
fn a_doubled_authority_is_refused() {
    for domains in [["a", "A"], ["*", "*"], ["*.x", "*.x"]] {
        let doubled = compile(vec![host("h", &domains, vec![])]);
        assert!(
            matches!(doubled, Err(RouteError::DuplicateDomain { .. })),
            "{domains:?}"
        );
    }
}

#[test]
fn the_first_route_that_matches_wins() {
    let on = |m| RouteMatch {
        uri: Some(m),
        ..RouteMatch::default()
    };
    let routes = vec![
        route("login", vec![on(exact("/login")), on(exact("/logout"))]),
        route("api", vec![on(prefix("/api"))]),
        route("api2", vec![on(prefix("/api/v2"))]),
    ];
    let table = compile(vec![host("h", &["h"], routes)]).unwrap();
    let none = HeaderMap::new();
    for (path, expected) in [
        ("/login", "h/login"),
        ("/logout", "h/login"),
        ("/login/", "h/-"),
        ("/api/v2", "h/api"),
        ("/apix", "h/api"),
        ("/", "h/-"),
    ] {
        assert_eq!(
            found(&table, &view("h", path, &none), None),
            expected,
            "{path}"
        );
    }
}

#[test]
fn paths_match_exactly_by_prefix_or_wholly_by_expression() {
    let none = HeaderMap::new();
    for (m, ignore_uri_case, path, expected) in [
        (exact("/a"), false, "/a", true),
        (exact("/a"), false, "/ab", false),
        (exact("/a"), false, "/A", false),
        (exact("/a"), true, "/A", true),
        (prefix("/a"), false, "/abc", true),
        (prefix("/a"), false, "/b", false),
        (prefix("/a"), true, "/ABC", true),
        (prefix("/abc"), true, "/a", false),
        (regex("/a+"), false, "/aaa", true),
        (regex("/a+"), false, "/aab", false),
        (regex("/a|/b"), false, "/b/x", false),
    ] {
        let what = format!("{m:?} {path}");
        let rule = RouteMatch {
            uri: Some(m),
            ignore_uri_case,
            ..RouteMatch::default()
        };
        assert_eq!(holds(&rule, &view("a", path, &none)), expected, "{what}");
    }
}

#[test]
fn method_scheme_and_authority_match() {
    let (any, none) = (RouteMatch::default, HeaderMap::new());
    let request = view("a:80", "/", &none);
    assert!(holds(&any(), &request));
    for (method, scheme, authority, expected) in [
        (Some(exact("GET")), None, None, true),
        (Some(exact("POST")), None, None, false),
        (None, Some(exact("http")), None, true),
        (None, Some(exact("https")), None, false),
        (None, None, Some(prefix("a")), true),
        (None, None, Some(prefix("b")), false),
        (Some(exact("GET")), Some(exact("https")), None, false),
    ] {
        let what = format!("{method:?} {scheme:?} {authority:?}");
        let rule = RouteMatch {
            method,
            scheme,
            authority,
            ..any()
        };
        assert_eq!(holds(&rule, &request), expected, "{what}");
    }
}

#[test]
fn headers_and_query_parameters_match() {
    let jason = headers(&[("end-user", "jason"), ("x", "1"), ("x", "2")]);
    let (any, none) = (RouteMatch::default, HeaderMap::new());
    let on = |name: &str, m| BTreeMap::from([(name.to_owned(), m)]);
    let value = |text| HeaderMatch::Value(exact(text));
    for (name, m, with_jason, without) in [
        ("end-user", value("jason"), true, false),
        ("end-user", value("jas"), false, false),
        ("end-user", HeaderMatch::Present, true, false),
        ("x", value("1,2"), true, false),
        ("x", value("1"), false, false),
    ] {
        let rule = RouteMatch {
            headers: on(name, m.clone()),
            ..any()
        };
        assert_eq!(holds(&rule, &view("a", "/", &jason)), with_jason, "{m:?}");
        assert_eq!(holds(&rule, &view("a", "/", &none)), without, "{m:?}");
        let rule = RouteMatch {
            without_headers: on(name, m.clone()),
            ..any()
        };
        assert_eq!(
            holds(&rule, &view("a", "/", &jason)),
            !with_jason,
            "not {m:?}"
        );
        assert_eq!(holds(&rule, &view("a", "/", &none)), !without, "not {m:?}");
    }
    let rule = RouteMatch {
        query_params: on("q", value("1 2")),
        ..any()
    };
    for (query, expected) in [
        (Some("p=0&q=1%202"), true),
        (Some("p=1%202"), false),
        (None, false),
    ] {
        let request = RequestView {
            query,
            ..view("a", "/", &none)
        };
        assert_eq!(holds(&rule, &request), expected, "{query:?}");
    }
}

#[test]
fn a_rewrite_replaces_the_matched_prefix_or_the_whole_path() {
    let on = |m| {
        vec![RouteMatch {
            uri: Some(m),
            ..RouteMatch::default()
        }]
    };
    let none = HeaderMap::new();
    for (matches, to_uri, path, expected) in [
        (on(prefix("/old")), "/new", "/old/x", "/new/x"),
        (on(prefix("/old")), "/", "/old/x", "/x"),
        (on(prefix("/old/")), "/", "/old/x", "/x"),
        (on(prefix("/old")), "/", "/old", "/"),
        (on(exact("/old")), "/new", "/old", "/new"),
        (on(regex("/o.*")), "/new", "/old/x", "/new"),
        (vec![], "/new", "/old/x", "/new"),
    ] {
        let mut rule = route("r", matches);
        if let RouteAction::Forward { rewrite, .. } = &mut rule.action {
            rewrite.path = Some(PathRewrite::Matched(to_uri.to_owned()));
        }
        let table = compile(vec![host("h", &["h"], vec![rule])]).unwrap();
        let all = format!("h/r {expected}");
        assert_eq!(
            found(&table, &view("h", path, &none), None),
            all,
            "{to_uri} {path}"
        );
    }
}

#[test]
fn what_does_not_compile_is_refused() {
    let on = |m| {
        vec![RouteMatch {
            uri: Some(m),
            ..RouteMatch::default()
        }]
    };
    let one = |rule| compile(vec![host("h", &["h"], vec![rule])]).unwrap_err();
    assert!(matches!(
        one(route("r", on(regex("(")))),
        RouteError::Regex { .. }
    ));
    let mut rule = route("r", vec![]);
    rule.request_headers
        .set
        .insert("bad name".to_owned(), "1".to_owned());
    assert!(matches!(one(rule), RouteError::Header { part: "name", .. }));
    let mut rule = route("r", vec![]);
    rule.request_headers
        .add
        .insert("x".to_owned(), "a\nb".to_owned());
    assert!(matches!(
        one(rule),
        RouteError::Header { part: "value", .. }
    ));
    let mut rule = route("r", vec![]);
    rule.action = RouteAction::Respond {
        status: 99,
        body: Vec::new(),
    };
    assert!(matches!(one(rule), RouteError::Status { code: 99, .. }));
    let mut rule = route("r", vec![]);
    if let RouteAction::Forward { destinations, .. } = &mut rule.action {
        *destinations = vec![to(0)];
    }
    assert!(matches!(one(rule), RouteError::NoWeight { .. }));
}

#[test]
fn weights_are_shares() {
    let destinations = [to(50), to(25), to(0), to(25)];
    let mut rng = StdRng::seed_from_u64(1);
    let mut shares = [0; 4];
    for _ in 0..10_000 {
        let picked = pick(&destinations, &mut rng).unwrap();
        let at = destinations
            .iter()
            .position(|d| std::ptr::eq(d, picked))
            .unwrap();
        shares[at] += 1;
    }
    assert_eq!(shares[2], 0, "weight 0 is never picked");
    for (share, expected) in shares.iter().zip([5000, 2500, 0, 2500]) {
        assert!(i32::abs(share - expected) < 200, "{shares:?}");
    }
}

#[test]
fn retry_words_mean_what_envoys_do() {
    let on = |words: &[&str]| {
        RetryOn::compile(&RetryPolicy {
            attempts: 2,
            per_try_timeout: None,
            on: words.iter().map(|w| (*w).to_owned()).collect(),
            ..RetryPolicy::default()
        })
    };
    for (word, failure, covered) in [
        ("connect-failure", Failure::Connect, true),
        ("connect-failure", Failure::Reset, false),
        ("refused-stream", Failure::Refused, true),
        ("refused-stream", Failure::Connect, false),
        ("reset", Failure::Reset, true),
        ("reset-before-request", Failure::Reset, false),
        ("reset-before-request", Failure::Refused, true),
        ("gateway-error", Failure::Timeout, true),
        ("5xx", Failure::Timeout, true),
        ("503", Failure::Timeout, false),
        ("reset", Failure::Connect, true),
        ("gateway-error", Failure::Reset, true),
        ("5xx", Failure::Connect, true),
        ("retriable-4xx", Failure::Reset, false),
        ("5xx", Failure::Overflow, false),
        ("reset", Failure::Overflow, false),
    ] {
        assert_eq!(on(&[word]).covers(failure), covered, "{word} {failure:?}");
    }
    let unavailable = headers(&[("grpc-status", "14")]);
    let none = HeaderMap::new();
    let limited = headers(&[("x-envoy-ratelimited", "true")]);
    let retriable = headers(&[("x-again", "1")]);
    let asked = headers(&[("x-envoy-retriable-header-names", "x-other, x-again")]);
    for (word, status, headers, covered) in [
        ("503", 503, &none, true),
        ("503", 502, &none, false),
        ("5xx", 500, &none, true),
        ("5xx", 404, &none, false),
        ("gateway-error", 502, &none, true),
        ("gateway-error", 500, &none, false),
        ("retriable-4xx", 409, &none, true),
        ("unavailable", 200, &unavailable, true),
        ("cancelled", 200, &unavailable, false),
        ("unavailable", 503, &none, false),
        ("5xx", 503, &limited, false),
        ("envoy-ratelimited", 429, &limited, true),
        ("envoy-ratelimited", 429, &none, false),
        ("retriable-headers", 200, &retriable, true),
        ("retriable-headers", 200, &none, false),
        ("5xx", 200, &retriable, false),
    ] {
        let status = http::StatusCode::from_u16(status).unwrap();
        assert_eq!(
            on(&[word]).covers_response(status, headers, &asked),
            covered,
            "{word} {status}"
        );
    }
}

#[test]
fn waits_double_up_to_ten_times_the_first() {
    let most = |backoff: Option<u64>, retries| {
        let policy = RetryPolicy {
            backoff: backoff.map(std::time::Duration::from_millis),
            ..RetryPolicy::default()
        };
        RetryOn::compile(&policy).most_backoff(retries).as_millis()
    };
    assert_eq!(
        [0, 1, 2, 3, 4, 20].map(|n| most(None, n)),
        [25, 50, 100, 200, 250, 250]
    );
    assert_eq!([0, 1, 9].map(|n| most(Some(1000), n)), [1000, 2000, 10_000]);
}

proptest! {
    #[test]
    fn a_port_is_taken_off_whatever_the_host(
        host in "[a-z][a-z0-9.-]{0,12}|[0-9]{1,3}\\.0\\.0\\.1|\\[[0-9a-f:]{2,12}\\]", port: u16, text in "[\\[\\]:.a0é]{0,12}",
    ) {
        let with_port = format!("{host}:{port}");
        prop_assert_eq!(without_port(&with_port), host.as_str());
        prop_assert_eq!(without_port(&host), host.as_str());
        prop_assert!(text.starts_with(without_port(&text)));
    }
}

#[test]
fn claims_match_if_one_value_does_and_nobody_without_a_token_has_any() {
    let value = |text: &str| HeaderMatch::Value(StringMatch::Exact(text.to_owned()));
    let admins = RouteMatch {
        claims: BTreeMap::from([("realm.roles".to_owned(), value("admin"))]),
        ..RouteMatch::default()
    };
    let not_banned = RouteMatch {
        claims: BTreeMap::from([("sub".to_owned(), HeaderMatch::Present)]),
        without_claims: BTreeMap::from([("groups".to_owned(), value("banned"))]),
        ..RouteMatch::default()
    };
    assert!(!admins.is_catch_all() && !not_banned.is_catch_all());
    let routes = vec![
        route("admins", vec![admins]),
        route("known", vec![not_banned]),
        route("rest", vec![]),
    ];
    let table = compile(vec![host("h", &["h"], routes)]).unwrap();
    let none = HeaderMap::new();
    let taken = |claims: &[(&str, &[&str])]| {
        let all = claims.iter().map(|(name, values)| {
            let values = values.iter().map(|v| (*v).to_owned()).collect();
            ((*name).to_owned(), values)
        });
        let user = reeve_core::decision::User {
            claims: all.collect(),
            expires_at: None,
            issuer: String::new(),
            subject: String::new(),
        };
        let request = RequestView {
            claims: (!claims.is_empty()).then_some(&user),
            ..view("h", "/", &none)
        };
        found(&table, &request, None)
    };
    assert_eq!(taken(&[("realm.roles", &["user", "admin"])]), "h/admins");
    assert_eq!(
        taken(&[("sub", &["ann"]), ("realm.roles", &["user"])]),
        "h/known"
    );
    assert_eq!(
        taken(&[("sub", &["ann"]), ("groups", &["a", "banned"])]),
        "h/rest"
    );
    assert_eq!(taken(&[]), "h/rest");
}
