//! The SPIFFE Workload API (SPIFFE Workload API standard, sections 4 to 6).

use std::{collections::HashMap, pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use reeve_svid::{Credentials, TrustBundle};
use tonic::{Request, Response, Status};

use super::{Door, jwt};
use crate::{
    Caller, Identities, RefusalReason,
    identities::Ready,
    issuer,
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
    async fn admit<T>(&self, request: &Request<T>) -> Result<Identities, Status> {
        let header = request.metadata().get(SECURITY_HEADER);
        if header.is_none_or(|value| value != "true") {
            let reason = RefusalReason::NoSecurityHeader;
            return Err(self.0.refuse(request.extensions(), None, reason));
        }
        self.0.admit(request.extensions()).await
    }

    /// One answer for each version of the caller's identities, from the first on. It ends when there are none any more.
    async fn answers<R, T: Send + 'static>(
        &self,
        request: &Request<R>,
        answer: fn(&[Ready]) -> Option<T>,
    ) -> Result<Answers<T>, Status> {
        let identities = self.admit(request).await?;
        let caller = issuer::caller(request.extensions());
        let following = Following {
            door: Arc::clone(&self.0),
            caller,
            identities: Some(identities),
        };
        Ok(Box::pin(stream::unfold(
            following,
            move |mut following| async move {
                let answer = following.next(answer).await?;
                Some((answer, following))
            },
        )))
    }
}

/// Somebody who is told identities as they change.
struct Following {
    door: Arc<Door>,
    caller: Caller,
    /// None once they have ended.
    identities: Option<Identities>,
}

impl Following {
    async fn next<T>(&mut self, answer: fn(&[Ready]) -> Option<T>) -> Option<Result<T, Status>> {
        let ready = self.identities.as_mut()?.next().await;
        if let Some(answer) = ready.and_then(|ready| answer(&ready)) {
            return Some(Ok(answer));
        }
        self.identities = None;
        Some(Err(self.door.lost(self.caller.clone())))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Answers<X509svidResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let answers = self.answers(&request, |ready| Some(svid_answer(ready)));
        answers.await.map(Response::new)
    }

    type FetchX509BundlesStream = Answers<X509BundlesResponse>;

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let answers = self.answers(&request, |ready| Some(bundles_answer(first(ready)?)));
        answers.await.map(Response::new)
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let identities = self.admit(&request).await?;
        let (_, extensions, asked) = request.into_parts();
        let answer = jwt::fetch(&self.0, &extensions, (identities, asked)).await?;
        Ok(Response::new(answer))
    }

    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let answers = self.answers(&request, |ready| Some(jwt::bundles(first(ready)?)));
        answers.await.map(Response::new)
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let identities = self.admit(&request).await?;
        jwt::validate(&self.0, identities, request.get_ref()).map(Response::new)
    }
}

/// The trust bundle is the same for all.
fn first(ready: &[Ready]) -> Option<&Credentials> {
    ready.first().map(|one| &*one.credentials)
}

fn svid_answer(ready: &[Ready]) -> X509svidResponse {
    let svid = |one: &Ready| {
        let Credentials { svid, bundle } = &*one.credentials;
        let chain: Vec<&[u8]> = svid.chain().iter().map(AsRef::as_ref).collect();
        X509svid {
            spiffe_id: svid.id().to_string(),
            x509_svid: chain.concat(),
            x509_svid_key: svid.key_pkcs8_der().to_vec(),
            bundle: concatenated(bundle),
            hint: one.hint.clone(),
        }
    };
    X509svidResponse {
        svids: ready.iter().map(svid).collect(),
        crl: Vec::new(),
        federated_bundles: first(ready).map(federated).unwrap_or_default(),
    }
}

fn bundles_answer(credentials: &Credentials) -> X509BundlesResponse {
    X509BundlesResponse {
        crl: Vec::new(),
        bundles: by_domain(credentials.bundle.all()),
    }
}

fn federated(credentials: &Credentials) -> HashMap<String, Vec<u8>> {
    by_domain(credentials.bundle.federated().bundles().map(AsRef::as_ref))
}

/// Authorities by the SPIFFE ID of their trust domain.
fn by_domain<'b>(bundles: impl Iterator<Item = &'b TrustBundle>) -> HashMap<String, Vec<u8>> {
    let named =
        |bundle: &TrustBundle| (bundle.trust_domain().id().to_string(), concatenated(bundle));
    bundles.map(named).collect()
}

fn concatenated(bundle: &TrustBundle) -> Vec<u8> {
    let authorities: Vec<&[u8]> = bundle.authorities().iter().map(AsRef::as_ref).collect();
    authorities.concat()
}
