use reeve_core::decision::User;

use super::*;
use crate::fixture::{ENFORCED, asked, candidate, connected, record};

const ALL: &str = "permit (principal, action, resource);";

fn recorded(request: AccessRequest, reason: Reason) -> Recorded {
    let record = record(request, reason);
    Recorded {
        request: record.request,
        decision: record.decision,
        direction: record.direction,
        looked_for: record.looked_for,
        redacted: record.redacted,
        transformations: Vec::new(),
    }
}

fn judged(cedar: &str, place: Place, recorded: &Recorded) -> (Flip, &'static str) {
    let judged = candidate(cedar, place).judge(recorded);
    let after = judged.after.map_or("", |after| after.reason.as_str());
    (judged.flip, after)
}

#[test]
fn states_of_the_candidate_bind_or_not() {
    let allowed = recorded(asked("GET", "/"), Reason::Permitted);
    let denied = recorded(asked("GET", "/"), Reason::NoPermit);
    let open = recorded(asked("GET", "/"), Reason::ServiceOpen);
    let at = |state| Place { state, ..ENFORCED };
    let table = [
        (
            ServiceState::Enforced,
            &allowed,
            Flip::NewlyDenied,
            "no_permit",
        ),
        (ServiceState::Enforced, &denied, Flip::Same, "no_permit"),
        (
            ServiceState::Enforced,
            &open,
            Flip::NewlyDenied,
            "no_permit",
        ),
        (ServiceState::Shadow, &allowed, Flip::Same, "service_shadow"),
        (
            ServiceState::Shadow,
            &denied,
            Flip::NewlyPermitted,
            "service_shadow",
        ),
        (
            ServiceState::Open,
            &denied,
            Flip::NewlyPermitted,
            "service_open",
        ),
        (ServiceState::Open, &open, Flip::Same, "service_open"),
    ];
    for (state, recorded, flip, reason) in table {
        assert_eq!(judged("", at(state), recorded), (flip, reason), "{state:?}");
    }
    // Where no proxy stands before the resource, policies always bind.
    let outbound = Recorded {
        direction: Direction::Outbound,
        ..denied
    };
    let open = at(ServiceState::Open);
    assert_eq!(judged("", open, &outbound), (Flip::Same, "no_permit"));
}

#[test]
fn shadow_policies_bind_nobody() {
    let allowed = recorded(asked("GET", "/"), Reason::Permitted);
    let shadow = format!("{ALL} @mode(\"shadow\") forbid (principal, action, resource);");
    assert_eq!(judged(&shadow, ENFORCED, &allowed).0, Flip::Same);
}

#[test]
fn what_policies_do_not_decide_comes_out_as_it_did() {
    for reason in [
        Reason::InvalidToken,
        Reason::PlaintextRefused,
        Reason::AmbiguousPath,
        Reason::NoPolicySet,
        Reason::NoRoute,
        Reason::NotInRegistry,
        Reason::NotEntitled,
    ] {
        let refused = recorded(asked("GET", "/"), reason);
        let (flip, after) = judged(ALL, ENFORCED, &refused);
        assert_eq!((flip, after), (Flip::NotByPolicy, reason.as_str()));
    }
    let mut passed_through = recorded(connected(443), Reason::ServiceOpen);
    passed_through.request.resource.workload = None;
    passed_through.request.resource.services.clear();
    assert_eq!(judged("", ENFORCED, &passed_through).0, Flip::NotByPolicy);
}

#[test]
fn a_connection_where_http_is_expected_does_not_slip_past_http_policies() {
    let connection = recorded(connected(9080), Reason::Permitted);
    let guarded = format!(
        "{ALL} forbid (principal, action in Action::\"http\", resource) when {{ context.path like \"/admin*\" }};"
    );
    assert_eq!(judged(&guarded, ENFORCED, &connection).0, Flip::Same);
    let http = Place {
        http: true,
        ..ENFORCED
    };
    assert_eq!(
        judged(&guarded, http, &connection),
        (Flip::NewlyDenied, "forbid_error")
    );
}

