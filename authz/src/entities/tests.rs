//! What the data path never does: check its requests against the schema. And: building only what policies name
//! changes no decision.

use cedar_policy::Schema;
use proptest::prelude::*;
use reeve_core::{PolicyId, model::PolicySlice};

use super::*;
use crate::{
    Engine,
    arbitrary::{any_request, everything},
    fixtures::{self, namespace},
    judge::{OnForbidError, judge},
    parse_access_policy,
};

fn schema() -> Schema {
    Schema::from_cedarschema_str(crate::schema()).unwrap().0
}

/// Policies whose conditions touch every part of a request, one that fails among them.
const POLICIES: &str = r#"
    permit (principal in TrustDomain::"mesh.local", action in Action::"read", resource);
    permit (principal is Unauthenticated, action == Action::"connect", resource) when { context.port < 1024 };
    permit (principal, action, resource in Service::"reviews.default.svc.cluster.local") when { context.mtls };
    permit (principal, action in Action::"http", resource) when {
        context has user && context.user.hasTag("groups") && context.user.getTag("groups").contains("admin")
    };
    permit (principal, action in Action::"write", resource) when {
        context.headers.hasTag("end-user") && context.headers.getTag("end-user").containsAny(["a"])
    };
    permit (principal, action, resource) when { principal == resource };
    permit (principal, action in Action::"http", resource) when {
        context.path_segments.count > 3 && context.path_segments has s4 && context.path_segments.s4 == "d"
    };
    forbid (principal, action in Action::"http", resource) when { context.path like "/a/*" } unless { context.mtls };
    forbid (principal, action in Action::"http", resource) when {
        context.query.hasTag("page") && context.query.getTag("page").isEmpty()
    };
    forbid (principal in Namespace::"partner.example/ns/pay", action, resource);
    forbid (principal, action, resource) when { context.time > datetime("2026-01-01") && context.port * 1000000000000000 < 0 };
    forbid (principal, action, resource) unless { context.source_ip.isIpv4() || context.source_ip.isInRange(ip("::/1")) };
    forbid (principal, action, resource is Service) unless { Namespace::"mesh.local/ns/default" in TrustDomain::"mesh.local" };
    @mode("shadow") forbid (principal, action in Action::"http", resource) when { context has grpc };
"#;

fn sources() -> Vec<reeve_core::model::PolicySource> {
    let default = namespace("default");
    let root = parse_access_policy(None, &namespace("reeve-system"), "all", POLICIES).unwrap();
    let own = r#"@id("own") permit (principal, action, resource); @id("no") forbid (principal is Unauthenticated, action, resource);"#;
    [
        root,
        parse_access_policy(Some(&default), &default, "own", own).unwrap(),
    ]
    .concat()
}

