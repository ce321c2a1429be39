use std::net::{IpAddr, Ipv4Addr};

use http::{Request, header};

use super::*;

const CLIENT: &str = "spiffe://mesh.local/ns/default/sa/client";

fn asked(uri: &str, cert: &str, believed: ClientCert) -> Option<Inquiry> {
    let request = Request::builder()
        .uri(uri)
        .header(header::HOST, "echo")
        .header(CLIENT_CERT, cert)
        .body(())
        .unwrap();
    inquiry(request, IpAddr::V4(Ipv4Addr::LOCALHOST), believed)
}

#[test]
fn the_prefix_names_the_service_and_no_path_reaches_into_it() {
    for (uri, service, path) in [
        ("/check/a.b/c?d=e", "a.b", "/c?d=e"),
        ("/check/a.b", "a.b", "/"),
        ("/check/a.b?d", "a.b", "/?d"),
        ("/check/a.b/../c/d", "a.b", "/../c/d"),
        ("/check//a", "", "/a"),
    ] {
        let inquiry = asked(uri, "", ClientCert::Ignored).unwrap();
        assert_eq!(inquiry.target.service.as_deref(), Some(service), "{uri}");
        assert_eq!(inquiry.head.unwrap().uri.to_string(), path, "{uri}");
    }
    assert!(asked("/other/a.b/c", "", ClientCert::Ignored).is_none());
}

#[test]
fn a_certificates_header_counts_only_where_it_is_believed_and_unambiguous() {
    let own = format!("Hash=1;URI={CLIENT}");
    for (cert, believed, known) in [
        (own.as_str(), ClientCert::Believed, true),
        (own.as_str(), ClientCert::Ignored, false),
        (&format!("{own},{own}"), ClientCert::Believed, false),
        (&format!("{own};URI={CLIENT}"), ClientCert::Believed, false),
        (
            &format!("Subject=\"a;URI={CLIENT}\""),
            ClientCert::Believed,
            false,
        ),
        ("URI=https://a", ClientCert::Believed, false),
        ("", ClientCert::Believed, false),
    ] {
        let found = asked("/check/a/", cert, believed).unwrap().asker.principal;
        assert_eq!(found.spiffe_id().is_some(), known, "{cert}");
    }
}
