use std::collections::HashMap;

use envoy_types::pb::envoy::{
    config::core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier},
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Peer, Request},
    },
};
use reeve_core::decision::Principal;

use super::reading::{self, ReadError};

fn peer(principal: &str) -> Peer {
    let socket = SocketAddress {
        address: "10.0.0.7".to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(8080)),
        ..SocketAddress::default()
    };
    Peer {
        address: Some(Address {
            address: Some(address::Address::SocketAddress(socket)),
        }),
        principal: principal.to_owned(),
        service: "spiffe://mesh.local/ns/default/sa/spoof".to_owned(),
        ..Peer::default()
    }
}

fn ask(principal: &str, http: HttpRequest) -> CheckRequest {
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(principal)),
            destination: Some(peer("spiffe://mesh.local/ns/default/sa/echo")),
            request: Some(Request {
                http: Some(http),
                ..Request::default()
            }),
            ..AttributeContext::default()
        }),
    }
}

fn get(path: &str, headers: &[(&str, &str)]) -> HttpRequest {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    HttpRequest {
        method: "GET".to_owned(),
        host: "echo".to_owned(),
        path: path.to_owned(),
        headers: headers.iter().map(pair).collect::<HashMap<_, _>>(),
        ..HttpRequest::default()
    }
}

#[test]
fn a_peer_is_who_its_certificate_says_and_nobody_else() {
    let client = "spiffe://mesh.local/ns/default/sa/client";
    for (principal, expected) in [
        (client, Some(client)),
        ("", None),
        ("client.test", None),
        ("CN=client", None),
        ("spiffe://mesh.local/ns/../sa/client", None),
    ] {
        let inquiry = reading::inquiry(ask(principal, get("/", &[]))).unwrap();
        let found = inquiry.asker.principal;
        assert_eq!(found.spiffe_id().map(|id| id.as_str()), expected);
        assert_eq!(found == Principal::Unauthenticated, expected.is_none());
        assert_eq!(inquiry.asker.port, 8080);
        assert_eq!(inquiry.asker.address.to_string(), "10.0.0.7");
    }
}

#[test]
fn headers_that_were_joined_are_judged_part_by_part_too() {
    let http = get(
        "/a?b=c",
        &[
            (":path", "/other"),
            ("x-role", "user,banned"),
            ("authorization", "Bearer a,b"),
        ],
    );
    let head = reading::inquiry(ask("", http)).unwrap().head.unwrap();
    let values = |name: &str| -> Vec<String> {
        let all = head.headers.get_all(name).iter();
        all.map(|v| v.to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(values("x-role"), ["user,banned", "user", "banned"]);
    assert_eq!(values("authorization"), ["Bearer a,b"]);
    assert_eq!(head.uri.to_string(), "/a?b=c");
}

#[test]
fn what_could_be_read_in_two_ways_is_not_read() {
    for (http, error) in [
        (get("http://other/", &[]), ReadError::BadHead),
        (get("/a#b", &[]), ReadError::BadHead),
        (get("", &[]), ReadError::BadHead),
        (get("/a b", &[]), ReadError::BadHead),
        (get("/", &[("x y", "1")]), ReadError::BadHead),
        (get("/", &[("host", "other")]), ReadError::TwoAuthorities),
    ] {
        assert_eq!(reading::inquiry(ask("", http)).unwrap_err(), error);
    }
    let none = CheckRequest { attributes: None };
    assert_eq!(reading::inquiry(none).unwrap_err(), ReadError::NoAttributes);
    let mut nowhere = ask("", get("/", &[]));
    nowhere.attributes.as_mut().unwrap().source = None;
    assert_eq!(reading::inquiry(nowhere).unwrap_err(), ReadError::NoSource);
}

#[test]
fn a_connection_has_no_head() {
    let mut connection = ask("", get("/", &[]));
    connection.attributes.as_mut().unwrap().request = None;
    assert!(reading::inquiry(connection).unwrap().head.is_none());
}
