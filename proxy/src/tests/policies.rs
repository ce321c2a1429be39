//! Policies that change, and that lapse, while requests and streams are under way.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Response;
use reeve_audit::DecisionRecord;
use reeve_core::{
    Clock as _, SystemClock, UnixTime,
    clock::ManualClock,
    model::{Generation, Protocol},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    mesh::{Mesh, PORT, app, caller, eventually, fetch, full, pair, set_policies},
    tcp::echo,
};

/// The only policies of a generation, by names that say which.
fn policies_of(generation: u64) -> [String; 2] {
    [
        format!("@id(\"yes-{generation}\") permit (principal, action, resource);"),
        format!(
            r#"@id("no-{generation}") forbid (principal, action in Action::"http", resource)
               when {{ context.path like "/no*" }};"#
        ),
    ]
}

/// Fifty generations a second for two seconds, all with policies of other names: each record's policies, hash and
/// generation are of one and the same.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_judged_by_a_mix_of_two_generations() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |_| async { Response::new(full("here")) }).await;
    let mut config = mesh.server(Protocol::Http, &[]);
    let mut generations = HashMap::new();
    let mut next = |config: &mut reeve_core::model::ProxyConfig, generation| {
        config.generation = Generation(generation);
        set_policies(
            config,
            &policies_of(generation).each_ref().map(String::as_str),
        );
        generations.insert(config.policies.mesh_hash.clone(), generation);
    };
    next(&mut config, 1);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let over = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = [("/yes", 200), ("/no", 403)]
        .into_iter()
        .cycle()
        .take(6)
        .map(|(path, status)| tokio::spawn(ask(mesh.url(path), status, over.clone())))
        .collect();
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    for generation in 2..=101 {
        tick.tick().await;
        next(&mut config, generation);
        server.apply(&config);
    }
    over.store(true, Ordering::Relaxed);
    let mut asked = 0;
    for each in asking {
        asked += each.await.unwrap();
    }
    let decisions = mesh.decisions("server");
    assert!(
        decisions.len() >= asked && asked > 100,
        "{asked} of {}",
        decisions.len()
    );
    let seen: BTreeSet<_> = decisions
        .iter()
        .map(|record| of_one_generation(record, &generations))
        .collect();
    assert!(
        seen.len() > 20,
        "requests met {} of 101 generations",
        seen.len()
    );
}

/// Asks again and again until it is over; how often.
async fn ask(url: String, expected: u16, over: Arc<AtomicBool>) -> usize {
    let (client, mut asked) = (caller(), 0);
    while !over.load(Ordering::Relaxed) {
        let (status, _) = fetch(&client, url.clone()).await;
        assert_eq!(status, expected);
        asked += 1;
    }
    asked
}

/// The generation that everything in the record is of.
fn of_one_generation(record: &DecisionRecord, generations: &HashMap<String, u64>) -> u64 {
    let generation = generations[&record.policy_hash];
    assert_eq!(
        record.generation,
        Some(Generation(generation)),
        "{record:?}"
    );
    let (number, name) = match record.decision.is_allow() {
        true => (0, "yes"),
        false => (1, "no"),
    };
    let policies = &record.decision.policies;
    let ids: Vec<_> = policies.iter().map(|id| id.as_str()).collect();
    let expected = format!("default/p{number}#{name}-{generation}");
    assert_eq!(ids, [expected], "{record:?}");
    generation
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_policy_is_recorded_on_live_traffic_and_keeps_nobody_out() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |_| async { Response::new(full("here")) }).await;
    let policies = [
        "permit (principal, action, resource);",
        r#"@id("no") @mode("shadow") forbid (principal, action in Action::"http", resource)
           when { context.path like "/no*" };"#,
    ];
    let config = mesh.server(Protocol::Http, &policies);
    let _sides = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    for path in ["/yes", "/no"] {
        assert_eq!(fetch(&caller(), mesh.url(path)).await.0, 200, "{path}");
    }
    let decisions = mesh.decisions("server");
    let shadows: Vec<_> = decisions
        .iter()
        .map(|d| d.decision.shadow.as_deref())
        .collect();
    let [None, Some(shadow)] = shadows.as_slice() else {
        panic!("{decisions:?}");
    };
    assert_eq!(shadow.reason.as_str(), "forbidden");
    assert_eq!(shadow.policies[0].as_str(), "default/p1#no");
}