#[test]
fn users_are_unknown_only_where_the_candidate_verifies_tokens_and_nobody_did_before() {
    let by_user =
        "permit (principal, action in Action::\"http\", resource) when { context has user };";
    let bare = recorded(asked("GET", "/"), Reason::Permitted);
    let looked = Recorded {
        looked_for: LookedFor::new([], [], true),
        ..bare.clone()
    };
    let mut with_user = bare.clone();
    with_user.request.user = Some(std::sync::Arc::new(User {
        claims: Default::default(),
        expires_at: None,
        issuer: "https://i".into(),
        subject: "alice".into(),
    }));
    let tokens = Place {
        tokens: true,
        ..ENFORCED
    };
    assert_eq!(judged(by_user, ENFORCED, &bare).0, Flip::NewlyDenied);
    assert_eq!(judged(by_user, tokens, &bare).0, Flip::Undetermined);
    assert_eq!(judged(by_user, tokens, &looked).0, Flip::NewlyDenied);
    assert_eq!(judged(by_user, tokens, &with_user).0, Flip::Same);
}

#[test]
fn what_a_request_was_before_it_was_transformed_is_unknown() {
    let mut transformed = recorded(asked("GET", "/v2/x"), Reason::Permitted);
    transformed.transformations = vec!["default/rewrite".into()];
    let by_path = |path: &str| {
        format!(
            "permit (principal, action in Action::\"http\", resource) when {{ context.path == \"{path}\" }};"
        )
    };
    assert_eq!(judged(ALL, ENFORCED, &transformed).0, Flip::Same);
    let denied = judged(&by_path("/v1/x"), ENFORCED, &transformed);
    assert_eq!(denied, (Flip::NewlyDenied, "no_permit"));
    let open = candidate(&by_path("/v2/x"), ENFORCED).judge(&transformed);
    assert_eq!(open.flip, Flip::Undetermined);
    assert_eq!(
        open.missing,
        ["the request before default/rewrite changed it"]
    );
}

#[test]
fn what_was_redacted_is_undetermined_where_it_matters_and_only_there() {
    let mut bare = recorded(asked("GET", "/"), Reason::Permitted);
    bare.looked_for = LookedFor::new(["team"], [], true);
    let mut redacted = bare.clone();
    redacted
        .redacted
        .headers
        .insert("team".into(), ["hmac:0f".to_owned()].into());
    redacted
        .redacted
        .claims
        .insert("email".into(), Default::default());
    redacted.request.user = Some(std::sync::Arc::new(User {
        claims: Default::default(),
        expires_at: None,
        issuer: "https://i".into(),
        subject: "alice".into(),
    }));
    let by = |condition: &str| {
        format!("permit (principal, action in Action::\"http\", resource) when {{ {condition} }};")
    };
    let team =
        by("context.headers.hasTag(\"team\") && context.headers.getTag(\"team\").contains(\"a\")");
    assert_eq!(
        judged(&team, ENFORCED, &bare).0,
        Flip::NewlyDenied,
        "it was not there"
    );
    assert_eq!(judged(&team, ENFORCED, &redacted).0, Flip::Undetermined);
    let email = by(
        "context has user && context.user.hasTag(\"email\") && context.user.getTag(\"email\").contains(\"a\")",
    );
    assert_eq!(judged(&email, ENFORCED, &redacted).0, Flip::Undetermined);
    let path = by("context.path like \"/a*\"");
    let network = by("context.remote_ip.isInRange(ip(\"10.0.0.0/8\"))");
    let certain = [&path, &network].map(|by| judged(by, ENFORCED, &bare).0);
    assert_eq!(certain, [Flip::NewlyDenied; 2]);
    for name in ["path", "source_ip"] {
        let context = &mut redacted.redacted.context;
        context.insert(name.to_owned(), Default::default());
    }
    for (policy, missing) in [(&path, "context.path"), (&network, "context.remote_ip")] {
        let judged = candidate(policy, ENFORCED).judge(&redacted);
        assert_eq!(
            (judged.flip, judged.missing),
            (Flip::Undetermined, vec![missing.to_owned()])
        );
    }
    let subject = by("context has user && context.user.subject == \"alice\"");
    assert_eq!(judged(&subject, ENFORCED, &redacted).0, Flip::Same);
    assert_eq!(judged(ALL, ENFORCED, &redacted).0, Flip::Same);
}
