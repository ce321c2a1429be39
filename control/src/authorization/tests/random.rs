//! Random policies and requests: the translation answers as the original would.

use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Map, Value, json};

use super::{
    access, engine,
    istio::{self, Asked, Http, Token},
    policy, world,
};

const PRINCIPALS: &[&str] = &[
    "cluster.local/ns/default/sa/sleep",
    "mesh.local/ns/test/sa/web",
    "mesh.local/ns/default/sa/*",
    "cluster.local/ns/test*",
    "*/sa/sleep",
    "*/ns/test/sa/web",
    "*",
];
const NAMESPACES: &[&str] = &["default", "test", "te*", "*st", "*", "t*t"];
const ACCOUNTS: &[&str] = &["sleep", "test/web", "test/sleep"];
const REQUEST_PRINCIPALS: &[&str] = &[
    "https://i.test/ada",
    "https://i.test/*",
    "*/ada",
    "*",
    "https*",
    "*a",
];
const BLOCKS: &[&str] = &[
    "10.0.0.1",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "fd00::/8",
    "192.168.0.0/16",
];
const HOSTS: &[&str] = &["httpbin", "HTTPBIN", "*.test", "a.*", "*"];
const PORTS: &[&str] = &["8000", "9000"];
const METHODS: &[&str] = &["GET", "POST", "PROPFIND", "P*", "*T", "*"];
const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a*",
    "*.jpg",
    "*",
    "/a/{*}",
    "/a/{*}/b",
    "/{*}/b",
    "/a/{**}",
    "/a/{**}/b",
    "/{*}/{**}",
    "/{*}/x/{**}/b.jpg",
    "/{**}.jpg",
    "/a/{*}.jpg",
    "/a/{*}/",
];
const ASKED_PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/a//",
    "/a/x",
    "/a/x/",
    "/a/x/b",
    "/a/x/y/b",
    "/a//b",
    "/a/b",
    "/b",
    "/x/b",
    "/a.jpg",
    "/a/.jpg",
    "/a/x.jpg",
    "/q/x/b.jpg",
    "/q/x/z/b.jpg",
    "/q/x//b.jpg",
];
const HEADERS: &[&str] = &["v1", "v*", "*1", "*", "none"];
const NAMES: &[&str] = &["a.test", "*.test", "a.*", "*"];
const CLAIMS: &[&str] = &["admin", "ad*", "*min", "*", "none"];

fn some(values: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    vec(select(values).prop_map(str::to_owned), 1..3)
}

fn fields(all: &'static [(&'static str, &'static [&'static str])]) -> impl Strategy<Value = Value> {
    vec(
        (
            select(all).prop_flat_map(|(name, values)| (Just(name), some(values))),
            any::<bool>(),
        ),
        0..3,
    )
    .prop_map(|fields| {
        let mut map = Map::new();
        for ((name, values), negated) in fields {
            let (first, rest) = name.split_at(1);
            let name = match negated {
                true => format!("not{}{rest}", first.to_uppercase()),
                false => name.to_owned(),
            };
            map.insert(name, json!(values));
        }
        Value::Object(map)
    })
}

const SOURCE: &[(&str, &[&str])] = &[
    ("principals", PRINCIPALS),
    ("namespaces", NAMESPACES),
    ("serviceAccounts", ACCOUNTS),
    ("requestPrincipals", REQUEST_PRINCIPALS),
    ("ipBlocks", BLOCKS),
    ("remoteIpBlocks", BLOCKS),
];
const OPERATION: &[(&str, &[&str])] = &[
    ("hosts", HOSTS),
    ("ports", PORTS),
    ("methods", METHODS),
    ("paths", PATHS),
];
const KEYS: &[(&str, &[&str])] = &[
    ("request.headers[X-Version]", HEADERS),
    ("source.ip", BLOCKS),
    ("source.namespace", NAMESPACES),
    ("source.principal", PRINCIPALS),
    ("request.auth.principal", REQUEST_PRINCIPALS),
    ("request.auth.audiences", CLAIMS),
    ("request.auth.presenter", CLAIMS),
    ("request.auth.claims[groups]", CLAIMS),
    ("request.auth.claims[realm][roles]", CLAIMS),
    (
        "request.auth.claims[iss]",
        &["https://i.test", "*.test", "*"],
    ),
    ("destination.port", PORTS),
    ("destination.ip", BLOCKS),
    ("remote.ip", BLOCKS),
    ("connection.sni", NAMES),
];

fn rule() -> impl Strategy<Value = Value> {
    let when = select(KEYS).prop_flat_map(|(key, values)| {
        (
            Just(key),
            option::of(some(values)),
            option::of(some(values)),
        )
    });
    let when = when.prop_filter_map("values", |(key, values, not)| match (&values, &not) {
        (None, None) => None,
        _ => Some(json!({"key": key, "values": values.unwrap_or_default(), "notValues": not.unwrap_or_default()})),
    });
    let from = option::of(vec(fields(SOURCE), 1..3));
    let to = option::of(vec(fields(OPERATION), 1..3));
    (from, to, vec(when, 0..2)).prop_map(|(from, to, when)| {
        let mut rule = Map::new();
        if let Some(from) = from {
            let sources: Vec<Value> = from.into_iter().map(|s| json!({"source": s})).collect();
            rule.insert("from".to_owned(), json!(sources));
        }
        if let Some(to) = to {
            let operations: Vec<Value> = to.into_iter().map(|o| json!({"operation": o})).collect();
            rule.insert("to".to_owned(), json!(operations));
        }
        rule.insert("when".to_owned(), json!(when));
        Value::Object(rule)
    })
}

