use std::collections::BTreeMap;

use http::Request;
use http_body_util::BodyExt as _;
use reeve_core::model::{
    BodyChange, BodyChanges, Find, PathNormalization, QueryOps, Replacement, RequestChanges,
    ResponseChanges, RouteMatch, StringMatch,
};

use super::*;
use crate::end::End;

fn rule(name: &str) -> Transformation {
    Transformation {
        name: name.to_owned(),
        owner: "team".to_owned(),
        expires: UnixTime::from_secs(100),
        when: vec![],
        request: RequestChanges::default(),
        response: ResponseChanges::default(),
    }
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let text = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    pairs.iter().map(text).collect()
}

fn replace(find: &str, with: &str) -> Option<BodyChanges> {
    Some(BodyChanges {
        how: BodyChange::Replace(vec![Replacement {
            find: Find::Text(find.to_owned()),
            with: with.to_owned(),
        }]),
        content_types: vec![],
        otherwise: Otherwise::Refuse,
    })
}

fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Head {
    let mut request = Request::builder().method(method).uri(target);
    request = request.header("host", "a");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    Head::read(parts, PathNormalization::default()).unwrap()
}

const NOW: UnixTime = UnixTime::from_secs(50);

fn applying(rules: &[Transformation], head: &Head) -> Applying {
    let compiled = Transformations::compile(rules).unwrap();
    compiled.concerning(head, NOW).unwrap()
}

#[test]
fn one_concerns_what_matches_until_it_ends() {
    let only_pay = Transformation {
        when: vec![RouteMatch {
            uri: Some(StringMatch::Prefix("/pay".to_owned())),
            ..RouteMatch::default()
        }],
        ..rule("a/a")
    };
    let all = Transformations::compile(&[only_pay]).unwrap();
    let pay = head("GET", "/pay/1", &[]);
    let concerned = |head, at| all.concerning(head, UnixTime::from_secs(at)).is_some();
    assert!(concerned(&pay, 99));
    assert!(!concerned(&pay, 100), "it is over");
    assert!(!concerned(&head("GET", "/other", &[]), 99));
    assert!(Transformations::default().concerning(&pay, NOW).is_none());
}

#[test]
fn heads_are_changed_in_order_and_who_changed_nothing_did_not_act() {
    let mut first = rule("a/first");
    first.request.headers.set = texts(&[("x-a", "1")]);
    first.request.query = QueryOps {
        set: texts(&[("v", "2")]),
        remove: vec!["debug".to_owned()],
        ..QueryOps::default()
    };
    let mut second = rule("a/second");
    second.request.headers.set = texts(&[("x-a", "2")]);
    second.request.headers.remove = vec!["x-b".to_owned()];
    let mut third = rule("a/third");
    third.request.headers.remove = vec!["x-absent".to_owned()];
    let mut head = head("GET", "/p?v=1&debug=1&w=3", &[("x-b", "1")]);
    let acted = applying(&[first, second, third], &head).change_head(&mut head);
    assert_eq!(acted, ["a/first".into(), "a/second".into()]);
    assert_eq!(head.target(), "/p?w=3&v=2");
    assert_eq!(head.header("x-a"), Some("2"));
    assert_eq!(head.header("x-b"), None);
}

#[test]
fn what_describes_the_old_bytes_goes_before_the_request_is_judged() {
    let mut body = rule("a/body");
    body.request.body = replace("a", "b");
    body.response.body = replace("a", "b");
    let sent = [
        ("content-type", "text/plain"),
        ("content-length", "5"),
        ("content-digest", "sha-256=:x:"),
        ("expect", "100-continue"),
        ("accept-encoding", "gzip"),
        ("range", "bytes=0-1"),
        ("if-none-match", "\"x\""),
    ];
    let mut get = head("GET", "/", &sent);
    applying(std::slice::from_ref(&body), &get).change_head(&mut get);
    for gone in [
        "content-length",
        "content-digest",
        "expect",
        "range",
        "if-none-match",
    ] {
        assert_eq!(get.header(gone), None, "{gone}");
    }
    assert_eq!(get.header("accept-encoding"), Some("identity"));
    // What is not meant stays as it is.
    let mut image = head(
        "PUT",
        "/",
        &[("content-type", "image/png"), ("content-length", "5")],
    );
    applying(&[body], &image).change_head(&mut image);
    assert_eq!(image.header("content-length"), Some("5"));
}

