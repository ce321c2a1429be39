//! A mesh of two: `client` with its sidecar, `server` with its sidecar, each test on addresses of its own.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use prometheus::Registry;
use reeve_audit::{DecisionRecord, Level, Wal, WalOptions};
use reeve_ca::{CaOptions, CertificateAuthority, Store};
use reeve_core::{
    Clock, InstanceName, Namespace, ServiceName, SpiffeId, SystemClock, TrustDomain, model::*,
    network::Network,
};
use reeve_svid::Credentials;
use tokio::{net::TcpListener, sync::watch};

use crate::{MeshPorts, Proxy, ProxyDeps, Snapshot, Workers};

pub(super) const HOST: &str = "server.default.svc.cluster.local";
pub(super) const PORT: u16 = 9080;

/// Lets the client read and write everything of the server's.
pub(super) const ALLOW_CLIENT: &str = r#"permit(
    principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
    action,
    resource
);"#;

static NEXT: AtomicU8 = AtomicU8::new(1);

/// How long certificates live where the clock is moved by hand.
const LONG_LIFE: Duration = Duration::from_secs(40_000);

pub(super) type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

pub(super) struct Mesh {
    pub(super) ca: Arc<CertificateAuthority>,
    pub(super) net: u8,
    /// What addresses begin with.
    subnet: [u8; 2],
    network: Option<Arc<dyn Network>>,
    clock: Arc<dyn Clock>,
    dir: tempfile::TempDir,
}

pub(super) struct Side {
    pub(super) proxy: Proxy,
    pub(super) credentials: watch::Sender<Option<Arc<Credentials>>>,
    pub(super) log: Captured,
    pub(super) wal: Arc<Wal>,
}

