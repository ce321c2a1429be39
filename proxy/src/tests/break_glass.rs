//! Break-glass at the proxy: what a grant opens and shuts, on streams that are open too, and how loud it is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use reeve_authz::break_glass::{Grant, SignedGrant, SigningKey};
use reeve_core::{
    UnixTime,
    clock::ManualClock,
    model::{Generation, Protocol, ProxyConfig},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tracing::Level;

use super::{
    mesh::{ALLOW_CLIENT, Mesh, PORT, Side, eventually, pair, set_policies},
    shouts::{Shout, shouts},
    tcp::echo,
};
use crate::{
    BreakGlassAsked, BreakGlassRefused,
    limits::{BREAK_GLASS_MESH_SHOUT, BREAK_GLASS_SHOUT, MAX_BREAK_GLASS},
};

const MINUTE: Duration = Duration::from_secs(60);
/// Friday, 1 January 2027, 08:30 UTC.
const NOW: UnixTime = UnixTime::from_secs(1_798_792_200);

/// A server that trusts a signer, behind it what sends back what it gets; nobody is permitted.
struct Safe {
    mesh: Mesh,
    clock: Arc<ManualClock>,
    key: SigningKey,
    config: ProxyConfig,
}

impl Safe {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(NOW));
        let mesh = Mesh::at_time(clock.clone());
        echo(&mesh).await;
        let key = SigningKey::generate().unwrap();
        let mut config = mesh.server(Protocol::Tcp, &[]);
        let mut workload = (*config.workload).clone();
        workload.break_glass.signers = vec![key.public()];
        config.workload = Arc::new(workload);
        Self {
            mesh,
            clock,
            key,
            config,
        }
    }

    async fn pair(&self) -> (Side, Side) {
        let client = self.mesh.client(Protocol::Tcp);
        pair(&self.mesh, &self.config, &client).await
    }

    /// Ids differ from test to test, since all of them shout in one place.
    fn grant(&self, id: &str) -> Vec<u8> {
        self.grant_for(id, "default")
    }

    fn grant_for(&self, id: &str, namespace: &str) -> Vec<u8> {
        let grant = Grant {
            expires_at: NOW.plus(600 * MINUTE),
            id: id.to_owned(),
            issuer: "on-call lead".to_owned(),
            longest_seconds: if namespace == "*" { 900 } else { 3600 },
            namespace: namespace.parse().unwrap(),
            not_before: NOW,
            policy: ALLOW_CLIENT.to_owned(),
            reason: "unblock the ledger".to_owned(),
            schema: String::new(),
            trust_domain: "mesh.local".parse().unwrap(),
        };
        let signed = SignedGrant::sign(grant, &self.key).unwrap();
        serde_json::to_vec(&signed).unwrap()
    }

    /// Another configuration of the server.
    fn change(&mut self, side: &Side, change: impl FnOnce(&mut ProxyConfig)) {
        self.config.generation = Generation(self.config.generation.0 + 1);
        change(&mut self.config);
        side.apply(&self.config);
    }

    /// A connection that passed bytes; `None`: it was ended before.
    async fn connection(&self) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(self.mesh.at(110, PORT)).await.ok()?;
        passes(&mut stream).await.then_some(stream)
    }
}

async fn passes(stream: &mut TcpStream) -> bool {
    let sent = stream.write_all(b"hello").await;
    sent.is_ok() && stream.read_exact(&mut [0; 5]).await.is_ok()
}

