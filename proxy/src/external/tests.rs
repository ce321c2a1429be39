//! Answers, and what they come to.

use ::http::HeaderValue;
use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderValue as Wanted, HeaderValueOption, QueryParameter},
        service::auth::v3::{
            CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse,
        },
        r#type::v3::HttpStatus,
    },
    google::{protobuf::BoolValue, rpc::Status},
};
use prost::Message as _;
use reeve_core::model::{HttpCheck, NamePattern, PathNormalization};

use super::*;

fn told(status: u16, headers: &[(&'static str, &'static str)], body: impl Into<Bytes>) -> Answered {
    Answered {
        status: StatusCode::from_u16(status).unwrap(),
        headers: map(headers),
        trailers: HeaderMap::new(),
        body: body.into(),
    }
}

fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = headers.iter().map(|(name, value)| {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    });
    let mut all = HeaderMap::new();
    for (name, value) in pairs {
        all.append(name, value);
    }
    all
}

fn by_grpc(response: &CheckResponse) -> Answered {
    let message = response.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0][..], &length, &message].concat();
    let mut answered = told(200, &[], body);
    answered.trailers = map(&[("grpc-status", "0")]);
    answered
}

fn option(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(Wanted {
            key: name.to_owned(),
            value: value.to_owned(),
            ..Wanted::default()
        }),
        ..HeaderValueOption::default()
    }
}

fn ok(response: OkHttpResponse) -> CheckResponse {
    CheckResponse {
        status: Some(Status::default()),
        http_response: Some(HttpResponse::OkResponse(response)),
        ..CheckResponse::default()
    }
}

fn request(headers: &[(&'static str, &'static str)]) -> Head {
    let mut request = ::http::Request::get("/a?b=c").header("host", "shop");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    Head::read(parts, PathNormalization::default()).unwrap()
}

/// A request's headers after an answer that allows.
fn changed(
    answered: &Answered,
    headers: &[(&'static str, &'static str)],
) -> (HeaderMap, HeaderMap) {
    let Ok(Ruling::Allowed(edits)) = grpc::read(answered) else {
        panic!("not allowed");
    };
    let (mut head, mut told) = (request(headers), HeaderMap::new());
    edits.apply(&mut head, &mut told);
    head.headers.remove("host");
    (head.headers, told)
}

#[test]
#[expect(deprecated, reason = "servers still say it so")]
fn an_answer_sets_appends_and_removes_what_it_may() {
    let appended = |name, value| HeaderValueOption {
        append: Some(BoolValue { value: true }),
        ..option(name, value)
    };
    let how = |action, name, value| HeaderValueOption {
        append_action: action,
        ..option(name, value)
    };
    let answered = by_grpc(&ok(OkHttpResponse {
        headers: vec![
            option("x-set", "new"),
            appended("x-more", "2"),
            how(1, "x-absent", "new"),
            how(1, "x-there", "new"),
            how(3, "x-replaced", "new"),
            how(3, "x-nowhere", "new"),
            option("host", "elsewhere"),
            option("x-reeve-peer", "forged"),
            option("x-forwarded-client-cert", "forged"),
            option("transfer-encoding", "chunked"),
            option("content-length", "7"),
        ],
        headers_to_remove: vec!["x-gone".to_owned(), "host".to_owned()],
        response_headers_to_add: vec![option("x-told", "yes"), option("content-length", "7")],
        ..OkHttpResponse::default()
    }));
    let before = [
        ("x-set", "old"),
        ("x-set", "older"),
        ("x-more", "1"),
        ("x-there", "old"),
        ("x-replaced", "old"),
        ("x-gone", "old"),
    ];
    let (after, told) = changed(&answered, &before);
    let expected = map(&[
        ("x-set", "new"),
        ("x-more", "1"),
        ("x-more", "2"),
        ("x-there", "old"),
        ("x-replaced", "new"),
        ("x-absent", "new"),
    ]);
    assert_eq!(after, expected);
    assert_eq!(told, map(&[("x-told", "yes")]));
}

#[test]
fn a_denial_has_a_status_and_anything_else_is_no_answer() {
    let denied = |code: i32, http: Option<i32>| {
        by_grpc(&CheckResponse {
            status: Some(Status {
                code,
                ..Status::default()
            }),
            http_response: http.map(|code| {
                HttpResponse::DeniedResponse(DeniedHttpResponse {
                    status: Some(HttpStatus { code }),
                    headers: vec![option("location", "/login"), option("content-length", "1")],
                    body: "no".to_owned(),
                })
            }),
            ..CheckResponse::default()
        })
    };
    for (answered, expected) in [
        (denied(7, None), 403),
        (denied(16, Some(401)), 401),
        (denied(7, Some(302)), 302),
        // A denial is no success, and no status is one.
        (denied(7, Some(200)), 403),
        (denied(7, Some(0)), 403),
        (denied(7, Some(99_999)), 403),
    ] {
        match grpc::read(&answered) {
            Ok(Ruling::Denied(refusal)) => assert_eq!(refusal.status.as_u16(), expected),
            other => panic!("{other:?}"),
        }
    }
    let Ok(Ruling::Denied(refusal)) = grpc::read(&denied(7, Some(302))) else {
        panic!("not denied");
    };
    assert_eq!(refusal.headers, map(&[("location", "/login")]));
    assert_eq!(refusal.body, "no");
}