/// What was written to an access log.
#[derive(Clone, Default)]
pub(super) struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Captured {
    pub(super) fn lines(&self) -> Vec<serde_json::Value> {
        let bytes = self.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits for a line that `wanted` accepts.
    pub(super) async fn wait(
        &self,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        eventually(|| self.lines().into_iter().find(|line| wanted(line))).await
    }
}

/// Polls until there is a value; fails after a minute.
pub(super) async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..6000 {
        if let Some(found) = look() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen within a minute");
}

impl Mesh {
    pub(super) fn new() -> Self {
        Self::with_svid_life(Duration::from_secs(3600))
    }

    pub(super) fn with_svid_life(svid_ttl: Duration) -> Self {
        Self::on_loopback(Arc::new(SystemClock), svid_ttl)
    }

    /// One whose time is what `clock` says.
    pub(super) fn at_time(clock: Arc<dyn Clock>) -> Self {
        Self::on_loopback(clock, LONG_LIFE)
    }

    fn on_loopback(clock: Arc<dyn Clock>, svid_ttl: Duration) -> Self {
        // Runs of these tests beside each other keep out of each other's way, as a rule.
        let process = u8::try_from(std::process::id() % 32).unwrap_or_default();
        Self {
            net: NEXT.fetch_add(1, Ordering::SeqCst),
            ..Self::on(None, [127, 31 + process], clock, svid_ttl)
        }
    }

    /// One on a network and in a time of its own.
    pub(super) fn on(
        network: Option<Arc<dyn Network>>,
        subnet: [u8; 2],
        clock: Arc<dyn Clock>,
        svid_ttl: Duration,
    ) -> Self {
        let options = CaOptions {
            trust_domain: TrustDomain::parse("mesh.local").unwrap(),
            root_ttl: Duration::from_secs(86_400),
            intermediate_ttl: Duration::from_secs(43_200),
            svid_ttl,
            consumer_wait: Duration::ZERO,
            store: Store::DangerMemory,
            vault: None,
            upstream: None,
        };
        Self {
            ca: CertificateAuthority::open(options, clock.clone()).unwrap(),
            net: 0,
            subnet,
            network,
            clock,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// The decisions in the write-ahead log of `account`'s proxy.
    pub(super) fn decisions(&self, account: &str) -> Vec<DecisionRecord> {
        self.records(account, br#"{"authenticated_by":"#)
    }

    /// The details of the events in it.
    pub(super) fn events(&self, account: &str) -> Vec<BTreeMap<String, String>> {
        self.records(account, br#"{"detail":"#)
            .into_iter()
            .filter_map(|mut event: serde_json::Value| {
                serde_json::from_value(event.get_mut("detail")?.take()).ok()
            })
            .collect()
    }

    /// Records that begin so: they stand in the log's segments as JSON.
    fn records<T: serde::de::DeserializeOwned>(&self, account: &str, start: &[u8]) -> Vec<T> {
        let mut folders = vec![self.dir.path().join(account)];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                    continue;
                }
                let bytes = std::fs::read(entry.path()).unwrap();
                let starts = memchr::memmem::find_iter(&bytes, start);
                found.extend(starts.filter_map(|at| {
                    let rest = serde_json::Deserializer::from_slice(&bytes[at..]);
                    rest.into_iter().next()?.ok()
                }));
            }
        }
        found
    }

    pub(super) fn id(account: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://mesh.local/ns/default/sa/{account}")).unwrap()
    }

    pub(super) fn issue(&self, account: &str) -> Arc<Credentials> {
        Arc::new(Credentials {
            svid: Arc::new(self.ca.issue_self(&Self::id(account)).unwrap()),
            bundle: self.ca.bundle().borrow().clone(),
        })
    }

    /// In most tests 127.<process>.<net>.<host>; the server has hosts from 1, the client from 101.
    pub(super) fn at(&self, host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(host), port)
    }

    fn ip(&self, host: u8) -> IpAddr {
        let [first, second] = self.subnet;
        Ipv4Addr::new(first, second, self.net, host).into()
    }

    pub(super) fn side(&self, account: &str) -> Side {
        self.side_with(account, 64 << 20)
    }

    pub(super) fn side_with(&self, account: &str, max_bytes: u64) -> Side {
        self.side_at(account, account, max_bytes)
    }

    /// Where all write-ahead logs are.
    pub(super) fn folder(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// With a write-ahead log in a folder of its own.
    pub(super) fn side_in(&self, account: &str, folder: &str) -> Side {
        self.side_at(account, folder, 64 << 20)
    }

    fn side_at(&self, account: &str, folder: &str, max_bytes: u64) -> Side {
        self.side_holding(Some(self.issue(account)), account, folder, max_bytes)
    }

    /// One that waits for its first certificate.
    pub(super) fn side_without_certificate(&self, account: &str) -> Side {
        self.side_holding(None, account, account, 64 << 20)
    }

    fn side_holding(
        &self,
        credentials: Option<Arc<Credentials>>,
        account: &str,
        folder: &str,
        max_bytes: u64,
    ) -> Side {
        let instance: InstanceName = format!("{account}-0").parse().unwrap();
        let options = WalOptions {
            level: Level::Os,
            max_bytes,
            segment_bytes: (max_bytes / 4).min(1 << 20),
            first_epoch: 1,
        };
        let clock = self.clock.clone();
        let wal = Wal::open(
            &self.dir.path().join(folder),
            instance,
            options,
            clock.clone(),
        );
        let wal = Arc::new(wal.unwrap());
        let (credentials, watch) = watch::channel(credentials);
        let log = Captured::default();
        let proxy = Proxy::start(ProxyDeps {
            credentials: watch,
            installed: watch::Sender::new(None),
            wal: wal.clone(),
            registry: Registry::new(),
            clock,
            access_log: Box::new(log.clone()),
            mesh_ports: MeshPorts {
                metrics: 0,
                health: 0,
            },
            workers: Workers::Current,
            network: self.network.clone(),
        })
        .unwrap();
        Side {
            proxy,
            credentials,
            log,
            wal,
        }
    }

    pub(super) fn workload(&self, account: &str, host: u8) -> WorkloadConfig {
        WorkloadConfig {
            instance: format!("{account}-0").parse().unwrap(),
            workload: account.parse().unwrap(),
            namespace: "default".parse().unwrap(),
            service_account: account.parse().unwrap(),
            identity: Self::id(account),
            labels: BTreeMap::from([
                ("app".to_owned(), account.to_owned()),
                ("version".to_owned(), "v1".to_owned()),
            ]),
            role: ProxyRole::Sidecar,
            address: self.ip(host),
            inbound: vec![],
            outbound: vec![],
            services: vec![],
            ecdh_curves: vec![],
            topology: Default::default(),
            gateways: vec![],
            caller_shares: Default::default(),
            rate_limits: vec![],
            transformations: vec![],
            global_rate_limits: vec![],
            name_servers: vec![],
            path_normalization: PathNormalization::default(),
            external_authorizations: Vec::new(),
            jwt_rules: vec![],
            tracing: None,
            telemetry: Default::default(),
            break_glass: Default::default(),
            recorded_headers: vec![],
            danger_pass_unrecorded: false,
            audit_replicas: vec![],
            field_classes: Default::default(),
            capture: None,
        }
    }

    /// The server's configuration: one inbound port, guarded by `policies`.
    pub(super) fn server(&self, protocol: Protocol, policies: &[&str]) -> ProxyConfig {
        let mut workload = self.workload("server", 1);
        workload.services = vec![service()];
        workload.inbound = vec![InboundListener {
            bind: self.at(1, PORT),
            app: self.at(2, PORT),
            protocol,
            mtls: MtlsMode::Strict,
            state: ServiceState::Enforced,
            services: vec![service()],
            path_normalization: PathNormalization::default(),
            pool: None,
        }];
        config(workload, policies)
    }

    /// The client's configuration: an outbound address that stands for the server's service.
    pub(super) fn client(&self, protocol: Protocol) -> ProxyConfig {
        let mut workload = self.workload("client", 101);
        workload.outbound = vec![OutboundListener {
            bind: self.at(110, PORT),
            protocol,
            routes: RouteTableName("9080".to_owned()),
            service: Some((service(), PORT)),
            tcp: vec![],
            sni: vec![],
            tls: vec![],
            https_redirect: vec![],
            unknown: None,
            path_normalization: None,
        }];
        let mut config = config(workload, &[]);
        let service_config = ServiceConfig {
            name: service(),
            namespace: "default".parse().unwrap(),
            ports: vec![ServicePort {
                port: PORT,
                name: "http".to_owned(),
                protocol,
            }],
            patterns: Vec::new(),
            identities: vec![Self::id("server")],
            traffic: TrafficPolicy::default(),
            port_traffic: BTreeMap::new(),
            subsets: vec![],
        };
        config.services.insert(service(), Arc::new(service_config));
        self.endpoints(&mut config, &[self.at(1, PORT)], Some(Self::id("server")));
        config
    }

    pub(super) fn endpoints(
        &self,
        config: &mut ProxyConfig,
        at: &[SocketAddr],
        identity: Option<SpiffeId>,
    ) {
        let endpoint = |(index, address): (usize, &SocketAddr)| Endpoint {
            instance: format!("server-{index}").parse().unwrap(),
            address: address.ip(),
            ports: BTreeMap::from([(PORT, address.port())]),
            labels: BTreeMap::new(),
            identity: identity.clone(),
            weight: 1,
        };
        let set = EndpointSet {
            service: service(),
            endpoints: at.iter().enumerate().map(endpoint).collect(),
            names: vec![],
        };
        config.endpoints.insert(service(), Arc::new(set));
    }

    /// Where the client's application calls the server.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at(110, PORT))
    }
}

pub(super) fn service() -> ServiceName {
    HOST.parse().unwrap()
}

pub(super) fn config(workload: WorkloadConfig, policies: &[&str]) -> ProxyConfig {
    let mut config = ProxyConfig {
        generation: Generation(1),
        workload: Arc::new(workload),
        services: BTreeMap::new(),
        endpoints: BTreeMap::new(),
        routes: BTreeMap::new(),
        policies: Arc::default(),
        secrets: BTreeMap::new(),
    };
    set_policies(&mut config, policies);
    config
}

pub(super) fn set_policies(config: &mut ProxyConfig, policies: &[&str]) {
    let namespace = Namespace::parse("default").unwrap();
    let mut sources = Vec::new();
    for (index, text) in policies.iter().enumerate() {
        let name = format!("p{index}");
        let parsed = reeve_authz::parse_access_policy(Some(&namespace), &namespace, &name, text);
        sources.extend(parsed.unwrap());
    }
    config.policies = Arc::new(PolicySlice {
        mesh_hash: reeve_authz::mesh_hash(&sources),
        policies: sources,
        ..PolicySlice::default()
    });
}

/// One route to the server with the given changes, for every authority.
pub(super) fn set_route(config: &mut ProxyConfig, change: impl FnOnce(&mut Route)) {
    let mut route = Route {
        name: Some("only".to_owned()),
        ..Route::to(service(), PORT)
    };
    change(&mut route);
    let host = VirtualHost {
        name: HOST.to_owned(),
        domains: vec![HOST.to_owned(), "server".to_owned()],
        routes: vec![route],
        path_normalization: None,
    };
    let name = RouteTableName("9080".to_owned());
    let table = RouteTable::new(name.clone(), [host]);
    config.routes.insert(name, Arc::new(table));
}

/// Changes the settings of the server's service.
pub(super) fn set_traffic(config: &mut ProxyConfig, change: impl FnOnce(&mut TrafficPolicy)) {
    let service = config.services.get_mut(&service()).unwrap();
    change(&mut Arc::make_mut(service).traffic);
}

impl Side {
    pub(super) fn apply(&self, config: &ProxyConfig) {
        self.proxy
            .apply(Snapshot::compile(Arc::new(config.clone())).unwrap())
            .unwrap();
    }

    /// All series of a counter together.
    pub(super) fn sum_of(&self, name: &str) -> u64 {
        let page = self.metrics();
        let values = page
            .lines()
            .filter(|line| line.starts_with(&format!("{name}{{")));
        values
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    pub(super) fn metrics(&self) -> String {
        let families = self.proxy.registry().gather();
        prometheus::TextEncoder::new()
            .encode_to_string(&families)
            .unwrap()
    }
}

/// Both sidecars up, credentials in force.
pub(super) async fn pair(mesh: &Mesh, server: &ProxyConfig, client: &ProxyConfig) -> (Side, Side) {
    let sides = (mesh.side("server"), mesh.side("client"));
    sides.0.apply(server);
    sides.1.apply(client);
    for side in [&sides.0, &sides.1] {
        eventually(|| side.proxy.status().ready.then_some(())).await;
    }
    sides
}

/// An application that answers by `handler`.
pub(super) async fn app<F, R>(at: SocketAddr, handler: F)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<AnyBody>> + Send + 'static,
{
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let handler = handler.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                builder
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    });
}

