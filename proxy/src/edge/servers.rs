//! The TLS servers of a gateway's port, told apart by the server name in a ClientHello.

use std::sync::Arc;

use foldhash::HashMap;
use reeve_core::model::{OutboundListener, ServerTls, ServerTlsMode};
use reeve_svid::{PeerRules, PublicTlsError, Spoken, public_server};
use rustls::ServerConfig;

use super::material::{Material, MaterialError};
use crate::{hello::ServerName, route::Names, snapshot::Outbound};

/// Names one of them; a connection keeps it across generations.
pub(crate) type ServerKey = Arc<str>;

/// The TLS servers of one port.
#[derive(Debug)]
pub(crate) struct TlsServers {
    servers: Vec<Arc<TlsServer>>,
    names: Names,
    by_key: HashMap<ServerKey, usize>,
    /// The one for workloads of the mesh.
    mesh: Option<usize>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct TlsServer {
    pub(crate) key: ServerKey,
    pub(crate) ends: Ends,
    /// Where what comes inside goes.
    pub(crate) outbound: Arc<Outbound>,
}

/// How TLS is ended.
#[derive(Debug)]
pub(crate) enum Ends {
    /// By the workload's own SVID.
    Mesh,
    /// By a certificate of its own.
    Public(Arc<ServerConfig>),
    /// Not at all: there is no certificate that could be used.
    Never,
}

#[derive(Debug, thiserror::Error)]
enum ServerError {
    #[error(transparent)]
    Material(#[from] MaterialError),
    #[error(transparent)]
    Tls(#[from] PublicTlsError),
}

impl TlsServers {
    /// `None` where no TLS is ended. A server without a usable certificate refuses everybody, and the others serve.
    pub(crate) fn compile(listener: &OutboundListener, material: &Material<'_>) -> Option<Self> {
        let servers = listener.tls.iter().map(|tls| {
            let ends = match &tls.mode {
                ServerTlsMode::Mesh => Ends::Mesh,
                ServerTlsMode::Public(_) => match public(tls, material) {
                    Ok(config) => Ends::Public(config),
                    Err(error) => {
                        tracing::warn!(server = %tls.name, %error, "nobody is let in here");
                        Ends::Never
                    }
                },
            };
            Arc::new(TlsServer {
                key: tls.name.as_str().into(),
                ends,
                outbound: Arc::new(inside(listener, tls)),
            })
        });
        let servers: Vec<_> = servers.collect();
        let is_mesh = |server: &Arc<TlsServer>| matches!(server.ends, Ends::Mesh);
        let keys = servers.iter().enumerate();
        let table = Self {
            names: Names::new(listener.tls.iter().map(|tls| tls.hosts.as_slice())),
            by_key: keys.map(|(n, server)| (server.key.clone(), n)).collect(),
            mesh: servers.iter().position(is_mesh),
            servers,
        };
        (!table.servers.is_empty()).then_some(table)
    }

    /// The server for a client that asks for `name`, and how narrowly it names it.
    pub(crate) fn find(&self, name: &ServerName) -> Option<(usize, &Arc<TlsServer>)> {
        let (narrowness, index) = self.names.find(name)?;
        Some((narrowness, self.servers.get(index)?))
    }

    /// The server for workloads of the mesh.
    pub(crate) fn for_mesh(&self) -> Option<&Arc<TlsServer>> {
        self.servers.get(self.mesh?)
    }

    /// The server of that name.
    pub(crate) fn get(&self, key: &ServerKey) -> Option<&Arc<TlsServer>> {
        self.servers.get(*self.by_key.get(key)?)
    }
}

/// The listener as what is inside the TLS has it.
fn inside(listener: &OutboundListener, tls: &ServerTls) -> Outbound {
    let listener = OutboundListener {
        bind: listener.bind,
        protocol: tls.protocol,
        routes: tls.routes.clone(),
        service: None,
        tcp: tls.tcp.clone(),
        sni: Vec::new(),
        tls: Vec::new(),
        unknown: None,
        https_redirect: Vec::new(),
        path_normalization: listener.path_normalization,
    };
    Outbound {
        straight: None,
        sni: None,
        servers: None,
        https_only: None,
        listener,
    }
}

fn public(tls: &ServerTls, material: &Material<'_>) -> Result<Arc<ServerConfig>, ServerError> {
    let ServerTlsMode::Public(public) = &tls.mode else {
        return Err(PublicTlsError::Certificate.into());
    };
    let identities: Result<Vec<_>, _> = public
        .certificates
        .iter()
        .map(|source| material.identity(source))
        .collect();
    let identities = identities?;
    if identities.is_empty() {
        return Err(PublicTlsError::Certificate.into());
    }
    let clients = match &public.client {
        None => None,
        Some(asked) => Some(PeerRules {
            authorities: material.authorities(&asked.authorities)?,
            required: asked.required,
            subject_alt_names: asked.subject_alt_names.clone(),
            pins: asked.pins.clone(),
        }),
    };
    let alpn = match tls.protocol.is_http() {
        true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        false => Vec::new(),
    };
    let spoken = Spoken {
        min: public.min_version,
        max: public.max_version,
        cipher_suites: public.cipher_suites.clone(),
        alpn,
    };
    let config = public_server(identities, clients.as_ref(), &spoken, material.clock)?;
    Ok(config)
}
