use std::time::Duration;

use reeve_core::{clock::ManualClock, model::EcdhCurve};
use rustls::{ClientConnection, ServerConnection, pki_types::CertificateDer};

use super::*;
use crate::{
    alpn,
    forge::{Forge, ID, NOW},
};

const SERVER: &str = "spiffe://mesh.local/ns/default/sa/ratings";

struct Side {
    tls: MeshTls,
    clock: Arc<ManualClock>,
}

fn side(own: &Forge, trusted: &Forge, id: &str) -> Side {
    let clock = Arc::new(ManualClock::at(NOW));
    let credentials = Arc::new(Credentials {
        svid: Arc::new(own.svid(id)),
        bundle: Arc::new(trusted.bundle()),
    });
    let tls = MeshTls::new(credentials, Arc::clone(&clock) as Arc<dyn Clock>);
    Side { tls, clock }
}

fn ids(ids: &[&str]) -> Vec<SpiffeId> {
    ids.iter().map(|id| id.parse().unwrap()).collect()
}

/// Passes bytes to and fro until the handshake is done or fails: (the client's outcome, the server's).
fn handshake(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> (Result<(), rustls::Error>, Result<(), rustls::Error>) {
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            if let Err(error) = server.process_new_packets() {
                return (Ok(()), Err(error));
            }
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            if let Err(error) = client.process_new_packets() {
                return (Err(error), Ok(()));
            }
        }
    }
    (Ok(()), Ok(()))
}

