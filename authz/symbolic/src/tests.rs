use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::Permissions,
    io::ErrorKind,
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use cedar_policy_symcc::solver::SolverError;
use reeve_core::{
    Namespace, PolicyId, ServiceName, SpiffeId, TrustDomain,
    decision::Action,
    model::{PolicyMode, PolicySlice, PolicySource},
};

use crate::{Answer, Counterexample, Policies, Property, Solver, Verifier, VerifyError, World};

const LEDGER: &str = r#"Service::"ledger.pay.svc.cluster.local""#;

fn world() -> World {
    let service = |host: &str, namespace: &str| {
        (
            ServiceName::parse(host).unwrap(),
            Namespace::parse(namespace).unwrap(),
        )
    };
    let id = |id| SpiffeId::parse(id).unwrap();
    World {
        home: TrustDomain::parse("mesh.local").unwrap(),
        services: BTreeMap::from([
            service("ledger.pay.svc.cluster.local", "pay"),
            service("web.shop.svc.cluster.local", "shop"),
        ]),
        identities: BTreeSet::from([
            id("spiffe://mesh.local/ns/pay/sa/ledger"),
            id("spiffe://mesh.local/ns/pay/sa/till"),
            id("spiffe://mesh.local/ns/shop/sa/web"),
        ]),
        behind: BTreeMap::from([(
            ServiceName::parse("ledger.pay.svc.cluster.local").unwrap(),
            BTreeSet::from([id("spiffe://mesh.local/ns/pay/sa/ledger")]),
        )]),
    }
}

fn sources(namespace: Option<&str>, texts: &[&str]) -> Vec<PolicySource> {
    let source = |(number, text): (usize, &&str)| PolicySource {
        id: PolicyId::parse(&format!("test/policies#{}", number + 1)).unwrap(),
        scope: namespace.map(|name| Namespace::parse(name).unwrap()),
        mode: PolicyMode::Enforce,
        text: (*text).to_owned(),
    };
    texts.iter().enumerate().map(source).collect()
}

fn slice(policies: Vec<PolicySource>) -> PolicySlice {
    PolicySlice {
        policies,
        ..PolicySlice::default()
    }
}

fn mesh(texts: &[&str]) -> Policies {
    Policies::new(&slice(sources(None, texts)), &world().home).unwrap()
}

fn verifier() -> Verifier {
    let solver = Solver {
        program: "cvc5".into(),
        limit: Duration::from_secs(20),
    };
    Verifier::new(solver, world()).expect("the solver cvc5; apt-get install cvc5")
}

async fn check(policies: &Policies, property: Property) -> Answer {
    verifier().check(policies, &property).await.unwrap()
}

fn example(answer: Answer) -> Box<Counterexample> {
    let Answer::Fails {
        counterexample: Some(example),
    } = answer
    else {
        panic!("no counterexample: {answer:?}");
    };
    example
}

fn outsiders_write() -> Property {
    Property::Never(mesh(&[&format!(
        r#"permit(principal, action in Action::"write", resource in {LEDGER})
           unless {{ principal in Namespace::"mesh.local/ns/pay" }};"#
    )]))
}

#[tokio::test]
async fn what_no_policy_allows_is_proved() {
    let closed = mesh(&[
        &format!(
            r#"permit(principal in Namespace::"mesh.local/ns/pay", action, resource in {LEDGER});"#
        ),
        r#"permit(principal, action in Action::"read", resource);"#,
    ]);
    assert_eq!(check(&closed, outsiders_write()).await, Answer::Holds);
}

#[tokio::test]
async fn what_a_policy_lets_through_is_shown_as_a_request() {
    let open = mesh(&[
        r#"permit(principal is Workload, action in Action::"http", resource)
           when { context.path like "/entries/*" };"#,
        r#"forbid(principal, action in [Action::"PUT", Action::"POST"], resource);"#,
    ]);
    let example = example(check(&open, outsiders_write()).await);
    let request = example.request;
    assert!(example.decision.is_allow());
    assert!(matches!(
        request.action,
        Action::Patch | Action::Delete | Action::Other
    ));
    let http = request.context.http.unwrap();
    assert!(http.path.starts_with("/entries/"), "{}", http.path);
    let caller = request.principal.spiffe_id().unwrap();
    let namespace = caller.namespace_and_account().map(|(name, _)| name);
    assert!(
        namespace.is_none_or(|name| name.as_str() != "pay"),
        "{caller}"
    );
    assert_eq!(
        request.resource.services,
        [ServiceName::parse("ledger.pay.svc.cluster.local").unwrap()]
    );
    assert_eq!(example.looked_at, ["path"]);
}

