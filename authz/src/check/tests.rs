use super::*;

fn faults(text: &str) -> Vec<PolicyFault> {
    let id = PolicyId::parse("default/p").unwrap();
    let policy = Policy::parse(None, text).unwrap();
    let place = Place {
        id: &id,
        document: text,
        offset: 0,
    };
    check(&MeshSchema::get().unwrap(), &policy, place)
        .err()
        .unwrap_or_default()
}

#[test]
fn only_known_annotations_pass() {
    let table = [
        ("@id(\"a\")", None),
        ("@description(\"why\") @owner(\"team-a\")", None),
        ("@mode(\"shadow\")", None),
        ("@until(\"2030-01-31\")", None),
        ("@until(\"2030-01-31T10:00:00Z\")", None),
        ("@id", Some("@id needs a value")),
        ("@mode(\"enforce\")", Some("unknown mode \"enforce\"")),
        ("@until(\"soon\")", Some("\"soon\" is not a date")),
        (
            "@until(\"2030-02-30\")",
            Some("\"2030-02-30\" is not a date"),
        ),
        ("@shadow", Some("unknown annotation @shadow")),
        ("@Mode(\"shadow\")", Some("unknown annotation @Mode")),
    ];
    for (annotation, expected) in table {
        let found = faults(&format!(
            "{annotation}\npermit (principal, action, resource);"
        ));
        let messages: Vec<_> = found.iter().map(|f| f.message.as_str()).collect();
        assert_eq!(
            messages,
            expected.into_iter().collect::<Vec<_>>(),
            "{annotation}"
        );
    }
}

#[test]
fn a_bare_date_includes_its_day() {
    let table = [
        ("2030-01-31", Some(1_896_134_400)),
        ("2030-01-31T10:00:00Z", Some(1_896_084_000)),
        ("2030-01-31T12:00:00+02:00", Some(1_896_084_000)),
        ("1960-01-01", Some(0)),
        ("2030-02-30", None),
        ("2030-01-31T10:00:00", None),
        ("2030-01-31T10:00:00+01:00[Europe/Vienna]", None),
        ("tomorrow", None),
    ];
    for (text, seconds) in table {
        assert_eq!(
            parse_until(text),
            seconds.map(UnixTime::from_secs),
            "{text}"
        );
    }
}

#[test]
fn faults_say_where() {
    let text = "permit (\n  principal in Namespace::\"default\",\n  action, resource\n);";
    let found = faults(text);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].line, found[0].column), (2, 16));
    assert!(
        found[0]
            .help
            .as_deref()
            .unwrap()
            .contains("mesh.local/ns/default")
    );
}

#[test]
fn principals_are_not_known_by_service() {
    let service = "Service::\"reviews.default.svc.cluster.local\"";
    let bad = faults(&format!(
        "permit (principal in {service}, action, resource);"
    ));
    assert_eq!(bad.len(), 1, "{bad:?}");
    let bad = faults(&format!(
        "permit (principal is Workload in {service}, action, resource);"
    ));
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert!(
        faults(&format!(
            "permit (principal, action, resource in {service});"
        ))
        .is_empty()
    );
}

#[test]
fn header_names_are_lower_case_and_spelled_out() {
    let rule = |name: &str| {
        faults(&format!(
            "permit (principal, action, resource) when {{ context.headers.hasTag({name}) }};"
        ))
    };
    assert!(rule("\"end-user\"").is_empty());
    assert_eq!(
        rule("\"End-User\"")[0].message,
        "header \"End-User\" can never be met"
    );
    assert!(rule("context.host")[0].message.contains("spell out"));
}
