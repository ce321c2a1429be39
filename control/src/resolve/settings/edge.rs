//! What stands around the mesh: proxies before gateways, DNS servers.

use std::net::{IpAddr, SocketAddr};

use reeve_core::model::{ForwardClientCert, Topology};

use crate::{
    Code, MeshSettings, kinds::MeshConfigSpec, resolve::values::Notes, source::path::Path,
};

pub(super) fn resolve(settings: &mut MeshSettings, notes: &mut Notes<'_, MeshConfigSpec>) {
    settings.name_servers = name_servers(notes);
    settings.topology = topology(notes);
}

/// Most DNS servers.
const MAX_NAME_SERVERS: usize = 8;

fn name_servers(notes: &mut Notes<'_, MeshConfigSpec>) -> Vec<SocketAddr> {
    let Some(spec) = &notes.object.spec.dns else {
        return Vec::new();
    };
    let path = Path::of(&["spec", "dns", "nameServers"]);
    if spec.name_servers.len() > MAX_NAME_SERVERS {
        let text = format!("at most {MAX_NAME_SERVERS} DNS servers");
        notes.error(&path, Code::TooLarge, text);
    }
    let mut servers = Vec::new();
    for (n, text) in spec.name_servers.iter().enumerate() {
        let alone = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        match text.parse().or(alone) {
            Ok(server) => servers.push(server),
            Err(_) => {
                let said = format!("{text:?} is not ADDRESS or ADDRESS:PORT");
                notes.error(&path.index(n), Code::Invalid, said);
            }
        }
    }
    servers
}

/// Most proxies before a gateway.
const MAX_TRUSTED_PROXIES: u32 = 64;

fn topology(notes: &mut Notes<'_, MeshConfigSpec>) -> Topology {
    let config = notes.object.spec.default_config.as_ref();
    let Some(spec) = config.and_then(|config| config.gateway_topology.as_ref()) else {
        return Topology::default();
    };
    let path = Path::of(&["spec", "defaultConfig", "gatewayTopology"]);
    if spec.num_trusted_proxies > MAX_TRUSTED_PROXIES {
        let text = format!("at most {MAX_TRUSTED_PROXIES} proxies stand before a gateway");
        notes.error(&path.key("numTrustedProxies"), Code::TooLarge, text);
    }
    let words = [
        ("UNDEFINED", ForwardClientCert::default()),
        ("SANITIZE", ForwardClientCert::Sanitize),
        ("FORWARD_ONLY", ForwardClientCert::ForwardOnly),
        ("APPEND_FORWARD", ForwardClientCert::AppendForward),
        ("SANITIZE_SET", ForwardClientCert::SanitizeSet),
        ("ALWAYS_FORWARD_ONLY", ForwardClientCert::AlwaysForwardOnly),
    ];
    let said = spec.forward_client_cert_details.as_ref();
    let path = path.key("forwardClientCertDetails");
    let client_cert = said.and_then(|text| notes.word(&path, text, &words));
    Topology {
        trusted_proxies: spec.num_trusted_proxies,
        client_cert: client_cert.unwrap_or_default(),
        proxy_protocol: spec.proxy_protocol.is_some(),
    }
}
