//! A control plane and a proxy, joined by pipes in memory.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use reeve_core::{
    InstanceName, ServiceName, SpiffeId,
    model::{
        EndpointSet, Generation, PathNormalization, PolicySlice, ProxyConfig, ProxyRole,
        ResourceKind, RouteTable, RouteTableName, ServiceConfig, TrafficPolicy, VirtualHost,
        WorkloadConfig,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinHandle,
};
use tonic::{
    Extensions, Status,
    transport::{Channel, Endpoint, Server, server::Connected},
};

use crate::{
    AckReport, AdsClient, AdsService, AdsStatus, ChannelFactory, ConfigSource, Refused, type_url,
};

pub(super) fn instance(name: &str) -> InstanceName {
    name.parse().unwrap()
}

pub(super) fn id(account: &str) -> SpiffeId {
    let id = format!("spiffe://mesh.local/ns/default/sa/{account}");
    id.parse().unwrap()
}

/// A configuration of `reviews-v1-0` with these services.
pub(super) fn config(generation: u64, hash: &str, services: &[&str]) -> ProxyConfig {
    let name = |s: &str| ServiceName::parse(s).unwrap();
    let service = |s: &str| ServiceConfig {
        name: name(s),
        namespace: "default".parse().unwrap(),
        ports: vec![],
        patterns: Vec::new(),
        identities: vec![id(s)],
        traffic: TrafficPolicy::default(),
        port_traffic: BTreeMap::new(),
        subsets: vec![],
    };
    let endpoints = |s: &str| EndpointSet {
        service: name(s),
        endpoints: vec![],
        names: vec![],
    };
    let table = |s: &str| {
        let host = VirtualHost {
            name: s.to_owned(),
            domains: vec![s.to_owned()],
            routes: vec![],
            path_normalization: None,
        };
        RouteTable::new(RouteTableName(s.to_owned()), [host])
    };
    ProxyConfig {
        generation: Generation(generation),
        workload: Arc::new(workload()),
        services: services
            .iter()
            .map(|s| (name(s), Arc::new(service(s))))
            .collect(),
        endpoints: services
            .iter()
            .map(|s| (name(s), Arc::new(endpoints(s))))
            .collect(),
        routes: services
            .iter()
            .map(|s| (RouteTableName((*s).to_owned()), Arc::new(table(s))))
            .collect(),
        policies: Arc::new(PolicySlice {
            mesh_hash: hash.to_owned(),
            policies: vec![],
            ..PolicySlice::default()
        }),
        secrets: Default::default(),
    }
}

