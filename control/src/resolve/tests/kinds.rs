//! Tables of faults. A spec begins in line 6 of its document.

use super::*;

#[track_caller]
fn expect(kind: &str, rows: &[(&str, &[&str])]) {
    for (spec, expected) in rows {
        let indented: Vec<_> = spec.lines().map(|l| format!("  {l}")).collect();
        let found = findings(&format!(
            "{}{REVIEWS}",
            document(kind, "x", &indented.join("\n"))
        ));
        assert_eq!(found, *expected, "{kind}:\n{spec}");
    }
}

#[test]
fn virtual_service() {
    let rows: &[(&str, &[&str])] = &[
        (
            "hosts: [reviews]\nhttp:\n  - route: [{destination: {host: reviews}}]",
            &[],
        ),
        (
            "hosts: []\nhttp:\n  - route: [{destination: {host: reviews}}]",
            &["6 spec.hosts unreachable?"],
        ),
        (
            "hosts: []\ngateways: [a]\nhttp:\n  - route: [{destination: {host: reviews}}]",
            &[
                "6 spec.hosts missing",
                "7 spec.gateways[0] unknown-reference?",
            ],
        ),
        ("hosts: [reviews]", &["5 spec missing"]),
        (
            "hosts: ['a*b']\nhttp:\n  - route: [{destination: {host: reviews}}]",
            &["6 spec.hosts[0] invalid"],
        ),
        (
            "hosts: [reviews]\nhttp:\n  - name: x",
            &["8 spec.http[0] missing"],
        ),
        (
            "hosts: [reviews]\nhttp:\n  - mtach: []\n    roote: 1\n    route: [{destination: {host: reviews}}]",
            &[
                "8 spec.http[0].mtach unknown-field",
                "9 spec.http[0].roote unknown-field",
            ],
        ),
        (
            "hosts: [reviews]\nhttp:\n  - timeout: soon\n    retries: {attempts: 101, perTryTimeout: 1, retryOn: never}\n    route: [{destination: {host: reviews}}]",
            &[
                "8 spec.http[0].timeout invalid",
                "9 spec.http[0].retries.attempts invalid",
                "9 spec.http[0].retries.perTryTimeout wrong-type",
                "9 spec.http[0].retries.retryOn invalid",
            ],
        ),
    ];
    expect("VirtualService", rows);
}

#[test]
fn virtual_service_routes() {
    let rows: &[(&str, &[&str])] = &[
        (
            "hosts: [reviews]\nhttp:\n  - route:\n      - {destination: {host: reviews}, weight: 0}\n      - {destination: {host: reviews}}",
            &["8 spec.http[0].route invalid"],
        ),
        (
            "hosts: [reviews]\nhttp:\n  - match: [{uri: {regex: '(('}}, {uri: {exact: a, prefix: b}}]\n    route: [{destination: {host: reviews}}]",
            &[
                "8 spec.http[0].match[0].uri.regex invalid",
                "8 spec.http[0].match[1].uri invalid",
            ],
        ),
        (
            "hosts: [reviews]\nhttp:\n  - route: [{destination: {host: reviews, subset: v9, port: {number: 1}}}]",
            &[
                "8 spec.http[0].route[0].destination.port.number unknown-reference?",
                "8 spec.http[0].route[0].destination.subset unknown-reference?",
            ],
        ),
        (
            "hosts: [reviews]\nhttp:\n  - route: [{destination: {host: reviews}}]\n  - redirect: {redirectCode: 200}",
            &[
                "9 spec.http[1] unreachable?",
                "9 spec.http[1].redirect.redirectCode invalid",
            ],
        ),
        (
            "hosts: [reviews]\ngateways: [none]\nhttp:\n  - headers: {request: {set: {'a b': c}}}\n    route: [{destination: {host: reviews}}]",
            &[
                "7 spec.gateways[0] unknown-reference?",
                "9 spec.http[0].headers.request.set.\"a b\" invalid",
            ],
        ),
        (
            "hosts: [reviews]\ntcp:\n  - match: [{port: 5000, destinationSubnets: [10.0.0.0/8, '::1', 10.0.0.0/40], sourceLabels: {app: a}, sourceNamespace: b, gateways: [none], sourceSubnet: 10.0.0.0/8}]\n    route: [{destination: {host: reviews, subset: v9}, weight: 1}, {destination: {host: reviews}, weight: 0, headers: {request: {remove: [a]}}}]\n  - match: []",
            &[
                "8 spec.tcp[0].match[0].destinationSubnets[2] invalid",
                "8 spec.tcp[0].match[0].gateways[0] unknown-reference?",
                "8 spec.tcp[0].match[0].sourceSubnet unsupported",
                "9 spec.tcp[0].route[0].destination.subset unknown-reference?",
                "9 spec.tcp[0].route[1].headers unsupported",
                "10 spec.tcp[1].route missing",
            ],
        ),
        (
            "hosts: [reviews]\nhttp: {}",
            &["5 spec missing", "7 spec.http wrong-type"],
        ),
    ];
    expect("VirtualService", rows);
}

