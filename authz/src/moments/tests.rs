//! Known forms have their exact moments; the others one a minute; and no answer changes between two moments.

use proptest::{prelude::*, sample::select};

use super::*;
use crate::{
    Engine,
    fixtures::{engine, mesh_wide, request, source},
};

/// Friday, 1 January 2027, 00:00 UTC.
const NEW_YEAR_MS: u64 = 1_798_761_600_000;
const HOUR_MS: u64 = 3_600_000;

fn at(hours: u64) -> UnixTime {
    UnixTime::from_millis(NEW_YEAR_MS + hours * HOUR_MS)
}

fn with(condition: &str) -> Engine {
    mesh_wide(&format!(
        "permit (principal, action, resource) when {{ {condition} }};"
    ))
}

/// How long after noon on New Year's Day the answer may change next, again and again.
fn changes(engine: &Engine, count: usize) -> Vec<u64> {
    let noon = at(12);
    let next = |from: &UnixTime| engine.next_change_after(*from);
    let all = std::iter::successors(next(&noon), next);
    all.map(|time| time.as_millis() - noon.as_millis())
        .take(count)
        .collect()
}

#[test]
fn what_is_known_changes_at_its_moments() {
    const H: u64 = HOUR_MS;
    let cases: &[(&str, &[u64])] = &[
        (
            r#"context.time < datetime("2027-01-01T18:00:00Z")"#,
            &[6 * H, 6 * H + 1],
        ),
        (
            r#"datetime("2027-01-01T18:00:00Z") <= context.time"#,
            &[6 * H, 6 * H + 1],
        ),
        (
            r#"!(context.time == datetime("2027-01-02"))"#,
            &[12 * H, 12 * H + 1],
        ),
        (
            r#"context.time < datetime("2027-01-01T20:00:00+0100")"#,
            &[7 * H, 7 * H + 1],
        ),
        (
            r#"context.time.offset(duration("-2h")) > datetime("2027-01-01T18:00:00Z")"#,
            &[8 * H, 8 * H + 1],
        ),
        // What is over does not come again.
        (r#"context.time < datetime("2027-01-01T11:00:00Z")"#, &[]),
        // Midnight, and the time of day.
        (
            r#"context.time.toTime() < duration("18h")"#,
            &[6 * H, 6 * H + 1, 12 * H, 30 * H, 30 * H + 1, 36 * H],
        ),
        (
            r#"context.time.offset(duration("60m")).toTime() >= duration("18h")"#,
            &[5 * H, 5 * H + 1, 11 * H, 29 * H],
        ),
        (
            r#"context.time.toTime().toHours() < 18"#,
            &[5 * H + 1, 6 * H, 6 * H + 1, 7 * H, 12 * H],
        ),
        (
            r#"[22, 3].contains(context.time.toTime().toHours())"#,
            &[9 * H + 1, 10 * H, 10 * H + 1, 11 * H, 12 * H],
        ),
        (
            r#"context.time.toDate() == datetime("2027-01-02")"#,
            &[12 * H, 36 * H],
        ),
        (
            r#"context.time.durationSince(datetime("2027-01-01T00:00:00Z")) > duration("13h")"#,
            &[H, H + 1],
        ),
        (
            r#"context.time.toDate().durationSince(datetime("2027-01-01")).toDays() >= 3"#,
            &[60 * H, 84 * H],
        ),
        // Nothing of the time.
        (r#"context.port == 9080 && context.mtls"#, &[]),
    ];
    for (condition, expected) in cases {
        let found = changes(&with(condition), expected.len() + 1);
        let found = found.get(..expected.len()).unwrap_or(&found);
        assert_eq!(found, *expected, "{condition}");
    }
}

#[test]
fn what_is_not_understood_changes_once_a_minute() {
    for condition in [
        "context.time.toTime().toHours() == context.port",
        "context.time.toTime().toHours() * 2 < 30",
        "context == context",
        r#"(if context.mtls then context.time else datetime("2027-01-01")) < datetime("2028-01-01")"#,
        r#"context.time < datetime("2028-01-01") && [context.time].contains(datetime("2027-01-01"))"#,
    ] {
        let engine = with(condition);
        assert_eq!(changes(&engine, 2), [60_000, 120_000], "{condition}");
        let second = UnixTime::from_millis(NEW_YEAR_MS + 1000);
        assert!(!engine.may_change_between(second, second), "{condition}");
    }
    assert_eq!(changes(&with("context has time"), 1), [0; 0]);
}

#[test]
fn a_lapse_is_a_moment_and_a_clock_set_back_is_one_too() {
    let lapsing = mesh_wide("@until(\"2027-01-01\") permit (principal, action, resource);");
    assert_eq!(changes(&lapsing, 2), [12 * HOUR_MS]);
    assert!(lapsing.may_change_between(at(23), at(24)));
    assert!(!lapsing.may_change_between(at(24), at(25)));
    assert!(lapsing.may_change_between(at(25), at(23)));
    let timeless = mesh_wide("permit (principal, action, resource);");
    assert!(!timeless.may_change_between(at(25), at(23)));
    assert_eq!(timeless.next_change_after(at(0)), None);
}

#[test]
fn moments_go_with_their_policies() {
    let timed = |name: &str, hour: u8| {
        let text = format!(
            "forbid (principal, action, resource) when {{ context.time.toTime() < duration(\"{hour}h\") }};"
        );
        source(name, None, &text)
    };
    let slice = |policies: Vec<reeve_core::model::PolicySource>| reeve_core::model::PolicySlice {
        mesh_hash: String::new(),
        policies,
        ..Default::default()
    };
    let first = engine(vec![
        timed("a/one", 14),
        timed("a/two", 14),
        timed("a/three", 16),
    ]);
    assert_eq!(
        changes(&first, 3),
        [2 * HOUR_MS, 2 * HOUR_MS + 1, 4 * HOUR_MS]
    );
    let after = |policies, before| Engine::compile_after(&slice(policies), Some(before)).unwrap();
    let second = after(vec![timed("a/one", 14), timed("a/three", 16)], &first);
    assert_eq!(changes(&second, 1), [2 * HOUR_MS]);
    let third = after(vec![timed("a/three", 16)], &second);
    assert_eq!(changes(&third, 1), [4 * HOUR_MS]);
    let none = after(Vec::new(), &third);
    assert_eq!(changes(&none, 1), [0; 0]);
}

fn durations() -> impl Strategy<Value = String> {
    let plain = select(vec![
        "0ms",
        "1ms",
        "17m",
        "9h",
        "23h59m59s999ms",
        "1d",
        "1d1ms",
        "36h",
    ]);
    (plain, any::<bool>()).prop_map(|(text, minus)| {
        let sign = if minus { "-" } else { "" };
        format!("duration(\"{sign}{text}\")")
    })
}

fn datetimes() -> impl Strategy<Value = String> {
    select(vec![
        "datetime(\"2027-01-01\")",
        "datetime(\"2027-01-02\")",
        "datetime(\"2027-01-02T09:00:00Z\")",
        "datetime(\"2027-01-01T23:59:59.999Z\")",
        "datetime(\"2027-01-02T00:30:00+0130\")",
    ])
    .prop_map(str::to_owned)
}

fn time() -> impl Strategy<Value = String> {
    let start = Just("context.time".to_owned());
    let offset = (start.clone(), durations()).prop_map(|(time, by)| format!("{time}.offset({by})"));
    prop_oneof![start, offset].boxed()
}

fn condition() -> impl Strategy<Value = String> {
    let day = (time(), any::<bool>(), durations()).prop_map(|(time, later, by)| match later {
        true => format!("{time}.toDate().offset({by})"),
        false => format!("{time}.toDate()"),
    });
    let datetime = prop_oneof![time(), day].boxed();
    let duration = prop_oneof![
        time().prop_map(|time| format!("{time}.toTime()")),
        (datetime.clone(), datetimes())
            .prop_map(|(t, since)| format!("{t}.durationSince({since})")),
    ]
    .boxed();
    let units = vec![
        "toMilliseconds",
        "toSeconds",
        "toMinutes",
        "toHours",
        "toDays",
    ];
    let number = (duration.clone(), select(units)).prop_map(|(d, unit)| format!("{d}.{unit}()"));
    let numbers = select(vec![
        -1441_i64, -25, -1, 0, 1, 9, 23, 24, 540, 86_399, 86_400,
    ]);
    let op = || select(vec!["<", "<=", ">", ">=", "==", "!="]);
    let compared = prop_oneof![
        (datetime, op(), datetimes()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        (durations(), op(), duration).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        (number.clone(), op(), numbers.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        (numbers.clone(), numbers, number)
            .prop_map(|(a, b, n)| format!("[{a}, {b}].contains({n})")),
    ]
    .boxed();
    (compared.clone(), select(vec!["&&", "||", "=="]), compared)
        .prop_map(|(a, join, b)| format!("({a}) {join} !({b})"))
}

proptest! {
    #[test]
    fn no_answer_changes_between_two_moments(
        condition in condition(),
        start in select(vec![0_i64, 9, 24, 33, 36, 48]),
        near in -2_i64..=2,
        far in 0_i64..200_000_000,
        is_near in any::<bool>(),
        length in prop_oneof![1_u64..4, 1_u64..100_000_000],
    ) {
        let engine = with(&condition);
        let start = start * 3_600_000 + if is_near { near } else { far };
        let from = UnixTime::from_millis(NEW_YEAR_MS.saturating_add_signed(start));
        let to = UnixTime::from_millis(from.as_millis() + length);
        let effect = |time| {
            let mut asked = request();
            asked.context.time = time;
            let decision = engine.decide(&asked);
            prop_assert_eq!(&decision.errors, &vec![], "{}", condition);
            Ok(decision.effect)
        };
        let (before, after) = (effect(from)?, effect(to)?);
        if before != after {
            prop_assert!(engine.may_change_between(from, to), "{condition}: {from:?} to {to:?}");
        }
        // The known forms are known: only their own moments are told.
        let per_day = (0..48).map_while({
            let mut last = from;
            move |_| { last = engine.next_change_after(last)?; Some(last) }
        });
        let in_a_day = per_day.filter(|t| t.since(from).as_secs() <= 86_400).count();
        prop_assert!(in_a_day <= 30, "{condition}: {in_a_day} moments in a day");
    }
}
