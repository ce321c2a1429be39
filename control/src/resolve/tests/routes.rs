//! `VirtualService` field by field: what is taken, what it becomes, and what is refused.

use reeve_core::model::{HeaderMatch, PathRewrite, Rewrite, StringMatch};

use super::*;
use crate::mesh::{HttpRoute, RouteTo, VirtualService};

/// The findings in one `http` rule (its text begins in line 9 with its first key), less the path before it.
fn rule_findings(rule: &str) -> Vec<String> {
    let spec = format!("  hosts: [reviews]\n  http:\n    -\n{}", indent(rule));
    let found = findings(&format!(
        "{}{REVIEWS}",
        document("VirtualService", "x", &spec)
    ));
    let short = found
        .iter()
        .map(|f| f.split_once(' ').map_or("", |(_, rest)| rest));
    short.map(|f| f.replace("spec.http[0]", "*")).collect()
}

fn indent(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(|line| format!("      {line}")).collect();
    lines.join("\n")
}

/// What a rule becomes.
fn rule(text: &str) -> HttpRoute {
    let spec = format!("  hosts: [reviews]\n  http:\n    -\n{}", indent(text));
    let mesh = mesh(&format!(
        "{}{REVIEWS}",
        document("VirtualService", "x", &spec)
    ));
    mesh.virtual_services[0].http[0].clone()
}

const TO: &str = "route: [{destination: {host: reviews}}]\n";

#[test]
fn faults_of_actions_are_named() {
    for (text, expected) in [
        (
            "redirect: {port: 443, derivePort: FROM_REQUEST_PORT}",
            &["*.redirect.derivePort conflict"][..],
        ),
        (
            "redirect: {derivePort: FROM_NOWHERE}",
            &["*.redirect.derivePort invalid"],
        ),
        ("redirect: {scheme: ftp}", &["*.redirect.scheme invalid"]),
        ("redirect: {port: 0}", &["*.redirect.port invalid"]),
        ("redirect: {scheme: https, port: 8443}", &[]),
        (
            "directResponse: {status: 503, body: {bytes: 'no base64'}}",
            &["*.directResponse.body.bytes invalid"],
        ),
        (
            "directResponse: {status: 503, body: {string: a, bytes: YQ==}}",
            &["*.directResponse.body invalid"],
        ),
        (
            "directResponse: {status: 503, body: {}}",
            &["*.directResponse.body invalid"],
        ),
        (
            "directResponse: {status: 199}",
            &["*.directResponse.status invalid"],
        ),
        ("directResponse: {status: 503, body: {bytes: YQ==}}", &[]),
        (
            "rewrite: {}\nroute: [{destination: {host: reviews}}]",
            &["*.rewrite missing"],
        ),
        (
            "rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}\nroute: [{destination: {host: reviews}}]",
            &["*.rewrite.uriRegexRewrite conflict"],
        ),
        (
            "rewrite: {uriRegexRewrite: {match: '(', rewrite: b}}\nroute: [{destination: {host: reviews}}]",
            &["*.rewrite.uriRegexRewrite.match invalid"],
        ),
        (
            "rewrite: {uriRegexRewrite: {match: '(a)', rewrite: '\\2'}}\nroute: [{destination: {host: reviews}}]",
            &["*.rewrite.uriRegexRewrite.rewrite invalid"],
        ),
        (
            "rewrite: {uriRegexRewrite: {match: '(a)', rewrite: '\\1\\\\'}}\nroute: [{destination: {host: reviews}}]",
            &[],
        ),
        (
            "delegate: {name: d}\nroute: [{destination: {host: reviews}}]",
            &["*.delegate conflict", "*.delegate unknown-reference?"],
        ),
        (
            "delegate: {}",
            &["*.delegate unknown-reference?", "*.delegate.name missing"],
        ),
        (
            "delegate: {name: d, namespace: 'A b'}",
            &[
                "*.delegate unknown-reference?",
                "*.delegate.namespace invalid",
            ],
        ),
    ] {
        assert_eq!(rule_findings(text), expected, "{text}");
    }
}

