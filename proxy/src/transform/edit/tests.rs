use http::HeaderValue;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn edit(how: BodyChange) -> BodyEdit {
    let changes = BodyChanges {
        how,
        content_types: vec![],
        otherwise: Otherwise::Refuse,
    };
    BodyEdit::compile(&changes, "default/a").unwrap()
}

fn replace(all: &[(Find, &str)]) -> BodyEdit {
    let each = all.iter().map(|(find, with)| Replacement {
        find: find.clone(),
        with: (*with).to_owned(),
    });
    edit(BodyChange::Replace(each.collect()))
}

fn text(find: &str) -> Find {
    Find::Text(find.to_owned())
}

fn patched(body: &str, operations: Value) -> Result<Option<String>, Unfit> {
    let edit = edit(BodyChange::JsonPatch(operations.to_string()));
    let changed = edit.how.apply(body.as_bytes())?;
    Ok(changed.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()))
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::try_from(*value).unwrap());
    }
    map
}

#[test]
fn text_is_replaced_one_after_the_other() {
    let apply = |edit: &BodyEdit, body: &str| edit.how.apply(body.as_bytes()).unwrap();
    let both = replace(&[(text("a.b"), "x$1\\1"), (text("x"), "y")]);
    assert_eq!(
        apply(&both, "a.b aXb a.b").as_deref(),
        Some(&b"y$1\\1 aXb y$1\\1"[..])
    );
    assert_eq!(apply(&both, "aXb"), None);
    let groups = replace(&[(Find::Regex(r"(\d+)-(\d+)".to_owned()), r"\2-\1$")]);
    assert_eq!(apply(&groups, "1-22 3").as_deref(), Some(&b"22-1$ 3"[..]));
    let same = replace(&[(text("a"), "a")]);
    assert_eq!(apply(&same, "aaa"), None, "nothing changed");
}

#[test]
fn what_would_grow_too_long_is_unfit() {
    let grow = replace(&[(text("a"), &"b".repeat(4096))]);
    let body = vec![b'a'; 1024];
    assert_eq!(grow.how.apply(&body), Err(Unfit::TooLong));
    assert!(grow.how.apply(&body[..100]).is_ok());
    // Copies of copies: 2^40 elements, if nobody counted them.
    let mut operations = vec![json!({"op": "add", "path": "/a", "value": "x".repeat(100)})];
    for n in 0..40 {
        operations.push(json!({"op": "copy", "from": "", "path": format!("/b{n}")}));
    }
    assert_eq!(patched("{}", Value::Array(operations)), Err(Unfit::TooLong));
}

