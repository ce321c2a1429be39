//! Every key of Istio's `AuthorizationPolicy`: one policy each that allows and one that denies, and on a running mesh the
//! requests that match it and those that do not
//! (<https://istio.io/latest/docs/reference/config/security/authorization-policy/>,
//! <https://istio.io/latest/docs/reference/config/security/conditions/>).

use std::net::SocketAddr;

use reeve_tests::{
    Call, Folder, Mesh, Signer, Token, echo, local_mesh, permit, service, sidecar, strict,
};
use serde_json::{Value, json};

use crate::fixture::{gateway_workload, istio, settings};

const ISSUER: &str = "https://issuer.example";
const EDGE_PORT: u16 = 8080;
/// A gateway lets everybody through; what it calls judges.
const DOOR: &str = r#"permit (principal, action, resource == Workload::"spiffe://mesh.local/ns/default/sa/edge");"#;

/// A request, as far as it is not like all others.
#[derive(Clone, Copy, Debug, Default)]
struct Ask {
    /// Whose sidecar it goes through; `client` if nobody is named.
    by: Option<&'static str>,
    method: Option<&'static str>,
    host: Option<&'static str>,
    header: Option<(&'static str, &'static str)>,
    token: Option<Claims>,
    tail: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Claims {
    Admin,
    Guest,
}

/// What a key is shown by: parts of a rule, what matches it, and what does not.
struct Case {
    key: &'static str,
    source: Value,
    operation: Value,
    when: Value,
    matching: Vec<Ask>,
    other: Vec<Ask>,
}

fn by(name: &'static str) -> Ask {
    Ask {
        by: Some(name),
        ..Ask::default()
    }
}

fn with(name: &'static str, value: &'static str) -> Ask {
    Ask {
        header: Some((name, value)),
        ..Ask::default()
    }
}

fn bearing(token: Claims) -> Ask {
    Ask {
        token: Some(token),
        ..Ask::default()
    }
}

fn method(name: &'static str) -> Ask {
    Ask {
        method: Some(name),
        ..Ask::default()
    }
}

fn host(name: &'static str) -> Ask {
    Ask {
        host: Some(name),
        ..Ask::default()
    }
}

fn to(tail: &'static str) -> Ask {
    Ask {
        tail,
        ..Ask::default()
    }
}

/// A client of that address, in front of the gateway.
fn client_at(address: &'static str) -> Ask {
    Ask {
        by: Some("edge"),
        ..with("x-forwarded-for", address)
    }
}

fn case(key: &'static str, matching: Vec<Ask>, other: Vec<Ask>) -> Case {
    Case {
        key,
        source: Value::Null,
        operation: Value::Null,
        when: Value::Null,
        matching,
        other,
    }
}

fn source(key: &'static str, value: &str, matching: Vec<Ask>, other: Vec<Ask>) -> Case {
    Case {
        source: json!({key: [value]}),
        ..case(key, matching, other)
    }
}

fn operation(key: &'static str, value: &str, matching: Vec<Ask>, other: Vec<Ask>) -> Case {
    Case {
        operation: json!({key: [value]}),
        ..case(key, matching, other)
    }
}

/// A key of `when`, and the same the other way round.
fn when(key: &'static str, value: &str, matching: Vec<Ask>, other: Vec<Ask>) -> [Case; 2] {
    [
        Case {
            when: json!({"key": key, "values": [value]}),
            ..case(key, matching.clone(), other.clone())
        },
        Case {
            when: json!({"key": key, "notValues": [value]}),
            ..case(key, other, matching)
        },
    ]
}

const CLIENT_ID: &str = "cluster.local/ns/default/sa/client";

fn sources() -> Vec<Case> {
    let (client, web) = (|| vec![Ask::default()], || vec![by("web")]);
    let (admin, guest) = (|| bearing(Claims::Admin), || bearing(Claims::Guest));
    let (near, far) = (|| client_at("192.0.2.7"), || client_at("198.51.100.7"));
    vec![
        source("principals", CLIENT_ID, client(), web()),
        source("notPrincipals", CLIENT_ID, web(), client()),
        source("namespaces", "default", client(), vec![]),
        source("notNamespaces", "default", vec![], client()),
        source("serviceAccounts", "client", client(), web()),
        source("notServiceAccounts", "default/client", web(), client()),
        source(
            "requestPrincipals",
            "*/admin",
            vec![admin()],
            vec![guest(), Ask::default()],
        ),
        source(
            "notRequestPrincipals",
            "*",
            client(),
            vec![admin(), guest()],
        ),
        source("ipBlocks", "127.0.0.0/8", client(), vec![]),
        source(
            "ipBlocks",
            "192.0.2.0/24",
            vec![],
            vec![Ask::default(), near()],
        ),
        source(
            "notIpBlocks",
            "192.0.2.0/24",
            vec![Ask::default(), near()],
            vec![],
        ),
        source(
            "remoteIpBlocks",
            "192.0.2.0/24",
            vec![near()],
            vec![far(), Ask::default()],
        ),
        source(
            "notRemoteIpBlocks",
            "192.0.2.0/24",
            vec![far()],
            vec![near()],
        ),
        // Nobody but the gateway is believed.
        source(
            "remoteIpBlocks",
            "192.0.2.7",
            vec![near()],
            vec![with("x-forwarded-for", "192.0.2.7")],
        ),
    ]
}

fn operations() -> Vec<Case> {
    let (short, long) = (
        || vec![host("echo:9080")],
        || vec![host("echo.default:9080")],
    );
    let (get, post) = (|| vec![method("GET")], || vec![method("POST")]);
    vec![
        operation("hosts", "ECHO", short(), long()),
        operation("hosts", "*.default", long(), short()),
        operation("notHosts", "echo", long(), short()),
        operation("ports", "9080", get(), vec![]),
        operation("notPorts", "9080", vec![], get()),
        operation("methods", "GET", get(), post()),
        operation("notMethods", "GET", post(), get()),
        operation("paths", "*/yes", vec![to("yes")], vec![to("no")]),
        operation(
            "paths",
            "/{*}/{*}/in/{**}",
            vec![to("in/x/y")],
            vec![to("out/x")],
        ),
        operation("notPaths", "*/yes", vec![to("no")], vec![to("yes")]),
    ]
}

fn conditions() -> Vec<Case> {
    let (client, web) = (|| vec![Ask::default()], || vec![by("web")]);
    let (admin, guest) = (
        || vec![bearing(Claims::Admin)],
        || vec![bearing(Claims::Guest)],
    );
    let (near, far) = (
        || vec![client_at("192.0.2.7")],
        || vec![client_at("198.51.100.7")],
    );
    let (new, old) = (
        || vec![with("x-version", "v2")],
        || vec![with("x-version", "v1"), Ask::default()],
    );
    let all = [
        when("request.headers[X-Version]", "v2*", new(), old()),
        when("source.ip", "127.0.0.1", client(), vec![]),
        when("remote.ip", "192.0.2.0/24", near(), far()),
        when("source.namespace", "default", client(), vec![]),
        when("source.principal", CLIENT_ID, client(), web()),
        when("source.serviceAccount", "default/client", client(), web()),
        when(
            "request.auth.principal",
            "https://issuer.example/admin",
            admin(),
            guest(),
        ),
        when("request.auth.audiences", "shop", admin(), guest()),
        when("request.auth.presenter", "app-1", admin(), guest()),
        when("request.auth.claims[groups]", "staff", admin(), guest()),
        when("request.auth.claims[realm][roles]", "ad*", admin(), guest()),
        when("destination.ip", "127.0.0.0/8", client(), vec![]),
        when("destination.ip", "192.0.2.1", vec![], client()),
        when("destination.port", "9080", client(), vec![]),
        // Between sidecars no server is named.
        when("connection.sni", "*", vec![], client()),
    ];
    all.into_iter().flatten().collect()
}

fn cases() -> Vec<Case> {
    let mut all = sources();
    all.extend(operations());
    all.extend(conditions());
    all
}

fn policy(name: &str, labels: &Value, action: &str, rules: &Value) -> String {
    let object = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": labels}, "action": action, "rules": rules},
    });
    format!("---\n{object:#}\n")
}