#[test]
fn reserved_headers_and_statuses_without_bodies_do_not_compile() {
    for name in [
        "authorization",
        "host",
        "x-forwarded-client-cert",
        "x-reeve-peer",
        "te",
    ] {
        let mut bad = rule("a/bad");
        bad.request.headers.set = texts(&[(name, "1")]);
        assert!(Transformations::compile(&[bad]).is_err(), "{name}");
        let mut bad = rule("a/bad");
        bad.response.headers.remove = vec![name.to_owned()];
        assert!(Transformations::compile(&[bad]).is_err(), "{name}");
    }
    for status in [101, 204, 304, 600] {
        let mut bad = rule("a/bad");
        bad.response.status = Some(status);
        assert!(Transformations::compile(&[bad]).is_err(), "{status}");
    }
}

fn metrics() -> Metrics {
    Metrics::register(&prometheus::Registry::new()).unwrap()
}

async fn body_of(source: Source) -> Vec<u8> {
    source.collect().await.unwrap().to_bytes().to_vec()
}

fn response(status: u16, headers: &[(&str, &str)], text: &'static str) -> Response<Source> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let held = Held::of(bytes::Bytes::from_static(text.as_bytes()));
    response.body(Source::Held(held)).unwrap()
}

#[tokio::test]
async fn responses_are_changed_as_their_status_says() {
    let mut gone = rule("a/gone");
    gone.response.when_status = vec![404];
    gone.response.status = Some(410);
    gone.response.headers.set = texts(&[("x-a", "1")]);
    gone.response.body = replace("missing", "gone");
    let (room, metrics) = (Space::default(), metrics());
    let get = head("GET", "/", &[]);
    for (status, wanted, text) in [(404, 410, "it is gone"), (200, 200, "it is missing")] {
        let mut applying = applying(std::slice::from_ref(&gone), &get);
        let headers = [
            ("content-type", "text/plain"),
            ("etag", "\"1\""),
            ("content-length", "13"),
        ];
        let changed = response(status, &headers, "it is missing");
        let changed = applying.change_response(changed, (&room, &metrics)).await;
        let changed = changed.unwrap();
        assert_eq!(changed.status(), wanted);
        assert_eq!(changed.headers().contains_key("x-a"), wanted == 410);
        assert_eq!(changed.headers().contains_key("etag"), wanted != 410);
        assert_eq!(applying.acted().len(), usize::from(wanted == 410));
        assert_eq!(body_of(changed.into_body()).await, text.as_bytes());
    }
    assert_eq!(room.room.taken(), 0, "all the room is given back");
}

#[tokio::test]
async fn what_cannot_be_changed_is_withheld_or_passes_as_it_is() {
    let (room, metrics) = (Space::default(), metrics());
    let get = head("GET", "/", &[]);
    let zipped = || response(200, &[("content-encoding", "gzip")], "zzz");
    let mut strict = rule("a/strict");
    strict.response.body = replace("z", "y");
    let refused = applying(std::slice::from_ref(&strict), &get)
        .change_response(zipped(), (&room, &metrics))
        .await;
    assert_eq!(refused.unwrap_err().status, 502);
    if let Some(body) = &mut strict.response.body {
        body.otherwise = Otherwise::Pass;
    }
    let mut lenient = applying(&[strict], &get);
    let passed = lenient.change_response(zipped(), (&room, &metrics)).await;
    assert_eq!(body_of(passed.unwrap().into_body()).await, b"zzz");
    assert!(lenient.acted().is_empty());
}