#[test]
fn a_patch_is_rfc_6902_and_all_or_nothing() {
    let row = |body: &str, operations| patched(body, operations);
    let remove = json!([{"op": "remove", "path": "/b"}]);
    assert_eq!(
        row(r#"{"a":1,"b":2}"#, remove.clone()),
        Ok(Some(r#"{"a":1}"#.to_owned()))
    );
    assert_eq!(row(r#"{"a":1}"#, remove), Err(Unfit::NoPatch));
    let all = json!([
        {"op": "test", "path": "/a~1b", "value": 1},
        {"op": "replace", "path": "/a~1b", "value": null},
        {"op": "add", "path": "/list/-", "value": {"x": true}},
        {"op": "move", "from": "/old", "path": "/new"},
        {"op": "copy", "from": "/new", "path": "/list/0"},
    ]);
    let body = r#"{"a/b":1,"list":[],"old":"é"}"#;
    let after = row(body, all.clone()).unwrap().unwrap();
    let after: Value = serde_json::from_str(&after).unwrap();
    assert_eq!(
        after,
        json!({"a/b": null, "list": ["é", {"x": true}], "new": "é"})
    );
    assert_eq!(
        row(r#"{"a/b":2,"list":[],"old":1}"#, all),
        Err(Unfit::NoPatch)
    );
    assert_eq!(row("<html>", json!([])), Err(Unfit::NotJson));
    assert_eq!(
        row(
            &format!("{}1{}", "[".repeat(400), "]".repeat(400)),
            json!([])
        ),
        Err(Unfit::NotJson)
    );
    assert_eq!(
        row(
            r#"{"a":1}"#,
            json!([{"op": "replace", "path": "/a", "value": 1}])
        ),
        Ok(None)
    );
}

#[test]
fn numbers_that_would_change_are_not_touched() {
    for exact in [
        "0",
        "-1",
        "18446744073709551615",
        "1.5",
        "0.000123",
        "1e3",
        "-0.0",
        "12345678901234.5",
        "[\"1.0000000000000000001\"]",
    ] {
        assert!(numbers_are_exact(exact.as_bytes()), "{exact}");
    }
    for inexact in [
        "18446744073709551616",
        "0.1234567890123456",
        "{\"a\":[1,-3.14159265358979312]}",
        "1e-320",
        "1e-999",
    ] {
        assert!(!numbers_are_exact(inexact.as_bytes()), "{inexact}");
    }
    let patch = json!([{"op": "add", "path": "/b", "value": 1}]);
    assert_eq!(
        patched(r#"{"a":12345678901234567890123}"#, patch),
        Err(Unfit::Inexact)
    );
}

#[test]
fn a_body_is_meant_by_its_type() {
    let texts = replace(&[(text("a"), "b")]);
    let json = edit(BodyChange::JsonPatch("[]".to_owned()));
    for (media, is_text, is_json) in [
        ("text/html; charset=utf-8", true, false),
        ("Application/JSON", true, true),
        ("application/problem+json;x=y", true, true),
        ("image/svg+xml", true, false),
        ("image/png", false, false),
        ("text/event-stream", false, false),
        ("application/grpc+json", false, false),
    ] {
        let headers = headers(&[("content-type", media)]);
        assert_eq!(
            (texts.means(&headers), json.means(&headers)),
            (is_text, is_json),
            "{media}"
        );
    }
    // Nothing, or two things, hide nothing.
    assert!(json.means(&headers(&[])));
    assert!(json.means(&headers(&[
        ("content-type", "image/png"),
        ("content-type", "text/html")
    ])));
    let named = BodyEdit {
        content_types: ["image/*".to_owned(), "a/b".to_owned()].as_slice().into(),
        ..texts
    };
    assert!(named.means(&headers(&[("content-type", "image/png")])));
    assert!(!named.means(&headers(&[("content-type", "text/html")])));
}

#[test]
fn what_headers_tell_already_is_unfit() {
    let edit = replace(&[(text("a"), "b")]);
    let fits = |pairs: &[(&'static str, &str)]| edit.fits(&headers(pairs));
    assert_eq!(fits(&[("content-length", "1048576")]), Ok(()));
    assert_eq!(fits(&[("content-length", "1048577")]), Err(Unfit::TooLong));
    assert_eq!(fits(&[("content-encoding", "Identity")]), Ok(()));
    assert_eq!(fits(&[("content-encoding", "gzip")]), Err(Unfit::Encoded));
    assert_eq!(
        fits(&[("content-encoding", "identity"), ("content-encoding", "br")]),
        Err(Unfit::Encoded)
    );
    assert_eq!(
        fits(&[("content-range", "bytes 0-1/2")]),
        Err(Unfit::Partial)
    );
}

proptest! {
    #[test]
    fn no_bytes_break_it_and_what_stays_is_the_same(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let edit = replace(&[(Find::Regex("[a-m]+".to_owned()), "<\\0>")]);
        let after = edit.how.apply(&body).unwrap();
        let kept = |bytes: &[u8]| bytes.iter().copied().filter(|b| !b"<>".contains(b)).collect::<Vec<_>>();
        prop_assert_eq!(kept(after.as_deref().unwrap_or(&body)), kept(&body));
        // Whatever it is: an answer, never a panic.
        let patch = edit_of_json();
        let answered = patch.how.apply(&body);
        prop_assert!(answered.is_err() || serde_json::from_slice::<Value>(&body).is_ok());
    }

    #[test]
    fn exact_numbers_survive(whole in any::<i64>(), digits in 0..999_999_999_999_999_u64, point in 0..15_usize) {
        let mut text = format!("{digits:015}");
        text.insert(point.max(1), '.');
        let trimmed = text.trim_start_matches('0');
        let text = if trimmed.starts_with('.') { format!("0{trimmed}") } else { trimmed.to_owned() };
        let body = format!("[{whole},{text}]");
        prop_assert!(numbers_are_exact(body.as_bytes()), "{}", body);
        let value: Value = serde_json::from_str(&body).unwrap();
        let again: Value = serde_json::from_slice(&serde_json::to_vec(&value).unwrap()).unwrap();
        prop_assert_eq!(&again, &value);
        prop_assert_eq!(value[0].as_i64(), Some(whole));
        prop_assert_eq!(value[1].as_f64().unwrap(), text.parse::<f64>().unwrap());
    }
}

fn edit_of_json() -> BodyEdit {
    edit(BodyChange::JsonPatch(
        json!([{"op": "add", "path": "/a", "value": 1}]).to_string(),
    ))
}
