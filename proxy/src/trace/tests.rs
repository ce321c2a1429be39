use proptest::prelude::*;

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn map(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (
            HeaderName::try_from(*name).unwrap(),
            HeaderValue::try_from(*value).unwrap(),
        )
    };
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.iter().map(pair) {
        headers.append(name, value);
    }
    headers
}

fn never() -> bool {
    panic!("the caller has decided")
}

fn w3c(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

#[test]
fn a_w3c_trace_goes_on_as_it_is() {
    let mut headers = map(&[("traceparent", &w3c("01")), ("tracestate", "a=1,b=2")]);
    let before = headers.clone();
    let (context, root) = take_up(&mut headers, never);
    assert_eq!((root, context.sampled), (Root::No, true));
    assert_eq!(format!("{:032x}", context.trace), TRACE);
    assert_eq!(headers, before);
}

#[test]
fn malformed_w3c_counts_as_absent_and_takes_its_state_with_it() {
    for bad in [
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-+{}-{SPAN}-01", TRACE.strip_prefix("4").unwrap()),
        "00-1-2-3".to_owned(),
        String::new(),
    ] {
        let mut headers = map(&[("traceparent", &bad), ("tracestate", "a=1")]);
        let (context, root) = take_up(&mut headers, || false);
        assert_eq!(root, Root::Yes, "{bad}");
        assert_ne!(format!("{:032x}", context.trace), TRACE, "{bad}");
        assert!(!headers.contains_key("tracestate"), "{bad}");
        assert_eq!(of_w3c(&headers), Some(context), "{bad}");
    }
    let twice = map(&[("traceparent", &w3c("01")), ("traceparent", &w3c("01"))]);
    assert_eq!(of_w3c(&twice), None);
    let later = map(&[("traceparent", &format!("01-{TRACE}-{SPAN}-01-more"))]);
    assert!(of_w3c(&later).is_some(), "a later version may say more");
}

#[test]
fn state_beyond_its_bounds_is_dropped_and_the_trace_is_kept() {
    let many = vec!["a=1"; 33].join(",");
    for state in [many, "x".repeat(1025)] {
        let mut headers = map(&[("traceparent", &w3c("00")), ("tracestate", &state)]);
        let (_, root) = take_up(&mut headers, never);
        assert_eq!(root, Root::No);
        assert!(!headers.contains_key("tracestate"));
    }
}

#[test]
fn b3_is_continued_in_the_form_it_came_in() {
    let (short, span) = ("463ac35c9f6413ad", "a2fb4a1d1a96d312");
    let long = format!("0000000000000000{short}");
    let mut headers = map(&[
        ("x-b3-traceid", short),
        ("x-b3-spanid", span),
        ("x-b3-parentspanid", "0020000000000001"),
        ("x-b3-sampled", "1"),
    ]);
    let (context, root) = take_up(&mut headers, never);
    assert_eq!((root, context.sampled), (Root::No, true));
    assert_eq!(headers["traceparent"], format!("00-{long}-{span}-01"));
    assert_eq!(headers["x-b3-traceid"], short);
    assert!(!headers.contains_key("b3"));
    assert!(!headers.contains_key("x-b3-parentspanid"));

    let mut headers = map(&[("b3", &format!("{TRACE}-{span}-d-0020000000000001"))]);
    let (mut context, _) = take_up(&mut headers, never);
    assert!(context.sampled);
    assert_eq!(headers["traceparent"], format!("00-{TRACE}-{span}-01"));
    // A span of our own becomes the parent in both forms.
    context.parent = 7;
    context.write(&mut headers);
    assert_eq!(headers["b3"], format!("{TRACE}-0000000000000007-1"));
    assert_eq!(
        headers["traceparent"],
        format!("00-{TRACE}-0000000000000007-01")
    );
}

#[test]
fn w3c_wins_over_b3_and_both_agree_afterwards() {
    let other = "463ac35c9f6413ad463ac35c9f6413ad";
    let mut headers = map(&[
        ("traceparent", &w3c("00")),
        ("b3", &format!("{other}-{SPAN}-1")),
        ("x-b3-traceid", other),
        ("x-b3-flags", "1"),
    ]);
    let (context, _) = take_up(&mut headers, never);
    assert!(!context.sampled);
    assert_eq!(headers["b3"], format!("{TRACE}-{SPAN}-0"));
    assert_eq!(headers["x-b3-traceid"], TRACE);
    assert!(!headers.contains_key("x-b3-flags"));
}

#[test]
fn a_sampling_decision_alone_holds_for_the_trace_that_begins() {
    for (headers, sampled) in [
        (map(&[("b3", "0")]), false),
        (map(&[("b3", "1")]), true),
        (map(&[("x-b3-sampled", "0")]), false),
        (map(&[("x-b3-flags", "1"), ("x-b3-sampled", "0")]), true),
    ] {
        let mut headers = headers;
        let (context, root) = take_up(&mut headers, never);
        assert_eq!((context.sampled, root), (sampled, Root::Yes), "{headers:?}");
    }
}

#[test]
fn malformed_b3_counts_as_absent() {
    for bad in [
        "",
        "x",
        "-",
        "463ac35c9f6413ad",
        "463ac35c9f6413ad-1",
        "0000000000000000-a2fb4a1d1a96d312-1",
        "463ac35c9f6413ad-0000000000000000-1",
        "463ac35c9f6413ad-a2fb4a1d1a96d312-1-x",
        "463ac35c9f6413ad-a2fb4a1d1a96d312-1-0020000000000001-more",
    ] {
        assert_eq!(of_b3(&map(&[("b3", bad)])).0, None, "{bad}");
    }
    let no_span = map(&[("x-b3-traceid", "463ac35c9f6413ad")]);
    assert_eq!(trace_id(&no_span), None);
}

#[test]
fn a_trace_that_begins_here_goes_on_in_both_forms() {
    let mut headers = HeaderMap::new();
    let (context, root) = take_up(&mut headers, || true);
    assert_eq!(root, Root::Yes);
    for form in ["traceparent", "b3"] {
        let passed_on = map(&[(form, headers[form].to_str().unwrap())]);
        let (again, root) = take_up(&mut passed_on.clone(), never);
        assert_eq!((again, root), (context, Root::No), "{form}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(trace in 1u128.., parent in 1u64.., sampled: bool) {
        let context = TraceContext { trace, parent, sampled };
        let mut headers = map(&[("b3", ""), ("x-b3-flags", "")]);
        context.write(&mut headers);
        prop_assert_eq!(of_w3c(&headers), Some(context));
        prop_assert_eq!(of_b3(&headers).0.map(|c| (c.trace, c.parent)), Some((trace, parent)));
        headers.remove(B3);
        prop_assert_eq!(of_b3(&headers), (Some(TraceContext { sampled: false, ..context }), Some(sampled)));
    }

    #[test]
    fn no_header_panics(name in "(traceparent|b3|x-b3-(traceid|spanid|sampled|flags))", text in "[0-9a-fA-Fdx-]{0,80}") {
        let mut headers = map(&[(&name, &text)]);
        let (context, _) = take_up(&mut headers, || false);
        prop_assert_eq!(of_w3c(&headers), Some(context));
    }
}