#[test]
fn faults_of_mirrors_and_origins_are_named() {
    for (text, expected) in [
        ("mirror: {host: reviews}", &[][..]),
        (
            "mirror: {host: gone}",
            &["*.mirror.host unknown-reference?"],
        ),
        (
            "mirror: {host: reviews, subset: v9}",
            &["*.mirror.subset unknown-reference?"],
        ),
        (
            "mirror: {host: reviews}\nmirrorPercentage: {value: 101}",
            &["*.mirrorPercentage.value invalid"],
        ),
        (
            "mirrorPercentage: {value: 10}",
            &["*.mirrorPercentage missing"],
        ),
        (
            "mirror: {host: reviews}\nmirrors: [{destination: {host: reviews}}]",
            &["*.mirrors conflict"],
        ),
        (
            "mirrors: [{percentage: {value: 1}}]",
            &["*.mirrors[0].destination missing"],
        ),
        (
            "mirrors: [{destination: {host: reviews}, percentage: {value: -1}}]",
            &["*.mirrors[0].percentage.value invalid"],
        ),
        (
            "corsPolicy: {allowOrigins: [{exact: a, prefix: b}]}",
            &["*.corsPolicy.allowOrigins[0] invalid"],
        ),
        (
            "corsPolicy: {allowOrigins: [{regex: '('}]}",
            &["*.corsPolicy.allowOrigins[0].regex invalid"],
        ),
        (
            "corsPolicy: {allowMethods: ['G T']}",
            &["*.corsPolicy.allowMethods[0] invalid"],
        ),
        (
            "corsPolicy: {unmatchedPreflights: SOMETIMES}",
            &["*.corsPolicy.unmatchedPreflights invalid"],
        ),
        (
            "corsPolicy: {maxAge: soon}",
            &["*.corsPolicy.maxAge invalid"],
        ),
        (
            "corsPolicy: {allowOrigins: [{exact: '*'}], allowMethods: [GET], maxAge: 24h, allowCredentials: true, unmatchedPreflights: IGNORE}",
            &[],
        ),
    ] {
        assert_eq!(rule_findings(&format!("{TO}{text}")), expected, "{text}");
    }
}

#[test]
fn claims_are_matched_at_gateways_alone() {
    let found = |head: &str, matches: &str| {
        let spec =
            format!("  hosts: [a.example]\n{head}  http:\n    - match: [{matches}]\n      {TO}");
        let gateway = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  \
            selector: {a: b}\n  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]\n";
        findings(&format!(
            "{}{REVIEWS}{gateway}",
            document("VirtualService", "x", &spec)
        ))
    };
    let claim = "{headers: {'@request.auth.claims.groups': {exact: a}}}";
    let bracketed =
        "{withoutHeaders: {'@request.auth.claims[realm][roles]': {regex: a.*}, x-a: {}}}";
    let at_gateway = "  gateways: [g]\n";
    assert_eq!(found(at_gateway, claim), [""; 0]);
    assert_eq!(found(at_gateway, bracketed), [""; 0]);
    for head in ["", "  gateways: [mesh, g]\n"] {
        let found = found(head, claim);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].ends_with("claims.groups\" invalid"), "{found:?}");
    }
    let narrowed = "{gateways: [g], headers: {'@request.auth.claims.groups': {exact: a}}}";
    assert_eq!(found("  gateways: [mesh, g]\n", narrowed), [""; 0]);
    let other = found(
        at_gateway,
        "{headers: {'@request.auth.audiences': {exact: a}}}",
    );
    assert!(other[0].ends_with("audiences\" invalid"), "{other:?}");
}

#[test]
fn annotations_filter_what_is_copied() {
    let yaml = |annotations: &str| {
        let spec = format!(
            "  hosts: [reviews]\n  http:\n    - {TO}      mirrors: [{{destination: {{host: reviews}}}}]"
        );
        let yaml = document("VirtualService", "x", &spec);
        let metadata = format!("name: x\n  annotations: {{{annotations}}}\n");
        format!("{}{REVIEWS}", yaml.replacen("name: x\n", &metadata, 1))
    };
    let both = "reeve.dev/mirror-match-headers: 'X-Beta=on, x-any', reeve.dev/mirror-remove-headers: 'Authorization, cookie'";
    let mesh = mesh(&yaml(both));
    let mirrors = mesh.virtual_services[0].http[0].mirrors.clone().unwrap();
    assert_eq!(mirrors[0].headers.len(), 2);
    assert_eq!(mirrors[0].headers["x-any"], HeaderMatch::Present);
    assert_eq!(mirrors[0].remove_headers, ["authorization", "cookie"]);
    for bad in [
        "reeve.dev/mirror-match-headers: 'a b=1'",
        "reeve.dev/mirror-remove-headers: 'a,,b'",
    ] {
        let found = findings(&yaml(bad));
        assert!(
            found.iter().any(|f| f.ends_with("invalid")),
            "{bad}: {found:?}"
        );
    }
}