impl Case {
    /// The rule, for requests below `path` alone.
    fn rule(&self, path: &str) -> Value {
        let own = format!("/{}", path.trim_matches('/'));
        let mut operation = match self.operation.is_null() {
            true => json!({}),
            false => self.operation.clone(),
        };
        let mut rule = json!({});
        let header = json!({"key": "request.headers[x-case]", "values": [own]});
        rule["when"] = json!([header]);
        if !self.when.is_null() {
            rule["when"] = json!([header, self.when]);
        }
        if operation.get("paths").is_none() {
            operation["paths"] = json!([format!("{own}/*")]);
        }
        rule["to"] = json!([{"operation": operation}]);
        if !self.source.is_null() {
            rule["from"] = json!([{"source": self.source}]);
        }
        rule
    }
}

fn policies() -> String {
    let echo = json!({"app": "echo"});
    let mut text = String::new();
    for (n, case) in cases().iter().enumerate() {
        let (allow, deny) = (format!("a/{n}"), format!("d/{n}"));
        text += &policy(
            &format!("a-{n}"),
            &echo,
            "ALLOW",
            &json!([case.rule(&allow)]),
        );
        text += &policy(&format!("d-{n}"), &echo, "DENY", &json!([case.rule(&deny)]));
    }
    let open = json!([{"to": [{"operation": {"paths": ["/d/*"]}}]}]);
    text += &policy("open", &echo, "ALLOW", &open);
    // Of the two workloads with one account, this holds for one.
    let gold = json!([{"to": [{"operation": {"paths": ["/gold"]}}]}]);
    text + &policy("gold", &json!({"tier": "gold"}), "ALLOW", &gold)
}