fn policies() -> impl Strategy<Value = Vec<Value>> {
    let selector = prop_oneof![Just(None), Just(Some("httpbin")), Just(Some("other"))];
    let action = select(&["ALLOW", "DENY"][..]);
    let one = (
        selector,
        action,
        vec(rule(), 1..3),
        prop::bool::weighted(0.1),
    );
    vec(one, 1..4).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        numbered
            .map(|(n, (selector, action, rules, dry))| {
                let mut spec = json!({"action": action, "rules": rules});
                if let Some(app) = selector {
                    spec["selector"] = json!({"matchLabels": {"app": app}});
                }
                let mut made = policy(&format!("p{n}"), &spec);
                if dry {
                    made["metadata"]["annotations"] = json!({"istio.io/dry-run": "true"});
                }
                made
            })
            .collect()
    })
}

fn token(issuer: &str, subject: &str, values: Vec<Option<Vec<&str>>>) -> Token {
    let mut claims: BTreeMap<String, Vec<String>> = BTreeMap::new();
    claims.insert("iss".to_owned(), vec![issuer.to_owned()]);
    claims.insert("sub".to_owned(), vec![subject.to_owned()]);
    let names = ["aud", "azp", "groups", "realm.roles"];
    for (name, values) in names.into_iter().zip(values) {
        if let Some(values) = values {
            let values = values.into_iter().map(str::to_owned).collect();
            claims.insert(name.to_owned(), values);
        }
    }
    Token {
        issuer: issuer.to_owned(),
        subject: subject.to_owned(),
        claims,
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    let principal = option::of(select(
        &[
            "spiffe://mesh.local/ns/default/sa/sleep",
            "spiffe://mesh.local/ns/test/sa/web",
            "spiffe://mesh.local/ns/test/sa/sleep",
        ][..],
    ));
    let ip = || select(&["10.0.0.1", "10.0.0.2", "192.168.1.1", "fd00::1"][..]);
    let connection = (
        ip(),
        option::of(ip()),
        ip(),
        option::of(select(&["a.test", "b.test", "a.b"][..])),
    );
    let headers = option::of(select(&["v1", "v2", "none", ""][..]));
    let http = (
        select(&["GET", "POST", "PUT", "PROPFIND"][..]),
        select(&["httpbin", "a.test", "b"][..]),
        select(ASKED_PATHS),
        headers,
    );
    let claims = vec(
        option::of(vec(select(&["admin", "adult", "user", ""][..]), 1..3)),
        4,
    );
    let user = option::of((
        select(&["https://i.test", "other"][..]),
        select(&["ada", "bob", ""][..]),
        claims,
    ));
    (
        principal,
        connection,
        select(&[8000u16, 9000][..]),
        option::weighted(0.8, http),
        user,
    )
        .prop_map(
            |(principal, (ip, client, destination, sni), port, http, user)| Asked {
                principal: principal.map(str::to_owned),
                ip: ip.to_owned(),
                client: client.map(str::to_owned),
                destination: destination.to_owned(),
                sni: sni.map(str::to_owned),
                port,
                user: user
                    .filter(|_| http.is_some())
                    .map(|(issuer, subject, values)| token(issuer, subject, values)),
                http: http.map(|(method, host, path, header)| Http {
                    method: method.to_owned(),
                    host: host.to_owned(),
                    path: path.to_owned(),
                    headers: header
                        .map(|v| ("x-version".to_owned(), v.to_owned()))
                        .into_iter()
                        .collect(),
                }),
            },
        )
}

/// Whether anything is enforced for the workload: where nothing is, we stay closed and Istio does not.
fn concerned(policies: &[Value], app: &str) -> bool {
    policies.iter().any(|p| {
        let selected = p["spec"]["selector"]["matchLabels"]["app"].as_str();
        selected.is_none_or(|s| s == app) && p["metadata"]["annotations"].is_null()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn translations_answer_as_the_originals(policies in policies(), requests in vec(asked(), 24)) {
        let engine = engine(&world(&policies));
        for asked in &requests {
            for (workload, labels) in [
                ("httpbin", &[("app", "httpbin"), ("version", "v1")][..]),
                ("other", &[("app", "other"), ("version", "v1")][..]),
            ] {
                let ours = engine.decide(&access(asked, workload));
                let expected = concerned(&policies, workload) && istio::allows(&policies, labels, asked);
                prop_assert_eq!(
                    ours.is_allow(), expected,
                    "{} asked {:?}, answered {:?}, by {:#?}", workload, asked, ours, policies
                );
            }
        }
    }
}
