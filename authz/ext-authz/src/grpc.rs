//! The gRPC form, `envoy.service.auth.v3.Authorization`
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/auth/v3/external_auth.proto>).

mod reading;

use std::sync::Arc;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
        },
        service::auth::v3::{
            CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
            authorization_server::{Authorization, AuthorizationServer},
            check_response::HttpResponse,
        },
        r#type::v3::HttpStatus,
    },
    google::rpc,
};
use reeve_proxy::inquiry::Judged;
use tonic::{Request, Response, Status};

use crate::{
    answer::{AnswerOptions, Denial},
    judge::{Judge, Verdict},
    limits::MAX_CHECK_BYTES,
    metrics::Form,
};

/// The service.
#[derive(Clone, Debug)]
pub struct Checks(Arc<Judge>);

impl Checks {
    /// The service with its bounds.
    pub fn server(judge: Arc<Judge>) -> AuthorizationServer<Self> {
        AuthorizationServer::new(Self(judge)).max_decoding_message_size(MAX_CHECK_BYTES)
    }
}

#[tonic::async_trait]
impl Authorization for Checks {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let started = tokio::time::Instant::now();
        let verdict = match reading::inquiry(request.into_inner()) {
            Ok(inquiry) => self.0.judge(Form::Grpc, inquiry).await,
            Err(error) => {
                tracing::debug!(%error, "a question cannot be read");
                self.0.malformed(Form::Grpc, started)
            }
        };
        Ok(Response::new(match verdict {
            Verdict::Allowed {
                judged,
                decision_id,
            } => allowed(&judged, &decision_id, self.0.answers()),
            Verdict::Denied(denial) => denied(&denial),
        }))
    }
}

fn allowed(judged: &Judged, decision_id: &str, options: &AnswerOptions) -> CheckResponse {
    let changes = judged.changes();
    let set = options.all_set(changes, decision_id);
    let removed = changes.remove.iter().chain(&options.remove);
    let mut remove: Vec<String> = removed.map(ToString::to_string).collect();
    // What is set replaces what the caller sent, and must not be removed after it.
    remove.retain(|name| !set.iter().any(|(set, _)| set == name.as_str()));
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let option = |(name, value): (http::HeaderName, http::HeaderValue)| {
        header_option((name.to_string(), text(&value)))
    };
    let ok = OkHttpResponse {
        headers: set.into_iter().map(option).collect(),
        headers_to_remove: remove,
        query_parameters_to_remove: changes.remove_query.clone(),
        ..OkHttpResponse::default()
    };
    CheckResponse {
        status: Some(status(tonic::Code::Ok)),
        http_response: Some(HttpResponse::OkResponse(ok)),
        ..CheckResponse::default()
    }
}

fn denied(denial: &Denial) -> CheckResponse {
    let code = match denial.status.as_u16() {
        401 => tonic::Code::Unauthenticated,
        400 => tonic::Code::InvalidArgument,
        503 => tonic::Code::Unavailable,
        _ => tonic::Code::PermissionDenied,
    };
    let headers = denial.headers().into_iter();
    let response = DeniedHttpResponse {
        status: Some(HttpStatus {
            code: i32::from(denial.status.as_u16()),
        }),
        headers: headers
            .map(|(name, value)| header_option((name.to_string(), value)))
            .collect(),
        body: denial.body(),
    };
    CheckResponse {
        status: Some(status(code)),
        http_response: Some(HttpResponse::DeniedResponse(response)),
        ..CheckResponse::default()
    }
}

fn status(code: tonic::Code) -> rpc::Status {
    rpc::Status {
        code: code.into(),
        ..rpc::Status::default()
    }
}

/// Whatever the caller sent under that name is replaced.
fn header_option((key, value): (String, String)) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key,
            value,
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

#[cfg(test)]
mod tests;