#[tokio::test]
async fn worlds_that_cannot_be_refute_nothing() {
    // Each of these fails for a solver that may choose freely.
    let proved = [
        // A workload is in one namespace.
        (
            r#"permit(principal in Namespace::"mesh.local/ns/shop", action, resource)
               unless { principal in Namespace::"mesh.local/ns/pay" };"#,
            r#"permit(principal in Namespace::"mesh.local/ns/pay", action, resource)
               when { principal in Namespace::"mesh.local/ns/shop" };"#,
        ),
        // A service account is in its namespace, a workload in its account.
        (
            r#"permit(principal == Workload::"spiffe://mesh.local/ns/pay/sa/till", action, resource);"#,
            r#"permit(principal, action, resource) unless { principal in Namespace::"mesh.local/ns/pay" };"#,
        ),
        (
            r#"permit(principal in ServiceAccount::"mesh.local/ns/pay/sa/till", action, resource);"#,
            r#"permit(principal, action, resource)
               unless { principal == Workload::"spiffe://mesh.local/ns/pay/sa/till" };"#,
        ),
        // Who has no identity does not speak mTLS.
        (
            r#"permit(principal, action, resource is Workload) when { context.mtls };"#,
            r#"permit(principal is Unauthenticated, action, resource);"#,
        ),
        // A service is in its namespace.
        (
            r#"permit(principal, action, resource in Service::"ledger.pay.svc.cluster.local");"#,
            r#"permit(principal, action, resource) unless { resource in Namespace::"mesh.local/ns/pay" };"#,
        ),
        // Behind a service are the workloads that the mesh says.
        (
            r#"permit(principal, action, resource == Workload::"spiffe://mesh.local/ns/pay/sa/till");"#,
            r#"permit(principal, action, resource in Service::"ledger.pay.svc.cluster.local");"#,
        ),
        // The parts of a path are those of the path.
        (
            r#"permit(principal, action in Action::"http", resource)
               when { context.path_segments has s1 && context.path_segments.s1 == "public" };"#,
            r#"permit(principal, action in Action::"http", resource) when { context.path like "/admin/*" };"#,
        ),
        (
            r#"permit(principal, action in Action::"http", resource) when { context.path == "/a/b" };"#,
            r#"permit(principal, action in Action::"http", resource)
               unless { context.path_segments.count == 2 };"#,
        ),
        // The action is the method.
        (
            r#"permit(principal, action == Action::"GET", resource);"#,
            r#"permit(principal, action in Action::"http", resource) when { context.method == "POST" };"#,
        ),
    ];
    for (policy, never) in proved {
        let answer = check(&mesh(&[policy]), Property::Never(mesh(&[never]))).await;
        assert_eq!(answer, Answer::Holds, "{policy}\n{never}");
    }
}

#[tokio::test]
async fn a_policy_of_one_namespace_permits_nothing_elsewhere() {
    let all = r#"permit(principal, action, resource);"#;
    let own = Policies::new(&slice(sources(Some("pay"), &[all])), &world().home).unwrap();
    let elsewhere = r#"permit(principal, action, resource) unless { resource in Namespace::"mesh.local/ns/pay" };"#;
    let answer = check(&own, Property::Never(mesh(&[elsewhere]))).await;
    assert_eq!(answer, Answer::Holds);
    let within = r#"permit(principal, action, resource in Namespace::"mesh.local/ns/pay");"#;
    let answer = check(&own, Property::Always(mesh(&[within]))).await;
    assert_eq!(answer, Answer::Holds);
}

