//! Compiled lookup is a first-match scan; and what is the same is not compiled again.

use super::*;

/// Text of few letters, so that much of it meets.
fn path() -> impl Strategy<Value = String> {
    "(/[ab]{1,2}){1,3}|/"
}

fn uri() -> impl Strategy<Value = Option<StringMatch>> {
    prop_oneof![
        1 => Just(None),
        3 => path().prop_map(|text| Some(StringMatch::Exact(text))),
        3 => path().prop_map(|text| Some(StringMatch::Prefix(text))),
        3 => path().prop_map(|text| Some(StringMatch::PathPrefix(text))),
        1 => "/[ab]\\.\\*".prop_map(|text| Some(StringMatch::Regex(text))),
    ]
}

prop_compose! {
    fn one_match()(
        uri in uri(),
        ignore_uri_case in proptest::bool::weighted(0.2),
        user in proptest::option::weighted(0.4, "[ab]"),
        not in proptest::option::weighted(0.2, "[ab]"),
        method in proptest::option::weighted(0.2, "GET|PUT"),
    ) -> RouteMatch {
        let on = |value: Option<String>| {
            let value = value.map(|text| HeaderMatch::Value(StringMatch::Exact(text)));
            value.map(|m| ("user".to_owned(), m)).into_iter().collect()
        };
        RouteMatch {
            uri,
            ignore_uri_case,
            method: method.map(StringMatch::Exact),
            headers: on(user),
            without_headers: on(not),
            ..RouteMatch::default()
        }
    }
}

/// What the documentation says, said as plainly as can be.
fn first(routes: &[Vec<RouteMatch>], request: &RequestView<'_>) -> Option<usize> {
    let text = |m: &StringMatch, value: &str, ignore: bool| {
        let low = |text: &str| {
            if ignore {
                text.to_lowercase()
            } else {
                text.to_owned()
            }
        };
        match m {
            StringMatch::Exact(text) => low(value) == low(text),
            StringMatch::Prefix(text) => low(value).starts_with(&low(text)),
            StringMatch::PathPrefix(text) => {
                let slashed = |text: &str| format!("{}/", text.strip_suffix('/').unwrap_or(text));
                slashed(&low(value)).starts_with(&slashed(&low(text)))
            }
            StringMatch::Regex(text) => regex::Regex::new(&format!("^(?:{text})$"))
                .unwrap()
                .is_match(value),
        }
    };
    let header = |name: &str| {
        request
            .headers
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
    };
    let value = |m: &HeaderMatch, value: &str| match m {
        HeaderMatch::Present => true,
        HeaderMatch::Value(m) => text(m, value, false),
    };
    let holds = |m: &RouteMatch| {
        m.uri
            .as_ref()
            .is_none_or(|uri| text(uri, request.path, m.ignore_uri_case))
            && m.method
                .as_ref()
                .is_none_or(|method| text(method, request.method, false))
            && m.headers
                .iter()
                .all(|(name, m)| header(name).is_some_and(|v| value(m, &v)))
            && m.without_headers
                .iter()
                .all(|(name, m)| !value(m, &header(name).unwrap_or_default()))
    };
    routes
        .iter()
        .position(|alternatives| alternatives.is_empty() || alternatives.iter().any(holds))
}

fn table_of(routes: &[Vec<RouteMatch>]) -> Table {
    let rule = |(at, matches): (usize, &Vec<RouteMatch>)| route(&at.to_string(), matches.clone());
    compile(vec![host(
        "h",
        &["h"],
        routes.iter().enumerate().map(rule).collect(),
    )])
    .unwrap()
}

proptest! {
    #[test]
    fn compiled_lookup_is_a_first_match_scan(
        routes in proptest::collection::vec(proptest::collection::vec(one_match(), 0..3), 0..40),
        requests in proptest::collection::vec((path(), proptest::option::of("[abc]"), "GET|PUT"), 1..20),
    ) {
        // A rule without match takes everything: only the last may be one, or there is nothing to find.
        let last = routes.len().saturating_sub(1);
        let routes: Vec<_> = routes
            .into_iter()
            .enumerate()
            .filter(|(at, alternatives)| *at == last || !alternatives.is_empty())
            .map(|(_, alternatives)| alternatives)
            .collect();
        let table = table_of(&routes);
        for (path, user, method) in &requests {
            let mut headers = HeaderMap::new();
            if let Some(user) = user {
                headers.insert("user", HeaderValue::from_str(user).unwrap());
            }
            let request = RequestView { method, ..view("h", path, &headers) };
            let expected = first(&routes, &request).map_or("h/-".to_owned(), |at| format!("h/{at}"));
            prop_assert_eq!(found(&table, &request, None), expected, "{} {:?}", path, user);
        }
    }

    #[test]
    fn suffixes_are_found_as_by_trying_each(
        suffixes in proptest::collection::btree_set("(\\.[ab]{1,2}){1,3}", 0..8),
        authority in "([ab]{1,2}\\.){0,4}[ab]{1,2}(:80)?",
    ) {
        let hosts: Vec<_> = suffixes.iter().map(|s| host(s, &[&format!("*{s}")], vec![route("r", vec![])])).collect();
        let table = compile(hosts).unwrap();
        let bare = without_port(&authority);
        let fits = |s: &&String| bare.len() > s.len() && bare.ends_with(s.as_str());
        let expected = suffixes.iter().filter(fits).max_by_key(|s| s.len());
        let expected = expected.map_or("-".to_owned(), |s| format!("{s}/r"));
        prop_assert_eq!(found(&table, &view(&authority, "/", &HeaderMap::new()), None), expected);
    }
}

#[test]
fn virtual_hosts_that_did_not_change_are_kept() {
    let hosts = |changed: &str| {
        let one = |name: &str| host(name, &[name], vec![route("r", vec![])]);
        let mut all: Vec<_> = ["a", "*.b", "*"].into_iter().map(one).collect();
        for host in all.iter_mut().filter(|host| host.name == changed) {
            host.routes.push(route("new", vec![]));
        }
        RouteTable::new(RouteTableName("t".to_owned()), all)
    };
    let before = Table::compile(&hosts("nothing"), None).unwrap();
    for (changed, kept) in [
        ("nothing", [true; 3]),
        ("*", [false, true, true]),
        ("*.b", [true, false, true]),
        ("a", [true, true, false]),
    ] {
        let after = Table::compile(&hosts(changed), Some(&before)).unwrap();
        assert_eq!(after.shares_with(&before), kept, "{changed}");
    }
}
