//! Wanted keys: a token came with a key that its issuer's set does not have. The proxy says so, and asks no issuer itself.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use reeve_core::{InstanceName, SpiffeId};
use tokio::time::{sleep, timeout};
use tonic::{Extensions, Request, Response, Status};

use crate::{ChannelFactory, Membership};
use proto::{
    WantReply, WantRequest,
    keys_client::KeysClient,
    keys_server::{Keys, KeysServer},
};

/// The messages of `proto/keys.proto`.
pub(crate) mod proto {
    #![expect(
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated from proto/keys.proto, which documents it"
    )]
    tonic::include_proto!("reeve.keys.v1");
}

/// Most rules that one message names; what is beyond is said again by the next token.
const MAX_WANTED: usize = 256;
/// Largest message.
const MAX_WANT_BYTES: usize = 256 * 1024;
/// How often it is looked whether a proxy lacks keys.
const LOOK: Duration = Duration::from_millis(500);
/// How long telling may take, connecting included.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);

type Authenticate = dyn Fn(&Extensions) -> Option<SpiffeId> + Send + Sync;
type Wanted = dyn Fn(Vec<String>) + Send + Sync;

/// The gRPC service `reeve.keys.v1.Keys`.
#[derive(Clone)]
pub struct KeyService {
    authenticate: Arc<Authenticate>,
    is_member: Arc<Membership>,
    wanted: Arc<Wanted>,
}

impl fmt::Debug for KeyService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyService").finish_non_exhaustive()
    }
}

impl KeyService {
    /// `authenticate` finds the verified identity of the caller, `is_member` says whether it is that of the instance it
    /// speaks for, `wanted` is told the rules.
    pub fn new(
        authenticate: impl Fn(&Extensions) -> Option<SpiffeId> + Send + Sync + 'static,
        is_member: Arc<Membership>,
        wanted: impl Fn(Vec<String>) + Send + Sync + 'static,
    ) -> Self {
        Self {
            authenticate: Arc::new(authenticate),
            is_member,
            wanted: Arc::new(wanted),
        }
    }

    /// The service for a tonic server.
    pub fn into_server(self) -> KeysServer<Self> {
        KeysServer::new(self).max_decoding_message_size(MAX_WANT_BYTES)
    }
}

#[tonic::async_trait]
impl Keys for KeyService {
    async fn want(&self, request: Request<WantRequest>) -> Result<Response<WantReply>, Status> {
        let Some(id) = (self.authenticate)(request.extensions()) else {
            return Err(Status::unauthenticated("show a certificate of this mesh"));
        };
        let WantRequest { proxy, mut rules } = request.into_inner();
        let proxy = InstanceName::parse(&proxy)
            .map_err(|e| Status::invalid_argument(format!("proxy: {e}")))?;
        // SECURITY: a proxy speaks for itself alone.
        if !(self.is_member)(&id, &proxy) {
            return Err(Status::permission_denied("that is another's instance"));
        }
        rules.truncate(MAX_WANTED);
        (self.wanted)(rules);
        Ok(Response::new(WantReply {}))
    }
}

/// Tells the mesh which keys a proxy lacks.
pub struct KeyClient {
    node: InstanceName,
    channel: ChannelFactory,
}

impl fmt::Debug for KeyClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyClient")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl KeyClient {
    /// A client for the proxy `node`.
    pub fn new(channel: ChannelFactory, node: InstanceName) -> Self {
        Self { node, channel }
    }

    /// Runs for ever: `lacking` says by which rules tokens came with unknown keys since it was last asked. What could not
    /// be told is not told again; the next such token says it.
    pub async fn run(self, lacking: impl Fn() -> Vec<String> + Send) -> Infallible {
        loop {
            sleep(LOOK).await;
            let mut rules = lacking();
            if rules.is_empty() {
                continue;
            }
            rules.truncate(MAX_WANTED);
            let request = WantRequest {
                proxy: self.node.to_string(),
                rules,
            };
            let mut client = KeysClient::new((self.channel)());
            match timeout(TELL_TIMEOUT, client.want(request)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::debug!(node = %self.node, %error, "the mesh is not told of unknown keys");
                }
                Err(_) => {
                    tracing::debug!(node = %self.node, "the mesh is not told of unknown keys in time");
                }
            }
        }
    }
}