#[test]
fn two_virtual_services_of_one_host_conflict() {
    let one = |name| {
        document(
            "VirtualService",
            name,
            "  hosts: [reviews]\n  http: [{route: [{destination: {host: reviews}}]}]",
        )
    };
    let found = findings(&format!("{}---\n{}{REVIEWS}", one("a"), one("b")));
    assert_eq!(found, ["14 spec.hosts[0] conflict"]);
}

#[test]
fn destination_rule() {
    let rows: &[(&str, &[&str])] = &[
        ("host: other", &["6 spec.host unknown-reference?"]),
        ("host: reviews", &["6 spec.host conflict"]),
        ("subsets: []", &["5 spec.host missing"]),
        ("host: '*default.svc'", &["6 spec.host invalid"]),
        (
            "host: other\nsubsets:\n  - name: a\n  - name: a\n  - labels: {version: 1}",
            &[
                "6 spec.host unknown-reference?",
                "9 spec.subsets[1].name conflict",
                "10 spec.subsets[2].labels.version wrong-type",
                "10 spec.subsets[2].name missing",
            ],
        ),
        (
            "host: other\ntrafficPolicy:\n  loadBalancer: {simple: BEST}\n  connectionPool: {tcp: {connectTimeout: 0s}}",
            &[
                "6 spec.host unknown-reference?",
                "8 spec.trafficPolicy.loadBalancer.simple invalid",
                "9 spec.trafficPolicy.connectionPool.tcp.connectTimeout invalid",
            ],
        ),
        (
            "host: other\ntrafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: -1}}}\nsubsets:\n  - name: a\n    trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 536870913}}}\n  - name: b\n    trafficPolicy: {connectionPool: {http: {maxRetries: -1}}}",
            &[
                "6 spec.host unknown-reference?",
                "7 spec.trafficPolicy.connectionPool.http.maxRequestsPerConnection invalid",
                "10 spec.subsets[0].trafficPolicy.connectionPool.http.maxRequestsPerConnection invalid",
                "12 spec.subsets[1].trafficPolicy.connectionPool.http.maxRetries invalid",
            ],
        ),
    ];
    // The conflict is told where the second rule stands, which is in REVIEWS.
    let found = findings(&format!(
        "{}{REVIEWS}",
        document("DestinationRule", "x", "  host: reviews")
    ));
    assert_eq!(found, ["16 spec.host conflict"]);
    let others: Vec<_> = rows
        .iter()
        .filter(|(spec, _)| *spec != "host: reviews")
        .copied()
        .collect();
    expect("DestinationRule", &others);
}

#[test]
fn gateway() {
    let rows: &[(&str, &[&str])] = &[
        ("selector: {a: b}", &["5 spec.servers missing"]),
        (
            "servers:\n  - port: {number: 0, protocol: HTTP}\n  - hosts: ['*']",
            &[
                "5 spec.selector missing",
                "7 spec.servers[0].hosts missing",
                "7 spec.servers[0].port.number invalid",
                "8 spec.servers[1].port missing",
            ],
        ),
    ];
    expect("Gateway", rows);
}