fn ground<'a>(mesh: &'a MeshSchema, store: &'a Store) -> Ground<'a> {
    Ground {
        mesh,
        home: None,
        store,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_request_fits_the_schema(request in any_request()) {
        let schema = schema();
        let (mesh, store) = (MeshSchema::get().unwrap(), Store::default());
        let question = Question::new(ground(&mesh, &store), Looks(&[&everything()]), &request).unwrap();
        let Question { request: built, entities } = &question;
        let context = built.context().unwrap();
        let checked = cedar_policy::Request::new(
            built.principal().unwrap().clone(),
            built.action().unwrap().clone(),
            built.resource().unwrap().clone(),
            context.clone(),
            Some(&schema),
        );
        prop_assert!(checked.is_ok(), "{:?}", checked.err());
        let all = entities.iter().cloned().collect::<Vec<_>>();
        let checked = cedar_policy::Entities::from_entities(all, Some(&schema));
        prop_assert!(checked.is_ok(), "{:?}", checked.err());
    }

    /// The engine – tenancy, selected attributes, flattened parents – decides as plain Cedar does with all policies
    /// of the resource's namespace and everything built and checked.
    #[test]
    fn the_engine_decides_as_plain_cedar(request in any_request(), order in any::<bool>()) {
        let mut policies = sources();
        if order {
            policies.reverse();
        }
        let engine = Engine::compile(&PolicySlice { mesh_hash: String::new(), policies: policies.clone(), ..PolicySlice::default() }).unwrap();
        let decision = engine.decide(&request);

        let mut set = cedar_policy::PolicySet::new();
        for source in policies {
            let concerns = source.scope.is_none_or(|scope| scope == request.resource.namespace);
            if concerns && source.mode == reeve_core::model::PolicyMode::Enforce {
                let id = cedar_policy::PolicyId::new(source.id.as_str());
                set.add(cedar_policy::Policy::parse(Some(id), source.text).unwrap()).unwrap();
            }
        }
        let (mesh, store) = (MeshSchema::get().unwrap(), Store::default());
        let full = Question::new(ground(&mesh, &store), Looks(&[&everything()]), &request).unwrap();
        let plain = judge(&full.request, &set, &full.entities, OnForbidError::Deny);
        prop_assert_eq!(decision.effect, plain.effect);
        prop_assert_eq!(decision.reason, plain.reason);
        let ids = |ids: &[cedar_policy::PolicyId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        let decided: Vec<_> = decision.policies.iter().map(PolicyId::to_string).collect();
        prop_assert_eq!(decided, ids(&plain.policies));
        let failed: Vec<_> = decision.errors.iter().map(|e| e.policy.to_string()).collect();
        prop_assert_eq!(failed, plain.errors.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>());
    }

    /// Judging alone must agree with explaining.
    #[test]
    fn explanations_agree_with_decisions(request in any_request()) {
        let engine = Engine::compile(&PolicySlice { mesh_hash: String::new(), policies: sources(), ..PolicySlice::default() }).unwrap();
        let explained = engine.explain(&request);
        for policy in &explained.policies {
            let id = &policy.id;
            let failed = explained.decision.errors.iter().any(|e| e.policy == *id);
            if policy.mode == reeve_core::model::PolicyMode::Enforce {
                prop_assert_eq!(policy.verdict == crate::Verdict::Error, failed, "{}", id);
            }
            if explained.decision.policies.contains(id) && !failed {
                prop_assert_eq!(policy.verdict, crate::Verdict::Satisfied, "{}", id);
            }
        }
    }
}

#[test]
fn segments_follow_the_schemas_rule() {
    let table = [
        ("/", 0, &[][..]),
        ("", 0, &[]),
        ("/a", 1, &["a"]),
        ("/a/", 2, &["a", ""]),
        ("//", 2, &["", ""]),
        ("/v1/users/7", 3, &["v1", "users", "7"]),
        ("*", 1, &["*"]),
    ];
    for (path, count, parts) in table {
        let named = parts
            .iter()
            .enumerate()
            .map(|(at, part)| (format!("s{}", at + 1), text(part)));
        let expected = named.chain([("count".to_owned(), Value::from(count))]);
        let expected = Value::record(expected, None);
        assert_eq!(path_segments(path), expected, "{path}");
    }
    let shown = path_segments(&"/x".repeat(40)).to_string();
    assert!(
        shown.contains("40") && shown.contains("s16") && !shown.contains("s17"),
        "{shown}"
    );
}

#[test]
fn addresses_and_times_are_written_as_cedar_reads_them() {
    let mut asked = fixtures::request();
    let engine = fixtures::mesh_wide(
        r#"permit (principal, action, resource) when { context.source_ip.isInRange(ip("10.0.0.0/8")) };"#,
    );
    for (address, inside) in [
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("11.1.2.3", false),
        ("::10.1.2.3", false),
        ("::1", false),
    ] {
        asked.context.source_ip = address.parse().unwrap();
        assert_eq!(engine.decide(&asked).is_allow(), inside, "{address}");
    }
    assert_eq!(
        datetime(UnixTime::from_millis(1_800_000_000_007)),
        "2027-01-15T08:00:00.007Z"
    );
    assert_eq!(
        datetime(UnixTime::from_millis(0)),
        "1970-01-01T00:00:00.000Z"
    );
    assert_eq!(
        datetime(UnixTime::from_millis(u64::MAX)),
        "9999-12-30T22:00:00.999Z"
    );
}