/// An application that answers every request with 200 and what it saw.
pub(super) async fn echo_app(at: SocketAddr) {
    app(at, |request: Request<Incoming>| async move {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let headers: BTreeMap<_, _> = parts
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
            .collect();
        let seen = serde_json::json!({
            "method": parts.method.as_str(),
            "target": parts.uri.to_string(),
            "headers": headers,
            "body": String::from_utf8_lossy(&body),
        });
        Response::new(full(seen.to_string()))
    })
    .await;
}

pub(super) fn full(text: impl Into<Bytes>) -> AnyBody {
    let body = http_body_util::Full::new(text.into());
    body.map_err(|never| match never {}).boxed_unsync()
}

pub(super) type AppClient = Client<HttpConnector, AnyBody>;

/// How the client's application calls.
pub(super) fn caller() -> AppClient {
    Client::builder(TokioExecutor::new()).build_http()
}

/// HTTP/2 by prior knowledge.
pub(super) fn caller_http2() -> AppClient {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http()
}

pub(super) fn get(url: String) -> Request<AnyBody> {
    Request::builder()
        .uri(url)
        .header("host", HOST)
        .body(full(""))
        .unwrap()
}

/// A GET by the address alone.
pub(super) fn get_bare(url: String) -> Request<AnyBody> {
    Request::builder().uri(url).body(full("")).unwrap()
}

/// Status and body of a GET.
pub(super) async fn fetch(client: &AppClient, url: String) -> (u16, serde_json::Value) {
    let response = client.request(get(url)).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

/// An application that reads the body at once and never says `100 Continue`.
pub(super) async fn echo_app_that_ignores_expect(at: SocketAddr) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                while !all.ends_with(b"hello") {
                    all.push(stream.read_u8().await?);
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await
            });
        }
    });
}
