use expect_test::expect;
use proptest::prelude::*;
use reeve_core::{
    PolicyId,
    decision::{
        Action, AskedExternally, Effect, ExternalAnswer, GrpcMethod, PolicyError, Principal,
        Reason, User,
    },
};

use super::*;

use crate::{
    canonical::Scratch,
    fixture::{START, clock, decision},
};

fn id() -> RecordId {
    "ratings-v1-0/2/0/42".parse().unwrap()
}

fn canonical(entry: impl Into<Entry>) -> String {
    let record = Record::new(id(), entry.into(), clock().as_ref());
    String::from_utf8(record.to_canonical().unwrap()).unwrap()
}

#[test]
fn the_decision_schema_is_as_documented() {
    expect![[r#"{"authenticated_by":"mtls","cost_us":42,"decision":{"effect":"deny","policies":["default/ratings"],"reason":"no_permit"},"direction":"inbound","generation":7,"id":"ratings-v1-0/2/0/42","kind":"decision","looked_for":{"headers":["end-user"]},"mtls_mode":"STRICT","path_normalization":"REFUSE_AMBIGUOUS","policy_hash":"ab12","projection_hash":"cd34","request":{"action":"GET","context":{"http":{"headers":{"end-user":["jason"]},"host":"ratings","method":"GET","path":"/ratings/0"},"mtls":true,"port":9080,"source_ip":"127.77.3.1","time":1700000000000},"principal":{"workload":"spiffe://mesh.local/ns/default/sa/reviews"},"resource":{"namespace":"default","services":["ratings.default.svc.cluster.local"],"workload":"spiffe://mesh.local/ns/default/sa/ratings"}},"request_id":"r-1","schema":"reeve.audit/v1","strict_would_refuse":false,"time":1700000000000,"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}"#]].assert_eq(&canonical(decision("/ratings/0", Effect::Deny)));
}

#[test]
fn the_other_schemas_are_as_documented() {
    expect![[r#"{"bytes_in":0,"bytes_out":48,"decision":"ratings-v1-0/2/0/42","duration_us":1200,"id":"ratings-v1-0/2/0/42","kind":"outcome","schema":"reeve.audit/v1","status":200,"time":1700000000000,"upstream":"127.77.4.2:9080"}"#]].assert_eq(&canonical(OutcomeRecord {
        decision: id(),
        status: Some(200),
        grpc_status: None,
        bytes_in: 0,
        bytes_out: 48,
        duration_us: 1200,
        upstream: Some("127.77.4.2:9080".into()),
        flags: String::new(),
        transformations: vec![],
    }));
    expect![[r#"{"detail":{"error":"line 3: unknown field"},"event":"config_refused","id":"ratings-v1-0/2/0/42","kind":"event","schema":"reeve.audit/v1","time":1700000000000}"#]].assert_eq(&canonical(
        EventRecord::new(EventKind::ConfigRefused).with("error", "line 3: unknown field"),
    ));
    expect![[r#"{"count":3,"event":"handshake_refused","id":"ratings-v1-0/2/0/42","kind":"aggregate","schema":"reeve.audit/v1","since":1700000000000,"time":1700000000000,"until":1700000000000}"#]].assert_eq(&canonical(AggregateRecord {
        event: EventKind::HandshakeRefused,
        count: 3,
        since: START,
        until: START,
        detail: BTreeMap::new(),
    }));
}

#[test]
fn every_kind_of_event_is_documented() {
    let source = include_str!("../record.rs");
    let (_, kinds) = source.split_once("pub enum EventKind {").unwrap();
    let (kinds, _) = kinds.split_once("\n}").unwrap();
    let names = kinds
        .lines()
        .filter_map(|line| line.trim().strip_suffix(','));
    let doc = include_str!("../../../docs/audit-record.md");
    let mut count = 0;
    for name in names {
        let mut word = String::new();
        for (at, letter) in name.char_indices() {
            if letter.is_uppercase() && at > 0 {
                word.push('_');
            }
            word.extend(letter.to_lowercase());
        }
        let read = serde_json::from_value::<EventKind>(word.clone().into());
        assert!(read.is_ok(), "{word}");
        assert!(
            doc.contains(&format!("`{word}`")),
            "{word} is not documented"
        );
        count += 1;
    }
    assert!(count >= 30, "{count} kinds");
}

