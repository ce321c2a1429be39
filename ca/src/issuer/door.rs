//! What stands before the issuer: a request that is too large to be read is recorded all the same.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    Code,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

use super::{IssuerServer, IssuerService, caller};
use crate::{CsrError, IdentityEvents, RefusalReason, RefusedIdentity};

/// The issuer as it is served.
#[derive(Clone)]
pub struct IssuerDoor {
    inner: IssuerServer<IssuerService>,
    events: Arc<dyn IdentityEvents>,
}

impl IssuerDoor {
    pub(super) fn new(inner: IssuerServer<IssuerService>, events: Arc<dyn IdentityEvents>) -> Self {
        Self { inner, events }
    }
}

impl NamedService for IssuerDoor {
    const NAME: &'static str = <IssuerServer<IssuerService> as NamedService>::NAME;
}

impl Service<http::Request<Body>> for IssuerDoor {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let caller = caller(request.extensions());
        let events = Arc::clone(&self.events);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            let status = answer.headers().get("grpc-status");
            // No other answer of ours has this code: tonic gives it to what is beyond the bound of a message.
            if status.is_some_and(|code| Code::from_bytes(code.as_bytes()) == Code::OutOfRange) {
                let reason = RefusalReason::Request(CsrError::TooLarge);
                events.refused(RefusedIdentity::new(caller, None, reason));
            }
            Ok(answer)
        })
    }
}

impl fmt::Debug for IssuerDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuerDoor(..)")
    }
}
