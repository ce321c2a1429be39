//! The SPIFFE Workload API (SPIFFE Workload API standard): X.509-SVIDs and bundles as streams.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt, future, stream::BoxStream};
use reeve_svid::{Credentials, TrustBundle};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::{
    agent_socket::Gate,
    proto::workload::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse,
        ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
        X509svid, X509svidRequest, X509svidResponse, spiffe_workload_api_server::SpiffeWorkloadApi,
    },
};

/// Metadata every request must carry, so that none can be forged through a browser or a proxy (section 5).
const HEADER: &str = "workload.spiffe.io";

/// The server.
#[derive(Debug)]
pub(crate) struct WorkloadApi {
    gate: Gate,
}

impl WorkloadApi {
    pub(crate) fn new(gate: Gate) -> Self {
        Self { gate }
    }

    /// A stream with one message per version of the credentials, the present one first.
    async fn stream<Q, M: Send + 'static>(
        &self,
        request: &Request<Q>,
        message: impl Fn(&Credentials) -> M + Send + Sync + 'static,
    ) -> Result<Response<BoxStream<'static, Result<M, Status>>>, Status> {
        check_header(request)?;
        let own_id = self.gate.own_id().as_str();
        let credentials = self.gate.enter(request.extensions(), own_id).await?;
        let versions = WatchStream::new(credentials).filter_map(future::ready);
        Ok(Response::new(
            versions
                .map(move |c: Arc<Credentials>| Ok(message(&c)))
                .boxed(),
        ))
    }
}

fn check_header<Q>(request: &Request<Q>) -> Result<(), Status> {
    match request.metadata().get(HEADER) {
        Some(value) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument(
            "the metadata workload.spiffe.io: true is missing",
        )),
    }
}

fn jwt_unsupported() -> Status {
    Status::unimplemented("this agent issues X.509-SVIDs only, no JWT-SVIDs")
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = BoxStream<'static, Result<X509svidResponse, Status>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.stream(&request, svid_message).await
    }

    type FetchX509BundlesStream = BoxStream<'static, Result<X509BundlesResponse, Status>>;

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.stream(&request, |credentials| X509BundlesResponse {
            crl: Vec::new(),
            bundles: HashMap::from([(
                credentials.bundle.trust_domain().id().to_string(),
                bundle_der(&credentials.bundle),
            )]),
        })
        .await
    }

    async fn fetch_jwtsvid(
        &self,
        _request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        Err(jwt_unsupported())
    }

    type FetchJWTBundlesStream = BoxStream<'static, Result<JwtBundlesResponse, Status>>;

    async fn fetch_jwt_bundles(
        &self,
        _request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(jwt_unsupported())
    }

    async fn validate_jwtsvid(
        &self,
        _request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(jwt_unsupported())
    }
}

fn svid_message(credentials: &Credentials) -> X509svidResponse {
    let svid = &credentials.svid;
    X509svidResponse {
        svids: vec![X509svid {
            spiffe_id: svid.id().to_string(),
            x509_svid: svid.chain().concat_der(),
            x509_svid_key: svid.key_pkcs8_der().to_vec(),
            bundle: bundle_der(&credentials.bundle),
            hint: String::new(),
        }],
        crl: Vec::new(),
        federated_bundles: HashMap::new(),
    }
}

fn bundle_der(bundle: &TrustBundle) -> Vec<u8> {
    bundle.authorities().concat_der()
}

/// Certificates one after the other, as the Workload API wants them.
trait ConcatDer {
    fn concat_der(&self) -> Vec<u8>;
}

impl ConcatDer for [rustls_pki_types::CertificateDer<'_>] {
    fn concat_der(&self) -> Vec<u8> {
        self.iter().flat_map(|der| der.iter().copied()).collect()
    }
}
