use std::{net::IpAddr, path::Path};

use http::{HeaderName, Request};
use reeve_audit::{LookedFor, WalOptions};
use reeve_authz::{Engine, JwtVerifier, mesh_hash, parse_access_policy};
use reeve_core::{
    InstanceName, Namespace, SystemClock,
    decision::{Principal, ResourceRef},
    model::{Generation, PathNormalization, PolicySlice, ServiceState},
};
use reeve_proxy::inquiry::{Rules, Subject};

use super::*;
use crate::court::Subjects;

const POLICIES: &str = r#"
@id("read") permit (principal, action in [Action::"read"], resource) when { context.path like "/public/*" };
@id("connect") permit (principal, action == Action::"connect", resource);
@id("not") forbid (principal, action in [Action::"http"], resource) when { context.path == "/public/secret" };
"#;
const ECHO: &str = "echo.default.svc.cluster.local";

fn court(state: ServiceState) -> Court {
    let namespace = Namespace::parse("default").unwrap();
    let policies = parse_access_policy(Some(&namespace), &namespace, "p", POLICIES).unwrap();
    let slice = PolicySlice {
        mesh_hash: mesh_hash(&policies),
        policies,
        ..PolicySlice::default()
    };
    let engine = Engine::compile(&slice).unwrap();
    let subject = Subject {
        resource: ResourceRef {
            address: None,
            namespace,
            services: vec![ECHO.parse().unwrap()],
            workload: Some("spiffe://mesh.local/ns/default/sa/echo".parse().unwrap()),
        },
        state,
        jwt: Arc::new(JwtVerifier::compile(&[])),
        path_normalization: PathNormalization::RefuseAmbiguous,
        port_normalization: [(9081, PathNormalization::None)].into(),
    };
    Court {
        rules: Rules {
            engine: Arc::new(engine),
            generation: Generation(7),
            projection_hash: "p".to_owned(),
            headers: vec![HeaderName::from_static("x-kept")],
            looked_for: LookedFor::new(["x-kept"], [], false),
            redaction: Default::default(),
            path_normalization: PathNormalization::RefuseAmbiguous,
        },
        subjects: Subjects {
            services: [(ECHO.parse().unwrap(), Arc::new(subject))].into(),
            ..Subjects::default()
        },
        root_namespace: Namespace::parse("reeve-system").unwrap(),
    }
}

fn judge(dir: &Path, court: Option<Court>, max_bytes: u64) -> (Judge, Arc<Wal>) {
    let options = WalOptions {
        max_bytes,
        segment_bytes: 4096,
        ..WalOptions::default()
    };
    let name = InstanceName::parse("reeve.ext-authz").unwrap();
    let wal = Wal::open(dir, name, options, Arc::new(SystemClock)).unwrap();
    let wal = Arc::new(wal);
    let (_, court) = watch::channel(court.map(Arc::new));
    let options = JudgeOptions {
        court,
        writer: wal.writer(0).unwrap(),
        wal: wal.clone(),
        clock: Arc::new(SystemClock),
        answers: AnswerOptions::default(),
    };
    let judge = Judge::new(options, &prometheus::Registry::new()).unwrap();
    (judge, wal)
}

fn inquiry(service: &str, path: Option<&str>) -> Inquiry {
    let head = |path: &str| {
        let request = Request::builder().uri(path).header("host", "echo");
        request.body(()).unwrap().into_parts().0
    };
    Inquiry {
        target: Target {
            service: Some(service.to_owned()),
            ..Target::default()
        },
        asker: Asker {
            principal: Principal::Unauthenticated,
            address: IpAddr::from([10, 0, 0, 1]),
            port: 8080,
            destination: None,
            sni: None,
        },
        head: path.map(head),
    }
}

async fn ask(judge: &Judge, service: &str, path: Option<&str>) -> (u16, &'static str) {
    match judge.judge(Form::Grpc, inquiry(service, path)).await {
        Verdict::Allowed { .. } => (200, "allowed"),
        Verdict::Denied(denial) => (denial.status.as_u16(), denial.error),
    }
}

