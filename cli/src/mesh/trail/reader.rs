//! Who reads the trail: a member by its mesh certificate, or whoever holds a token of an issuer that the mesh trusts – those
//! of `RequestAuthentication`s of the root namespace that hold for all workloads.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::{Extensions, HeaderMap};
use reeve_audit::{AggregateRecord, EventKind, Wal};
use reeve_authz::jwt::{JwtVerifier, TokenError, TokenLookup};
use reeve_ca::TlsPeer;
use reeve_core::{
    Clock, SpiffeId, UnixTime,
    decision::{Principal, User},
    model::JwtRule,
};

/// For how long refusals are counted before they are recorded.
const COUNTED_FOR: Duration = Duration::from_secs(10);

/// Who asks, as far as it is proved.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    /// The member whose certificate the connection has.
    pub(super) member: Option<SpiffeId>,
    /// Whom the token is about.
    pub(super) user: Option<Arc<User>>,
    /// Where the connection comes from; unspecified by the control socket.
    pub(super) address: IpAddr,
}

impl Asker {
    /// As policies see it.
    pub(super) fn principal(&self) -> Principal {
        match &self.member {
            Some(member) => Principal::Workload(member.clone()),
            None => Principal::Unauthenticated,
        }
    }
}

/// Why nobody knows who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stranger {
    /// Neither a certificate nor a token.
    #[error("a mesh certificate, or a token of an issuer that the mesh trusts, is required")]
    Nothing,
    /// A token that does not verify.
    #[error("the token is refused: {}", .0.as_str())]
    Token(TokenError),
}

impl Stranger {
    fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "no_credentials",
            Self::Token(error) => error.as_str(),
        }
    }
}

/// Who asks. SECURITY: a token that does not verify is refused even beside a certificate, as at every proxy.
pub(super) fn asker(
    extensions: &Extensions,
    headers: &HeaderMap,
    rules: &[JwtRule],
    now: UnixTime,
) -> Result<Asker, Stranger> {
    let peer = extensions.get::<TlsPeer>();
    let from = peer.and_then(|peer| peer.from.parse::<SocketAddr>().ok());
    let member = peer.and_then(|peer| peer.verified.as_ref());
    let member = member.map(|verified| verified.id().clone());
    let verified = JwtVerifier::compile(rules).verify(&Headers(headers), now);
    let user = verified.map_err(Stranger::Token)?.user;
    if member.is_none() && user.is_none() {
        return Err(Stranger::Nothing);
    }
    Ok(Asker {
        member,
        user,
        address: from.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |at| at.ip()),
    })
}

/// Tokens are taken from headers only: what is asked for is recorded as it was written, and a token must not be.
struct Headers<'a>(&'a HeaderMap);

impl TokenLookup for Headers<'_> {
    fn header_values(&self, name: &str) -> Vec<&[u8]> {
        let values = self.0.get_all(name).into_iter();
        values.map(|value| value.as_bytes()).collect()
    }

    fn query_values(&self, _name: &str) -> Vec<String> {
        Vec::new()
    }
}

/// Strangers, counted: they cannot fill the trail with what they were refused.
#[derive(Debug)]
pub(super) struct Strangers {
    wal: Arc<Wal>,
    clock: Arc<dyn Clock>,
    counted: Mutex<Option<Counted>>,
}

#[derive(Debug)]
struct Counted {
    since: UnixTime,
    reasons: BTreeMap<&'static str, u64>,
}

impl Strangers {
    pub(super) fn new(wal: Arc<Wal>, clock: Arc<dyn Clock>) -> Self {
        Self {
            wal,
            clock,
            counted: Mutex::new(None),
        }
    }

    /// Counts one; the first of a span sees to it that the span is recorded when it is over.
    pub(super) fn refused(self: &Arc<Self>, stranger: Stranger) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let first = counted.is_none();
        let span = counted.get_or_insert_with(|| Counted {
            since: self.clock.now(),
            reasons: BTreeMap::new(),
        });
        *span.reasons.entry(stranger.as_str()).or_default() += 1;
        drop(counted);
        if first {
            let strangers = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(COUNTED_FOR).await;
                tokio::task::spawn_blocking(move || strangers.record());
            });
        }
    }

    fn record(&self) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Counted { since, reasons }) = counted.take() else {
            return;
        };
        drop(counted);
        let told = reasons
            .iter()
            .map(|(r, n)| ((*r).to_owned(), n.to_string()));
        let aggregate = AggregateRecord {
            event: EventKind::LogRead,
            count: reasons.values().sum(),
            since,
            until: self.clock.now(),
            detail: told.collect(),
        };
        if let Err(error) = self.wal.append(aggregate) {
            tracing::error!(%error, "who was refused to read the trail could not be recorded");
        }
    }
}
