//! Header hygiene: what never crosses a hop, and what every request carries.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use rand::RngCore as _;

/// Request id, made at the first proxy and passed on by every application.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What sidecars tell each other about their workloads, for metric labels alone; never trusted for a decision.
pub(crate) const PEER: HeaderName = HeaderName::from_static("x-reeve-peer");
/// `unknown`: a mesh proxy's own answer for an application that may have acted on the request. Never told to applications.
pub(crate) const OUTCOME: HeaderName = HeaderName::from_static("x-reeve-outcome");
/// The opaque id of a denial's record.
pub(crate) const DECISION_ID: HeaderName = HeaderName::from_static("x-reeve-decision-id");

/// What a gateway says of its client's certificate.
pub(crate) const FORWARDED_CLIENT_CERT: HeaderName =
    HeaderName::from_static("x-forwarded-client-cert");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// What belongs to one hop, beside what `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// What must stand in a head, beside what belongs to one hop.
const NO_TRAILERS: [HeaderName; 13] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::HOST,
    header::MAX_FORWARDS,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
];
/// Longest request id that is kept; a longer one is replaced.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Removes what belongs to one hop (RFC 9110 section 7.6.1): `Connection` and what it names, and the rest of them.
/// `TE: trailers` stays, which gRPC needs (RFC 9110 section 10.1.4).
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // As a rule there are none: one look at each name is cheaper than a search for each that could be there.
    if !headers
        .keys()
        .any(|name| HOP_BY_HOP.contains(name) || *name == header::TE)
    {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| *name != header::HOST && *name != header::TE)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    let trailers = headers.get_all(header::TE).iter().any(|v| {
        let text = v.to_str().unwrap_or_default();
        text.split(',')
            .any(|part| part.trim().eq_ignore_ascii_case("trailers"))
    });
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes from trailers what is no trailer (RFC 9110 section 6.5.1): what frames, routes, authenticates or describes a
/// message, which a recipient that merges trailers would take for a header that was judged.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    if trailers.is_empty() {
        return;
    }
    remove_hop_by_hop(trailers);
    remove_reserved(trailers);
    for name in &NO_TRAILERS {
        trailers.remove(name);
    }
}

/// Removes what only the mesh itself may say, and what an application that takes underscores for dashes (CGI and its
/// heirs) would read as if the mesh or the connection had said it.
pub(crate) fn remove_reserved(headers: &mut HeaderMap) {
    headers.remove(FORWARDED_CLIENT_CERT);
    remove_reserved_but_certificates(headers);
}

/// The same, but what a gateway said of its client's certificate stays.
pub(crate) fn remove_reserved_but_certificates(headers: &mut HeaderMap) {
    let reserved: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_reserved(name.as_str()))
        .cloned()
        .collect();
    for name in reserved {
        headers.remove(name);
    }
}

fn is_reserved(name: &str) -> bool {
    name.starts_with("x-reeve-") || (name.contains('_') && is_disguise(name))
}

fn is_disguise(name: &str) -> bool {
    let read = name.replace('_', "-");
    let known = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        FORWARDED_CLIENT_CERT,
    ];
    read.starts_with("x-reeve-") || known.iter().any(|known| *known == read.as_str())
}

/// Removes `names` (lower case), and what an application that takes underscores for dashes would read as one of them.
pub(crate) fn remove_with_disguises(headers: &mut HeaderMap, names: &[String]) {
    for name in names {
        headers.remove(name.as_str());
    }
    remove_disguises(headers, names);
}

/// Removes what an application that takes underscores for dashes would read as one of `names` (lower case), but not what
/// has just that name.
pub(crate) fn remove_disguises(headers: &mut HeaderMap, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let same = |known: &str, name: &str| known.replace('_', "-") == name.replace('_', "-");
    let disguised: Vec<HeaderName> = headers
        .keys()
        .filter(|found| found.as_str().contains('_') || names.iter().any(|n| n.contains('_')))
        .filter(|found| {
            let is_one = names.iter().any(|name| *name == found.as_str());
            !is_one && names.iter().any(|name| same(name, found.as_str()))
        })
        .cloned()
        .collect();
    for name in disguised {
        headers.remove(name);
    }
}