/// Whether it ends; a minute is more than any machine takes.
async fn ends(stream: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(MINUTE, stream.read(&mut [0; 1])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

fn asked(lasting: Duration) -> BreakGlassAsked {
    BreakGlassAsked {
        lasting,
        reason: "INC-4711".to_owned(),
        by: vec![("uid", "1000".to_owned())],
    }
}

fn active(side: &Side) -> String {
    let page = side.metrics();
    let lines = page.lines();
    let mut found = lines.filter(|line| line.starts_with("reeve_break_glass_active "));
    found.next().unwrap().to_owned()
}

fn events(mesh: &Mesh, id: &str) -> Vec<BTreeMap<String, String>> {
    let all = mesh.events("server").into_iter();
    let of = all.filter(|event| event.get("grant").is_some_and(|grant| grant == id));
    of.collect()
}

fn heard(id: &str) -> Vec<Shout> {
    let all = shouts().into_iter();
    all.filter(|one| one.fields.get("grant").is_some_and(|grant| grant == id))
        .collect()
}

fn messages(id: &str) -> Vec<String> {
    heard(id).into_iter().map(|one| one.message).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_opens_and_what_it_let_in_ends_with_its_time() {
    let id = "opens";
    shouts();
    let safe = Safe::new().await;
    let (server, _client) = safe.pair().await;
    assert!(safe.connection().await.is_none(), "nobody is permitted");
    let begun = server
        .proxy
        .begin_break_glass(&safe.grant(id), &asked(15 * MINUTE));
    assert_eq!(begun.unwrap().until, NOW.plus(15 * MINUTE));
    assert_eq!(active(&server), "reeve_break_glass_active 1");

    let mut stream = safe.connection().await.expect("the grant lets it in");
    let alone = "reeve_break_glass_requests_total 1";
    assert!(server.metrics().contains(alone), "{}", server.metrics());
    safe.clock.advance(15 * MINUTE - Duration::from_millis(1));
    assert!(passes(&mut stream).await);
    assert_eq!(server.proxy.break_glass().len(), 1);
    safe.clock.advance(Duration::from_millis(1));
    assert!(ends(&mut stream).await);
    assert!(server.proxy.break_glass().is_empty());
    assert!(safe.connection().await.is_none());

    eventually(|| (active(&server) == "reeve_break_glass_active 0").then_some(())).await;
    let told = eventually(|| Some(messages(id)).filter(|told| told.len() == 2)).await;
    assert_eq!(
        told,
        [
            "break-glass begins",
            "break-glass has ended: its time was over"
        ]
    );
    let first = &heard(id)[0];
    assert_eq!(first.level, Level::WARN);
    let fields = &first.fields;
    for (name, value) in [
        ("policy", "break-glass/opens"),
        ("namespace", "default"),
        ("issuer", "on-call lead"),
        ("purpose", "unblock the ledger"),
        ("reason", "INC-4711"),
    ] {
        assert_eq!(
            fields.get(name).map(String::as_str),
            Some(value),
            "{fields:?}"
        );
    }
    assert!(fields["by"].contains("1000"), "{fields:?}");
    let recorded = events(&safe.mesh, id);
    assert_eq!(recorded.len(), 2, "{recorded:?}");
    assert_eq!(recorded[1]["cause"], "its time was over");
}

/// A stream that the policies let in is the grant's once they no longer do, and ends with it.
#[tokio::test(flavor = "multi_thread")]
async fn open_streams_are_judged_again_when_a_grant_begins_and_when_it_ends() {
    let mut safe = Safe::new().await;
    set_policies(&mut safe.config, &[ALLOW_CLIENT]);
    let (server, _client) = safe.pair().await;
    let mut stream = safe.connection().await.expect("the policy lets it in");
    let begun = server
        .proxy
        .begin_break_glass(&safe.grant("again"), &asked(MINUTE));
    begun.unwrap();
    assert!(passes(&mut stream).await);
    // Not until now does it rest on the grant.
    safe.change(&server, |config| set_policies(config, &[]));
    assert!(passes(&mut stream).await, "the grant lets it be");
    // Of two grants, either is enough.
    let more = server
        .proxy
        .begin_break_glass(&safe.grant("again-too"), &asked(2 * MINUTE));
    more.unwrap();
    let by = [("uid", "0".to_owned())];
    server.proxy.end_break_glass("again", &by).unwrap();
    assert!(passes(&mut stream).await, "the other grant lets it be");
    server.proxy.end_break_glass("again-too", &by).unwrap();
    assert!(ends(&mut stream).await);
    assert!(matches!(
        server.proxy.end_break_glass("again-too", &by),
        Err(BreakGlassRefused::Unknown(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbid_ends_what_a_grant_let_in() {
    let mut safe = Safe::new().await;
    let (server, _client) = safe.pair().await;
    let begun = server
        .proxy
        .begin_break_glass(&safe.grant("forbidden"), &asked(MINUTE));
    begun.unwrap();
    let mut stream = safe.connection().await.expect("the grant lets it in");
    safe.change(&server, |config| {
        set_policies(config, &["forbid (principal, action, resource);"]);
    });
    assert!(ends(&mut stream).await);
    assert_eq!(
        server.proxy.break_glass().len(),
        1,
        "it is in force, and loses"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_and_a_signer_that_goes_end_what_grants_let_in() {
    let mut safe = Safe::new().await;
    let (server, _client) = safe.pair().await;
    let trusted = safe.config.workload.clone();
    for untrusting in ["revoked", "signers"] {
        let id = format!("withdrawn-{untrusting}");
        let grant = safe.grant(&id);
        server
            .proxy
            .begin_break_glass(&grant, &asked(MINUTE))
            .unwrap();
        let mut stream = safe.connection().await.expect("the grant lets it in");
        safe.change(&server, |config| {
            let mut workload = (*config.workload).clone();
            match untrusting {
                "revoked" => workload.break_glass.revoked = vec![id.clone()],
                _ => workload.break_glass.signers.clear(),
            }
            config.workload = Arc::new(workload);
        });
        assert!(ends(&mut stream).await, "{untrusting}");
        let again = server.proxy.begin_break_glass(&grant, &asked(MINUTE));
        assert!(
            matches!(again, Err(BreakGlassRefused::Grant(_))),
            "{again:?}"
        );
        let recorded = events(&safe.mesh, &id);
        assert_eq!(recorded[1]["cause"], "withdrawn by configuration");
        safe.change(&server, |config| config.workload = trusted.clone());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_grants_than_the_bound_are_in_force_at_once() {
    let safe = Safe::new().await;
    let (server, _client) = safe.pair().await;
    let begin = |number: usize| {
        let grant = safe.grant(&format!("bound-{number}"));
        server.proxy.begin_break_glass(&grant, &asked(MINUTE))
    };
    for number in 0..MAX_BREAK_GLASS {
        begin(number).unwrap();
    }
    assert!(matches!(begin(0), Err(BreakGlassRefused::InForce(_))));
    assert!(matches!(
        begin(MAX_BREAK_GLASS),
        Err(BreakGlassRefused::TooMany)
    ));
    assert_eq!(server.proxy.break_glass().len(), MAX_BREAK_GLASS);
    assert_eq!(
        active(&server),
        format!("reeve_break_glass_active {MAX_BREAK_GLASS}")
    );
    server.proxy.end_break_glass("bound-0", &[]).unwrap();
    begin(MAX_BREAK_GLASS).unwrap();
}

/// SECURITY: nothing is opened in secret.
#[tokio::test(flavor = "multi_thread")]
async fn no_grant_takes_force_unrecorded() {
    let safe = Safe::new().await;
    let server = safe.mesh.side_with("server", 64 << 10);
    let client = safe.mesh.side("client");
    server.apply(&safe.config);
    client.apply(&safe.mesh.client(Protocol::Tcp));
    for side in [&server, &client] {
        eventually(|| side.proxy.status().ready.then_some(())).await;
    }
    // One that begins while there is room, so that the grants are good; then none is left.
    let early = server
        .proxy
        .begin_break_glass(&safe.grant("recorded"), &asked(MINUTE));
    early.unwrap();
    server.proxy.end_break_glass("recorded", &[]).unwrap();
    let filled = (0..10_000).find(|_| {
        let event = reeve_audit::EventRecord::new(reeve_audit::EventKind::ConnectionClosed);
        server
            .wal
            .append(event.with("filler", "x".repeat(500)))
            .is_err()
    });
    assert!(filled.is_some(), "the log fills up");

    let refused = server
        .proxy
        .begin_break_glass(&safe.grant("unrecorded"), &asked(MINUTE));
    assert!(
        matches!(refused, Err(BreakGlassRefused::Unrecorded(_))),
        "{refused:?}"
    );
    assert!(server.proxy.break_glass().is_empty());
    assert_eq!(active(&server), "reeve_break_glass_active 0");
    assert!(safe.connection().await.is_none());
    assert!(messages("unrecorded").is_empty(), "it never began");
    assert!(
        server
            .metrics()
            .contains(r#"reeve_wal_append_failures_total{what="event"}"#)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_asked_for_properly_is_refused_and_recorded() {
    let safe = Safe::new().await;
    let (server, _client) = safe.pair().await;
    let silent = BreakGlassAsked {
        reason: " ".to_owned(),
        ..asked(MINUTE)
    };
    let refused = server
        .proxy
        .begin_break_glass(&safe.grant("silent"), &silent);
    assert!(matches!(refused, Err(BreakGlassRefused::NoReason)));
    let long = server
        .proxy
        .begin_break_glass(&safe.grant("long"), &asked(61 * MINUTE));
    assert!(matches!(long, Err(BreakGlassRefused::Grant(_))));
    let junk = server.proxy.begin_break_glass(b"{}", &asked(MINUTE));
    assert!(matches!(junk, Err(BreakGlassRefused::Grant(_))));
    let recorded = safe.mesh.events("server");
    let causes: Vec<_> = recorded
        .iter()
        .filter_map(|event| event.get("cause"))
        .collect();
    assert_eq!(causes.len(), 3, "{recorded:?}");
    assert!(causes[0].contains("a reason must be given"), "{causes:?}");
    assert!(causes[1].contains("3600 s at once"), "{causes:?}");
}

/// By a clock of tokio's that runs as fast as there is nothing to do.
#[tokio::test(start_paused = true)]
async fn a_grant_in_force_is_told_again_and_again() {
    let id = "repeated";
    shouts();
    let safe = Safe::new().await;
    let server = safe.mesh.side("server");
    server.apply(&safe.config);
    let begun = server
        .proxy
        .begin_break_glass(&safe.grant(id), &asked(10 * MINUTE));
    begun.unwrap();
    tokio::time::sleep(3 * BREAK_GLASS_SHOUT + BREAK_GLASS_SHOUT / 2).await;
    let told = messages(id);
    assert_eq!(told[0], "break-glass begins");
    assert_eq!(told[1..], ["break-glass is in force"; 3], "{told:?}");
    assert!(
        heard(id)
            .iter()
            .all(|one| one.fields["reason"] == "INC-4711")
    );

    server.proxy.drain(Duration::ZERO).await;
    let last = messages(id).pop().unwrap();
    assert_eq!(last, "break-glass has ended: the proxy stopped");
}

/// Louder than one that opens a namespace: an error, six times as often, with a metric of its own.
#[tokio::test(start_paused = true)]
async fn a_mesh_wide_grant_is_for_its_signers_alone_and_shouts() {
    let id = "wide";
    shouts();
    let mut safe = Safe::new().await;
    let server = safe.mesh.side("server");
    server.apply(&safe.config);
    let grant = safe.grant_for(id, "*");
    let refused = server.proxy.begin_break_glass(&grant, &asked(MINUTE));
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("may open single namespaces alone"), "{why}");

    let key = safe.key.public();
    safe.change(&server, |config| {
        let mut workload = (*config.workload).clone();
        workload.break_glass.mesh_signers = vec![key];
        config.workload = Arc::new(workload);
    });
    server
        .proxy
        .begin_break_glass(&grant, &asked(10 * MINUTE))
        .unwrap();
    let metrics = server.metrics();
    for line in [
        "reeve_break_glass_active 1",
        "reeve_break_glass_mesh_wide_active 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    tokio::time::sleep(3 * BREAK_GLASS_MESH_SHOUT + BREAK_GLASS_MESH_SHOUT / 2).await;
    let told = heard(id);
    let messages: Vec<_> = told.iter().map(|one| one.message.as_str()).collect();
    assert_eq!(messages[0], "MESH-WIDE break-glass begins");
    assert_eq!(messages[1..], ["MESH-WIDE break-glass is in force"; 3]);
    assert!(
        told.iter()
            .all(|one| one.level == Level::ERROR && one.fields["namespace"] == "*")
    );
    assert_eq!(server.proxy.break_glass()[0].namespace.to_string(), "*");

    // A signer of single namespaces keeps it no longer in force.
    safe.change(&server, |config| {
        let mut workload = (*config.workload).clone();
        workload.break_glass.mesh_signers.clear();
        config.workload = Arc::new(workload);
    });
    assert!(server.proxy.break_glass().is_empty());
    let recorded = events(&safe.mesh, id);
    assert_eq!(recorded[1]["cause"], "withdrawn by configuration");
    assert_eq!(recorded[0]["namespace"], "*");
    assert!(
        server
            .metrics()
            .contains("reeve_break_glass_mesh_wide_active 0")
    );
}