#[test]
fn peer_authentication() {
    let rows: &[(&str, &[&str])] = &[
        ("mtls: {mode: STRICT}", &[]),
        ("mtls: {mode: strict}", &["6 spec.mtls.mode invalid"]),
        ("mtsl: {mode: STRICT}", &["6 spec.mtsl unknown-field"]),
        (
            "portLevelMtls: {80: {mode: STRICT}}",
            &["6 spec.portLevelMtls invalid"],
        ),
        (
            "selector: {matchLabels: {app: x}}\nportLevelMtls: {http: {mode: STRICT}}",
            &["7 spec.portLevelMtls.http invalid"],
        ),
    ];
    expect("PeerAuthentication", rows);
    let one = |name| document("PeerAuthentication", name, "  mtls: {mode: STRICT}");
    assert_eq!(
        findings(&format!("{}---\n{}", one("a"), one("b"))),
        ["9 kind conflict"]
    );
}

#[test]
fn request_authentication() {
    let rows: &[(&str, &[&str])] = &[
        (
            "jwtRules: [{jwks: '{\"keys\":[{}]}'}]",
            &[
                "6 spec.jwtRules[0].issuer missing",
                "6 spec.jwtRules[0].jwks invalid?",
            ],
        ),
        ("jwtRules: [{issuer: a}]", &["6 spec.jwtRules[0] missing"]),
        ("jwtRules: [{issuer: 'https://a'}]", &[]),
        (
            "jwtRules: [{issuer: a, jwks: 'x'}]",
            &["6 spec.jwtRules[0].jwks invalid"],
        ),
        (
            "jwtRules: [{issuer: a, jwks: '{\"keys\":[]}'}]",
            &["6 spec.jwtRules[0].jwks invalid"],
        ),
        (
            "jwtRules: [{issuer: a, jwksUri: 'file:///etc/passwd'}]",
            &["6 spec.jwtRules[0].jwksUri invalid"],
        ),
        (
            "jwtRules: [{issuer: a, jwksUri: 'https://user:pass@a/b'}]",
            &["6 spec.jwtRules[0].jwksUri invalid"],
        ),
        (
            "jwtRules: [{issuer: a, jwksUri: 'https://a/b', jwks: b}]",
            &["6 spec.jwtRules[0].jwksUri conflict"],
        ),
        (
            "jwtRules: [{issuer: a, jwksUri: 'https://a/b', timeout: 2s}]",
            &[],
        ),
        (
            "jwtRules: [{issuer: a, jwksUri: 'https://a/b', timeout: 31s}]",
            &["6 spec.jwtRules[0].timeout invalid"],
        ),
    ];
    expect("RequestAuthentication", rows);
}

#[test]
fn where_tokens_stand_and_claims_go() {
    let rule = |more: &str| format!("jwtRules: [{{issuer: 'https://a', {more}}}]");
    let rows = [
        ("fromCookies: [session], fromParams: [t]", ""),
        (
            "fromHeaders: [{name: 'a b'}]",
            "fromHeaders[0].name invalid",
        ),
        ("fromCookies: ['a;b']", "fromCookies[0] invalid"),
        ("fromParams: ['']", "fromParams[0] missing"),
        ("spaceDelimitedClaims: [roles]", ""),
        (
            "spaceDelimitedClaims: ['']",
            "spaceDelimitedClaims[0] missing",
        ),
        ("outputPayloadToHeader: x-payload", ""),
        (
            "outputPayloadToHeader: 'x y'",
            "outputPayloadToHeader invalid",
        ),
        (
            "outputPayloadToHeader: Host",
            "outputPayloadToHeader invalid",
        ),
        (
            "outputClaimToHeaders: [{header: content-length, claim: sub}]",
            "outputClaimToHeaders[0].header invalid",
        ),
        (
            "outputClaimToHeaders: [{header: x-reeve-peer, claim: sub}]",
            "outputClaimToHeaders[0].header invalid",
        ),
        (
            "outputClaimToHeaders: [{header: x-sub, claim: ''}]",
            "outputClaimToHeaders[0].claim missing",
        ),
        (
            "outputPayloadToHeader: x-sub, outputClaimToHeaders: [{header: X-Sub, claim: sub}]",
            "outputClaimToHeaders[0].header conflict",
        ),
    ];
    for (more, fault) in rows {
        let found = findings(&document(
            "RequestAuthentication",
            "x",
            &format!("  {}", rule(more)),
        ));
        let expected: Vec<String> = match fault {
            "" => vec![],
            fault => vec![format!("6 spec.jwtRules[0].{fault}")],
        };
        assert_eq!(found, expected, "{more}");
    }
}

