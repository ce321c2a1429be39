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
    Clock as _, SystemClock,
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
