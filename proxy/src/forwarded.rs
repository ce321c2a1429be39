//! What a gateway tells of the client outside: `x-forwarded-for`, `x-forwarded-proto`, `x-forwarded-client-cert`, by
//! Envoy's rules (<https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers>).

use std::{fmt::Write as _, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use reeve_core::model::{ForwardClientCert, Topology};
use reeve_svid::ClientDetails;

use crate::{arrival::Edge, headers::FORWARDED_CLIENT_CERT, judge::Peer};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Longest certificate (PEM, as it is sent) that is told on.
const MAX_CERT_BYTES: usize = 8 * 1024;

/// Sets what the gateway says of `peer`, and takes away what only it may say. Returns the client's address: the peer's,
/// or what the last trusted proxy says.
pub(crate) fn tell(
    headers: &mut HeaderMap,
    peer: &Peer,
    edge: &Edge,
    topology: &Topology,
) -> IpAddr {
    let client = forwarded_for(headers, peer.address, topology.trusted_proxies);
    let trusted = topology.trusted_proxies > 0;
    if !(trusted && headers.contains_key(FORWARDED_PROTO)) {
        let scheme = if edge.is_secure { "https" } else { "http" };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    client_cert(headers, peer, edge.client.as_deref(), topology.client_cert);
    client
}

/// The client's address as a gateway of the mesh says it, which has appended whom it saw itself to what the `trusted` proxies
/// before it say. `None`: it says none.
pub(crate) fn said_by_gateway(headers: &HeaderMap, trusted: u32) -> Option<IpAddr> {
    let said = headers.get_all(&FORWARDED_FOR).iter();
    let said: Vec<_> = said.filter_map(|value| value.to_str().ok()).collect();
    let list = said.join(",");
    let from_behind = |n: u32| {
        let text = list.rsplit(',').nth(usize::try_from(n).ok()?)?;
        text.trim().parse().ok()
    };
    from_behind(trusted).or_else(|| from_behind(0))
}

/// Appends the peer's address; the client's is the one that the outermost of `trusted` proxies says.
fn forwarded_for(headers: &mut HeaderMap, peer: IpAddr, trusted: u32) -> IpAddr {
    let said = headers.get_all(&FORWARDED_FOR).iter();
    let said: Vec<_> = said.filter_map(|value| value.to_str().ok()).collect();
    let mut list = said.join(", ");
    let client = usize::try_from(trusted).ok().filter(|n| *n > 0);
    let client = client.and_then(|n| list.rsplit(',').nth(n - 1));
    let client = client.and_then(|text| text.trim().parse().ok());
    if !list.is_empty() {
        list.push_str(", ");
    }
    list.push_str(&peer.to_string());
    headers.remove(&FORWARDED_FOR);
    if let Ok(value) = HeaderValue::try_from(list) {
        headers.insert(FORWARDED_FOR, value);
    }
    client.unwrap_or(peer)
}

fn client_cert(
    headers: &mut HeaderMap,
    peer: &Peer,
    shown: Option<&ClientDetails>,
    how: ForwardClientCert,
) {
    let element = match shown {
        Some(details) => Some(element(details)),
        None => peer.principal.spiffe_id().map(|id| format!("URI={id}")),
    };
    let forwards = match how {
        ForwardClientCert::AlwaysForwardOnly => return,
        ForwardClientCert::Sanitize | ForwardClientCert::SanitizeSet => false,
        ForwardClientCert::ForwardOnly | ForwardClientCert::AppendForward => element.is_some(),
    };
    let said = match forwards {
        true => headers.get_all(FORWARDED_CLIENT_CERT).iter().collect(),
        false => Vec::new(),
    };
    let said = said.into_iter().filter_map(|v| v.to_str().ok());
    let mut all: Vec<String> = said.map(str::to_owned).collect();
    let sets = [
        ForwardClientCert::SanitizeSet,
        ForwardClientCert::AppendForward,
    ];
    all.extend(element.filter(|_| sets.contains(&how)));
    headers.remove(FORWARDED_CLIENT_CERT);
    if !all.is_empty()
        && let Ok(value) = HeaderValue::try_from(all.join(","))
    {
        headers.insert(FORWARDED_CLIENT_CERT, value);
    }
}

/// One element: hash, certificate, subject and names, as Istio's gateways set them.
fn element(details: &ClientDetails) -> String {
    let mut text = format!("Hash={}", details.hash);
    let cert = percent_encoded(&details.pem);
    if cert.len() <= MAX_CERT_BYTES {
        text.push_str(&format!(";Cert=\"{cert}\""));
    }
    if !details.subject.is_empty() {
        text.push_str(&format!(";Subject=\"{}\"", quoted(&details.subject)));
    }
    for uri in &details.uris {
        text.push_str(&format!(";URI={}", plain(uri)));
    }
    for name in &details.dns {
        text.push_str(&format!(";DNS={}", plain(name)));
    }
    text
}

/// Between quotes.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// A value that ends no element: in quotes where it has to be.
fn plain(text: &str) -> String {
    match text.contains([',', ';', '=', '"', '\\']) {
        true => format!("\"{}\"", quoted(text)),
        false => text.to_owned(),
    }
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => write!(encoded, "%{byte:02X}").unwrap_or_default(),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::try_from(*value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn topology(trusted_proxies: u32, client_cert: ForwardClientCert) -> Topology {
        Topology {
            trusted_proxies,
            client_cert,
            ..Topology::default()
        }
    }

    fn peer() -> Peer {
        Peer::stranger([192, 0, 2, 9].into())
    }

    #[test]
    fn the_client_is_whom_the_outermost_trusted_proxy_names() {
        for (said, trusted, client, told) in [
            (&[][..], 0, "192.0.2.9", "192.0.2.9"),
            (&["1.1.1.1"], 0, "192.0.2.9", "1.1.1.1, 192.0.2.9"),
            (&["1.1.1.1"], 1, "1.1.1.1", "1.1.1.1, 192.0.2.9"),
            (
                &["6.6.6.6, 1.1.1.1"],
                1,
                "1.1.1.1",
                "6.6.6.6, 1.1.1.1, 192.0.2.9",
            ),
            (
                &["6.6.6.6", "1.1.1.1,2.2.2.2"],
                2,
                "1.1.1.1",
                "6.6.6.6, 1.1.1.1,2.2.2.2, 192.0.2.9",
            ),
            (&["1.1.1.1"], 2, "192.0.2.9", "1.1.1.1, 192.0.2.9"),
            (&["unknown"], 1, "192.0.2.9", "unknown, 192.0.2.9"),
            (&["2001:db8::1"], 1, "2001:db8::1", "2001:db8::1, 192.0.2.9"),
        ] {
            let pairs: Vec<_> = said.iter().map(|v| ("x-forwarded-for", *v)).collect();
            let mut headers = map(&pairs);
            let topology = topology(trusted, ForwardClientCert::default());
            let found = tell(&mut headers, &peer(), &Edge::default(), &topology);
            assert_eq!(found.to_string(), client, "{said:?} {trusted}");
            assert_eq!(headers["x-forwarded-for"], told, "{said:?} {trusted}");
        }
    }

    #[test]
    fn the_scheme_is_the_connections_own_unless_a_trusted_proxy_says_it() {
        let secure = Edge {
            is_secure: true,
            ..Edge::default()
        };
        for (said, trusted, edge, told) in [
            (None, 0, Edge::default(), "http"),
            (Some("https"), 0, Edge::default(), "http"),
            (None, 1, secure.clone(), "https"),
            (Some("http"), 0, secure.clone(), "https"),
            (Some("https"), 1, Edge::default(), "https"),
        ] {
            let pairs: Vec<_> = said.iter().map(|v| ("x-forwarded-proto", *v)).collect();
            let mut headers = map(&pairs);
            let topology = topology(trusted, ForwardClientCert::default());
            tell(&mut headers, &peer(), &edge, &topology);
            assert_eq!(headers["x-forwarded-proto"], told, "{said:?} {trusted}");
        }
    }

    #[test]
    fn nobody_forges_a_client_certificate() {
        let details = ClientDetails {
            hash: "ab".into(),
            pem: "-----BEGIN".into(),
            subject: "CN=\"x\"".into(),
            uris: vec!["spiffe://a/b".into()],
            dns: vec!["a.example".into(), "b;c".into()],
        };
        let shown = Edge {
            client: Some(Arc::new(details)),
            ..Edge::default()
        };
        let own = r#"Hash=ab;Cert="-----BEGIN";Subject="CN=\"x\"";URI=spiffe://a/b;DNS=a.example;DNS="b;c""#;
        let appended = format!("Hash=forged,{own}");
        use ForwardClientCert::*;
        for (how, edge, told) in [
            (Sanitize, &shown, None),
            (SanitizeSet, &shown, Some(own)),
            (ForwardOnly, &shown, Some("Hash=forged")),
            (AppendForward, &shown, Some(appended.as_str())),
            (AlwaysForwardOnly, &shown, Some("Hash=forged")),
            (Sanitize, &Edge::default(), None),
            (SanitizeSet, &Edge::default(), None),
            (ForwardOnly, &Edge::default(), None),
            (AppendForward, &Edge::default(), None),
            (AlwaysForwardOnly, &Edge::default(), Some("Hash=forged")),
        ] {
            let mut headers = map(&[("x-forwarded-client-cert", "Hash=forged")]);
            tell(&mut headers, &peer(), edge, &topology(0, how));
            let found = headers.get("x-forwarded-client-cert");
            assert_eq!(found.and_then(|v| v.to_str().ok()), told, "{how:?}");
        }
    }

    #[test]
    fn a_gateway_says_who_its_client_is() {
        for (said, trusted, client) in [
            (&[][..], 0, None),
            (&["1.1.1.1"], 0, Some("1.1.1.1")),
            (&["6.6.6.6, 1.1.1.1"], 0, Some("1.1.1.1")),
            (&["6.6.6.6", "1.1.1.1, 2.2.2.2"], 1, Some("1.1.1.1")),
            (&["1.1.1.1"], 1, Some("1.1.1.1")),
            (&["unknown, 2.2.2.2"], 1, Some("2.2.2.2")),
            (&["1.1.1.1, unknown"], 0, None),
        ] {
            let pairs: Vec<_> = said.iter().map(|v| ("x-forwarded-for", *v)).collect();
            let found = said_by_gateway(&map(&pairs), trusted);
            let found = found.map(|ip| ip.to_string());
            assert_eq!(found.as_deref(), client, "{said:?} {trusted}");
        }
    }

    proptest! {
        #[test]
        fn a_gateway_and_who_it_calls_name_the_same_client(
            said in proptest::collection::vec("[0-9a-f.:, x]{0,20}", 0..4),
            trusted in 0u32..6,
        ) {
            let pairs: Vec<_> = said.iter().map(|v| ("x-forwarded-for", v.as_str())).collect();
            let mut headers = map(&pairs);
            let topology = topology(trusted, ForwardClientCert::default());
            let client = tell(&mut headers, &peer(), &Edge::default(), &topology);
            prop_assert_eq!(said_by_gateway(&headers, trusted), Some(client));
        }

        #[test]
        fn any_headers_are_told_on_with_the_peer_last(
            said in proptest::collection::vec("[0-9a-f.:, x]{0,20}", 0..4),
            trusted in 0u32..6,
        ) {
            let pairs: Vec<_> = said.iter().map(|v| ("x-forwarded-for", v.as_str())).collect();
            let mut headers = map(&pairs);
            let client = tell(&mut headers, &peer(), &Edge::default(), &topology(trusted, ForwardClientCert::default()));
            let told = headers["x-forwarded-for"].to_str().unwrap();
            prop_assert!(told.ends_with("192.0.2.9"));
            prop_assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
            prop_assert!(trusted > 0 || client == peer().address);
        }
    }
}