#[test]
fn request_authentication_targets() {
    let rows: &[(&str, &[&str])] = &[
        (
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]",
            &[],
        ),
        (
            "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: edge}",
            &[],
        ),
        (
            "targetRefs: [{kind: Service, name: nobody}]",
            &["6 spec.targetRefs[0].name unknown-reference"],
        ),
        (
            "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio}]",
            &["6 spec.targetRefs[0].kind invalid"],
        ),
        (
            "targetRefs: [{kind: Service, name: a, namespace: other}]",
            &["6 spec.targetRefs[0].namespace invalid"],
        ),
        (
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: ''}]",
            &["6 spec.targetRefs[0].name missing"],
        ),
        (
            "selector: {matchLabels: {a: b}}\ntargetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}]",
            &["7 spec.targetRefs conflict"],
        ),
    ];
    expect("RequestAuthentication", rows);
}

#[test]
fn access_policy_faults_point_into_the_cedar_text() {
    let rows: &[(&str, &[&str])] = &[
        ("cedar: ''", &["6 spec.cedar missing"]),
        ("{}", &["5 spec.cedar missing"]),
        ("cedar: |\n  permit (principal, action, resource);", &[]),
        (
            "cedar: |\n  permit (principal, action, resource)\n  when { context.nope };",
            &["8 spec.cedar policy", "8 spec.cedar policy"],
        ),
        (
            "cedar: |\n  permit (principal, action, resource);\n\n  permit (principal);",
            &["9 spec.cedar policy", "9 spec.cedar policy"],
        ),
    ];
    expect("AccessPolicy", rows);
}

#[test]
fn no_policy_stands_in_the_namespace_of_break_glass() {
    let cedar = "  cedar: permit (principal, action, resource);";
    let text = document("AccessPolicy", "x\n  namespace: break-glass", cedar);
    let mut source = Source::default();
    source.add("a.yaml", &text);
    let found = resolve(&source).findings;
    assert_eq!(findings_of(&found), ["5 metadata.namespace invalid"]);
    assert!(found[0].text.contains("reserved"), "{}", found[0].text);
}

/// Names the policies that one request could concern all at once, and takes the set when they say whom they are for.
#[test]
fn a_set_of_which_one_request_could_concern_too_many_policies_is_refused() {
    let set = |condition: &str| {
        let policies = (0..=reeve_authz::MAX_CANDIDATES).map(|n| {
            let condition = condition.replace('@', &n.to_string());
            format!("\n    permit (principal, action, resource) when {{ {condition} }};")
        });
        let cedar: String = policies.collect();
        document("AccessPolicy", "many", &format!("  cedar: |{cedar}"))
    };
    let mut source = Source::default();
    source.add("a.yaml", &set("context.port > @"));
    let found = resolve(&source).findings;
    assert_eq!(findings_of(&found), ["6 spec.cedar policy"]);
    for part in ["1024", "default/many#1,", "and 1017 more"] {
        assert!(found[0].text.contains(part), "{part}: {}", found[0].text);
    }
    let mut source = Source::default();
    source.add("a.yaml", &set("context.port == @"));
    assert_eq!(findings_of(&resolve(&source).findings), [""; 0]);
}