#[tokio::test]
async fn responses_without_bodies_keep_their_status_and_a_head_has_no_length() {
    let mut all = rule("a/all");
    all.response.status = Some(200);
    all.response.body = replace("a", "b");
    let (room, metrics) = (Space::default(), metrics());
    let get = head("GET", "/", &[]);
    for status in [204, 304] {
        let changed = applying(std::slice::from_ref(&all), &get)
            .change_response(response(status, &[], ""), (&room, &metrics))
            .await;
        assert_eq!(changed.unwrap().status(), status);
    }
    let asked = head("HEAD", "/", &[]);
    let answered = response(200, &[("content-length", "5"), ("etag", "\"1\"")], "");
    let changed = applying(&[all], &asked)
        .change_response(answered, (&room, &metrics))
        .await
        .unwrap();
    assert!(changed.headers().is_empty(), "{:?}", changed.headers());
}

#[tokio::test(start_paused = true)]
async fn reading_is_bounded_in_bytes_time_and_room() {
    use crate::limits::{MAX_TRANSFORM_BODY_BYTES, MAX_TRANSFORM_BYTES};
    let room = Space::default();
    let long = vec![b'x'; MAX_TRANSFORM_BODY_BYTES + 1];
    let source = Source::Held(Held::of(long.clone().into()));
    let Gathering::Part(held, Unfit::TooLong) =
        gather(source, &room, MAX_TRANSFORM_BODY_BYTES).await
    else {
        panic!("it is too long");
    };
    assert_eq!(body_of(Source::Held(held)).await, long, "nothing is lost");
    let full = Space {
        room: Arc::new(Room::taken_up(MAX_TRANSFORM_BYTES)),
        share: None,
    };
    let source = Source::Held(Held::of("x".into()));
    let gathered = gather(source, &full, MAX_TRANSFORM_BODY_BYTES).await;
    assert!(matches!(gathered, Gathering::Part(_, Unfit::NoRoom)));
    drop(gathered);
    assert_eq!(full.room.taken(), MAX_TRANSFORM_BYTES);
    // A copy of what nobody sends.
    let original = Source::Held(Held::of("x".into()));
    let upload = Upload::new(original, Arc::default(), End::default());
    let copy = upload.copies(1).pop().unwrap();
    let gathered = gather(copy.into(), &room, MAX_TRANSFORM_BODY_BYTES).await;
    assert!(matches!(gathered, Gathering::Part(_, Unfit::Late)));
}

