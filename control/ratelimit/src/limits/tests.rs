use super::*;

fn descriptor(key: &str, value: Option<&str>, limit: Option<RawRateLimit>) -> RawDescriptor {
    RawDescriptor {
        key: key.to_owned(),
        value: value.map(str::to_owned),
        rate_limit: limit,
        ..RawDescriptor::default()
    }
}

fn per(unit: &str, requests: u32) -> Option<RawRateLimit> {
    Some(RawRateLimit {
        unit: unit.to_owned(),
        requests_per_unit: Some(requests),
        ..RawRateLimit::default()
    })
}

fn domain(descriptors: Vec<RawDescriptor>) -> RawLimits {
    RawLimits {
        domain: "mesh".to_owned(),
        descriptors,
    }
}

fn entries(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn the_most_exact_rule_of_the_last_step_counts() {
    let mut path = descriptor("path", None, per("minute", 5));
    path.descriptors = vec![
        descriptor("user", Some("root"), per("hour", 7)),
        descriptor("user", None, per("second", 3)),
    ];
    let limits = Limits::compile(&[domain(vec![
        path,
        descriptor(
            "path",
            Some("/free"),
            Some(RawRateLimit {
                unlimited: true,
                ..RawRateLimit::default()
            }),
        ),
    ])])
    .unwrap();
    let found = |pairs: &[(&str, &str)]| {
        let limit = limits.find("mesh", &entries(pairs))?;
        Some(limit.rate.map(|rate| rate.requests))
    };
    assert_eq!(found(&[("path", "/a")]), Some(Some(5)));
    assert_eq!(found(&[("path", "/free")]), Some(None));
    assert_eq!(found(&[("path", "/a"), ("user", "root")]), Some(Some(7)));
    assert_eq!(found(&[("path", "/a"), ("user", "eve")]), Some(Some(3)));
    assert_eq!(found(&[("user", "root")]), None);
    assert_eq!(
        found(&[("path", "/a"), ("user", "eve"), ("more", "x")]),
        None
    );
    // The exact value's rule hides the one for any value, with all that is below that.
    assert_eq!(found(&[("path", "/free"), ("user", "eve")]), None);
    assert_eq!(found(&[]), None);
    assert!(limits.find("other", &entries(&[("path", "/a")])).is_none());
}

#[test]
fn every_fault_is_told_with_its_place() {
    let mut nested = descriptor("a", None, None);
    nested.descriptors = vec![descriptor("", None, per("fortnight", 1))];
    let wrong = [
        domain(vec![
            nested,
            descriptor("a", None, None),
            descriptor(
                "b",
                None,
                Some(RawRateLimit {
                    unit: "day".to_owned(),
                    ..RawRateLimit::default()
                }),
            ),
            descriptor(
                "c",
                None,
                Some(RawRateLimit {
                    unlimited: true,
                    unit: "day".to_owned(),
                    ..RawRateLimit::default()
                }),
            ),
        ]),
        domain(Vec::new()),
        RawLimits::default(),
    ];
    let faults = Limits::compile(&wrong).unwrap_err();
    let paths: Vec<_> = faults.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "descriptors[0].descriptors[0].key",
            "descriptors[0].descriptors[0].rate_limit.unit",
            "descriptors[1]",
            "descriptors[2].rate_limit.requests_per_unit",
            "descriptors[3].rate_limit",
            "domain",
            "domain",
        ]
    );
}

#[test]
fn depth_is_bounded() {
    let mut deep = descriptor("k", None, None);
    for _ in 0..MAX_DEPTH {
        let below = std::mem::replace(&mut deep, descriptor("k", None, None));
        deep.descriptors = vec![below];
    }
    assert!(Limits::compile(&[domain(vec![deep])]).is_err());
}

#[test]
fn windows_are_those_of_the_calendar() {
    // 2026-11-21T14:47:30Z, a Saturday.
    let now = UnixTime::from_secs(1_795_272_450);
    let window = |unit: Unit| unit.window(now);
    assert_eq!(window(Unit::Second), (1_795_272_450, 1));
    assert_eq!(window(Unit::Minute), (1_795_272_420, 30));
    assert_eq!(window(Unit::Hour), (1_795_269_600, 750));
    let midnight = 1_795_219_200;
    assert_eq!(window(Unit::Day), (midnight, 33_150));
    assert_eq!(window(Unit::Week), (midnight - 5 * 86_400, 33_150 + 86_400));
    assert_eq!(
        window(Unit::Month),
        (midnight - 20 * 86_400, 33_150 + 9 * 86_400)
    );
    assert_eq!(
        window(Unit::Year),
        (midnight - 324 * 86_400, 33_150 + 40 * 86_400)
    );
}