#[test]
fn caller_shares() {
    let rows: &[(&str, &[&str])] = &[
        (
            "callerShares: {requestsPerConnection: 0, requestsPerCaller: 65537}",
            &[
                "6 spec.callerShares.requestsPerCaller invalid",
                "6 spec.callerShares.requestsPerConnection invalid",
            ],
        ),
        (
            "callerShares: {requestsPerConnection: 20, requestsPerCaller: 10}",
            &["6 spec.callerShares.requestsPerConnection conflict?"],
        ),
    ];
    expect("MeshConfig", rows);
}

#[test]
fn path_normalization() {
    let rows: &[(&str, &[&str])] = &[
        ("pathNormalization: MERGE_SLASHES", &[]),
        ("pathNormalization: {normalization: BASE}", &[]),
        (
            "pathNormalization: merge",
            &["6 spec.pathNormalization invalid"],
        ),
        (
            "pathNormalization: {normalization: merge}",
            &["6 spec.pathNormalization.normalization invalid"],
        ),
        (
            "pathNormalization: {mode: BASE}",
            &["6 spec.pathNormalization.mode unknown-field"],
        ),
    ];
    expect("MeshConfig", rows);
    let rows: &[(&str, &[&str])] = &[
        ("normalization: BASE", &[]),
        ("normalization: merge", &["6 spec.normalization invalid"]),
        (
            "mode: BASE",
            &["5 spec missing", "6 spec.mode unknown-field"],
        ),
        (
            "portLevel: {80: {normalization: BASE}}",
            &["6 spec.portLevel invalid"],
        ),
        (
            "selector: {matchLabels: {app: x}}\nportLevel: {http: {normalization: BASE}, 80: {normalization: UNSET}, 81: {}}",
            &[
                "7 spec.portLevel.81 missing",
                "7 spec.portLevel.http invalid",
            ],
        ),
    ];
    expect("PathNormalization", rows);
    let one = |name| document("PathNormalization", name, "  normalization: BASE");
    assert_eq!(
        findings(&format!("{}---\n{}", one("a"), one("b"))),
        ["9 kind conflict"]
    );
}

#[test]
fn break_glass() {
    let rows: &[(&str, &[&str])] = &[
        (
            "breakGlass: {publicKeys: ['AA==', 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=']}",
            &[
                "6 spec.breakGlass.publicKeys[0] invalid",
                "6 spec.breakGlass.publicKeys[1] invalid",
            ],
        ),
        (
            "breakGlass: {meshPublicKeys: ['AA==']}",
            &["6 spec.breakGlass.meshPublicKeys[0] invalid"],
        ),
        (
            "breakGlass: {keys: []}",
            &["6 spec.breakGlass.keys unknown-field"],
        ),
    ];
    expect("MeshConfig", rows);
}

#[test]
fn mesh_config_audit() {
    let rows: &[(&str, &[&str])] = &[
        (
            "audit: {level: ram, walMaxBytes: 5, recordedHeaders: ['a b']}",
            &[
                "6 spec.audit.level invalid",
                "6 spec.audit.recordedHeaders[0] invalid",
                "6 spec.audit.walMaxBytes invalid",
            ],
        ),
        (
            "audit: {joinKey: none, fieldClasses: {headers: {'a b': public}, claims: {sub: hidden}, context: {host: secret}}}",
            &[
                "6 spec.audit.fieldClasses.claims.sub invalid",
                "6 spec.audit.fieldClasses.context.host invalid",
                "6 spec.audit.fieldClasses.headers.\"a b\" invalid",
                "6 spec.audit.joinKey unknown-reference",
            ],
        ),
        (
            "audit: {fieldClasses: {query: {q: sensitive}}}",
            &["6 spec.audit.joinKey missing"],
        ),
        (
            "audit: {dangerPassUnrecorded: true}",
            &["6 spec.audit.dangerPassUnrecorded insecure?"],
        ),
        (
            "audit: {witnesses: [{url: 'https://192.0.2.7', key: w+1+2}], witnessQuorum: 2, witnessTimeout: 1m}",
            &[
                "6 spec.audit.witnessQuorum invalid",
                "6 spec.audit.witnessTimeout too-large",
                "6 spec.audit.witnesses[0].key invalid",
                "6 spec.audit.witnesses[0].url invalid",
            ],
        ),
        (
            "audit: {replicas: 1, replicasElsewhere: [{name: audit-0, address: '192.0.2.7:15012'}, {name: b/c, address: '192.0.2.7:1'}, {name: d, address: 'mesh:15012'}]}",
            &[
                "6 spec.audit.replicasElsewhere[0].name duplicate-object",
                "6 spec.audit.replicasElsewhere[1].name invalid",
                "6 spec.audit.replicasElsewhere[2].address invalid",
            ],
        ),
        (
            "audit: {replicas: 65}",
            &["6 spec.audit.replicas too-large"],
        ),
        ("audit: {replicas: 64}", &[]),
        (
            "audit: {dangerAcknowledgeUnwitnessed: true}",
            &["6 spec.audit.dangerAcknowledgeUnwitnessed insecure?"],
        ),
    ];
    expect("MeshConfig", rows);
}

