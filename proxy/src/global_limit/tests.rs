use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Mutex,
    time::Duration,
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::HeaderValue as Wanted,
        service::ratelimit::v3::{
            rate_limit_response::{DescriptorStatus, RateLimit, rate_limit::Unit},
            rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
        },
    },
    google::protobuf,
};
use http::Request;
use prometheus::Registry;
use reeve_core::{
    decision::User,
    model::{
        DescriptorEntry, DescriptorRule, DescriptorValue, PathNormalization, RouteMatch,
        StringMatch,
    },
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Response, Status};

use super::*;

/// Answers as it is told, and notes what it is asked.
#[derive(Clone, Default)]
pub(crate) struct Server {
    asked: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<RateLimitResponse>>,
    delay: Duration,
}

#[tonic::async_trait]
impl RateLimitService for Server {
    async fn should_rate_limit(
        &self,
        request: tonic::Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        for descriptor in &request.descriptors {
            let entries = descriptor.entries.iter();
            let entries: Vec<_> = entries.map(|e| format!("{}={}", e.key, e.value)).collect();
            let asked = format!("{} {}", request.domain, entries.join(" "));
            self.asked.lock().unwrap().push(asked);
        }
        tokio::time::sleep(self.delay).await;
        Ok(Response::new(self.answer.lock().unwrap().clone()))
    }
}

impl Server {
    /// One that takes its time.
    pub(crate) fn slow(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    pub(crate) async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serving = tonic::transport::Server::builder()
            .add_service(RateLimitServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        at
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    pub(crate) fn answers(&self, code: Code, remaining: u32) {
        *self.answer.lock().unwrap() = RateLimitResponse {
            overall_code: code.into(),
            statuses: vec![DescriptorStatus {
                current_limit: Some(RateLimit {
                    name: String::new(),
                    requests_per_unit: 10,
                    unit: Unit::Minute.into(),
                }),
                limit_remaining: remaining,
                duration_until_reset: Some(protobuf::Duration {
                    seconds: 41,
                    nanos: 0,
                }),
                ..DescriptorStatus::default()
            }],
            response_headers_to_add: ["x-plan", "connection", "x-reeve-peer", "content-length"]
                .map(|name| Wanted {
                    key: name.to_owned(),
                    value: "gold".to_owned(),
                    ..Wanted::default()
                })
                .to_vec(),
            ..RateLimitResponse::default()
        };
    }
}

fn entry(key: &str, value: DescriptorValue) -> DescriptorEntry {
    DescriptorEntry {
        key: key.to_owned(),
        value,
        optional: false,
    }
}

fn limits(at: SocketAddr, entries: Vec<DescriptorEntry>, on_failure: OnFailure) -> GlobalLimits {
    let mut workload = crate::tests::workload();
    workload.global_rate_limits = vec![GlobalRateLimit {
        name: "default/a".to_owned(),
        server: LimitServer::At(at),
        domain: "mesh".to_owned(),
        timeout: Duration::from_secs(5),
        on_failure,
        descriptors: vec![DescriptorRule {
            when: RouteMatch {
                uri: Some(StringMatch::Prefix("/pay".to_owned())),
                ..RouteMatch::default()
            },
            entries,
        }],
        service: "a.default.svc.cluster.local".parse().unwrap(),
    }];
    GlobalLimits::compile(&workload, None).unwrap()
}

fn head(path: &str) -> Head {
    let request = Request::builder().method("POST").uri(path);
    let request = request.header("host", "a").header("x-user", "eve");
    let (parts, ()) = request.body(()).unwrap().into_parts();
    Head::read(parts, PathNormalization::default()).unwrap()
}

fn asker(user: Option<&User>) -> Asker<'_> {
    Asker {
        identity: user.is_some().then_some("spiffe://mesh.local/ns/a/sa/b"),
        address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)),
        user,
    }
}

fn eve() -> User {
    User {
        claims: BTreeMap::from([("sub".to_owned(), BTreeSet::from(["e".to_owned()]))]),
        expires_at: None,
        issuer: String::new(),
        subject: String::new(),
    }
}

fn metrics() -> (Registry, Metrics) {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    (registry, metrics)
}

fn counted(registry: &Registry, result: &str) -> bool {
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather());
    let series = format!("reeve_global_rate_limit_total{{result=\"{result}\"}} 1");
    text.unwrap().contains(&series)
}