/// Nothing is applied when it does: the clock alone ends what was permitted.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_when_the_policy_that_permits_it_lapses() {
    let mesh = Mesh::new();
    echo(&mesh).await;
    let at = SystemClock.now().plus(Duration::from_secs(3));
    let until = jiff::Timestamp::from_millisecond(at.as_millis().try_into().unwrap()).unwrap();
    let permit = format!("@until(\"{until}\") permit (principal, action, resource);");
    let config = mesh.server(Protocol::Tcp, &[&permit]);
    let sides = pair(&mesh, &config, &mesh.client(Protocol::Tcp)).await;
    let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
    let mut answer = [0; 5];
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert!(
        SystemClock.now() < at,
        "the machine is too slow to tell before from after"
    );
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut answer)).await;
    assert!(matches!(ended.expect("it ends"), Ok(0) | Err(_)));
    assert!(SystemClock.now() >= at);
    let denial = eventually(|| {
        let decisions = mesh.decisions("server");
        decisions.into_iter().find(|d| !d.decision.is_allow())
    });
    assert_eq!(denial.await.decision.reason.as_str(), "no_permit");
    drop(sides);
}

/// Friday, 1 January 2027, 08:30 UTC.
const BEFORE_WORK_SECS: u64 = 1_798_792_200;

/// From nine to ten, by the time of day.
const IN_THE_MORNING: &str = r#"permit (principal, action, resource)
    when { context.time.toTime() >= duration("9h") && context.time.toTime() < duration("10h") };"#;

/// One whose clock shows `secs`, with an application that sends back what it gets.
async fn mesh_at(secs: u64) -> (Mesh, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(UnixTime::from_secs(secs)));
    let mesh = Mesh::at_time(clock.clone());
    echo(&mesh).await;
    (mesh, clock)
}

/// A connection that passed bytes; `None`: it was ended before.
async fn connection(mesh: &Mesh) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.ok()?;
    stream.write_all(b"hello").await.ok()?;
    stream.read_exact(&mut [0; 5]).await.ok()?;
    Some(stream)
}

/// Whether it ends; a minute is more than any machine takes.
async fn ends(stream: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut [0; 1])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

/// No configuration changes; the clock alone opens and shuts.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_when_a_condition_on_the_time_flips() {
    let (mesh, clock) = mesh_at(BEFORE_WORK_SECS).await;
    let config = mesh.server(Protocol::Tcp, &[IN_THE_MORNING]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Tcp)).await;
    assert!(connection(&mesh).await.is_none(), "it is not nine yet");

    clock.advance(Duration::from_secs(30 * 60));
    let mut stream = connection(&mesh).await.expect("it is nine");
    // It is asked about again after nine, and stays.
    clock.advance(Duration::from_secs(59 * 60));
    clock.advance(Duration::from_millis(59_999));
    let again = connection(&mesh).await.expect("it is before ten");
    drop(again);
    stream.write_all(b"still").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();

    clock.advance(Duration::from_millis(1));
    assert!(ends(&mut stream).await, "it is ten");
    assert!(
        server
            .metrics()
            .contains(r#"reeve_streams_ended_total{cause="not_permitted"} 1"#)
    );
    let ten = UnixTime::from_secs(BEFORE_WORK_SECS + 90 * 60);
    let denial = eventually(|| {
        let decisions = mesh.decisions("server");
        let at_ten = |d: &DecisionRecord| d.request.context.time == ten;
        decisions.into_iter().find(at_ten)
    });
    assert_eq!(denial.await.decision.reason.as_str(), "no_permit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_when_a_forbid_begins_to_apply() {
    let (mesh, clock) = mesh_at(BEFORE_WORK_SECS).await;
    let policies = [
        "permit (principal, action, resource);",
        r#"forbid (principal, action, resource) when { context.time > datetime("2027-01-01T12:00:00Z") };"#,
    ];
    let config = mesh.server(Protocol::Tcp, &policies);
    let (_server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Tcp)).await;
    let mut stream = connection(&mesh).await.expect("it is morning");
    clock.set(UnixTime::from_secs(BEFORE_WORK_SECS + 4 * 3600));
    assert!(ends(&mut stream).await, "it is past noon");
}

/// A time that nobody can foresee the flips of is looked at once a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_within_a_minute_when_a_condition_is_not_understood() {
    let (mesh, clock) = mesh_at(BEFORE_WORK_SECS).await;
    let policy = r#"permit (principal, action, resource)
        when { context.time.toTime().toMinutes() - context.port < 511 - 9080 };"#;
    let config = mesh.server(Protocol::Tcp, &[policy]);
    let (_server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Tcp)).await;
    let mut stream = connection(&mesh).await.expect("it is 8:30");
    clock.advance(Duration::from_secs(60));
    assert!(ends(&mut stream).await, "it is 8:31");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_is_noticed() {
    let (mesh, clock) = mesh_at(BEFORE_WORK_SECS + 45 * 60).await;
    let config = mesh.server(Protocol::Tcp, &[IN_THE_MORNING]);
    let (_server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Tcp)).await;
    let mut stream = connection(&mesh).await.expect("it is a quarter past nine");
    clock.set(UnixTime::from_secs(BEFORE_WORK_SECS + 10 * 60));
    assert!(ends(&mut stream).await, "it is not nine any more");
}