#[test]
fn mesh_config() {
    let rows: &[(&str, &[&str])] = &[
        ("trustDomain: Mesh", &["6 spec.trustDomain invalid"]),
        ("certificateTtl: 1s", &["6 spec.certificateTtl invalid"]),
        ("certificateTtl: 9000h", &["6 spec.certificateTtl invalid"]),
        (
            "authorization: {state: maybe, services: {nope: open}}",
            &[
                "6 spec.authorization.services.nope unknown-reference?",
                "6 spec.authorization.state invalid",
            ],
        ),
        (
            "tap: {mode: everything, namespaces: {Default: BODIES}}",
            &[
                "6 spec.tap.mode invalid",
                "6 spec.tap.namespaces.Default invalid",
            ],
        ),
        (
            "tracing: {otlpEndpoint: here}",
            &["6 spec.tracing.otlpEndpoint invalid"],
        ),
        (
            "tracing: {otlpEndpoint: 'http://a:1', samplingPercent: 101}",
            &["6 spec.tracing.samplingPercent invalid"],
        ),
        (
            "accessLogFile: /dev/stdout\naccessLogFormat: \"%START_TIME% %REQ(:METHOD)%\"",
            &[],
        ),
        ("accessLogFile: /tmp/x", &["6 spec.accessLogFile invalid"]),
        (
            "accessLogEncoding: XML\naccessLogFormat: '%NOPE%'",
            &[
                "6 spec.accessLogEncoding invalid",
                "7 spec.accessLogFormat invalid",
            ],
        ),
        (
            "accessLogEncoding: JSON\naccessLogFormat: '{\"a\": \"%RESPONSE_CODE%\", \"b\": \"%REQ%\"}'",
            &["7 spec.accessLogFormat.b invalid"],
        ),
        (
            "accessLogEncoding: JSON\naccessLogFormat: '{\"a\": {}}'",
            &["7 spec.accessLogFormat invalid"],
        ),
        (
            "dangerAllowInternalJwks: 'true'",
            &["6 spec.dangerAllowInternalJwks wrong-type"],
        ),
        (
            "jwksCaCertificates: hello",
            &["6 spec.jwksCaCertificates invalid"],
        ),
    ];
    expect("MeshConfig", rows);
    let one = |name| document("MeshConfig", name, "  {}");
    assert_eq!(
        findings(&format!("{}---\n{}", one("a"), one("b"))),
        ["9 kind conflict"]
    );
}

#[test]
fn mesh_mtls() {
    let rows: &[(&str, &[&str])] = &[
        (
            "meshMTLS: {ecdhCurves: [X25519MLKEM768, X25519, P-256, P-384]}",
            &[],
        ),
        (
            "meshMTLS: {ecdhCurves: [X25519, P-521, X25519]}",
            &[
                "6 spec.meshMTLS.ecdhCurves[1] invalid",
                "6 spec.meshMTLS.ecdhCurves[2] conflict",
            ],
        ),
        (
            "meshMTLS: {minProtocolVersion: TLSV1_2}",
            &["6 spec.meshMTLS.minProtocolVersion unknown-field"],
        ),
    ];
    expect("MeshConfig", rows);
}