#[test]
fn what_transformed_a_request_is_recorded() {
    let record = DecisionRecord {
        transformations: vec!["default/add-version".into()],
        ..decision("/ratings/0", Effect::Allow)
    };
    let line = canonical(record);
    assert!(line.ends_with(
        r#""trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","transformations":["default/add-version"]}"#
    ));
}

#[test]
fn records_read_back() {
    for entry in [
        Entry::from(decision("/x", Effect::Allow)),
        EventRecord::new(EventKind::Started).into(),
    ] {
        let record = Record::new(id(), entry, clock().as_ref());
        let bytes = record.to_canonical().unwrap();
        assert_eq!(Record::from_slice(&bytes).unwrap(), record);
    }
}

#[test]
fn long_particulars_are_shortened_at_a_character() {
    let event = EventRecord::new(EventKind::Started).with("x", "é".repeat(4000));
    assert_eq!(event.detail["x"].len(), 4096);
}

proptest! {
    #[test]
    fn a_record_written_from_borrowed_parts_is_the_canonical_one(
        texts in prop::collection::vec(".{0,24}", 6), sequence: u64, worker: u16, millis: u64, flags in 0..128u8,
    ) {
        let bit = |n: u8| flags & (1 << n) != 0;
        let mut record = decision(&texts[0], if bit(0) { Effect::Allow } else { Effect::Deny });
        record.trace_id = bit(1).then(|| texts[1].clone());
        record.request_id = bit(2).then(|| texts[2].clone());
        record.generation = record.generation.filter(|_| bit(3));
        record.policy_hash = texts[3].clone();
        let names = || if bit(6) { vec![texts[2].as_str().into()] } else { vec![] };
        record.transformations = names();
        if bit(0) {
            record.redacted.headers.insert(texts[3].clone(), [texts[1].clone()].into());
            record.redacted.claims.insert(texts[1].clone(), texts.iter().cloned().collect());
        }
        if bit(1) {
            record.request.context.source_ip = std::net::Ipv6Addr::from(u128::from(sequence)).into();
            record.request.resource.address = Some((record.request.context.source_ip, worker).into());
            let context = &mut record.request.context;
            context.remote_ip = worker.is_multiple_of(2).then_some([192, 0, 2, 7].into());
            context.destination_ip = worker.is_multiple_of(3).then_some(context.source_ip);
            context.sni = worker.is_multiple_of(5).then(|| texts[4].as_str().into());
            record.request.principal = Principal::Unauthenticated;
        }
        if bit(2) {
            record.request.user = Some(Arc::new(User {
                claims: [(texts[0].clone(), texts.iter().cloned().collect())].into(),
                expires_at: bit(3).then_some(UnixTime::from_millis(sequence)),
                issuer: texts[1].clone(),
                subject: texts[2].clone(),
            }));
            record.request.resource.workload = None;
            record.request.resource.services.clear();
        }
        if bit(3) {
            let policy: PolicyId = "default/ratings#2".parse().unwrap();
            record.decision.errors = vec![PolicyError { policy: policy.clone(), message: texts[4].clone() }];
            record.decision.asked = vec![AskedExternally {
                provider: texts[5].clone(), answer: ExternalAnswer::FailedOpen, policies: vec![policy], took_us: millis,
            }];
            record.decision.policies.clear();
        }
        if bit(4) {
            let names = || texts.iter().map(String::as_str);
            record.looked_for = LookedFor::new(names().take(usize::from(flags) % 3), names().skip(usize::from(worker) % 7), bit(5));
        }
        if let Some(http) = &mut record.request.context.http {
            http.grpc = bit(6).then(|| GrpcMethod { service: texts[0].clone(), method: texts[1].clone() });
            http.headers.insert(texts[4].clone(), texts.iter().cloned().collect());
            http.query.insert(texts[5].clone(), [texts[4].clone()].into());
        }
        if bit(0) && bit(5) {
            record.request.context.http = None;
        }
        if bit(5) {
            record.decision.shadow = Some(Box::new(record.decision.clone()));
        }
        let event = EventRecord::new(EventKind::Started).with(&texts[4], texts[5].clone());
        let outcome = OutcomeRecord {
            decision: id(), status: bit(0).then_some(200), grpc_status: bit(1).then_some(3), bytes_in: sequence,
            bytes_out: millis, duration_us: 7, upstream: bit(2).then(|| texts[1].clone()), flags: texts[3].clone(),
            transformations: names(),
        };
        let id = RecordId { sequence, worker, ..id() };
        let time = UnixTime::from_millis(millis);
        for entry in [Entry::from(record), event.into(), outcome.into()] {
            let mut line = b"before".to_vec();
            write(&mut line, &mut Scratch::default(), &id, time, (&entry).into()).unwrap();
            let record = Record { schema: RECORD_SCHEMA.into(), id: id.clone(), time, entry };
            let mut tree = b"before".to_vec();
            canonical::write(&serde_json::to_value(&record).unwrap(), &mut tree).unwrap();
            prop_assert_eq!(String::from_utf8(line), String::from_utf8(tree));
        }
    }
}