/// Removes cookies by name, and what is left of a header without any.
pub(crate) fn remove_cookies(headers: &mut HeaderMap, names: &[String]) {
    let is_kept = |pair: &&[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        !names
            .iter()
            .any(|removed| removed.as_bytes() == name.trim_ascii())
    };
    let fields: Vec<Vec<u8>> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(|value| {
            let pairs = value.as_bytes().split(|byte| *byte == b';');
            let kept: Vec<&[u8]> = pairs.filter(is_kept).map(<[u8]>::trim_ascii).collect();
            kept.join(&b"; "[..])
        })
        .filter(|value| !value.is_empty())
        .collect();
    headers.remove(header::COOKIE);
    for field in fields {
        if let Ok(value) = HeaderValue::from_bytes(&field) {
            headers.append(header::COOKIE, value);
        }
    }
}

/// Gives the request an `x-request-id` if it has none that can be used.
pub(crate) fn ensure_request_id(headers: &mut HeaderMap) {
    let usable = |value: &HeaderValue| {
        value.len() <= MAX_REQUEST_ID_BYTES && value.to_str().is_ok_and(|text| !text.is_empty())
    };
    if !headers.get(REQUEST_ID).is_some_and(usable)
        && let Ok(value) = HeaderValue::try_from(new_request_id())
    {
        headers.insert(REQUEST_ID, value);
    }
}

