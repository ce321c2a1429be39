//! The SPIFFE Workload API (SPIFFE Workload API standard, sections 4 to 6).

use std::{collections::HashMap, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, future};
use reeve_svid::{Credentials, TrustBundle};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::{Door, jwt};
use crate::{
    RefusalReason,
    proto::workload::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse,
        ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
        X509svid, X509svidRequest, X509svidResponse, spiffe_workload_api_server::SpiffeWorkloadApi,
    },
};

/// Must be sent with every call, so that no browser or proxy can be made to call (section 4.2).
const SECURITY_HEADER: &str = "workload.spiffe.io";

#[derive(Debug)]
pub(super) struct WorkloadApi(pub(super) Arc<Door>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl WorkloadApi {
    async fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let header = request.metadata().get(SECURITY_HEADER);
        if header.is_none_or(|value| value != "true") {
            let reason = RefusalReason::NoSecurityHeader;
            return Err(self.0.refuse(request.extensions(), None, reason));
        }
        self.0.admit(request.extensions()).await
    }

    /// One answer for each version of the credentials, from the first on.
    fn answers<T: Send + 'static>(&self, answer: fn(&Credentials) -> T) -> Answers<T> {
        let versions = WatchStream::new(self.0.credentials.clone());
        let answers = versions.filter_map(move |version| {
            future::ready(version.map(|credentials| Ok(answer(&credentials))))
        });
        Box::pin(answers)
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Answers<X509svidResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.admit(&request).await?;
        Ok(Response::new(self.answers(svid_answer)))
    }

    type FetchX509BundlesStream = Answers<X509BundlesResponse>;

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.admit(&request).await?;
        Ok(Response::new(self.answers(bundles_answer)))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        self.admit(&request).await?;
        let (_, extensions, asked) = request.into_parts();
        let answer = jwt::fetch(&self.0, &extensions, asked).await?;
        Ok(Response::new(answer))
    }

    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.admit(&request).await?;
        Ok(Response::new(self.answers(jwt::bundles)))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.admit(&request).await?;
        jwt::validate(&self.0, request.get_ref()).map(Response::new)
    }
}

fn svid_answer(credentials: &Credentials) -> X509svidResponse {
    let svid = &credentials.svid;
    let chain: Vec<&[u8]> = svid.chain().iter().map(AsRef::as_ref).collect();
    let svid = X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: chain.concat(),
        x509_svid_key: svid.key_pkcs8_der().to_vec(),
        bundle: concatenated(&credentials.bundle),
        hint: String::new(),
    };
    X509svidResponse {
        svids: vec![svid],
        crl: Vec::new(),
        federated_bundles: HashMap::new(),
    }
}

fn bundles_answer(credentials: &Credentials) -> X509BundlesResponse {
    let bundle = &credentials.bundle;
    let name = bundle.trust_domain().id().to_string();
    X509BundlesResponse {
        crl: Vec::new(),
        bundles: HashMap::from([(name, concatenated(bundle))]),
    }
}

fn concatenated(bundle: &TrustBundle) -> Vec<u8> {
    let authorities: Vec<&[u8]> = bundle.authorities().iter().map(AsRef::as_ref).collect();
    authorities.concat()
}
