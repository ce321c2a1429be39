//! `rustls` verifiers that know SPIFFE IDs instead of host names.

use std::sync::Arc;

use reeve_core::{Clock, SpiffeId};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Realm;
use crate::{Purpose, SvidError, TrustBundle, VerifiedPeer};

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Required,
    Optional,
}

/// What both directions share.
#[derive(Debug)]
struct Judge {
    bundle: Arc<TrustBundle>,
    realm: Realm,
    clock: Arc<dyn Clock>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
pub(super) struct ClientVerifier {
    judge: Judge,
    presence: Presence,
}

#[derive(Debug)]
pub(super) struct ServerVerifier {
    judge: Judge,
    expected: Vec<SpiffeId>,
}

impl Judge {
    fn new((bundle, realm): (Arc<TrustBundle>, Realm), clock: Arc<dyn Clock>) -> Self {
        Self {
            bundle,
            realm,
            clock,
            algorithms: aws_lc_rs::default_provider().signature_verification_algorithms,
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        purpose: Purpose,
    ) -> Result<VerifiedPeer, Error> {
        let mut chain = vec![leaf.clone()];
        chain.extend(issuers.iter().cloned());
        let now = self.clock.now();
        let verified = self.realm.verify(&chain, &self.bundle, now, purpose);
        verified.map_err(refuse)
    }

    fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

impl ClientVerifier {
    pub(super) fn new(
        trusted: (Arc<TrustBundle>, Realm),
        clock: Arc<dyn Clock>,
        presence: Presence,
    ) -> Self {
        let judge = Judge::new(trusted, clock);
        Self { judge, presence }
    }
}

impl ServerVerifier {
    pub(super) fn new(
        trusted: (Arc<TrustBundle>, Realm),
        clock: Arc<dyn Clock>,
        expected: &[SpiffeId],
    ) -> Self {
        Self {
            judge: Judge::new(trusted, clock),
            expected: expected.to_vec(),
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.presence == Presence::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge
            .verify(end_entity, intermediates, Purpose::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::SupportedVersionsExtensionRequired.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let peer = self
            .judge
            .verify(end_entity, intermediates, Purpose::Server)?;
        if !self.expected.contains(peer.id()) {
            let found = peer.id().clone();
            return Err(refuse(SvidError::UnexpectedId { found }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::SupportedVersionsExtensionRequired.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.algorithms.supported_schemes()
    }
}

/// Keeps our reason inside the library's error; the peer sees `certificate_unknown` and nothing more.
fn refuse(error: SvidError) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}