#[tokio::test]
async fn every_verdict_is_recorded_before_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (judge, wal) = judge(dir.path(), Some(court(ServiceState::Enforced)), 1 << 20);
    for (service, path, expected) in [
        (ECHO, Some("/public/a"), (200, "allowed")),
        (ECHO, Some("/private"), (403, "denied")),
        (ECHO, Some("/public/secret"), (403, "denied")),
        (ECHO, Some("/public/../private"), (400, "ambiguous_path")),
        (ECHO, Some("/public/%61"), (400, "ambiguous_path")),
        (ECHO, Some("/public//a"), (400, "ambiguous_path")),
        (
            "nobody.default.svc.cluster.local",
            Some("/public/a"),
            (403, "denied"),
        ),
        ("no name at all", Some("/public/a"), (403, "denied")),
        // A forbid looks at HTTP: what nobody reads might be just that.
        (ECHO, None, (403, "denied")),
    ] {
        let before = wal.status().next_sequence;
        assert_eq!(
            ask(&judge, service, path).await,
            expected,
            "{service} {path:?}"
        );
        assert_eq!(wal.status().next_sequence, before + 1, "{service} {path:?}");
    }
}

#[tokio::test]
async fn a_services_state_counts() {
    for (state, expected) in [
        (ServiceState::Enforced, (403, "denied")),
        (ServiceState::Shadow, (200, "allowed")),
        (ServiceState::Open, (200, "allowed")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (judge, _wal) = judge(dir.path(), Some(court(state)), 1 << 20);
        assert_eq!(
            ask(&judge, ECHO, Some("/private")).await,
            expected,
            "{state:?}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_judged_or_recorded_is_denied_outright() {
    let dir = tempfile::tempdir().unwrap();
    let (without, _wal) = judge(&dir.path().join("a"), None, 1 << 20);
    assert_eq!(without.health(), Health::NoConfiguration);
    assert_eq!(
        ask(&without, ECHO, Some("/public/a")).await,
        (503, "not_ready")
    );

    let (full, _wal) = judge(
        &dir.path().join("b"),
        Some(court(ServiceState::Enforced)),
        8192,
    );
    let mut last = (0, "");
    for _ in 0..64 {
        last = ask(&full, ECHO, Some("/public/a")).await;
    }
    assert_eq!(last, (503, "not_recorded"));
    assert_eq!(full.health(), Health::NotRecording);

    let (busy, _wal) = judge(
        &dir.path().join("c"),
        Some(court(ServiceState::Enforced)),
        1 << 20,
    );
    let all = u32::try_from(MAX_CHECKS).unwrap();
    let held = busy.slots.try_acquire_many(all).unwrap();
    assert_eq!(
        ask(&busy, ECHO, Some("/public/a")).await,
        (503, "overloaded")
    );
    drop(held);
    assert_eq!(ask(&busy, ECHO, Some("/public/a")).await, (200, "allowed"));
    assert_eq!(busy.health(), Health::Serving);
}

/// Over a socket, as Envoy asks.
#[tokio::test]
async fn the_health_is_told_by_the_standard_service() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let dir = tempfile::tempdir().unwrap();
    let (judge, _wal) = judge(dir.path(), Some(court(ServiceState::Enforced)), 128 << 10);
    let judge = Arc::new(judge);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = {
        let (judge, stop) = (Arc::clone(&judge), stop.clone());
        tokio::spawn(async move {
            let (io, from) = listener.accept().await.unwrap();
            crate::serve_connection(io, from.ip(), crate::Spoken::Grpc, judge, stop).await
        })
    };
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    let request = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let decides = "envoy.service.auth.v3.Authorization";
    for (health, expected) in [
        (Health::NoConfiguration, 2),
        (Health::Serving, 1),
        (Health::NotRecording, 2),
        (judge.health(), 1),
    ] {
        judge.tell(health).await;
        for service in ["", decides] {
            let told = client.check(request(service)).await.unwrap().into_inner();
            assert_eq!(told.status, expected, "{health:?} {service:?}");
        }
    }
    let unknown = client.check(request("another.Service")).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);

    // A log without room: the judge says so, and whoever watches hears of it.
    let mut watching = client.watch(request(decides)).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status, 1);
    for _ in 0..200 {
        ask(&judge, ECHO, Some("/public/a")).await;
    }
    assert_eq!(judge.health(), Health::NotRecording);
    judge.tell(judge.health()).await;
    assert_eq!(watching.message().await.unwrap().unwrap().status, 2);
    judge.leave().await;
    // It ends with the server.
    while let Some(last) = watching.message().await.unwrap() {
        assert_eq!(last.status, 2);
    }
    stop.cancel();
    drop(client);
    serving.await.unwrap().unwrap();
}
