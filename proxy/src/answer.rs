//! Answers that the proxy itself gives, HTTP or gRPC. They tell a caller nothing it may not know.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use reeve_core::model::Abort;

use crate::{
    body::{ResponseBody, whole},
    breaker::Overflow,
    exchange::Exchange,
    external::Refusal,
    head::{HeadError, RawHead},
    headers::{DECISION_ID, OUTCOME},
    limits::{MAX_REALM_BYTES, RETRY_AFTER_SECONDS},
    path::PathError,
    rate_limit::Limited,
};

/// An answer of our own.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// One word for programs.
    error: &'static str,
    decision_id: Option<String>,
    /// Envoy's response flag.
    flag: &'static str,
    close: bool,
    /// The limit that bit.
    limit: Option<&'static str>,
    /// The gRPC status, where the HTTP one does not tell.
    grpc: Option<u16>,
    /// The rate limit that is reached.
    limited: Option<Limited>,
    /// What a server that was asked has the caller told.
    told: Option<Box<Told>>,
    /// There is none: the connection or stream is reset.
    resets: bool,
    /// What a 401 says to authenticate for.
    challenge: Option<Box<HeaderValue>>,
}

/// Of a rate limit server, or of one that refused.
#[derive(Clone, Debug)]
struct Told {
    headers: HeaderMap,
    /// In place of our own words.
    body: Bytes,
}

/// Marks a response that is never sent, and is the reason for that.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the connection is reset on purpose")]
pub(crate) struct Reset;