#[tokio::test]
async fn long_bodies_wait_for_a_thread_and_digests_in_trailers_go() {
    let (room, metrics) = (Space::default(), metrics());
    let mut all = rule("a/all");
    all.response.body = replace("a", "b");
    let get = head("GET", "/", &[]);
    let changes = (0..9).map(|_| async {
        let held = Held::of(vec![b'a'; 200_000].into());
        let answered = Response::new(Source::Held(held));
        let mut applying = applying(std::slice::from_ref(&all), &get);
        let changed = applying.change_response(answered, (&room, &metrics)).await;
        body_of(changed.unwrap().into_body()).await
    });
    for changed in futures_util::future::join_all(changes).await {
        assert_eq!(changed, vec![b'b'; 200_000]);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("content-digest", HeaderValue::from_static("sha-256=:x:"));
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    let mut held = Held::of("a".into()).followed_by(trailers);
    assert!(held.size_hint().exact().is_none(), "trailers need chunks");
    held.replace("b".into());
    let all = Source::Held(held).collect().await.unwrap();
    assert_eq!(all.trailers().map(HeaderMap::len), Some(1));
}

#[tokio::test]
async fn one_caller_takes_no_more_than_its_share() {
    use crate::limits::MAX_TRANSFORM_BYTES_PER_CALLER;
    let peer = crate::judge::Peer::stranger(std::net::Ipv4Addr::LOCALHOST.into());
    let callers = Arc::<crate::callers::Callers>::default();
    let share = callers.connected(([127, 0, 0, 1], 1).into(), &peer);
    let space = Space {
        share: Some(share.clone()),
        ..Space::default()
    };
    assert!(share.take_bytes(MAX_TRANSFORM_BYTES_PER_CALLER - 1));
    let held = |text: &'static str| Source::Held(Held::of(text.into()));
    let one = gather(held("x"), &space, MAX_TRANSFORM_BODY_BYTES).await;
    assert!(matches!(one, Gathering::Whole(_)));
    let more = gather(held("x"), &space, MAX_TRANSFORM_BODY_BYTES).await;
    assert!(matches!(more, Gathering::Part(_, Unfit::NoShare)));
    drop(more);
    drop(one);
    assert!(matches!(
        gather(held("x"), &space, MAX_TRANSFORM_BODY_BYTES).await,
        Gathering::Whole(_)
    ));
    let others = Space {
        room: space.room.clone(),
        share: None,
    };
    assert!(matches!(
        gather(held("xx"), &others, MAX_TRANSFORM_BODY_BYTES).await,
        Gathering::Whole(_)
    ));
}

proptest::proptest! {
    #[test]
    fn no_transformation_touches_what_is_untouchable_or_changes_where_a_request_goes(
        set in proptest::collection::btree_map("[a-c]|x-[a-c]|x_reeve-a|host|te|authorization|Content-Length", "[ -~]{0,4}", 0..4),
        remove in proptest::collection::vec("[a-c]|x-[a-c]|traceparent|:path|x-reeve-peer|cookie", 0..4),
        query in "[ab=&%+6]{0,12}",
    ) {
        let mut change = rule("a/any");
        change.request.headers = HeaderOps { set, remove, ..HeaderOps::default() };
        change.request.query.set = texts(&[("a", "#?&/ \u{e9}")]);
        let Ok(all) = Transformations::compile(&[change]) else { return Ok(()) };
        let kept = [("authorization", "Bearer x"), ("traceparent", "t"), ("te", "trailers"), ("x-forwarded-for", "1")];
        let mut sent = head("GET", &format!("/p?{query}"), &kept);
        let received = sent.clone();
        all.concerning(&sent, NOW).unwrap().change_head(&mut sent);
        for (name, value) in kept {
            proptest::prop_assert_eq!(sent.header(name), Some(value));
        }
        proptest::prop_assert_eq!(sent.header("host"), Some("a"));
        proptest::prop_assert_eq!((&sent.path, &sent.authority, &sent.method), (&received.path, &received.authority, &received.method));
        let target: http::uri::PathAndQuery = sent.target().parse().unwrap();
        proptest::prop_assert_eq!(target.path(), "/p");
    }
}

#[tokio::test]
async fn a_body_takes_as_much_as_it_has_bytes_however_it_comes_in() {
    let room = Space::default();
    let bytes = vec![b'x'; 3000];
    let one_by_one = bytes.chunks(1).map(bytes::Bytes::copy_from_slice);
    let nothing = std::iter::repeat_n(bytes::Bytes::new(), 100_000);
    let source = Source::Held(Held::in_pieces(one_by_one.chain(nothing)));
    let gathered = gather(source, &room, MAX_TRANSFORM_BODY_BYTES).await;
    assert!(matches!(gathered, Gathering::Whole(_)));
    let lengths: Vec<_> = gathered.pieces().map(bytes::Bytes::len).collect();
    assert_eq!(lengths, [1024, 1024, 952]);
    assert_eq!(room.room.taken(), 3000);

    let source = Source::Held(Held::in_pieces(
        [&b"a"[..], &[b'b'; 2000], b"c", b"d"].map(bytes::Bytes::copy_from_slice),
    ));
    let gathered = gather(source, &room, MAX_TRANSFORM_BODY_BYTES).await;
    let lengths: Vec<_> = gathered.pieces().map(bytes::Bytes::len).collect();
    assert_eq!(lengths, [1, 2000, 2], "in order");
}
