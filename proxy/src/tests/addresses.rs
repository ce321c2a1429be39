//! What policies see of a connection: where it came from, whom it speaks for, what it was made to, and which server it names.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::HeaderValue;
use reeve_core::model::{MtlsMode, Protocol, ProxyConfig};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    edges::gateway,
    mesh::{Mesh, PORT, Side, caller, echo_app, eventually, fetch, get, pair, set_policies},
    tcp::echo,
};
use crate::hello::tests::hello;

const ALL: &str = "permit(principal, action, resource);";
/// Whoever a client of this network is spoken for.
const OF_CLIENTS: &str = r#"permit(principal, action, resource)
when { context.remote_ip.isInRange(ip("192.0.2.0/24")) && context.source_ip.isLoopback() };"#;

fn trusting(config: &mut ProxyConfig, proxies: u32) {
    let workload = Arc::make_mut(&mut config.workload);
    workload.topology.trusted_proxies = proxies;
    workload.gateways = vec![Mesh::id("client")];
}

async fn status_from(mesh: &Mesh, forwarded_for: &str) -> u16 {
    let mut request = get(mesh.url("/shop/1"));
    let value = HeaderValue::from_str(forwarded_for).unwrap();
    request.headers_mut().insert("x-forwarded-for", value);
    caller().request(request).await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_believes_the_meshs_gateway_about_its_client_and_nobody_else() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let mut server = mesh.server(Protocol::Http, &[OF_CLIENTS]);
    trusting(&mut server, 1);
    let mut edge = gateway(&mesh);
    trusting(&mut edge, 1);
    set_policies(&mut edge, &[ALL]);
    let (side, front) = pair(&mesh, &server, &edge).await;
    for (forwarded_for, status) in [
        ("192.0.2.7", 200),
        ("198.51.100.7", 403),
        // Only the last one comes from the proxy that is trusted.
        ("198.51.100.7, 192.0.2.7", 200),
        ("192.0.2.7, 198.51.100.7", 403),
    ] {
        assert_eq!(
            status_from(&mesh, forwarded_for).await,
            status,
            "{forwarded_for}"
        );
    }
    let of_clients = |account: &str| {
        let found = mesh.decisions(account).into_iter();
        let context = found.map(|record| record.request.context);
        context
            .filter(|c| c.remote_ip == Some([192, 0, 2, 7].into()) && c.source_ip.is_loopback())
            .count()
    };
    for account in ["server", "client"] {
        eventually(|| (of_clients(account) == 2).then_some(())).await;
    }
    // The gateway judges by the same two addresses.
    set_policies(&mut edge, &[OF_CLIENTS]);
    front.apply(&edge);
    assert_eq!(status_from(&mesh, "192.0.2.7").await, 200);
    assert_eq!(status_from(&mesh, "198.51.100.7").await, 403);
    // What is no gateway's identity is not believed.
    Arc::make_mut(&mut server.workload).gateways = vec![Mesh::id("another")];
    side.apply(&server);
    assert_eq!(status_from(&mesh, "192.0.2.7").await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_was_called_is_known_and_recorded() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let own = mesh.at(1, 0).ip();
    let policy = |test: &str| {
        format!(
            "permit(principal, action, resource) when {{ context has destination_ip && {test} }};"
        )
    };
    let here = policy(&format!("context.destination_ip == ip(\"{own}\")"));
    let elsewhere = policy(&format!("context.destination_ip != ip(\"{own}\")"));
    let mut server = mesh.server(Protocol::Http, &[&here]);
    let (side, _client) = pair(&mesh, &server, &mesh.client(Protocol::Http)).await;
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 200);
    set_policies(&mut server, &[&elsewhere]);
    side.apply(&server);
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 403);
    let recorded = || {
        let mut found = mesh.decisions("server").into_iter();
        found.all(|record| record.request.context.destination_ip == Some(own))
    };
    assert!(recorded());
}

/// Whether a ClientHello for `name` is passed on to the application, which sends back what it gets.
async fn passes(to: SocketAddr, name: &str) -> bool {
    let hello = hello(name, &[b"http/1.1"]);
    let talking = async {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(&hello).await?;
        let mut answer = vec![0; hello.len()];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer == hello)
    };
    let talked = tokio::time::timeout(Duration::from_secs(60), talking).await;
    talked.expect("an answer, or an end").unwrap_or_default()
}

const OF_SHOP: &str = r#"permit(principal, action == Action::"connect", resource)
when { context has sni && context.sni like "*.example.org" };"#;
const BUT_BANK: &str = r#"forbid(principal, action == Action::"connect", resource)
when { context has sni && context.sni == "bank.example.org" };"#;

async fn by_name(mesh: &Mesh, to: SocketAddr, side: &Side, config: &mut ProxyConfig) {
    for (policies, names) in [
        (&[OF_SHOP][..], [true, false, true]),
        (&[ALL, BUT_BANK][..], [true, true, false]),
    ] {
        set_policies(config, policies);
        side.apply(config);
        for (name, expected) in [
            ("Shop.Example.org", names[0]),
            ("shop.example.com", names[1]),
            ("bank.example.org", names[2]),
        ] {
            assert_eq!(
                passes(to, name).await,
                expected,
                "{name} under {policies:?}"
            );
        }
    }
    let account = config.workload.service_account.as_str();
    let names = || {
        let found = mesh.decisions(account).into_iter();
        let names = found.filter_map(|record| record.request.context.sni);
        names.filter(|name| &**name == "shop.example.org").count()
    };
    eventually(|| (names() == 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_name_of_an_applications_own_tls_is_known_at_a_sidecar() {
    for mode in [MtlsMode::Permissive, MtlsMode::Disable] {
        let mesh = Mesh::new();
        echo(&mesh).await;
        let mut config = mesh.server(Protocol::Tcp, &[ALL]);
        Arc::make_mut(&mut config.workload).inbound[0].mtls = mode;
        let (side, _client) = pair(&mesh, &config, &mesh.client(Protocol::Tcp)).await;
        by_name(&mesh, mesh.at(1, PORT), &side, &mut config).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_name_is_known_at_a_gateway_that_passes_bytes() {
    let mesh = Mesh::new();
    echo(&mesh).await;
    let server = mesh.server(Protocol::Tcp, &[ALL]);
    let mut config = mesh.client(Protocol::Tcp);
    let workload = Arc::make_mut(&mut config.workload);
    workload.role = reeve_core::model::ProxyRole::Gateway;
    let (_server, side) = pair(&mesh, &server, &config).await;
    by_name(&mesh, mesh.at(110, PORT), &side, &mut config).await;
}
