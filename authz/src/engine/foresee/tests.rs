use reeve_core::decision::Reason;

use super::*;
use crate::fixtures::{connection, mesh_wide, request, user};

/// [`request`] without anything that may be unknown.
fn bare() -> AccessRequest {
    let mut request = request();
    let http = request.context.http.as_mut().unwrap();
    http.headers.clear();
    http.query.clear();
    request
}

const NOTHING: Searched<'static> = Searched {
    names: &Needs {
        headers: BTreeSet::new(),
        query: BTreeSet::new(),
        labels: BTreeSet::new(),
        sni: false,
    },
    user: false,
    redacted_claims: &BTreeSet::new(),
    redacted_context: &BTreeSet::new(),
};

fn foreseen(policies: &str, request: &AccessRequest) -> Foreseen {
    Foresight::new(mesh_wide(policies)).ask(request, NOTHING, Asked::Plainly)
}

fn permit(condition: &str) -> String {
    format!("permit (principal, action in Action::\"http\", resource) when {{ {condition} }};")
}

fn open(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// `Ok` = the effect, whatever is unknown; `Err` = what it depends on.
fn summary(found: &Foreseen) -> Result<Effect, Vec<String>> {
    match found {
        Foreseen::Certain(decision) => Ok(decision.effect),
        Foreseen::Open(unknown) => Err(unknown.iter().map(ToString::to_string).collect()),
    }
}

#[test]
fn only_what_could_change_the_answer_leaves_it_open() {
    let h = |name: &str, value: &str| {
        format!(
            "context.headers.hasTag(\"{name}\") && context.headers.getTag(\"{name}\").contains(\"{value}\")"
        )
    };
    let team = h("team", "a");
    let table = [
        (permit(&team), Err(open(&["header team"]))),
        // As one text, a header or a claim may match a pattern in ways that cannot be tried out.
        (
            permit(
                "context.header_text.hasTag(\"team\") && context.header_text.getTag(\"team\") like \"a*\"",
            ),
            Err(open(&["header team"])),
        ),
        (
            permit(
                "context.claim_lines.hasTag(\"sub\") && context.claim_lines.getTag(\"sub\") like \"*a\\n*\"",
            ),
            Err(open(&["the end user's token"])),
        ),
        // Another path, whatever the header is.
        (
            permit(&format!("{team} && context.path == \"/other\"")),
            Ok(Effect::Deny),
        ),
        (
            permit(&format!("context.path == \"/other\" && {team}")),
            Ok(Effect::Deny),
        ),
        // Permitted anyway.
        (
            permit(&team) + &permit("context.port == 9080"),
            Ok(Effect::Allow),
        ),
        // Forbidden anyway.
        (
            permit(&team) + "forbid (principal, action, resource);",
            Ok(Effect::Deny),
        ),
        // Both sides of a question lead to the same.
        (
            permit("context.headers.hasTag(\"team\") || !context.headers.hasTag(\"team\")"),
            Ok(Effect::Allow),
        ),
        (
            permit(&format!("{team} || {}", h("team", "b"))),
            Err(open(&["header team"])),
        ),
        // Only one of the two matters.
        (
            permit(&format!(
                "{team} || ({} && context.port == 1)",
                h("rank", "x")
            )),
            Err(open(&["header team"])),
        ),
        (
            permit(&format!("{team} && {}", h("rank", "x"))),
            Err(open(&["header rank", "header team"])),
        ),
        // Contradictions.
        (
            permit(&format!(
                "{team} && !context.headers.getTag(\"team\").contains(\"a\")"
            )),
            Ok(Effect::Deny),
        ),
    ];
    check(&table);
}

#[test]
fn queries_users_and_odd_comparisons_are_tried_or_left_open() {
    let table = [
        (
            permit(
                "context.headers.hasTag(\"team\") && context.headers.getTag(\"team\").isEmpty()",
            ),
            Ok(Effect::Deny),
        ),
        (
            permit("context.query.hasTag(\"q\") && context.query.getTag(\"q\") == [\"1\"]"),
            Err(open(&["query parameter q"])),
        ),
        // Compared with what is not spelled out: not tried, so open.
        (
            permit(
                "context.headers.hasTag(\"team\") && context.headers.getTag(\"team\").contains(context.host)",
            ),
            Err(open(&["header team"])),
        ),
        (
            permit("context has user && context.user.issuer == \"https://i\""),
            Err(open(&["the end user's token"])),
        ),
        (
            permit(
                "context has user && context.user.hasTag(\"groups\") && context.user.getTag(\"groups\").contains(\"x\") && context.host == \"elsewhere\"",
            ),
            Ok(Effect::Deny),
        ),
        (
            permit("context has user || context.mtls"),
            Ok(Effect::Allow),
        ),
        (
            permit("context has user && context.user.subject like \"svc-*\""),
            Err(open(&["the end user's token"])),
        ),
    ];
    check(&table);
}

fn check(table: &[(String, Result<Effect, Vec<String>>)]) {
    for (policies, expected) in table {
        let found = foreseen(policies, &bare());
        assert_eq!(summary(&found), *expected, "{policies}");
    }
}

#[test]
fn what_was_looked_for_and_is_not_there_is_known() {
    let engine = Foresight::new(mesh_wide(&permit(
        "context.headers.hasTag(\"team\") || context.query.hasTag(\"q\") || context has user",
    )));
    let looked = |header: bool, query: bool, user: bool| {
        let names = Needs {
            headers: header.then(|| "team".to_owned()).into_iter().collect(),
            query: query.then(|| "q".to_owned()).into_iter().collect(),
            ..Needs::default()
        };
        let known = Searched {
            names: &names,
            user,
            redacted_claims: NOTHING.redacted_claims,
            redacted_context: NOTHING.redacted_context,
        };
        summary(&engine.ask(&bare(), known, Asked::Plainly))
    };
    assert_eq!(looked(true, true, true), Ok(Effect::Deny));
    assert_eq!(looked(false, true, true), Err(open(&["header team"])));
    assert_eq!(looked(true, false, true), Err(open(&["query parameter q"])));
    assert_eq!(
        looked(true, true, false),
        Err(open(&["the end user's token"]))
    );
    // What is there is known anyway.
    let mut with_user = bare();
    with_user.user = Some(Arc::new(user()));
    let found = engine.ask(&with_user, NOTHING, Asked::Plainly);
    assert_eq!(summary(&found), Ok(Effect::Allow));
    // A connection has none of it.
    let found = engine.ask(&connection(), NOTHING, Asked::Plainly);
    assert_eq!(summary(&found), Ok(Effect::Deny));
}

#[test]
fn too_many_cases_are_left_open() {
    let any: Vec<_> = (0..13).map(|n| format!("\"v{n}\"")).collect();
    let policy = permit(&format!(
        "context.headers.hasTag(\"team\") && context.headers.getTag(\"team\").containsAny([{}])",
        any.join(", ")
    ));
    // It could not be: the answer is open although no port is 1.
    let never = policy.replace("when {", "when { context.port == 1 &&");
    assert_eq!(
        summary(&foreseen(&never, &bare())),
        Err(open(&["header team"]))
    );
}

#[test]
fn policies_of_others_leave_nothing_open_and_a_closed_engine_is_certain() {
    let other = permit("context.headers.hasTag(\"team\")").replace(
        "principal,",
        "principal == Workload::\"spiffe://mesh.local/ns/a/sa/b\",",
    );
    assert_eq!(summary(&foreseen(&other, &bare())), Ok(Effect::Deny));
    let closed = Foresight::new(Engine::deny_all(Reason::NoPolicySet));
    let found = closed.ask(&bare(), NOTHING, Asked::Plainly);
    let denied = Decision::without_policy(Effect::Deny, Reason::NoPolicySet);
    assert_eq!(found, Foreseen::Certain(denied));
    assert!(!closed.time_matters(&bare()) && !closed.http_matters(&bare()));
}

#[test]
fn what_policies_look_at_is_told() {
    let by_time = Foresight::new(mesh_wide(&permit(
        "context.time < datetime(\"2030-01-01T00:00:00Z\")",
    )));
    assert!(by_time.time_matters(&bare()) && !by_time.http_matters(&bare()));
    let by_path = Foresight::new(mesh_wide(&permit("context.path == \"/x\"")));
    let lapsing = Foresight::new(mesh_wide(
        "@until(\"2030-01-01\") permit (principal, action, resource);",
    ));
    assert!(lapsing.time_matters(&bare()));
    assert!(by_path.http_matters(&bare()) && !by_path.time_matters(&bare()));
}

mod against_every_value {
    use proptest::prelude::*;

    use super::*;

    fn atom() -> impl Strategy<Value = String> {
        let tag = prop_oneof![Just("context.headers"), Just("context.query")];
        let member = prop_oneof![Just("a"), Just("b")];
        (tag, 0..6u8, member).prop_map(|(tag, form, member)| {
            let has = format!("{tag}.hasTag(\"t\")");
            let get = format!("{tag}.getTag(\"t\")");
            match form {
                0 => has,
                1 => format!("({has} && {get}.contains(\"{member}\"))"),
                2 => format!("({has} && {get}.containsAll([\"a\", \"b\"]))"),
                3 => format!("({has} && {get}.containsAny([\"{member}\", \"c\"]))"),
                4 => format!("({has} && {get} == [\"{member}\"])"),
                _ => "context.port == 9080".to_owned(),
            }
        })
    }

    fn condition() -> impl Strategy<Value = String> {
        atom().prop_recursive(3, 12, 2, |inner| {
            prop_oneof![
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
                inner.prop_map(|a| format!("!({a})")),
            ]
        })
    }

    /// Absent, and every set of these texts.
    fn sets() -> Vec<Option<BTreeSet<String>>> {
        let texts = ["a", "b", "c", "d"];
        let subset = |n: usize| {
            let members = texts.iter().enumerate().filter(|(at, _)| n >> at & 1 == 1);
            let members: BTreeSet<_> = members.map(|(_, t)| (*t).to_owned()).collect();
            (!members.is_empty()).then_some(members)
        };
        (0..16).map(subset).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn an_answer_is_certain_just_when_every_value_leads_to_it(
            permit_if in condition(), forbid_if in condition(),
        ) {
            let policies = permit(&permit_if) + &permit(&forbid_if).replace("permit (", "forbid (");
            // What can never be true is refused by validation.
            let root = crate::fixtures::namespace("reeve-system");
            let parsed = crate::parse_access_policy(None, &root, "p", &policies);
            prop_assume!(parsed.is_ok());
            let engine = mesh_wide(&policies);
            let mut effects = BTreeSet::new();
            for header in sets() {
                for query in sets() {
                    let mut request = bare();
                    let http = request.context.http.as_mut().unwrap();
                    http.headers.extend(header.clone().map(|set| ("t".to_owned(), set)));
                    http.query.extend(query.map(|set| ("t".to_owned(), set)));
                    effects.insert(engine.decide(&request).effect == Effect::Allow);
                }
            }
            match Foresight::new(engine).ask(&bare(), NOTHING, Asked::Plainly) {
                Foreseen::Certain(decision) => {
                    prop_assert_eq!(effects, [decision.is_allow()].into(), "{}", policies);
                }
                Foreseen::Open(unknown) => {
                    prop_assert!(!unknown.is_empty());
                    prop_assert_eq!(effects.len(), 2, "{}", policies);
                }
            }
        }
    }
}

#[test]
fn claims_are_seen_in_both_forms() {
    for form in [
        "context has user && context.user.hasTag(\"team\")",
        "context.claim_lines.hasTag(\"team\")",
    ] {
        let foresight = Foresight::new(mesh_wide(&permit(form)));
        assert!(
            foresight.sight().user && foresight.sight().claim("team"),
            "{form}"
        );
    }
}

#[test]
fn a_claim_that_was_not_kept_leaves_open_what_depends_on_it_alone() {
    let mut request = bare();
    let mut known = user();
    known.subject.clear();
    request.user = Some(Arc::new(known));
    let redacted = ["email".to_owned(), "sub".to_owned()].into();
    let ask = |condition: &str| {
        let searched = Searched {
            redacted_claims: &redacted,
            ..NOTHING
        };
        let engine = Foresight::new(mesh_wide(&permit(condition)));
        summary(&engine.ask(&request, searched, Asked::Plainly))
    };
    let email = "context has user && context.user.hasTag(\"email\") && context.user.getTag(\"email\").contains(\"a@b\")";
    assert_eq!(ask(email), Err(open(&["claim email"])));
    let subject = "context has user && context.user.subject == \"jason\"";
    assert_eq!(ask(subject), Err(open(&["claim sub"])));
    assert_eq!(ask("context has user"), Ok(Effect::Allow));
    assert_eq!(
        ask(&format!("({email}) || context has user")),
        Ok(Effect::Allow)
    );
    let other = "context has user && context.user.hasTag(\"team\")";
    assert_eq!(ask(other), Ok(Effect::Deny), "what was kept is known");
}

#[test]
fn what_was_recorded_before_addresses_called_were_is_open_where_a_policy_asks_for_them() {
    let policies = "permit (principal, action, resource);
        forbid (principal, action, resource) when { context has sni && context.sni == \"a.test\" };";
    let mut request = request();
    let open = Foreseen::Open(vec![Unknown::Context("sni".to_owned())]);
    assert_eq!(foreseen(policies, &request), open);
    request.context.destination_ip = Some([10, 0, 0, 1].into());
    let answer = |found| match found {
        Foreseen::Certain(decision) => decision.is_allow(),
        Foreseen::Open(unknown) => panic!("{unknown:?}"),
    };
    assert!(answer(foreseen(policies, &request)));
    request.context.sni = Some("a.test".into());
    assert!(!answer(foreseen(policies, &request)));
}