#[tokio::test]
async fn a_server_is_asked_what_the_rule_says_of_requests_that_it_is_for() {
    use DescriptorValue::{Address, Claim, Fixed, Header, Identity, Method, Path, Service};
    let server = Server::default();
    server.answers(Code::Ok, 7);
    let entries = vec![
        entry("a", Fixed("b".to_owned())),
        entry("user", Header("x-user".to_owned())),
        entry("who", Identity),
        entry("from", Address),
        entry("to", Service),
        entry("how", Method),
        entry("what", Path),
        entry("sub", Claim("sub".to_owned())),
    ];
    let limits = limits(server.start().await, entries, OnFailure::Deny);
    let (registry, metrics) = metrics();
    let user = eve();
    let asked = head("/pay?a=b");
    let told = limits
        .ask(&asked, asker(Some(&user)), &metrics)
        .await
        .unwrap();
    assert_eq!(
        server.asked(),
        [
            "mesh a=b user=eve who=spiffe://mesh.local/ns/a/sa/b from=127.0.0.9 \
          to=a.default.svc.cluster.local how=POST what=/pay sub=e"
        ]
    );
    let told: Vec<_> = told
        .iter()
        .map(|(n, v)| (n.as_str(), v.to_str().unwrap()))
        .collect();
    let expected = [
        ("x-plan", "gold"),
        ("x-ratelimit-limit", "10, 10;w=60"),
        ("x-ratelimit-remaining", "7"),
        ("x-ratelimit-reset", "41"),
    ];
    assert_eq!(BTreeMap::from_iter(told), BTreeMap::from(expected));
    assert!(counted(&registry, "ok"));

    let other = head("/see");
    let told = limits.ask(&other, asker(Some(&user)), &metrics).await;
    assert!(told.unwrap().is_empty());
    // Without a token there is no claim, and so no descriptor.
    let told = limits.ask(&asked, asker(None), &metrics).await;
    assert!(told.unwrap().is_empty());
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn what_is_too_much_is_answered_429_and_an_optional_value_may_lack() {
    let server = Server::default();
    server.answers(Code::OverLimit, 0);
    let mut optional = entry("user", DescriptorValue::Header("x-none".to_owned()));
    optional.optional = true;
    let entries = vec![
        optional,
        entry("long", DescriptorValue::Fixed("é".repeat(2000))),
    ];
    let limits = limits(server.start().await, entries, OnFailure::Allow);
    let (registry, metrics) = metrics();
    let answer = limits.ask(&head("/pay"), asker(None), &metrics).await;
    assert_eq!(answer.unwrap_err().status, 429);
    assert!(counted(&registry, "over_limit"));
    let expected = format!("mesh long={}", "é".repeat(MAX_VALUE / 2));
    assert_eq!(server.asked(), [expected]);
}

const MAX_VALUE: usize = crate::limits::MAX_DESCRIPTOR_VALUE_BYTES;

#[tokio::test]
async fn without_an_answer_the_limits_own_setting_counts() {
    let slow = Server::slow(Duration::from_secs(30)).start().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = nobody.local_addr().unwrap();
    drop(nobody);
    for at in [slow, gone] {
        for on_failure in [OnFailure::Allow, OnFailure::Deny] {
            let entries = vec![entry("a", DescriptorValue::Method)];
            let mut limits = limits(at, entries, on_failure);
            let global = Arc::get_mut(&mut limits.0[0]).unwrap();
            global.rule.timeout = Duration::from_millis(100);
            let (registry, metrics) = metrics();
            let answer = limits.ask(&head("/pay"), asker(None), &metrics).await;
            let denied = on_failure == OnFailure::Deny;
            assert_eq!(
                answer.map_err(|a| a.status.as_u16()).err(),
                denied.then_some(500)
            );
            assert!(counted(&registry, "error"));
            assert_eq!(counted(&registry, "failure_mode_allowed"), !denied);
        }
    }
}

#[tokio::test]
async fn questions_at_once_are_bounded_and_a_service_is_asked_through_the_proxys_own_door() {
    let server = Server::default();
    let at = server.start().await;
    let entries = vec![entry("a", DescriptorValue::Method)];
    let limits = limits(at, entries, OnFailure::Deny);
    let global = &limits.0[0];
    let most = MAX_GLOBAL_LIMIT_QUESTIONS;
    let all: Vec<_> = (0..most)
        .map(|_| global.room.try_acquire().unwrap())
        .collect();
    assert_eq!(all.len(), most);
    let (_, metrics) = metrics();
    let answer = limits.ask(&head("/pay"), asker(None), &metrics).await;
    assert_eq!(answer.unwrap_err().status, 500);
    assert!(server.asked().is_empty());

    let name: reeve_core::ServiceName = "limits.default.svc.cluster.local".parse().unwrap();
    let of = |port| LimitServer::Service(name.clone(), port);
    let mesh = crate::tests::workload();
    assert_eq!(address(&of(8081), &mesh), None);
}
