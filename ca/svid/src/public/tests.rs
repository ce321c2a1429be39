use std::io;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType,
    SignatureAlgorithm,
};
use reeve_core::SystemClock;
use rustls::{ClientConnection, Error, ServerConnection};
use rustls_pki_types::ServerName;

use super::*;

struct Ca(CertifiedIssuer<'static, KeyPair>);

struct Made {
    chain: String,
    key: String,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, names: Vec<SanType>) -> Made {
        self.issue_by(names, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    fn issue_by(&self, names: Vec<SanType>, algorithm: &'static SignatureAlgorithm) -> Made {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params
            .distinguished_name
            .push(DnType::CommonName, "somebody");
        let made = params.signed_by(&key, &self.0).unwrap();
        Made {
            chain: made.pem(),
            key: key.serialize_pem(),
        }
    }

    fn authorities(&self) -> Authorities {
        Authorities::parse(self.pem().as_bytes(), b"").unwrap()
    }
}

impl Made {
    fn identity(&self) -> PublicIdentity {
        PublicIdentity::parse(self.chain.as_bytes(), self.key.as_bytes()).unwrap()
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn spoken() -> Spoken {
    Spoken {
        min: TlsVersion::V1_2,
        max: TlsVersion::V1_3,
        cipher_suites: vec![],
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    }
}

/// Shakes hands in memory.
fn shake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &'static str,
) -> Result<(ServerConnection, ClientConnection), Error> {
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut read: &[u8] = &bytes;
        while !read.is_empty() {
            server.read_tls(&mut read).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut read: &[u8] = &bytes;
        while !read.is_empty() {
            client.read_tls(&mut read).map_err(io_error)?;
            client.process_new_packets()?;
        }
    }
    Ok((server, client))
}

fn io_error(error: io::Error) -> Error {
    Error::General(error.to_string())
}

fn trusting(ca: &Ca, names: &[&str]) -> ServerCheck {
    ServerCheck::Verified {
        authorities: Some(ca.authorities()),
        subject_alt_names: names.iter().map(|n| (*n).to_owned()).collect(),
    }
}

fn client(identity: Option<&Made>, check: &ServerCheck, spoken: &Spoken) -> Arc<ClientConfig> {
    public_client(identity.map(Made::identity), check, spoken, &clock()).unwrap()
}

#[test]
fn a_server_is_taken_by_name_and_authority_alone() {
    let (ca, other) = (Ca::new("ours"), Ca::new("theirs"));
    let made = ca.issue(vec![
        dns("shop.example"),
        dns("*.below.example"),
        uri("spiffe://x/y"),
    ]);
    let server = public_server(vec![made.identity()], None, &spoken(), &clock()).unwrap();
    for (check, name, taken) in [
        (trusting(&ca, &[]), "shop.example", true),
        (trusting(&ca, &[]), "x.below.example", true),
        (trusting(&ca, &[]), "other.example", false),
        (trusting(&other, &[]), "shop.example", false),
        (trusting(&ca, &["spiffe://x/y"]), "other.example", true),
        (trusting(&ca, &["shop.example"]), "other.example", true),
        (trusting(&ca, &["a.below.example"]), "other.example", true),
        (trusting(&ca, &["a.b.below.example"]), "shop.example", false),
        (trusting(&ca, &["spiffe://x/z"]), "shop.example", false),
        (trusting(&other, &["shop.example"]), "shop.example", false),
        (ServerCheck::DangerAnyone, "other.example", true),
    ] {
        let answer = shake(&server, &client(None, &check, &spoken()), name);
        assert_eq!(
            answer.is_ok(),
            taken,
            "{check:?} {name}: {:?}",
            answer.err()
        );
    }
    let public = ServerCheck::Verified {
        authorities: None,
        subject_alt_names: vec![],
    };
    let answer = shake(&server, &client(None, &public, &spoken()), "shop.example");
    assert!(answer.is_err(), "not vouched for by a public authority");
}

#[test]
fn a_client_shows_what_is_asked_of_it_or_goes() {
    let (ca, other) = (Ca::new("ours"), Ca::new("theirs"));
    let made = ca.issue(vec![dns("shop.example")]);
    let named = ca.issue(vec![dns("alice.example"), uri("spiffe://partner/alice")]);
    let foreign = other.issue(vec![dns("alice.example")]);
    let rules = |required, names: &[&str]| PeerRules {
        authorities: ca.authorities(),
        required,
        subject_alt_names: names.iter().map(|n| (*n).to_owned()).collect(),
        pins: vec![],
    };
    let alice = ["spiffe://partner/alice", "nobody"];
    for (rules, shown, taken) in [
        (rules(true, &[]), Some(&named), true),
        (rules(true, &[]), None, false),
        (rules(true, &[]), Some(&foreign), false),
        (rules(false, &[]), None, true),
        (rules(false, &[]), Some(&foreign), false),
        (rules(true, &alice), Some(&named), true),
        (rules(true, &alice), Some(&made), false),
        (rules(false, &alice), Some(&made), false),
    ] {
        let server =
            public_server(vec![made.identity()], Some(&rules), &spoken(), &clock()).unwrap();
        let client = client(shown, &trusting(&ca, &[]), &spoken());
        let answer = shake(&server, &client, "shop.example");
        assert_eq!(answer.is_ok(), taken, "{rules:?}: {:?}", answer.err());
        if let Ok((server, _)) = answer
            && shown.is_some()
        {
            let details = ClientDetails::of(server.peer_certificates().unwrap()).unwrap();
            assert_eq!(details.uris, ["spiffe://partner/alice"]);
            assert_eq!(details.dns, ["alice.example"]);
            assert_eq!(details.subject, "CN=somebody");
        }
    }
}

#[test]
fn pins_hold_for_certificate_and_key() {
    let ca = Ca::new("ours");
    let made = ca.issue(vec![dns("shop.example")]);
    let leaf = made.identity().chain().first().unwrap().clone();
    let hash = ClientDetails::of(std::slice::from_ref(&leaf)).unwrap().hash;
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let key = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, parsed.public_key().raw);
    let key = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(key.as_ref())
    };
    let upper = hash.to_ascii_uppercase();
    for (pin, taken) in [
        (hash, true),
        (upper, true),
        (key, true),
        ("00".into(), false),
    ] {
        let rules = PeerRules {
            authorities: ca.authorities(),
            required: true,
            subject_alt_names: vec![],
            pins: vec![pin],
        };
        let server =
            public_server(vec![made.identity()], Some(&rules), &spoken(), &clock()).unwrap();
        let client = client(Some(&made), &trusting(&ca, &[]), &spoken());
        assert_eq!(shake(&server, &client, "shop.example").is_ok(), taken);
    }
}

#[test]
fn versions_suites_and_protocols_are_those_configured() {
    use rustls::ProtocolVersion;
    let ca = Ca::new("ours");
    let made = ca.issue(vec![dns("shop.example")]);
    let only = |version| Spoken {
        min: version,
        max: version,
        ..spoken()
    };
    let chacha = Spoken {
        max: TlsVersion::V1_2,
        cipher_suites: vec!["ECDHE-ECDSA-CHACHA20-POLY1305".into()],
        ..spoken()
    };
    for (ours, theirs, version) in [
        (spoken(), spoken(), Some(ProtocolVersion::TLSv1_3)),
        (
            only(TlsVersion::V1_2),
            spoken(),
            Some(ProtocolVersion::TLSv1_2),
        ),
        (
            spoken(),
            only(TlsVersion::V1_2),
            Some(ProtocolVersion::TLSv1_2),
        ),
        (only(TlsVersion::V1_3), only(TlsVersion::V1_2), None),
        (chacha, spoken(), Some(ProtocolVersion::TLSv1_2)),
    ] {
        let server = public_server(vec![made.identity()], None, &ours, &clock()).unwrap();
        let answer = shake(
            &server,
            &client(None, &trusting(&ca, &[]), &theirs),
            "shop.example",
        );
        let spoken = answer.as_ref().ok().and_then(|(s, _)| s.protocol_version());
        assert_eq!(spoken, version, "{ours:?} {theirs:?}");
        if let Ok((server, _)) = answer {
            assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
            if !ours.cipher_suites.is_empty() {
                let suite = server.negotiated_cipher_suite().unwrap().suite();
                assert!(format!("{suite:?}").contains("CHACHA20"), "{suite:?}");
            }
        }
    }
    let unknown = Spoken {
        cipher_suites: vec!["RC4-MD5".into()],
        ..spoken()
    };
    let refused = public_server(vec![made.identity()], None, &unknown, &clock());
    assert!(matches!(refused, Err(PublicTlsError::CipherSuite(name)) if name == "RC4-MD5"));
}

#[test]
fn of_two_certificates_the_one_that_fits_is_shown() {
    let ca = Ca::new("ours");
    let first = ca.issue_by(vec![dns("shop.example")], &rcgen::PKCS_ED25519);
    let second = ca.issue(vec![dns("shop.example")]);
    let server = public_server(
        vec![first.identity(), second.identity()],
        None,
        &spoken(),
        &clock(),
    )
    .unwrap();
    let (_, client) = shake(
        &server,
        &client(None, &trusting(&ca, &[]), &spoken()),
        "shop.example",
    )
    .unwrap();
    let shown = client.peer_certificates().unwrap().first().unwrap();
    assert_eq!(shown, first.identity().chain().first().unwrap());
}

#[test]
fn what_cannot_be_used_is_told_apart() {
    let ca = Ca::new("ours");
    let (one, two) = (ca.issue(vec![]), ca.issue(vec![]));
    let parse = |chain: &str, key: &str| {
        PublicIdentity::parse(chain.as_bytes(), key.as_bytes()).map(|_| ())
    };
    assert!(parse(&one.chain, &one.key).is_ok());
    assert!(matches!(
        parse(&one.chain, &two.key),
        Err(PublicTlsError::KeyMismatch)
    ));
    assert!(matches!(
        parse("", &one.key),
        Err(PublicTlsError::Certificate)
    ));
    assert!(matches!(
        parse(&one.chain, "junk"),
        Err(PublicTlsError::Key)
    ));
    assert!(matches!(
        Authorities::parse(b"junk", b""),
        Err(PublicTlsError::Authorities)
    ));
    let shown = format!("{:?}", one.identity());
    assert_eq!(shown, "PublicIdentity(..)");
}