/// What the general way makes of a decision.
fn by_tree(record: &DecisionRecord) -> String {
    let record = Record::new(id(), record.clone().into(), clock().as_ref());
    let mut out = Vec::new();
    canonical::write(&serde_json::to_value(&record).unwrap(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn every_word_is_written_as_it_reads_back() {
    let base = || decision("/ratings/0", Effect::Allow);
    let mut records = Vec::new();
    for by in ["mtls", "tls_passthrough", "ext_authz", "nothing"] {
        let authenticated_by = serde_json::from_value(by.into()).unwrap();
        records.push(DecisionRecord {
            authenticated_by,
            ..base()
        });
    }
    for direction in [Direction::Inbound, Direction::Outbound] {
        records.push(DecisionRecord {
            direction,
            ..base()
        });
    }
    for mtls_mode in [MtlsMode::Disable, MtlsMode::Permissive, MtlsMode::Strict] {
        records.push(DecisionRecord {
            mtls_mode,
            strict_would_refuse: true,
            ..base()
        });
    }
    for how in [
        "NONE",
        "BASE",
        "MERGE_SLASHES",
        "DECODE_AND_MERGE_SLASHES",
        "REFUSE_AMBIGUOUS",
    ] {
        let path_normalization = serde_json::from_value(how.into()).unwrap();
        records.push(DecisionRecord {
            path_normalization,
            ..base()
        });
    }
    for action in Action::ALL {
        let mut record = base();
        record.request.action = action;
        records.push(record);
    }
    for reason in [
        Reason::Permitted,
        Reason::ServiceOpen,
        Reason::ServiceShadow,
        Reason::NoPermit,
        Reason::Forbidden,
        Reason::ForbidError,
        Reason::TooManyPolicies,
        Reason::NoPolicySet,
        Reason::InvalidToken,
        Reason::PlaintextRefused,
        Reason::AmbiguousPath,
        Reason::NotEntitled,
        Reason::NotInRegistry,
        Reason::ExternallyDenied,
        Reason::ExternallyUnanswered,
        Reason::NoRoute,
    ] {
        let mut record = base();
        record.decision.reason = reason;
        records.push(record);
    }
    for record in records {
        let mut line = Vec::new();
        let entry = EntryRef::from(&record);
        write(&mut line, &mut Scratch::default(), &id(), START, entry).unwrap();
        assert_eq!(String::from_utf8(line).unwrap(), by_tree(&record));
    }
}