fn folder(jwks: &Value) -> Folder {
    let mut twin = echo("twin", "echo", "v1");
    twin["labels"] = json!({"app": "twin", "tier": "gold"});
    let gateway = json!({"selector": {"app": "edge"}, "servers": [{
        "port": {"number": EDGE_PORT, "name": "http", "protocol": "HTTP"}, "hosts": ["*"],
    }]});
    let routes = json!({"hosts": ["*"], "gateways": ["edge"], "http": [
        {"route": [{"destination": {"host": "echo", "port": {"number": 9080}}}]},
    ]});
    let tokens = json!({
        "selector": {"matchLabels": {"app": "echo"}},
        "jwtRules": [{"issuer": ISSUER, "jwks": jwks.to_string()}],
    });
    let workloads = [
        sidecar("client"),
        sidecar("web"),
        gateway_workload("edge"),
        echo("echo-v1", "echo", "v1"),
        twin,
    ];
    let trusted = json!({"defaultConfig": {"gatewayTopology": {"numTrustedProxies": 1}}});
    Folder::new()
        .with("mesh.yaml", settings(trusted))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with(
            "services.yaml",
            service("echo", 9080, "http") + &service("twin", 9080, "http"),
        )
        .with("gateway.yaml", istio("Gateway", "edge", &gateway))
        .with("routes.yaml", istio("VirtualService", "echo", &routes))
        .with(
            "tokens.yaml",
            istio("RequestAuthentication", "echo", &tokens),
        )
        .with("door.yaml", permit("door", DOOR))
        .with("policies.yaml", policies())
}

fn token(signer: &Signer, claims: Claims) -> String {
    let (subject, audience, app, group, role) = match claims {
        Claims::Admin => ("admin", "shop", "app-1", "staff", "admin"),
        Claims::Guest => ("guest", "other", "app-2", "visitors", "reader"),
    };
    let token = Token::new(ISSUER, subject, audience, 600)
        .claim("azp", json!(app))
        .claim("groups", json!(["all", group]))
        .claim("realm", json!({"roles": [role]}));
    signer.sign(&token)
}

struct Stage {
    mesh: Mesh,
    signer: Signer,
}

impl Stage {
    fn address(&self, ask: &Ask) -> SocketAddr {
        match ask.by.unwrap_or("client") {
            "edge" => self.mesh.inbound("edge-0", EDGE_PORT),
            name => self.mesh.outbound(&format!("{name}-0"), "echo", 9080),
        }
    }

    async fn status(&self, below: &str, ask: &Ask) -> u16 {
        let host = ask.host.unwrap_or("echo:9080");
        let tail = if ask.tail.is_empty() { "x" } else { ask.tail };
        let mut call = Call::get(host, &format!("{below}/{tail}")).header("x-case", below);
        if let Some(method) = ask.method {
            call = call.method(method);
        }
        if let Some((name, value)) = ask.header {
            call = call.header(name, value);
        }
        if let Some(claims) = ask.token {
            let token = token(&self.signer, claims);
            call = call.header("authorization", &format!("Bearer {token}"));
        }
        call.status(self.address(ask)).await.expect("an answer")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_allows_and_denies_what_it_says() {
    let signer = Signer::new("key-1");
    let mesh = Mesh::start(folder(&signer.jwks())).await;
    let stage = Stage { mesh, signer };
    let mut wrong = Vec::new();
    for (n, case) in cases().iter().enumerate() {
        let matching = case.matching.iter().map(|ask| (ask, 200, 403));
        let other = case.other.iter().map(|ask| (ask, 403, 200));
        for (ask, allowed, denied) in matching.chain(other) {
            for (kind, expected) in [("a", allowed), ("d", denied)] {
                let got = stage.status(&format!("/{kind}/{n}"), ask).await;
                if got != expected {
                    wrong.push(format!("{} ({kind}): {ask:?} got {got}", case.key));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let gold = async |service: &str| {
        let at = stage.mesh.outbound("client-0", service, 9080);
        let call = Call::get(&format!("{service}:9080"), "/gold");
        call.status(at).await.expect("an answer")
    };
    assert_eq!((gold("twin").await, gold("echo").await), (200, 403));
}