#[test]
fn what_cannot_be_read_allows_nothing() {
    let allowed = by_grpc(&ok(OkHttpResponse::default()));
    assert!(matches!(grpc::read(&allowed), Ok(Ruling::Allowed(_))));
    let body = allowed.body.clone();
    let with = |status: u16, grpc: Option<&'static str>, body: &[u8]| {
        let mut answered = told(status, &[], body.to_vec());
        answered.trailers = grpc
            .map(|code| map(&[("grpc-status", code)]))
            .unwrap_or_default();
        answered
    };
    let query = ok(OkHttpResponse {
        query_parameters_to_set: vec![QueryParameter::default()],
        ..OkHttpResponse::default()
    });
    let illegal = ok(OkHttpResponse {
        headers: vec![option("x y", "z")],
        ..OkHttpResponse::default()
    });
    let many = ok(OkHttpResponse {
        headers: vec![option("x", "y"); crate::limits::MAX_EXTERNAL_HEADERS + 1],
        ..OkHttpResponse::default()
    });
    let contradictory = CheckResponse {
        status: Some(Status::default()),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse::default())),
        ..CheckResponse::default()
    };
    let unsaid = CheckResponse {
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
        ..CheckResponse::default()
    };
    for answered in [
        with(500, Some("0"), &body),
        with(200, Some("14"), &body),
        with(200, None, &body),
        with(200, Some("0"), b""),
        with(200, Some("0"), &[0, 0, 0]),
        with(200, Some("0"), &[1, 0, 0, 0, 0]),
        with(200, Some("0"), &[0, 0, 0, 0, 9]),
        with(200, Some("0"), &[&body[..], &[0]].concat()),
        with(200, Some("0"), &[0, 0, 0, 0, 1, 0xff]),
        by_grpc(&query),
        by_grpc(&illegal),
        by_grpc(&many),
        by_grpc(&contradictory),
        by_grpc(&unsaid),
    ] {
        let read = grpc::read(&answered);
        assert!(read.is_err(), "{:?}: {read:?}", answered.body);
    }
}

#[test]
fn an_http_server_sees_what_is_named_and_says_what_is_taken() {
    let pattern = |name: &str| NamePattern::Exact(name.to_owned());
    let check = HttpCheck {
        path_prefix: "/check".to_owned(),
        shown: vec![
            pattern("cookie"),
            pattern("content-length"),
            pattern("x-fixed"),
        ],
        added: [("x-fixed".to_owned(), "ours".to_owned())].into(),
        upstream_on_allow: vec![pattern("x-user"), pattern("host")],
        downstream_on_allow: vec![pattern("set-cookie")],
        downstream_on_deny: vec![pattern("x-why")],
    };
    let about = request(&[
        ("cookie", "a=b"),
        ("authorization", "Bearer t"),
        ("x-other", "no"),
        ("x-fixed", "theirs"),
        ("content-length", "3"),
    ]);
    let shown = http::shown(&check, &about);
    assert_eq!(
        (shown.target().as_str(), shown.authority.as_str()),
        ("/check/a?b=c", "shop")
    );
    let expected = [
        ("cookie", "a=b"),
        ("authorization", "Bearer t"),
        ("x-fixed", "ours"),
    ];
    assert_eq!(shown.headers, map(&expected));

    let headers = [
        ("x-user", "ada"),
        ("x-why", "because"),
        ("host", "elsewhere"),
        ("set-cookie", "s=1"),
        ("location", "/login"),
    ];
    let ruling = |status, check: &HttpCheck| http::ruling(check, &told(status, &headers, "no"));
    let Ok(Ruling::Allowed(edits)) = ruling(200, &check) else {
        panic!("not allowed");
    };
    assert_eq!(edits.set, map(&[("x-user", "ada")]));
    assert_eq!(edits.told, map(&[("set-cookie", "s=1")]));
    let denied = |status, check: &HttpCheck| match ruling(status, check) {
        Ok(Ruling::Denied(refusal)) => *refusal,
        other => panic!("{other:?}"),
    };
    let refusal = denied(302, &check);
    assert_eq!(
        refusal.headers,
        map(&[("x-why", "because"), ("location", "/login")])
    );
    let all = denied(401, &HttpCheck::default());
    assert_eq!((all.headers.len(), &all.body[..]), (4, &b"no"[..]));
    // Only 200 allows.
    assert_eq!(denied(204, &check).status, StatusCode::FORBIDDEN);
    assert!(ruling(503, &check).is_err());
}

#[test]
fn a_servers_query_parameters_are_judged_and_sent_or_no_answer_at_all() {
    let answer = |set: &[(&str, &str)], remove: &[&str]| {
        let set = set.iter().map(|(key, value)| QueryParameter {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        });
        by_grpc(&ok(OkHttpResponse {
            query_parameters_to_set: set.collect(),
            query_parameters_to_remove: remove.iter().map(|n| (*n).to_owned()).collect(),
            ..OkHttpResponse::default()
        }))
    };
    for (set, remove, expected) in [
        (&[("tenant", "a%20b")][..], &["b"][..], Some("tenant=a%20b")),
        (&[("b", "d")], &[], Some("b=d")),
        (&[("e", "f")], &[], Some("b=c&e=f")),
        (&[], &["b"], None),
    ] {
        let Ok(Ruling::Allowed(edits)) = grpc::read(&answer(set, remove)) else {
            panic!("not allowed");
        };
        let mut head = request(&[]);
        edits.apply(&mut head, &mut HeaderMap::new());
        assert_eq!(head.query.as_deref(), expected, "{set:?} {remove:?}");
        assert_eq!((head.path.as_str(), head.raw_path.as_str()), ("/a", "/a"));
    }
    for set in [
        ("", "x"),
        ("a", "b&admin=1"),
        ("a", "b#c"),
        ("a", "b c"),
        ("a=b", "c"),
        ("a", "%"),
    ] {
        let found = grpc::read(&answer(&[set], &[]));
        assert!(matches!(found, Err(Unanswered::Unreadable)), "{set:?}");
    }
}
