//! Asking by gRPC: `envoy.service.auth.v3.Authorization/Check`
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/auth/v3/external_auth.proto>).

use std::net::IpAddr;

use bytes::{BufMut as _, Bytes, BytesMut};
use envoy_types::pb::envoy::{
    config::core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier},
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse,
        attribute_context::{self, HttpRequest, Peer as WirePeer},
        check_response::HttpResponse,
    },
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use prost::Message as _;
use reeve_core::{SpiffeId, UnixTime, model::BodyInCheck};

use super::{
    Answered, Asking, PARTIAL_BODY, Refusal, Ruling, Shown, Site, Unanswered, head, own_head,
};
use crate::{head::Head, judge::Question};

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Before a message: whether it is compressed, and its length.
const FRAME_HEAD: usize = 5;

pub(super) async fn ask(
    asking: &Asking,
    site: Site<'_>,
    question: &Question,
    shown: Option<&Shown>,
) -> Result<Ruling, Unanswered> {
    let provider = &asking.rule.provider;
    let authority = format!("{}:{}", provider.service, provider.port);
    let about = question.head.as_deref();
    let to = (authority, PATH.to_owned());
    let mut head = own_head(about, Method::POST, Version::HTTP_2, to);
    let grpc = HeaderValue::from_static("application/grpc");
    head.headers.insert(header::CONTENT_TYPE, grpc);
    let trailers = HeaderValue::from_static("trailers");
    head.headers.insert(header::TE, trailers);
    let own = &site.snapshot.workload().identity;
    let mut check = check(question, own, site.worker.ledger.now());
    if let (Some(shown), Some(rule)) = (shown, &provider.body) {
        show(&mut check, shown, rule);
    }
    let body = framed(&check);
    read(&asking.call(site, head, body).await?)
}

/// What is asked.
fn check(question: &Question, own: &SpiffeId, now: UnixTime) -> CheckRequest {
    let caller = question.peer.principal.spiffe_id();
    let http = question.head.as_deref().map(http);
    let millis = now.as_millis();
    let time = envoy_types::pb::google::protobuf::Timestamp {
        seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1000 * 1_000_000).unwrap_or_default(),
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(WirePeer {
                address: Some(address(question.peer.address, 0)),
                principal: caller.map(|id| id.as_str().to_owned()).unwrap_or_default(),
                ..WirePeer::default()
            }),
            destination: Some(WirePeer {
                address: question
                    .place
                    .address
                    .map(|ip| address(ip, question.place.port)),
                principal: own.as_str().to_owned(),
                ..WirePeer::default()
            }),
            request: Some(attribute_context::Request {
                time: Some(time),
                http,
            }),
            ..AttributeContext::default()
        }),
    }
}

/// Adds what is shown of the body: a text, of which what is no UTF-8 is replaced, or bytes.
fn show(check: &mut CheckRequest, shown: &Shown, rule: &BodyInCheck) {
    let request = check.attributes.as_mut().and_then(|a| a.request.as_mut());
    let Some(http) = request.and_then(|request| request.http.as_mut()) else {
        return;
    };
    match rule.as_bytes {
        true => http.raw_body = shown.bytes.to_vec(),
        false => http.body = String::from_utf8_lossy(&shown.bytes).into_owned(),
    }
    if !shown.is_partial {
        http.size = i64::try_from(shown.bytes.len()).unwrap_or(-1);
    }
    let partial = shown.is_partial.to_string();
    http.headers.insert(PARTIAL_BODY.to_owned(), partial);
}

fn address(ip: IpAddr, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    }
}

/// The request, as it was read: its path is the one that is judged.
fn http(head: &Head) -> HttpRequest {
    let mut headers: std::collections::HashMap<String, String> = std::collections::HashMap::new();
    for name in head.headers.keys() {
        let values = head.headers.get_all(name).iter();
        let values: Vec<_> = values
            .map(|v| String::from_utf8_lossy(v.as_bytes()))
            .collect();
        let separator = if *name == header::COOKIE { "; " } else { "," };
        headers.insert(name.as_str().to_owned(), values.join(separator));
    }
    for (name, value) in [
        (":authority", head.authority.clone()),
        (":method", head.method.as_str().to_owned()),
        (":path", head.target()),
        (":scheme", "http".to_owned()),
    ] {
        headers.insert(name.to_owned(), value);
    }
    HttpRequest {
        id: head.request_id().unwrap_or_default().to_owned(),
        method: head.method.as_str().to_owned(),
        headers,
        path: head.target(),
        host: head.authority.clone(),
        scheme: "http".to_owned(),
        protocol: head.protocol().to_owned(),
        size: -1,
        ..HttpRequest::default()
    }
}

fn framed(question: &CheckRequest) -> Bytes {
    let length = question.encoded_len();
    let mut bytes = BytesMut::with_capacity(FRAME_HEAD + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_slice(&question.encode_to_vec());
    bytes.freeze()
}

pub(super) fn read(answered: &Answered) -> Result<Ruling, Unanswered> {
    if answered.status != StatusCode::OK {
        return Err(Unanswered::Status(answered.status.as_u16()));
    }
    let status = |headers: &HeaderMap| {
        let status = headers.get("grpc-status")?;
        Some(status.to_str().unwrap_or_default().to_owned())
    };
    let status = status(&answered.trailers).or_else(|| status(&answered.headers));
    if status.as_deref() != Some("0") {
        return Err(Unanswered::Grpc(status.unwrap_or_default()));
    }
    let message = message(&answered.body).ok_or(Unanswered::Unreadable)?;
    let response = CheckResponse::decode(message).map_err(|_| Unanswered::Unreadable)?;
    ruling(response)
}

/// The one message of an answer that is not compressed.
fn message(body: &Bytes) -> Option<Bytes> {
    let (head, rest) = body.split_at_checked(FRAME_HEAD)?;
    let [compressed, length @ ..] = head else {
        return None;
    };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    let whole = usize::try_from(length).ok()? == rest.len();
    (*compressed == 0 && whole).then(|| body.slice(FRAME_HEAD..))
}

/// SECURITY: without a status nothing is allowed, whatever else the answer says.
fn ruling(response: CheckResponse) -> Result<Ruling, Unanswered> {
    let allowed = response
        .status
        .as_ref()
        .is_some_and(|status| status.code == 0);
    match (allowed, response.http_response) {
        (true, Some(HttpResponse::OkResponse(ok))) => {
            let edits = head::Edits::of_grpc(&ok).ok_or(Unanswered::Unreadable)?;
            Ok(Ruling::Allowed(Box::new(edits)))
        }
        (true, None) => Ok(Ruling::Allowed(Box::default())),
        (true, Some(_)) => Err(Unanswered::Unreadable),
        (false, Some(HttpResponse::DeniedResponse(denied))) => {
            Ok(Ruling::Denied(Box::new(refusal(denied))))
        }
        (false, _) if response.status.is_none() => Err(Unanswered::Unreadable),
        (false, _) => Ok(Ruling::Denied(Box::new(Refusal::of(StatusCode::FORBIDDEN)))),
    }
}

fn refusal(denied: DeniedHttpResponse) -> Refusal {
    let status = denied.status.map_or(0, |status| status.code);
    let status = u16::try_from(status).ok().filter(|status| *status >= 300);
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    Refusal {
        status: status.unwrap_or(StatusCode::FORBIDDEN),
        headers: head::told(&denied.headers),
        body: denied.body.into(),
    }
}
