//! Upgrades (RFC 9110 section 7.8): after `101 Switching Protocols` a connection carries another protocol, WebSocket
//! as a rule. The request is judged like any other; what follows is opaque, is counted, and ends with its permit.
//!
//! Between two sidecars such a request has an HTTP/1.1 connection of its own, which becomes part of the upgraded one.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header, request::Parts};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    answer::Answer, body::ResponseBody, exchange::Exchange, io::Line, limits::UPGRADE_TIMEOUT,
    relay::relay,
};

/// An upgrade that a request asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    protocols: HeaderValue,
    caller: OnUpgrade,
}

/// An upgrade that both ends agreed to.
#[derive(Debug)]
pub(crate) struct Switch {
    protocol: HeaderValue,
    caller: OnUpgrade,
    upstream: OnUpgrade,
}

impl Wanted {
    /// What the request asks for, if that can be passed on. Other upgrades are ignored, as RFC 9110 allows.
    pub(crate) fn take(parts: &mut Parts) -> Option<Self> {
        let protocols = protocols(parts)?;
        let caller = parts.extensions.remove::<OnUpgrade>()?;
        Some(Self { protocols, caller })
    }

    /// The protocols to ask the upstream for.
    pub(crate) fn protocols(&self) -> &HeaderValue {
        &self.protocols
    }
}

fn protocols(parts: &Parts) -> Option<HeaderValue> {
    let asks = lists(&parts.headers, &header::CONNECTION, "upgrade");
    if parts.version != Version::HTTP_11 || !asks {
        return None;
    }
    let wanted: Vec<&str> = tokens(&parts.headers, &header::UPGRADE)
        .filter(|protocol| !carries_requests(protocol))
        .collect();
    HeaderValue::try_from(wanted.join(", "))
        .ok()
        .filter(|_| !wanted.is_empty())
}

/// SECURITY: what follows an upgrade is not judged, so no protocol is passed on that carries further requests.
fn carries_requests(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default();
    ["h2c", "http", "tls"]
        .iter()
        .any(|bad| name.eq_ignore_ascii_case(bad))
}

fn tokens<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).into_iter();
    let lists = values.filter_map(|value| value.to_str().ok());
    lists
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

fn lists(headers: &HeaderMap, name: &header::HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// Whether `response` switches protocols, and to one that was asked for; anything else is the upstream's fault.
pub(crate) fn agreed(
    wanted: Option<Wanted>,
    response: &mut Response<Incoming>,
) -> Result<Option<Switch>, Answer> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(None);
    }
    let broken = || Answer::upstream_failed("UPE");
    let wanted = wanted.ok_or_else(broken)?;
    let asked = wanted.protocols.to_str().unwrap_or_default();
    let protocol = response
        .headers()
        .get(header::UPGRADE)
        .cloned()
        .ok_or_else(broken)?;
    let known = |text: &str| {
        asked
            .split(", ")
            .any(|asked| asked.eq_ignore_ascii_case(text.trim()))
    };
    if !protocol.to_str().is_ok_and(known) {
        return Err(broken());
    }
    Ok(Some(Switch {
        protocol,
        caller: wanted.caller,
        upstream: hyper::upgrade::on(response),
    }))
}

impl Switch {
    /// Answers the caller with the upstream's head, and passes bytes from then on.
    pub(crate) fn begin(
        self,
        response: Response<Incoming>,
        mut exchange: Exchange,
    ) -> Response<ResponseBody> {
        let (mut parts, _empty) = response.into_parts();
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, self.protocol);
        exchange.answered(parts.status, &parts.headers);
        exchange.lease(None);
        tokio::spawn(pass(self.caller, self.upstream, exchange));
        let nothing = Empty::<Bytes>::new().map_err(|never| match never {});
        Response::from_parts(parts, nothing.boxed_unsync())
    }
}

async fn pass(caller: OnUpgrade, upstream: OnUpgrade, mut exchange: Exchange) {
    let both = async { tokio::try_join!(caller, upstream) };
    let (caller, upstream) = match timeout(UPGRADE_TIMEOUT, both).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => {
            tracing::debug!(%error, "an upgrade was not finished");
            return exchange.flag("UC");
        }
        Err(_) => return exchange.flag("UC"),
    };
    let line = |io: Upgraded| Line::new(TokioIo::new(io), Bytes::new(), CancellationToken::new());
    relay(line(caller), line(upstream), exchange).await;
}

#[cfg(test)]
mod tests;
