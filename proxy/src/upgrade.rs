//! Upgrades (RFC 9110 section 7.8): after `101 Switching Protocols` a connection carries another protocol, WebSocket
//! as a rule. The request is judged like any other; what follows is opaque, is counted, and ends with its permit.
//!
//! Between two sidecars such a request has an HTTP/1.1 connection of its own, which becomes part of the upgraded one. A
//! caller on HTTP/2 asks by extended CONNECT (RFC 8441); the request becomes what it would be in HTTP/1.1 before it is
//! judged, as in Envoy, so that policies on `GET` hold for both.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header, request::Parts};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::Incoming,
    ext::Protocol,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    answer::Answer, body::ResponseBody, exchange::Exchange, io::Line, limits::UPGRADE_TIMEOUT,
    permit::Changes, pool::Dialect, relay::relay,
};

mod websocket;

#[cfg(test)]
pub(crate) use websocket::accept as websocket_accept;

/// An upgrade that a request asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    protocols: HeaderValue,
    caller: OnUpgrade,
    way: Way,
}

/// How the caller asked, and is to be answered.
#[derive(Debug)]
enum Way {
    /// `Upgrade`, answered with 101; without one the request is an ordinary one.
    Header,
    /// Extended CONNECT, answered with 200; an upgrade is all that it asks for.
    Connect {
        /// What the upstream must say to the key that was made for it.
        accept: Option<HeaderValue>,
    },
}

/// An upgrade that both ends agreed to.
#[derive(Debug)]
pub(crate) struct Switch {
    protocol: HeaderValue,
    caller: OnUpgrade,
    upstream: OnUpgrade,
    way: Way,
}

impl Wanted {
    /// What the request asks for, if that can be passed on. Other upgrades are ignored, as RFC 9110 allows; a CONNECT
    /// that is none of these stays one.
    pub(crate) fn take(parts: &mut Parts) -> Option<Self> {
        if parts.method == Method::CONNECT {
            return Self::take_connect(parts);
        }
        let protocols = protocols(parts)?;
        let caller = parts.extensions.remove::<OnUpgrade>()?;
        Some(Self {
            protocols,
            caller,
            way: Way::Header,
        })
    }

    /// RFC 8441 section 5: the method is GET there, and the handshake's key is made where HTTP/1.1 begins.
    fn take_connect(parts: &mut Parts) -> Option<Self> {
        let protocol = parts.extensions.get::<Protocol>()?.as_str().to_owned();
        if !is_token(&protocol) || carries_requests(&protocol) {
            return None;
        }
        let protocols = HeaderValue::try_from(&protocol).ok()?;
        let caller = parts.extensions.remove::<OnUpgrade>()?;
        parts.method = Method::GET;
        let accept = protocol
            .eq_ignore_ascii_case("websocket")
            .then(|| websocket::challenge(&mut parts.headers))
            .flatten();
        Some(Self {
            protocols,
            caller,
            way: Way::Connect { accept },
        })
    }

    /// The protocols to ask an upstream for that is spoken to so.
    fn toward(&self, dialect: Dialect) -> Result<Option<&HeaderValue>, Answer> {
        match (dialect, &self.way) {
            (Dialect::Http1, _) => Ok(Some(&self.protocols)),
            (Dialect::Http2, Way::Header) => Ok(None),
            (Dialect::Http2, Way::Connect { .. }) => Err(Answer::no_upgrade()),
        }
    }

    /// SECURITY: in answer to CONNECT any success would open a tunnel, so one that is no upgrade is none.
    pub(crate) fn bears(&self, status: StatusCode) -> Result<(), Answer> {
        match self.way {
            Way::Connect { .. } if status.is_success() => Err(Answer::upstream_failed("UPE")),
            Way::Connect { .. } | Way::Header => Ok(()),
        }
    }
}

/// What an upstream that is spoken to so is asked for. Of HTTP/2 no upgrade is: a request that can do without is served
/// without, one that cannot is refused.
pub(crate) fn changes(wanted: Option<&Wanted>, dialect: Dialect) -> Result<Changes<'_>, Answer> {
    let upgrade = wanted.map(|wanted| wanted.toward(dialect)).transpose()?;
    Ok(Changes {
        upgrade: upgrade.flatten(),
        ..Changes::default()
    })
}

/// One protocol as `Upgrade` would have it, with or without a version: never a list.
fn is_token(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b);
    !text.is_empty() && text.bytes().all(legal)
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
        return match wanted {
            Some(wanted) => wanted.bears(response.status()).map(|()| None),
            None => Ok(None),
        };
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
    if !protocol.to_str().is_ok_and(known) || !wanted.way.accepts(response.headers()) {
        return Err(broken());
    }
    Ok(Some(Switch {
        protocol,
        caller: wanted.caller,
        way: wanted.way,
        upstream: hyper::upgrade::on(response),
    }))
}

impl Way {
    /// Whether the upstream's answer to the key is the right one (RFC 6455 section 4.1), where the proxy asked.
    fn accepts(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::Connect {
                accept: Some(accept),
            } => headers.get(header::SEC_WEBSOCKET_ACCEPT) == Some(accept),
            Self::Connect { accept: None } | Self::Header => true,
        }
    }
}

impl Switch {
    /// Answers the caller with the upstream's head, and passes bytes from then on.
    pub(crate) fn begin(
        self,
        response: Response<Incoming>,
        mut exchange: Exchange,
    ) -> Response<ResponseBody> {
        let (mut parts, _empty) = response.into_parts();
        match self.way {
            Way::Header => {
                let upgrade = HeaderValue::from_static("upgrade");
                parts.headers.insert(header::CONNECTION, upgrade);
                parts.headers.insert(header::UPGRADE, self.protocol);
            }
            Way::Connect { .. } => {
                parts.status = StatusCode::OK;
                parts.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
                parts.headers.remove(header::CONTENT_LENGTH);
            }
        }
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