impl Answer {
    /// What Envoy's log calls it.
    pub(crate) fn flag(&self) -> &'static str {
        self.flag
    }

    fn new(status: StatusCode, error: &'static str, flag: &'static str) -> Self {
        Self {
            status,
            error,
            decision_id: None,
            flag,
            close: false,
            limit: None,
            grpc: None,
            limited: None,
            told: None,
            resets: false,
            challenge: None,
        }
    }

    /// The policies say no.
    pub(crate) fn denied(decision_id: String) -> Self {
        Self {
            decision_id: Some(decision_id),
            ..Self::new(StatusCode::FORBIDDEN, "denied", "UAEX")
        }
    }

    /// A server that was asked about it says no, or nothing.
    pub(crate) fn externally_refused(decision_id: String, refusal: Refusal) -> Self {
        Self {
            decision_id: Some(decision_id),
            told: Some(Box::new(Told {
                headers: refusal.headers,
                body: refusal.body,
            })),
            ..Self::new(refusal.status, "denied", "UAEX")
        }
    }

    /// A token is there and does not verify (RFC 6750 section 3.1). What is wrong with it is for the operator alone.
    pub(crate) fn invalid_token(decision_id: String, authority: &str) -> Self {
        Self {
            decision_id: Some(decision_id),
            challenge: Some(Box::new(challenge(authority))),
            ..Self::new(StatusCode::UNAUTHORIZED, "invalid_token", "UAEX")
        }
    }

    /// Somebody without an identity is refused so much that it is counted alone (RFC 6585 section 4).
    pub(crate) fn too_many_refusals() -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_refusals", "UAEX")
            .by("refused_requests_per_second")
    }

    /// STRICT, and the peer speaks plaintext.
    pub(crate) fn plaintext_refused(decision_id: String) -> Self {
        Self {
            close: true,
            ..Self::denied(decision_id)
        }
    }

    /// The decision cannot be recorded, so there is none.
    pub(crate) fn not_recorded() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_recorded", "UAEX")
    }

    /// There is no configuration, or the listener has gone from it.
    pub(crate) fn not_ready() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", "NC")
    }

    /// Too much at once.
    pub(crate) fn overloaded(limit: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "UO").by(limit)
    }

    /// The caller holds its whole share of the application (RFC 6585 section 4).
    pub(crate) fn too_many_requests(limit: &'static str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "UO").by(limit)
    }

    fn by(self, limit: &'static str) -> Self {
        Self {
            limit: Some(limit),
            ..self
        }
    }

    /// A circuit breaker is open.
    pub(crate) fn overflow(overflow: Overflow) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "upstream_overflow", "UO").by(overflow.limit())
    }

    /// A rate limit of the workload is reached (RFC 6585 section 4).
    pub(crate) fn rate_limited(limited: Limited) -> Self {
        Self {
            limited: Some(limited),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "RL").by("rate_limit")
        }
    }

    /// A limit that a server keeps is reached.
    pub(crate) fn globally_limited(told: HeaderMap) -> Self {
        Self {
            told: Some(Box::new(Told {
                headers: told,
                body: Bytes::new(),
            })),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "RL").by("global_rate_limit")
        }
    }

    /// The server that keeps a limit does not answer, and the limit demands that it does.
    pub(crate) fn rate_limit_unknown() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "rate_limit_unknown",
            "RLSE",
        )
    }

    /// A fault put in on purpose.
    pub(crate) fn fault(how: Abort) -> Self {
        let (status, grpc) = match how {
            Abort::Http(status) => (status, None),
            Abort::Grpc(code) => (http_status_of(code), Some(code)),
            Abort::Reset => (503, None),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Self {
            grpc,
            resets: how == Abort::Reset,
            ..Self::new(status, "fault_filter_abort", "FI")
        }
    }

    /// The head cannot be served.
    pub(crate) fn bad_head(error: HeadError) -> Self {
        match error {
            HeadError::Path(PathError::Ambiguous) => {
                Self::new(StatusCode::BAD_REQUEST, "ambiguous_path", "DPE")
            }
            HeadError::ManyHeaders => Self::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "too_many_headers",
                "DPE",
            )
            .by("max_headers"),
            HeadError::LongPath => {
                Self::new(StatusCode::URI_TOO_LONG, "path_too_long", "DPE").by("max_path_bytes")
            }
            HeadError::Connect => {
                Self::new(StatusCode::NOT_IMPLEMENTED, "connect_not_served", "DPE")
            }
            HeadError::Path(_)
            | HeadError::NoAuthority
            | HeadError::TwoAuthorities
            | HeadError::BadAuthority
            | HeadError::BadScheme => Self::new(StatusCode::BAD_REQUEST, "bad_request", "DPE"),
        }
    }

    /// No route.
    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_route", "NR")
    }

    /// Nobody is told of that authority, and what is unknown is not called.
    pub(crate) fn not_in_registry(decision_id: String) -> Self {
        Self {
            decision_id: Some(decision_id),
            ..Self::new(StatusCode::BAD_GATEWAY, "not_in_registry", "NR")
        }
    }

    /// The authority's name has no address.
    pub(crate) fn no_address() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "name_not_found", "DF")
    }

    /// The route names a cluster that there is not.
    pub(crate) fn no_cluster() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_such_subset_or_port",
            "NC",
        )
    }

    /// No endpoint.
    pub(crate) fn no_endpoint() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_healthy_upstream", "UH")
    }

    /// The endpoint failed us.
    pub(crate) fn upstream_failed(flag: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "upstream_failed", flag)
    }

    /// The request is nothing but an upgrade, and the upstream's port takes none.
    pub(crate) fn no_upgrade() -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "upgrade_not_served", "DPE")
    }

    /// The request's body must be transformed, and cannot be.
    pub(crate) fn request_not_transformed(status: StatusCode) -> Self {
        let answer = Self::new(status, "request_not_transformed", "DPE");
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => answer.by("max_transform_body_bytes"),
            _ => answer,
        }
    }

    /// The application's response must be transformed, and cannot be.
    pub(crate) fn response_not_transformed() -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "response_not_transformed", "UPE")
    }

    /// Out of time.
    pub(crate) fn timeout() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "UT")
    }

    /// The stream lost its permit before there was a response.
    pub(crate) fn ended() -> Self {
        Self {
            close: true,
            ..Self::new(StatusCode::FORBIDDEN, "no_longer_permitted", "UAEX")
        }
    }

    /// The upstream request could not be built from the judged head.
    pub(crate) fn unbuildable() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "DPE")
    }

    /// The response to a request whose head was not read.
    pub(crate) fn unread(
        self,
        parts: &http::request::Parts,
        mut exchange: Exchange,
    ) -> Response<ResponseBody> {
        exchange.unread(RawHead::of(parts));
        self.into_response(exchange)
    }

    /// The response that ends `exchange`.
    pub(crate) fn into_response(self, mut exchange: Exchange) -> Response<ResponseBody> {
        exchange.flag(self.flag);
        exchange.details = self.error;
        if self.resets {
            let mut none = Response::new(whole("", exchange));
            none.extensions_mut().insert(Reset);
            return none;
        }
        if let Some(limit) = self.limit {
            exchange.limited(limit);
        }
        let mut response = if exchange.ends.protocol == "grpc" {
            self.grpc_head()
        } else {
            self.http_head()
        };
        let id = self
            .decision_id
            .as_deref()
            .and_then(|id| HeaderValue::try_from(id).ok());
        if let Some(id) = id {
            response.headers_mut().insert(DECISION_ID, id);
        }
        if let Some(limited) = &self.limited {
            limited.tell(response.headers_mut());
        }
        if let Some(told) = self.told.as_deref() {
            response.headers_mut().extend(told.headers.clone());
        }
        if self.leaves_unknown() && exchange.is_for_mesh_peer() {
            let unknown = HeaderValue::from_static("unknown");
            response.headers_mut().insert(OUTCOME, unknown);
        }
        exchange.answered(response.status(), response.headers());
        let text = if exchange.ends.protocol == "grpc" {
            Bytes::new()
        } else {
            self.body().cloned().unwrap_or_else(|| self.text().into())
        };
        response.map(|()| whole(text, exchange))
    }

    fn body(&self) -> Option<&Bytes> {
        let body = self.told.as_ref().map(|told| &told.body);
        body.filter(|body| !body.is_empty())
    }

    /// Whether the upstream may have acted on the request.
    fn leaves_unknown(&self) -> bool {
        match self.error {
            "upstream_failed" => self.flag != "UF" && self.flag != "UR",
            "upstream_timeout" | "no_longer_permitted" | "response_not_transformed" => true,
            _ => false,
        }
    }

    fn http_head(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let content_type = match self.body() {
            Some(_) => "text/plain",
            None => "application/json",
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.error == "upstream_overflow" {
            headers.insert("x-envoy-overloaded", HeaderValue::from_static("true"));
        }
        if matches!(
            self.error,
            "overloaded" | "too_many_requests" | "too_many_refusals"
        ) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        if let Some(challenge) = &self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, (**challenge).clone());
        }
        response
    }

    /// Trailers-Only (gRPC over HTTP/2, "Responses"), with gRPC's own mapping of HTTP statuses.
    fn grpc_head(&self) -> Response<()> {
        let code = match self.status.as_u16() {
            401 => "16",
            403 => "7",
            404 | 501 => "12",
            400 | 413 | 414 | 415 | 422 | 431 => "13",
            504 => "4",
            _ => "14",
        };
        let code = match self.grpc {
            Some(code) => HeaderValue::from(code),
            None => HeaderValue::from_static(code),
        };
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert("grpc-status", code);
        headers.insert("grpc-message", HeaderValue::from_static(self.error));
        response
    }

    fn text(&self) -> String {
        let body = match &self.decision_id {
            Some(id) => serde_json::json!({"error": self.error, "decision_id": id}),
            None => serde_json::json!({"error": self.error}),
        };
        format!("{body}\n")
    }
}