fn connect(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (
    ClientConnection,
    ServerConnection,
    [Result<(), rustls::Error>; 2],
) {
    let mut client = ClientConnection::new(client, server_name()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (c, s) = handshake(&mut client, &mut server);
    (client, server, [c, s])
}

#[test]
fn two_workloads_know_each_other() {
    let forge = Forge::new("mesh.local");
    let (client, server) = (side(&forge, &forge, ID), side(&forge, &forge, SERVER));
    let config = client
        .tls
        .client_config(&ids(&[SERVER]), &[alpn::H2])
        .unwrap();
    let (c, s, outcome) = connect(
        config,
        server.tls.server_config(&[alpn::H2, alpn::HTTP1]).unwrap(),
    );
    assert_eq!(outcome, [Ok(()), Ok(())]);
    assert_eq!(c.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(s.alpn_protocol(), Some(alpn::H2));
    assert_eq!(s.server_name(), None, "no name is sent");
    let suite = c.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let group = c.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    let bundle = forge.bundle();
    assert_eq!(
        peer_of(&s, (&bundle, Realm::Own), NOW)
            .unwrap()
            .id()
            .as_str(),
        ID
    );
    assert_eq!(
        peer_of(&c, (&bundle, Realm::Own), NOW)
            .unwrap()
            .id()
            .as_str(),
        SERVER
    );
    let later = NOW.plus(Duration::from_secs(7200));
    assert_eq!(
        peer_of(&s, (&bundle, Realm::Own), later),
        None,
        "its certificate has ended"
    );
}

/// The key exchange that two sides agree on, each with its own curves; `None` if there is none.
fn agreed(ours: &[EcdhCurve], theirs: &[EcdhCurve]) -> Option<rustls::NamedGroup> {
    let forge = Forge::new("mesh.local");
    let (client, server) = (side(&forge, &forge, ID), side(&forge, &forge, SERVER));
    let client = client.tls.with_curves(ours);
    let server = server.tls.with_curves(theirs);
    let (c, _, outcome) = connect(
        client.client_config(&ids(&[SERVER]), &[alpn::H2]).unwrap(),
        server.server_config(&[alpn::H2]).unwrap(),
    );
    let fine = outcome.iter().all(Result::is_ok);
    assert!(!fine || c.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3));
    fine.then(|| c.negotiated_key_exchange_group().unwrap().name())
}

#[test]
fn named_curves_hold_for_both_directions_and_no_others_do() {
    use rustls::NamedGroup;
    for (curve, group) in [
        (EcdhCurve::X25519MLKEM768, NamedGroup::X25519MLKEM768),
        (EcdhCurve::X25519, NamedGroup::X25519),
        (EcdhCurve::P256, NamedGroup::secp256r1),
        (EcdhCurve::P384, NamedGroup::secp384r1),
    ] {
        assert_eq!(agreed(&[curve], &[]), Some(group), "a client's alone");
        assert_eq!(agreed(&[], &[curve]), Some(group), "a server's alone");
    }
    assert_eq!(
        agreed(&[EcdhCurve::X25519], &[EcdhCurve::P256]),
        None,
        "nothing in common"
    );
    let both = [EcdhCurve::X25519, EcdhCurve::X25519MLKEM768];
    assert_eq!(agreed(&both, &both), Some(NamedGroup::X25519), "the first");
}

#[test]
fn a_server_with_an_unexpected_identity_is_refused() {
    let forge = Forge::new("mesh.local");
    let (client, server) = (side(&forge, &forge, ID), side(&forge, &forge, SERVER));
    for expected in [
        ids(&[]),
        ids(&[ID, "spiffe://mesh.local/ns/default/sa/rating"]),
    ] {
        let config = client.tls.client_config(&expected, &[alpn::TCP]).unwrap();
        let (_, _, [c, _]) = connect(config, server.tls.server_config(&[alpn::TCP]).unwrap());
        let found = SERVER.parse().unwrap();
        assert_eq!(
            refusal_of(&c.unwrap_err()),
            Some(&SvidError::UnexpectedId { found })
        );
    }
}

#[test]
fn a_client_without_a_certificate_is_refused_except_where_it_may_join() {
    let forge = Forge::new("mesh.local");
    let server = side(&forge, &forge, SERVER);
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
    let anonymous = || {
        let bundle = Arc::new(forge.bundle());
        anonymous_client_config(bundle, &ids(&[SERVER]), &[alpn::GRPC], &clock).unwrap()
    };
    let (_, _, [_, s]) = connect(
        anonymous(),
        server.tls.server_config(&[alpn::GRPC]).unwrap(),
    );
    assert_eq!(s.unwrap_err(), rustls::Error::NoCertificatesPresented);
    let optional = server
        .tls
        .server_config_optional_client(&[alpn::GRPC])
        .unwrap();
    let (_, s, outcome) = connect(anonymous(), optional);
    assert_eq!(outcome, [Ok(()), Ok(())]);
    assert_eq!(peer_of(&s, (&forge.bundle(), Realm::Own), NOW), None);
}

#[test]
fn a_certificate_that_need_not_be_there_must_still_verify() {
    let (forge, stranger) = (Forge::new("mesh.local"), Forge::new("mesh.local"));
    let (client, server) = (side(&stranger, &forge, ID), side(&forge, &forge, SERVER));
    let config = client
        .tls
        .client_config(&ids(&[SERVER]), &[alpn::GRPC])
        .unwrap();
    let optional = server
        .tls
        .server_config_optional_client(&[alpn::GRPC])
        .unwrap();
    let (_, _, [_, s]) = connect(config, optional);
    let error = s.unwrap_err();
    let refusal = refusal_of(&error);
    assert!(
        matches!(
            refusal,
            Some(SvidError::UnknownIssuer | SvidError::BadSignature)
        ),
        "{error:?}"
    );
}

#[test]
fn strangers_are_refused_by_both_sides() {
    let (forge, stranger) = (Forge::new("mesh.local"), Forge::new("mesh.local"));
    let (client, server) = (side(&forge, &forge, ID), side(&stranger, &stranger, SERVER));
    let config = client
        .tls
        .client_config(&ids(&[SERVER]), &[alpn::H2])
        .unwrap();
    let (_, _, [c, _]) = connect(config, server.tls.server_config(&[alpn::H2]).unwrap());
    assert!(refusal_of(&c.unwrap_err()).is_some());
    let (client, server) = (side(&stranger, &forge, ID), side(&forge, &forge, SERVER));
    let config = client
        .tls
        .client_config(&ids(&[SERVER]), &[alpn::H2])
        .unwrap();
    let (_, _, [_, s]) = connect(config, server.tls.server_config(&[alpn::H2]).unwrap());
    assert!(refusal_of(&s.unwrap_err()).is_some());
}

#[test]
fn the_clock_given_is_the_clock_used() {
    let forge = Forge::new("mesh.local");
    let (client, server) = (side(&forge, &forge, ID), side(&forge, &forge, SERVER));
    server.clock.advance(Duration::from_secs(3601));
    let config = client
        .tls
        .client_config(&ids(&[SERVER]), &[alpn::H2])
        .unwrap();
    let (_, _, [_, s]) = connect(config, server.tls.server_config(&[alpn::H2]).unwrap());
    let not_after = NOW.plus(Duration::from_secs(3600));
    let expired = SvidError::Expired {
        position: 0,
        not_after,
    };
    assert_eq!(refusal_of(&s.unwrap_err()), Some(&expired));
}

#[test]
fn no_session_is_resumed() {
    let forge = Forge::new("mesh.local");
    let (client, server) = (side(&forge, &forge, ID), side(&forge, &forge, SERVER));
    let client = client
        .tls
        .client_config(&ids(&[SERVER]), &[alpn::H2])
        .unwrap();
    let server = server.tls.server_config(&[alpn::H2]).unwrap();
    for _ in 0..2 {
        let (c, _, _) = connect(Arc::clone(&client), Arc::clone(&server));
        assert_eq!(c.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn tls_1_2_is_refused() {
    let forge = Forge::new("mesh.local");
    let server = side(&forge, &forge, SERVER);
    let roots = {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::clone(&forge.root)).unwrap();
        roots
    };
    let old = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = server.tls.server_config(&[alpn::H2]).unwrap();
    let (_, _, [_, s]) = connect(Arc::new(old), server);
    assert!(matches!(s.unwrap_err(), rustls::Error::PeerIncompatible(_)));
}

#[test]
fn other_protocols_are_refused() {
    let forge = Forge::new("mesh.local");
    let (client, server) = (side(&forge, &forge, ID), side(&forge, &forge, SERVER));
    let config = client
        .tls
        .client_config(&ids(&[SERVER]), &[b"http/1.1"])
        .unwrap();
    let (_, _, [_, s]) = connect(config, server.tls.server_config(&[alpn::H2]).unwrap());
    assert_eq!(s.unwrap_err(), rustls::Error::NoApplicationProtocol);
}