fn workload() -> WorkloadConfig {
    WorkloadConfig {
        instance: instance("reviews-v1-0"),
        workload: "reviews-v1".parse().unwrap(),
        namespace: "default".parse().unwrap(),
        service_account: "reviews".parse().unwrap(),
        identity: id("reviews"),
        labels: BTreeMap::new(),
        role: ProxyRole::Sidecar,
        address: Ipv4Addr::LOCALHOST.into(),
        inbound: vec![],
        outbound: vec![],
        services: vec![],
        ecdh_curves: vec![],
        topology: Default::default(),
        gateways: vec![],
        caller_shares: Default::default(),
        rate_limits: Default::default(),
        global_rate_limits: Default::default(),
        transformations: Default::default(),
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

type Configs = watch::Sender<Option<Arc<ProxyConfig>>>;

/// A source with the one instance `reviews-v1-0`.
struct OneInstance {
    configs: Mutex<Option<Configs>>,
    reports: mpsc::Sender<AckReport>,
}

impl ConfigSource for OneInstance {
    fn watch(
        &self,
        instance: &InstanceName,
        id: &SpiffeId,
    ) -> Result<watch::Receiver<Option<Arc<ProxyConfig>>>, Refused> {
        let configs = self.configs.lock().unwrap();
        let configs = configs.as_ref();
        if instance.as_str() != "reviews-v1-0" {
            return Err(Refused::UnknownInstance(instance.clone()));
        }
        if *id != self::id("reviews") {
            return Err(Refused::OtherIdentity {
                instance: instance.clone(),
                id: id.clone(),
            });
        }
        configs
            .map(Configs::subscribe)
            .ok_or_else(|| Refused::UnknownInstance(instance.clone()))
    }

    fn report(&self, _instance: &InstanceName, report: AckReport) {
        self.reports.try_send(report).unwrap();
    }
}

struct Running {
    source: Arc<OneInstance>,
    connections: Vec<JoinHandle<()>>,
}

struct Shared {
    running: Mutex<Running>,
    caller: Mutex<Option<SpiffeId>>,
    sent: Arc<AtomicUsize>,
    reports: mpsc::Sender<AckReport>,
}

/// The control plane.
pub(super) struct Mesh {
    shared: Arc<Shared>,
    reports: tokio::sync::Mutex<mpsc::Receiver<AckReport>>,
}

impl Mesh {
    pub(super) fn new(config: ProxyConfig) -> Self {
        Self::with(Some(config))
    }

    pub(super) fn empty() -> Self {
        Self::with(None)
    }

    fn with(config: Option<ProxyConfig>) -> Self {
        let (reports, received) = mpsc::channel(64);
        let source = source(config, &reports);
        let shared = Shared {
            running: Mutex::new(Running {
                source,
                connections: vec![],
            }),
            caller: Mutex::new(Some(id("reviews"))),
            sent: Arc::default(),
            reports,
        };
        Self {
            shared: Arc::new(shared),
            reports: tokio::sync::Mutex::new(received),
        }
    }

    pub(super) fn publish(&self, config: ProxyConfig) {
        let running = self.shared.running.lock().unwrap();
        let configs = running.source.configs.lock().unwrap();
        configs
            .as_ref()
            .unwrap()
            .send_replace(Some(Arc::new(config)));
    }

    pub(super) fn remove_instance(&self) {
        let running = self.shared.running.lock().unwrap();
        running.source.configs.lock().unwrap().take();
    }

    /// Another control plane takes over, and knows nothing of the one before.
    pub(super) fn restart(&self, config: ProxyConfig) {
        self.shared.running.lock().unwrap().source = source(Some(config), &self.shared.reports);
        self.cut();
    }

    /// Cuts all connections.
    pub(super) fn cut(&self) {
        let mut running = self.shared.running.lock().unwrap();
        running.connections.drain(..).for_each(|c| c.abort());
    }

    pub(super) fn authenticate_as(&self, caller: Option<SpiffeId>) {
        *self.shared.caller.lock().unwrap() = caller;
    }

    /// Bytes that the server has written so far.
    pub(super) fn sent_bytes(&self) -> usize {
        self.shared.sent.load(Ordering::SeqCst)
    }

    pub(super) async fn next_report(&self) -> AckReport {
        let mut reports = self.reports.lock().await;
        let next = tokio::time::timeout(Duration::from_secs(20), reports.recv());
        next.await.unwrap().unwrap()
    }

    /// Waits until a proxy watches.
    pub(super) async fn connected(&self) {
        loop {
            let watchers = {
                let running = self.shared.running.lock().unwrap();
                let configs = running.source.configs.lock().unwrap();
                configs.as_ref().unwrap().receiver_count()
            };
            if watchers > 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// What the server answers first to a proxy that subscribes as `node`.
    pub(super) async fn first_answer(
        &self,
        node: InstanceName,
    ) -> Result<DeltaDiscoveryResponse, Status> {
        let request = |kind| DeltaDiscoveryRequest {
            node: Some(Node {
                id: node.to_string(),
                ..Node::default()
            }),
            type_url: type_url(kind),
            ..DeltaDiscoveryRequest::default()
        };
        let requests = stream::iter(ResourceKind::ALL.map(request));
        let requests = futures_util::StreamExt::chain(requests, stream::pending());
        let requests = Box::pin(requests);
        let mut client = AggregatedDiscoveryServiceClient::new((self.factory())());
        let mut answers = client.delta_aggregated_resources(requests).await?;
        Ok(answers.get_mut().message().await?.unwrap())
    }

    /// How a stream ends on which nothing is asked.
    pub(super) async fn silent_stream(&self) -> Status {
        let mut client = AggregatedDiscoveryServiceClient::new((self.factory())());
        let answers = client.delta_aggregated_resources(stream::pending()).await;
        let mut answers = answers.unwrap().into_inner();
        answers.message().await.unwrap_err()
    }

    fn factory(&self) -> ChannelFactory {
        let shared = Arc::clone(&self.shared);
        Arc::new(move || {
            let shared = Arc::clone(&shared);
            let connect = tower::service_fn(move |_| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, std::io::Error>(TokioIo::new(shared.connect())) }
            });
            let endpoint = Endpoint::from_static("http://control");
            let channel: Channel = endpoint.connect_with_connector_lazy(connect);
            channel
        })
    }
}

impl Shared {
    fn connect(&self) -> DuplexStream {
        let (near, mut near_end) = tokio::io::duplex(64 * 1024);
        let (mut far_end, far) = tokio::io::duplex(64 * 1024);
        let mut running = self.running.lock().unwrap();
        let caller = self.caller.lock().unwrap().clone();
        let service = AdsService::new(running.source.clone(), move |_: &Extensions| caller.clone());
        let counted = Counted {
            inner: far,
            sent: Arc::clone(&self.sent),
        };
        let incoming = stream::once(async { Ok::<_, std::io::Error>(counted) });
        let incoming = futures_util::StreamExt::chain(incoming, stream::pending());
        let server = Server::builder()
            .add_service(service.into_server())
            .serve_with_incoming_shutdown(incoming, std::future::pending());
        tokio::spawn(server);
        let pump = async move { tokio::io::copy_bidirectional(&mut near_end, &mut far_end).await };
        running.connections.push(tokio::spawn(async move {
            pump.await.ok();
        }));
        near
    }
}

fn source(config: Option<ProxyConfig>, reports: &mpsc::Sender<AckReport>) -> Arc<OneInstance> {
    Arc::new(OneInstance {
        configs: Mutex::new(Some(watch::Sender::new(config.map(Arc::new)))),
        reports: reports.clone(),
    })
}

/// Counts what the server writes.
struct Counted {
    inner: DuplexStream,
    sent: Arc<AtomicUsize>,
}

impl Connected for Counted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(len)) = written {
            self.sent.fetch_add(len, Ordering::SeqCst);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The client side of `reviews-v1-0`.
pub(super) struct Proxy {
    applied: mpsc::Receiver<ProxyConfig>,
    applications: Arc<AtomicUsize>,
    status: watch::Receiver<AdsStatus>,
    gate: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub(super) fn start(mesh: &Mesh) -> Self {
        Self::with(mesh, |_, _| false)
    }

    pub(super) fn refusing(mesh: &Mesh, refused: Generation) -> Self {
        Self::with(mesh, move |generation, _| generation == refused)
    }

    pub(super) fn refusing_once(mesh: &Mesh, refused: Generation) -> Self {
        Self::with(mesh, move |generation, n| generation == refused && n == 0)
    }

    fn with(mesh: &Mesh, refuse: impl Fn(Generation, usize) -> bool + Send + 'static) -> Self {
        let client = AdsClient::new(mesh.factory(), instance("reviews-v1-0"));
        let status = client.status();
        let (sender, applied) = mpsc::channel(64);
        let applications = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(1));
        let (count, pass) = (Arc::clone(&applications), Arc::clone(&gate));
        let run = client.run(move |config| {
            let n = count.fetch_add(1, Ordering::SeqCst);
            let refused = refuse(config.generation, n);
            let (sender, pass) = (sender.clone(), Arc::clone(&pass));
            async move {
                let _passed = pass.acquire().await.unwrap();
                if refused {
                    return Err(format!("generation {} is refused", config.generation));
                }
                sender.try_send((*config).clone()).unwrap();
                Ok(())
            }
        });
        let task = tokio::spawn(async move {
            run.await;
        });
        Self {
            applied,
            applications,
            status,
            gate,
            task,
        }
    }

    /// The next configuration that came into force.
    pub(super) async fn applied(&mut self) -> ProxyConfig {
        let next = tokio::time::timeout(Duration::from_secs(20), self.applied.recv());
        next.await.unwrap().unwrap()
    }

    pub(super) fn applications(&self) -> usize {
        self.applications.load(Ordering::SeqCst)
    }

    pub(super) fn status(&self) -> AdsStatus {
        self.status.borrow().clone()
    }

    /// Keeps configurations from being applied while the guard lives.
    pub(super) fn hold(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.gate).try_acquire_owned().unwrap()
    }

    pub(super) async fn disconnected(&mut self) -> AdsStatus {
        let status = self.status.wait_for(|status| !status.connected);
        status.await.unwrap().clone()
    }
}