#[test]
fn local_mesh() {
    let rows: &[(&str, &[&str])] = &[
        (
            "workloads: [{name: a, command: [x]}, {name: a, command: [x]}]",
            &["6 spec.workloads[1].name conflict"],
        ),
        (
            "workloads: [{name: a.b, command: [x]}]",
            &["6 spec.workloads[0].name invalid"],
        ),
        (
            "workloads: [{command: [x]}]",
            &["6 spec.workloads[0].name missing"],
        ),
        (
            "workloads: [{name: a}]",
            &["6 spec.workloads[0].command missing?"],
        ),
        (
            "workloads: [{name: a, role: none}]",
            &["6 spec.workloads[0].command missing"],
        ),
        (
            "workloads: [{name: a, command: [x], metrics: {port: 0, path: m}}]",
            &[
                "6 spec.workloads[0].metrics.path invalid",
                "6 spec.workloads[0].metrics.port missing",
            ],
        ),
        (
            "workloads: [{name: a, command: []}]",
            &["6 spec.workloads[0].command invalid"],
        ),
        (
            "workloads: [{name: a, role: boss, command: [x]}]",
            &["6 spec.workloads[0].role invalid"],
        ),
        (
            "workloads: [{name: a, command: [x], replicas: 255}]",
            &["6 spec.workloads[0].replicas invalid"],
        ),
        (
            "workloads: [{name: a, command: [x], replicas: 200}, {name: b, command: [x], replicas: 200}]",
            &["6 spec.workloads[1].replicas exhausted"],
        ),
        (
            "workloads:\n  - {name: a, command: [x], ports: [{port: 80}, {port: 80}, {port: 15020}]}",
            &[
                "7 spec.workloads[0].ports[1].port conflict",
                "7 spec.workloads[0].ports[2].port conflict",
            ],
        ),
        (
            "workloads: [{name: a, command: [x], health: {httpGet: {path: x, port: 1}, tcp: {port: 1}}}]",
            &["6 spec.workloads[0].health invalid"],
        ),
        (
            "workloads: [{name: a, command: [x], env: {P: 80}}]",
            &["6 spec.workloads[0].env.P wrong-type"],
        ),
    ];
    expect("LocalMesh", rows);
}

#[test]
fn service() {
    let rows: &[(&str, &[&str])] = &[
        ("selector: {a: b}", &["5 spec.ports missing"]),
        (
            "ports: [{port: 80}, {port: 80}]",
            &["6 spec.ports[1].port conflict"],
        ),
        (
            "ports: [{port: 80, protocol: UDP}]",
            &["6 spec.ports[0].protocol unsupported"],
        ),
        (
            "ports: [{port: 80, name: web}]",
            &["6 spec.ports[0].name invalid?"],
        ),
        (
            "ports: [{port: 800000, name: http}]",
            &["6 spec.ports[0].port invalid"],
        ),
    ];
    for (spec, expected) in rows {
        let found = findings(&document("Service", "x", &format!("  {spec}")));
        assert!(
            expected.iter().all(|e| found.iter().any(|f| f == e)),
            "{spec}: {found:?}"
        );
    }
}

#[test]
fn durations_have_units() {
    use crate::resolve::values::duration;
    use std::time::Duration;
    for (text, millis) in [
        ("1s", 1000),
        ("250ms", 250),
        ("1h30m", 5_400_000),
        ("1.5s", 1500),
        ("2m", 120_000),
    ] {
        assert_eq!(
            duration(text),
            Some(Duration::from_millis(millis)),
            "{text}"
        );
    }
    for bad in [
        "",
        "5",
        "s",
        "1 s",
        "-1s",
        "1d",
        "1s2",
        ".s",
        "é",
        "99999999999999999999999h",
    ] {
        assert_eq!(duration(bad), None, "{bad:?}");
    }
}