#[tokio::test]
async fn policies_in_shadow_do_not_count() {
    let mut shadow = sources(None, &[r#"permit(principal, action, resource);"#]);
    shadow.iter_mut().for_each(|s| s.mode = PolicyMode::Shadow);
    let shadow = Policies::new(&slice(shadow), &world().home).unwrap();
    let everything = mesh(&[r#"permit(principal, action, resource);"#]);
    assert_eq!(
        check(&shadow, Property::Never(everything)).await,
        Answer::Holds
    );
}

#[tokio::test]
async fn a_policy_counts_until_its_end() {
    let ends = mesh(&["@until(\"2030-01-01\") permit(principal, action, resource);"]);
    let later =
        r#"permit(principal, action, resource) when { context.time >= datetime("2030-01-02") };"#;
    let never = Property::Never(mesh(&[later]));
    assert_eq!(check(&ends, never).await, Answer::Holds);
    let sooner =
        r#"permit(principal, action, resource) when { context.time < datetime("2030-01-01") };"#;
    let always = Property::Always(mesh(&[sooner]));
    assert_eq!(check(&ends, always).await, Answer::Holds);
}

#[tokio::test]
async fn a_change_is_compared_with_what_was() {
    let old = mesh(&[r#"permit(principal in Namespace::"mesh.local/ns/pay", action, resource);"#]);
    let new = mesh(&[
        r#"permit(principal in Namespace::"mesh.local/ns/pay", action, resource)
                        when { context.mtls };"#,
    ]);
    let less = check(&new, Property::NoMoreThan(old.clone())).await;
    assert_eq!(less, Answer::Holds);
    let example = example(check(&old, Property::SameAs(new.clone())).await);
    // A workload is asked by mTLS alone; to a service outside the mesh its own proxy goes without.
    assert!(!example.request.context.mtls);
    assert!(example.request.resource.workload.is_none());
    assert_eq!(
        check(&new, Property::SameAs(new.clone())).await,
        Answer::Holds
    );
}

#[tokio::test]
async fn a_policy_without_effect_is_found() {
    let id = |number| PolicyId::parse(&format!("test/policies#{number}")).unwrap();
    let policies = mesh(&[
        r#"permit(principal in Namespace::"mesh.local/ns/pay", action, resource);"#,
        r#"permit(principal in ServiceAccount::"mesh.local/ns/pay/sa/till", action, resource);"#,
        r#"forbid(principal in Namespace::"mesh.local/ns/shop", action, resource);"#,
        r#"forbid(principal, action == Action::"DELETE", resource);"#,
    ]);
    let mut verifier = verifier();
    let mut matters = async |number| {
        let property = Property::Matters(id(number));
        verifier.check(&policies, &property).await.unwrap()
    };
    let nothing = Answer::Fails {
        counterexample: None,
    };
    assert_eq!(matters(1).await, Answer::Holds);
    assert_eq!(matters(2).await, nothing, "the first says it");
    assert_eq!(matters(3).await, nothing, "nobody there is permitted");
    assert_eq!(matters(4).await, Answer::Holds);
}

#[tokio::test]
async fn a_policy_that_may_fail_is_found_with_a_request() {
    let policies = mesh(&[
        r#"permit(principal, action, resource);"#,
        r#"forbid(principal, action, resource) when { context.port * 9223372036854775807 > 5 };"#,
        r#"forbid(principal, action, resource) when { context.port * 2 > 131072 };"#,
    ]);
    let id = |number| PolicyId::parse(&format!("test/policies#{number}")).unwrap();
    let example = example(check(&policies, Property::NeverFails(id(2))).await);
    assert!(example.request.context.port > 1);
    assert!(!example.decision.is_allow());
    let sound = check(&policies, Property::NeverFails(id(3))).await;
    assert_eq!(sound, Answer::Holds);
}

#[tokio::test]
async fn a_forbid_that_may_fail_proves_no_access() {
    // Cedar skips the forbid where it fails, and allows; our engine denies.
    let policies = mesh(&[
        r#"permit(principal, action, resource);"#,
        r#"forbid(principal, action, resource)
           when { context.port * 9223372036854775807 == 1 && context.port == 3 };"#,
    ]);
    let always = mesh(&[r#"permit(principal, action, resource);"#]);
    let answer = check(&policies, Property::Always(always)).await;
    assert!(matches!(answer, Answer::Unknown { .. }), "{answer:?}");
}

#[tokio::test]
async fn headers_claims_and_addresses_are_in_the_example() {
    let policies = mesh(&[
        r#"permit(principal, action in Action::"http", resource) when {
             context.headers.hasTag("x-team") && context.headers.getTag("x-team").contains("red")
             && context has user && context.user.hasTag("role")
             && context.user.getTag("role").contains("admin")
             && context.source_ip.isInRange(ip("10.1.0.0/16")) };"#,
    ]);
    let everything = mesh(&[r#"permit(principal, action, resource);"#]);
    let example = example(check(&policies, Property::Never(everything)).await);
    let request = example.request;
    assert!(request.context.http.unwrap().headers["x-team"].contains("red"));
    assert!(request.user.unwrap().claims["role"].contains("admin"));
    assert!(request.context.source_ip.to_string().starts_with("10.1."));
}

#[tokio::test]
async fn a_solver_that_is_not_there_is_named() {
    let solver = Solver {
        program: "/nonexistent/cvc5".into(),
        limit: Duration::from_secs(1),
    };
    let error = Verifier::new(solver, world()).unwrap_err();
    assert!(matches!(error, VerifyError::NoSolver { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/cvc5"));
}

#[tokio::test]
async fn a_solver_that_dies_or_does_not_know_proves_nothing() {
    let script = std::env::temp_dir().join(format!("reeve-symbolic-{}", std::process::id()));
    let text =
        "#!/bin/sh\nwhile read -r line; do case $line in *check-sat*) echo unknown ;; esac; done\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
    let all = "permit(principal, action, resource);";
    let ask = async |program: &OsStr| {
        let solver = Solver {
            program: program.to_owned(),
            limit: Duration::from_secs(5),
        };
        let mut verifier = Verifier::new(solver, world())?;
        verifier.check(&mesh(&[all]), &outsiders_write()).await
    };
    // Another test's process may be beginning, and hold the file open for writing until it has begun.
    let busy = |error: &VerifyError| {
        let VerifyError::NoSolver { source, .. } = error else {
            return false;
        };
        matches!(source, SolverError::Io(e) if e.kind() == ErrorKind::ExecutableFileBusy)
    };
    let mut unknown = ask(script.as_os_str()).await;
    while unknown.as_ref().is_err_and(busy) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        unknown = ask(script.as_os_str()).await;
    }
    let unknown = unknown.unwrap();
    std::fs::remove_file(&script).unwrap();
    assert!(
        matches!(&unknown, Answer::Unknown { why } if why.contains("says unknown")),
        "{unknown:?}"
    );
    for dead in ["false", "true"] {
        let answer = ask(dead.as_ref()).await;
        assert!(
            matches!(answer, Ok(Answer::Unknown { .. }) | Err(_)),
            "{answer:?}"
        );
    }
}

/// A mesh's own groups, attributes and labels.
fn known(tier: &str, policies: &[&str]) -> Policies {
    Policies::new(&known_slice(tier, policies), &world().home).unwrap()
}

fn known_slice(tier: &str, policies: &[&str]) -> PolicySlice {
    let schema = r#"
        entity Department;
        entity Team in [Department] { lead?: Workload, budget?: Long, seat?: { floor?: Long } };
        entity Workload in [Team] { tier?: String, owner?: Team };
        entity Service in [Team];
        @claim("groups") @issuer("https://issuer.example") entity Group;
        entity User in [Group];"#;
    let entities = serde_json::json!([
        {"uid": {"type": "Workload", "id": "spiffe://mesh.local/ns/shop/sa/web"},
         "parents": [{"type": "Team", "id": "front"}], "attrs": {"tier": tier, "owner": {"__entity": {"type": "Team", "id": "front"}}}, "tags": {"app": ["web"]}},
        {"uid": {"type": "Team", "id": "front"}, "parents": [{"type": "Department", "id": "shop"}],
         "attrs": {"lead": {"__entity": {"type": "Workload", "id": "spiffe://mesh.local/ns/shop/sa/web"}}, "budget": 7, "seat": {"floor": 2}}},
        {"uid": {"type": "Service", "id": "ledger.pay.svc.cluster.local"}, "parents": [{"type": "Team", "id": "money"}]},
    ]);
    PolicySlice {
        schema: vec![schema.to_owned()],
        entities: serde_json::from_value(entities).unwrap(),
        ..slice(sources(None, policies))
    }
}

#[tokio::test]
async fn groups_attributes_and_labels_are_what_is_known_of_them() {
    let team = r#"permit (principal in Team::"front", action, resource in Team::"money");"#;
    let tier = r#"permit (principal is Workload, action, resource) when { principal has tier && principal.tier == "gold" };"#;
    let app = r#"permit (principal is Workload, action, resource) when { principal.hasTag("app") && principal.getTag("app").contains("web") };"#;
    let group = r#"permit (principal, action in Action::"read", resource) when { context has user && context.user in Group::"staff" };"#;
    let web = r#"permit (principal == Workload::"spiffe://mesh.local/ns/shop/sa/web", action, resource);"#;
    for (policy, outside, holds) in [
        (
            team,
            r#"permit (principal, action, resource) unless { principal == Workload::"spiffe://mesh.local/ns/shop/sa/web" };"#,
            true,
        ),
        (
            team,
            r#"permit (principal, action, resource) unless { resource in Service::"ledger.pay.svc.cluster.local" };"#,
            true,
        ),
        (team, web, false),
        (
            tier,
            r#"permit (principal, action, resource) unless { principal == Workload::"spiffe://mesh.local/ns/shop/sa/web" };"#,
            true,
        ),
        (tier, web, false),
        (
            app,
            r#"permit (principal, action, resource) unless { principal in ServiceAccount::"mesh.local/ns/shop/sa/web" };"#,
            true,
        ),
        (app, web, false),
        (
            group,
            r#"permit (principal, action in Action::"read", resource) unless { context has user && context.user.issuer == "https://issuer.example" };"#,
            true,
        ),
        (
            group,
            r#"permit (principal, action in Action::"read", resource);"#,
            false,
        ),
    ] {
        let property = Property::Never(known("gold", &[outside]));
        let answer = check(&known("gold", &[policy]), property).await;
        match holds {
            true => assert_eq!(answer, Answer::Holds, "{policy}\n{outside}"),
            false => assert!(
                matches!(answer, Answer::Fails { .. }),
                "{policy}: {answer:?}"
            ),
        }
    }
    // The same policies permit more where more is known to be gold.
    let more = Property::NoMoreThan(known("iron", &[tier]));
    let answer = check(&known("gold", &[tier]), more).await;
    assert!(matches!(answer, Answer::Fails { .. }), "{answer:?}");
    let same = Property::NoMoreThan(known("gold", &[tier]));
    assert_eq!(check(&known("gold", &[tier]), same).await, Answer::Holds);
}

/// SECURITY: what cannot be followed is not taken for false.
#[test]
fn what_cannot_be_followed_is_refused() {
    let condition = "(if context.mtls then principal else principal) has tier";
    let policy = format!(
        "permit (principal is Workload, action, resource is Workload) when {{ {condition} }};"
    );
    let slice = known_slice("gold", &[policy.as_str()]);
    assert!(Policies::new(&slice, &world().home).is_err());
}

const ONLY_WEB: &str = r#"permit (principal, action, resource) unless { principal == Workload::"spiffe://mesh.local/ns/shop/sa/web" };"#;
const WEB: &str =
    r#"permit (principal == Workload::"spiffe://mesh.local/ns/shop/sa/web", action, resource);"#;
const ANYBODY: &str = "permit (principal, action, resource);";

/// A condition, who is outside, and whether it is never true of those.
const NESTED: &[(&str, &str, bool)] = &[
    (
        "principal has owner && principal.owner has budget && principal.owner.budget > 5",
        ONLY_WEB,
        true,
    ),
    (
        "principal has owner && principal.owner has budget && principal.owner.budget > 5",
        WEB,
        false,
    ),
    (
        "principal has owner && principal.owner has budget && principal.owner.budget > 8",
        ANYBODY,
        true,
    ),
    (
        "principal has owner.seat.floor && principal.owner.seat.floor == 2",
        ONLY_WEB,
        true,
    ),
    (
        "principal has owner.seat.floor && principal.owner.seat.floor == 2",
        WEB,
        false,
    ),
    (
        r#"principal has owner && principal.owner in Department::"shop""#,
        ONLY_WEB,
        true,
    ),
    (
        r#"principal has owner && principal.owner in Department::"shop""#,
        WEB,
        false,
    ),
    (
        r#"principal has owner && principal.owner in [Department::"it", Department::"none"]"#,
        ANYBODY,
        true,
    ),
    (
        r#"principal has owner && principal.owner == Team::"front""#,
        WEB,
        false,
    ),
    (
        r#"principal has owner && principal.owner != Team::"front""#,
        ANYBODY,
        true,
    ),
    (
        "principal has owner && principal in principal.owner",
        ONLY_WEB,
        true,
    ),
    (
        "principal has owner && principal in principal.owner",
        WEB,
        false,
    ),
    (
        r#"Team::"front" has lead && principal == Team::"front".lead"#,
        ONLY_WEB,
        true,
    ),
    (
        r#"Team::"front" has lead && principal == Team::"front".lead"#,
        WEB,
        false,
    ),
    (
        r#"Team::"front" has budget && Team::"front".budget == 8"#,
        ANYBODY,
        true,
    ),
];

#[tokio::test]
async fn attributes_of_attributes_are_followed() {
    for (condition, outside, holds) in NESTED {
        let policy =
            format!("permit (principal is Workload, action, resource) when {{ {condition} }};");
        let property = Property::Never(known("gold", &[outside]));
        let answer = check(&known("gold", &[policy.as_str()]), property).await;
        match holds {
            true => assert_eq!(answer, Answer::Holds, "{policy}\n{outside}"),
            false => assert!(
                matches!(answer, Answer::Fails { .. }),
                "{policy}: {answer:?}"
            ),
        }
    }
}