/// The challenge of RFC 6750 section 3, for the host that was called, as Envoy's `jwt_authn` writes it.
fn challenge(authority: &str) -> HeaderValue {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    let value = match authority.bytes().all(plain) && authority.len() <= MAX_REALM_BYTES {
        true => format!("Bearer realm=\"http://{authority}/\", error=\"invalid_token\""),
        false => String::new(),
    };
    let fallback = HeaderValue::from_static("Bearer realm=\"mesh\", error=\"invalid_token\"");
    match HeaderValue::try_from(value) {
        Ok(value) if !value.is_empty() => value,
        Ok(_) | Err(_) => fallback,
    }
}

/// The HTTP status of a gRPC one, for callers that do not speak gRPC (Envoy's and gRPC-Gateway's mapping).
pub(crate) fn http_status_of(code: u16) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_names_the_host_and_nothing_that_a_caller_could_put_in_its_place() {
        let named = |authority: &str| challenge(authority).to_str().unwrap().to_owned();
        for authority in ["shop.example:8080", "127.0.0.1", "[::1]:80"] {
            let expected = format!("Bearer realm=\"http://{authority}/\", error=\"invalid_token\"");
            assert_eq!(named(authority), expected);
        }
        let long = "a".repeat(MAX_REALM_BYTES + 1);
        for authority in ["a\", error=\"none", "a\\", "a b", "a\r\nx: y", "é", &long] {
            assert_eq!(
                named(authority),
                "Bearer realm=\"mesh\", error=\"invalid_token\""
            );
        }
    }

    /// The longest id that a record can have.
    fn longest_id() -> String {
        let name = "a".repeat(253);
        let record = reeve_core::RecordId {
            proxy: name.parse().unwrap(),
            epoch: u64::MAX,
            worker: u16::MAX,
            sequence: u64::MAX,
        };
        reeve_audit::decision_id(&record)
    }

    /// What a caller is told does not grow with what it sent, and says nothing of why.
    #[test]
    fn a_refusal_is_short_and_says_a_word_and_an_id() {
        let id = longest_id();
        let long = "host.example:".repeat(4096);
        for (answer, status, word) in [
            (Answer::denied(id.clone()), 403, "denied"),
            (Answer::plaintext_refused(id.clone()), 403, "denied"),
            (
                Answer::invalid_token(id.clone(), &long),
                401,
                "invalid_token",
            ),
            (
                Answer::invalid_token(id.clone(), "a\u{0}b"),
                401,
                "invalid_token",
            ),
        ] {
            let text = answer.text();
            assert!(text.len() <= 1024, "{text}");
            let expected = serde_json::json!({"error": word, "decision_id": id});
            let told: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!((answer.status.as_u16(), told), (status, expected));
            for head in [answer.http_head(), answer.grpc_head()] {
                let headers = head.headers();
                let bytes: usize = headers
                    .iter()
                    .map(|(n, v)| n.as_str().len() + v.len())
                    .sum();
                assert!(bytes <= 512, "{headers:?}");
            }
            let told = answer.grpc_head();
            assert_eq!(
                told.headers()["grpc-message"],
                word,
                "no more than the word"
            );
        }
        let ended = Answer::ended();
        assert_eq!(ended.text(), "{\"error\":\"no_longer_permitted\"}\n");
        let counted = Answer::too_many_refusals();
        assert_eq!(counted.text(), "{\"error\":\"too_many_refusals\"}\n");
    }
}