/// A random UUID (RFC 9562, version 4).
fn new_request_id() -> String {
    let mut raw = [0u8; 16];
    rand::rng().fill_bytes(&mut raw);
    let raw = (u128::from_be_bytes(raw) & !(0xf << 76) & !(0x3 << 62)) | (4 << 76) | (2 << 62);
    let text = format!("{raw:032x}");
    let cut = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    let parts = [cut(0, 8), cut(8, 12), cut(12, 16), cut(16, 20), cut(20, 32)];
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::try_from(*value).unwrap(),
            )
        };
        pairs.iter().map(pair).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_headers_end_at_the_hop() {
        let mut headers = map(&[
            ("connection", "close, X-Mine, host"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "x"),
            ("te", "gzip, trailers"),
            ("host", "a"),
            ("accept", "*/*"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["accept", "host", "te"]);
        assert_eq!(headers["te"], "trailers");
        let mut headers = map(&[("te", "gzip")]);
        remove_hop_by_hop(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn only_the_mesh_says_what_is_reserved() {
        let mut headers = map(&[
            ("x-reeve-peer", "w=a"),
            ("x-reeve-anything", "1"),
            ("x-forwarded-client-cert", "Hash=1"),
            ("x_reeve-peer", "w=a"),
            ("x_forwarded_client_cert", "Hash=1"),
            ("content_length", "5"),
            ("transfer_encoding", "chunked"),
            ("x_mine", "kept"),
            ("x-request-id", "kept"),
        ]);
        remove_reserved(&mut headers);
        assert_eq!(names(&headers), ["x-request-id", "x_mine"]);
    }

    #[test]
    fn a_header_is_removed_in_every_disguise() {
        let mut headers = map(&[
            ("x-user", "a"),
            ("x_user", "b"),
            ("x_user-id", "kept"),
            ("x_other", "kept"),
        ]);
        remove_with_disguises(&mut headers, &["x-user".to_owned()]);
        assert_eq!(names(&headers), ["x_other", "x_user-id"]);
        let mut headers = map(&[("x-user", "a"), ("x_user", "b")]);
        remove_with_disguises(&mut headers, &["x_user".to_owned()]);
        assert!(headers.is_empty());
    }

    #[test]
    fn cookies_are_removed_by_name_and_the_others_stay() {
        let cookies = |fields: &[&str], names: &[&str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(header::COOKIE, HeaderValue::from_str(field).unwrap());
            }
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            remove_cookies(&mut headers, &names);
            let left = headers.get_all(header::COOKIE).iter();
            left.map(|v| v.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            cookies(&["a=1; t=x; b=2", "t=y"], &["t"]),
            ["a=1; b=2".to_owned()]
        );
        assert_eq!(cookies(&["t=x", " t = y;c"], &["t"]), ["c".to_owned()]);
        assert_eq!(
            cookies(&["tt=x; T=y"], &["t"]),
            ["tt=x; T=y".to_owned()],
            "names have a case"
        );
    }

    #[test]
    fn trailers_are_no_headers() {
        let mut trailers = map(&[
            ("grpc-status", "0"),
            ("x-sum", "7"),
            ("connection", "x-sum"),
            ("authorization", "Bearer x"),
            ("content-length", "5"),
            ("host", "other"),
            ("cookie", "a=b"),
            ("te", "trailers"),
            ("x-reeve-peer", "w=a"),
            ("content_length", "5"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(names(&trailers), ["grpc-status"]);
        let mut untouched = map(&[("x-sum", "7"), ("grpc-message", "fine")]);
        clean_trailers(&mut untouched);
        assert_eq!(names(&untouched), ["grpc-message", "x-sum"]);
    }

    #[test]
    fn a_request_id_is_made_when_absent_and_kept_when_there() {
        let mut headers = HeaderMap::new();
        ensure_request_id(&mut headers);
        let id = headers[REQUEST_ID].to_str().unwrap().to_owned();
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'));
        assert!(
            matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'),
            "{id}"
        );
        ensure_request_id(&mut headers);
        assert_eq!(headers[REQUEST_ID], id.as_str());
    }

    proptest! {
        #[test]
        fn nothing_of_one_hop_is_left(
            lists in proptest::collection::vec("([xyht][a-e]{0,2}|close|host|te|upgrade|[ ,\t]|é){0,6}", 0..3),
            te in "(trailers|gzip|[, ;q=1]){0,4}",
            others in proptest::collection::vec("[xyht][a-e]{0,2}", 0..6),
        ) {
            let mut headers = map(&[("host", "a"), ("keep-alive", "1"), ("upgrade", "b")]);
            headers.insert(header::TE, HeaderValue::try_from(te).unwrap());
            for name in others {
                headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_static("1"));
            }
            let mut named = Vec::new();
            for list in lists {
                let Ok(value) = HeaderValue::from_str(&list) else { continue };
                if value.to_str().is_ok() {
                    named.extend(list.split(',').map(|name| name.trim().to_owned()));
                }
                headers.append(header::CONNECTION, value);
            }
            remove_hop_by_hop(&mut headers);
            prop_assert!(HOP_BY_HOP.iter().all(|name| !headers.contains_key(name)));
            prop_assert_eq!(&headers[header::HOST], "a");
            prop_assert!(headers.get(header::TE).is_none_or(|te| te == "trailers"));
            for name in named.iter().filter(|name| !matches!(name.as_str(), "" | "host" | "te")) {
                prop_assert!(!headers.contains_key(name), "{}", name);
            }
        }

        #[test]
        fn no_name_is_left_that_reads_as_the_meshs(
            name in "x[-_]reeve[-_][a-z_-]{0,5}|(content|transfer)[-_](length|encoding)|x[-_]forwarded[-_]client[-_]cert|[a-z_-]{1,9}",
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::try_from(&name).unwrap(), HeaderValue::from_static("1"));
            remove_reserved(&mut headers);
            let left = headers.keys().next().map(|name| name.as_str().replace('_', "-"));
            let left = left.unwrap_or_default();
            prop_assert!(!left.starts_with("x-reeve-") && left != "x-forwarded-client-cert");
            // A framing header itself is the library's to judge; one that only looks like it goes.
            let framing = ["content-length", "transfer-encoding"];
            prop_assert!(!framing.contains(&left.as_str()) || !name.contains('_'));
        }
    }
}