#[test]
fn mirrors_have_istios_defaults() {
    let shares = |text: &str| {
        let mirrors = rule(&format!("{TO}{text}")).mirrors;
        mirrors.map(|all| all.iter().map(|m| m.per_million).collect::<Vec<_>>())
    };
    assert_eq!(shares(""), None);
    assert_eq!(shares("mirror: {host: reviews}"), Some(vec![1_000_000]));
    assert_eq!(
        shares("mirror: {host: reviews}\nmirrorPercentage: {value: 0.5}"),
        Some(vec![5000])
    );
    assert_eq!(
        shares("mirror: {host: reviews}\nmirror_percent: 20"),
        Some(vec![200_000])
    );
    assert_eq!(
        shares("mirror: {host: reviews}\nmirrorPercentage: {value: 0}"),
        Some(vec![])
    );
    let both = "mirrors: [{destination: {host: reviews}, percentage: {value: 10}}, {destination: {host: reviews, subset: v1}}]";
    assert_eq!(shares(both), Some(vec![100_000, 1_000_000]));
}

#[test]
fn actions_become_what_they_say() {
    let redirect = |text: &str| {
        let to = rule(text).to;
        let RouteTo::Redirect {
            redirect,
            request_port,
        } = to
        else {
            panic!("{to:?}");
        };
        (redirect, request_port)
    };
    let (plain, request_port) = redirect("redirect: {authority: b}");
    assert_eq!(
        (plain.code, plain.path, plain.port, request_port),
        (301, None, None, false)
    );
    let (full, request_port) = redirect(
        "redirect: {uri: /x, scheme: https, derivePort: FROM_REQUEST_PORT, redirectCode: 308}",
    );
    assert_eq!(full.path, Some(PathRewrite::Full("/x".to_owned())));
    assert_eq!(
        (full.scheme.as_deref(), full.code, request_port),
        (Some("https"), 308, true)
    );
    let RouteTo::Respond { status, body } =
        rule("directResponse: {status: 200, body: {bytes: AP8=}}").to
    else {
        panic!("no answer");
    };
    assert_eq!((status, body.as_slice()), (200, &[0, 255][..]));
    let rewritten = rule(&format!(
        "{TO}rewrite: {{uriRegexRewrite: {{match: a, rewrite: b}}, authority: c}}"
    ));
    let pattern = PathRewrite::Regex {
        pattern: "a".to_owned(),
        substitution: "b".to_owned(),
    };
    let expected = Rewrite {
        path: Some(pattern),
        authority: Some("c".to_owned()),
    };
    assert_eq!(rewritten.rewrite, Some(expected));
    let headers =
        rule("route: [{destination: {host: reviews}, headers: {request: {set: {A: '100%%'}}}}]").to;
    let RouteTo::Forward(to) = headers else {
        panic!("not forwarded")
    };
    let changes = to[0].headers.as_ref().map(|h| h.request.set["a"].clone());
    assert_eq!(changes.as_deref(), Some("100%"));
}

#[test]
fn an_expression_of_a_star_alone_asks_for_presence() {
    let found = rule(&format!(
        "{TO}match: [{{headers: {{a: {{regex: '*'}}, b: {{}}, c: {{exact: ''}}}}, statPrefix: s}}]"
    ));
    let request = &found.matches[0].request;
    assert_eq!(request.headers["a"], HeaderMatch::Present);
    assert_eq!(request.headers["b"], HeaderMatch::Present);
    assert_eq!(
        request.headers["c"],
        HeaderMatch::Value(StringMatch::Exact(String::new()))
    );
    assert_eq!(request.stat_prefix.as_deref(), Some("s"));
}

/// The rules of `reviews` when its rule, with `root`, delegates to rules that are `delegate`.
fn delegated(root: &str, delegate: &str) -> VirtualService {
    let root = format!(
        "  hosts: [reviews]\n  http:\n    - delegate: {{name: d, namespace: other}}\n{}",
        indent(root)
    );
    let other = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: d, namespace: other}}\nspec:\n  http:\n{}\n",
        delegate
            .lines()
            .map(|l| format!("    {l}\n"))
            .collect::<String>()
    );
    let text = format!(
        "{}---\n{other}{REVIEWS}",
        document("VirtualService", "x", &root)
    );
    let mesh = mesh(&text);
    assert_eq!(
        mesh.virtual_services.len(),
        1,
        "the delegate is no VirtualService of its own"
    );
    mesh.virtual_services[0].clone()
}

const FAR: &str = "route: [{destination: {host: reviews.default.svc.cluster.local}}]";

#[test]
fn a_delegates_rules_stand_where_its_root_names_it() {
    let found = delegated(
        "name: root\ntimeout: 5s\nmatch: [{uri: {prefix: /a}, headers: {h: {exact: '1'}}}]",
        &format!(
            "- name: one\n  match: [{{uri: {{prefix: /a/b}}}}, {{uri: {{exact: /a}}, queryParams: {{q: {{exact: x}}}}}}]\n  {FAR}\n- timeout: 1s\n  {FAR}"
        ),
    );
    let names: Vec<_> = found.http.iter().map(|r| r.name.clone().unwrap()).collect();
    assert_eq!(names, ["root-one", "root"]);
    let uri = |rule: usize, at: usize| found.http[rule].matches[at].request.uri.clone();
    assert_eq!(uri(0, 0), Some(StringMatch::Prefix("/a/b".to_owned())));
    assert_eq!(uri(0, 1), Some(StringMatch::Exact("/a".to_owned())));
    assert_eq!(uri(1, 0), Some(StringMatch::Prefix("/a".to_owned())));
    for rule in &found.http {
        assert!(
            rule.matches
                .iter()
                .all(|m| m.request.headers.contains_key("h")),
            "{rule:?}"
        );
    }
    let seconds: Vec<_> = found
        .http
        .iter()
        .map(|r| r.timeout.flatten().unwrap().as_secs())
        .collect();
    assert_eq!(
        seconds,
        [5, 1],
        "what the delegate does not say, its root says"
    );
    let RouteTo::Forward(to) = &found.http[0].to else {
        panic!("not forwarded")
    };
    assert_eq!(to[0].service.as_str(), "reviews.default.svc.cluster.local");
}

/// A delegate's match must lie within one of its root's; each row with whether it does.
#[test]
fn a_delegates_match_narrows_its_roots() {
    for (root, delegate, taken) in [
        ("{uri: {prefix: /a}}", "{uri: {prefix: /a/b}}", true),
        ("{uri: {prefix: /a/b}}", "{uri: {prefix: /a}}", false),
        ("{uri: {prefix: /a}}", "{uri: {exact: /a/b}}", true),
        ("{uri: {exact: /a}}", "{uri: {exact: /a}}", true),
        ("{uri: {exact: /a}}", "{uri: {exact: /b}}", false),
        ("{uri: {exact: /a}}", "{uri: {prefix: /a}}", false),
        ("{uri: {regex: /a}}", "{uri: {exact: /a}}", false),
        ("{uri: {prefix: /a}}", "{uri: {regex: /a/b}}", false),
        ("{uri: {regex: /a}}", "{method: {exact: GET}}", true),
        (
            "{headers: {h: {exact: a}}}",
            "{headers: {i: {exact: b}}}",
            true,
        ),
        (
            "{headers: {h: {exact: a}}}",
            "{headers: {h: {exact: b}}}",
            false,
        ),
        ("{headers: {h: {exact: a}}}", "{headers: {h: {}}}", false),
        (
            "{withoutHeaders: {h: {exact: a}}}",
            "{withoutHeaders: {h: {exact: b}}}",
            false,
        ),
        (
            "{queryParams: {q: {prefix: a}}}",
            "{queryParams: {q: {prefix: ab}}}",
            true,
        ),
        ("{method: {exact: GET}}", "{method: {exact: PUT}}", false),
        (
            "{uri: {prefix: /a}, ignoreUriCase: true}",
            "{uri: {prefix: /a}}",
            false,
        ),
        ("{port: 80}", "{port: 81}", false),
        ("{port: 80}", "{uri: {prefix: /a}}", true),
        ("{sourceNamespace: a}", "{uri: {prefix: /a}}", false),
        ("{sourceNamespace: a}", "{sourceNamespace: a}", true),
        ("{sourceLabels: {a: b}}", "{sourceLabels: {a: c}}", false),
        ("{sourceLabels: {a: b}}", "{sourceLabels: {c: d}}", true),
        ("{gateways: [mesh]}", "{gateways: [mesh]}", true),
        ("{gateways: [mesh]}", "{uri: {prefix: /a}}", true),
    ] {
        let found = delegated(
            &format!("match: [{root}]"),
            &format!("- match: [{delegate}]\n  {FAR}"),
        );
        assert_eq!(found.http.len() == 1, taken, "{root} {delegate}");
    }
}
