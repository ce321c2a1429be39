//! `MeshConfig.spec.audit`.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use reeve_core::{
    InstanceName,
    model::{AuditReplica, CONTEXT_FIELDS, FieldClass, JoinKey},
};

use crate::{
    AuditLevel, Code, MeshSettings, WitnessAt,
    instances::{MAX_REPLICAS, replica_name},
    kinds::{AuditSpec, MeshConfigSpec, Object, SecretSpec, WitnessSpec},
    resolve::{secrets::text_of, values::Notes},
    source::path::Path,
};

/// Most request headers that records keep.
const MAX_RECORDED_HEADERS: usize = 64;
/// Smallest room for a write-ahead log.
const MIN_WAL_BYTES: u64 = 1024 * 1024;
/// The shortest time that records are kept for.
const MIN_RETENTION: Duration = Duration::from_secs(60);
/// Most witnesses that are asked.
const MAX_WITNESSES: usize = 16;
/// How long a witness may take, unless something else is said.
const WITNESS_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest that one may be given.
const MAX_WITNESS_TIMEOUT: Duration = Duration::from_secs(5);
/// Most names with a class, of each kind.
const MAX_FIELD_CLASSES: usize = 256;
/// What the join key is called in its `Secret`.
const JOIN_KEY: &str = "join.key";
/// Shortest join key: what hexadecimal digits of 128 bits take.
const MIN_JOIN_KEY_BYTES: usize = 32;
/// Longest join key.
const MAX_JOIN_KEY_BYTES: usize = 1024;

const CLASSES: [(&str, FieldClass); 3] = [
    ("public", FieldClass::Public),
    ("sensitive", FieldClass::Sensitive),
    ("secret", FieldClass::Secret),
];

pub(super) fn resolve(
    settings: &mut MeshSettings,
    notes: &mut Notes<'_, MeshConfigSpec>,
    secrets: &[Object<SecretSpec>],
) {
    let Some(spec) = &notes.object.spec.audit else {
        return;
    };
    let path = Path::of(&["spec", "audit"]);
    if spec.recorded_headers.len() > MAX_RECORDED_HEADERS {
        let text = format!("at most {MAX_RECORDED_HEADERS} headers are recorded");
        notes.error(&path.key("recordedHeaders"), Code::TooLarge, text);
    }
    for (n, name) in spec.recorded_headers.iter().enumerate() {
        notes.header_name(&path.key("recordedHeaders").index(n), name);
        settings.recorded_headers.push(name.to_ascii_lowercase());
    }
    if let Some(level) = &spec.level {
        let words = [
            ("buffered", AuditLevel::Buffered),
            ("os", AuditLevel::Os),
            ("disk", AuditLevel::Disk),
        ];
        settings.audit_level = notes
            .word(&path.key("level"), level, &words)
            .unwrap_or_default();
    }
    if let Some(bytes) = spec.wal_max_bytes {
        if bytes < MIN_WAL_BYTES {
            let text = format!("a write-ahead log has room for at least {MIN_WAL_BYTES} bytes");
            notes.error(&path.key("walMaxBytes"), Code::Invalid, text);
        }
        settings.wal_max_bytes = bytes;
    }
    lives(settings, notes, spec);
    settings.danger_pass_unrecorded = spec.danger_pass_unrecorded;
    if spec.danger_pass_unrecorded {
        notes.warn(
            &path.key("dangerPassUnrecorded"),
            Code::Insecure,
            "requests pass that are not recorded when a write-ahead log is full or its disk fails",
            "leave it out where every decision must be on record",
        );
    }
    witnesses(settings, notes, spec);
    field_classes(settings, notes, spec);
    join_key(settings, notes, (spec, secrets));
    replicas(settings, notes, spec);
}

/// The further logs, here and elsewhere.
fn replicas(settings: &mut MeshSettings, notes: &mut Notes<'_, MeshConfigSpec>, spec: &AuditSpec) {
    let path = Path::of(&["spec", "audit"]);
    let (here, at) = (spec.replicas.unwrap_or(0), path.key("replicasElsewhere"));
    if usize::from(here) + spec.replicas_elsewhere.len() > MAX_REPLICAS {
        let text = format!("a mesh has at most {MAX_REPLICAS} audit replicas");
        notes.error(&path.key("replicas"), Code::TooLarge, text);
        return;
    }
    settings.audit_replicas = here;
    let own: Vec<_> = (0..here).filter_map(replica_name).collect();
    for (n, one) in spec.replicas_elsewhere.iter().enumerate() {
        let at = at.index(n);
        let name = match InstanceName::parse(&one.name) {
            Ok(name) => name,
            Err(error) => {
                notes.error(&at.key("name"), Code::Invalid, error.to_string());
                continue;
            }
        };
        let known = &mut settings.audit_replicas_elsewhere;
        if own.contains(&name) || known.iter().any(|other| other.name == name) {
            let text = format!("there is another audit replica {name}");
            notes.error(&at.key("name"), Code::DuplicateObject, text);
        }
        if one.address.parse::<SocketAddr>().is_err() {
            let hint = "write ADDRESS:PORT, the address in digits";
            let text = "an audit replica is not reached there";
            notes.hint(&at.key("address"), Code::Invalid, text, hint);
        }
        known.push(AuditReplica {
            name,
            address: one.address.clone(),
        });
    }
}

/// How long records are kept, and as what.
fn lives(settings: &mut MeshSettings, notes: &mut Notes<'_, MeshConfigSpec>, spec: &AuditSpec) {
    let path = Path::of(&["spec", "audit"]);
    let duration = |notes: &mut Notes<'_, MeshConfigSpec>, key, text: &Option<String>| {
        let text = text.as_ref()?;
        notes.duration(&path.key(key), text)
    };
    if let Some(after) = duration(notes, "columnsAfter", &spec.columns_after) {
        settings.columns_after = after;
    }
    settings.retention = duration(notes, "retention", &spec.retention);
    if settings.retention.is_some_and(|kept| kept < MIN_RETENTION) {
        let text = "records are kept for a minute at least";
        notes.error(&path.key("retention"), Code::Invalid, text);
    }
}

/// Who cosigns the log, and what becomes of it where they do not.
fn witnesses(settings: &mut MeshSettings, notes: &mut Notes<'_, MeshConfigSpec>, spec: &AuditSpec) {
    let path = Path::of(&["spec", "audit"]);
    let at = path.key("witnesses");
    if spec.witnesses.len() > MAX_WITNESSES {
        let text = format!("at most {MAX_WITNESSES} witnesses are asked");
        notes.error(&at, Code::TooLarge, text);
    }
    let known = &mut settings.witnesses;
    for (n, witness) in spec.witnesses.iter().take(MAX_WITNESSES).enumerate() {
        let found = asked(notes, &at.index(n), witness, &known.asked);
        known.asked.extend(found);
    }
    let asked = u16::try_from(spec.witnesses.len()).unwrap_or(u16::MAX);
    known.quorum = spec.witness_quorum.unwrap_or(asked);
    if spec
        .witness_quorum
        .is_some_and(|quorum| quorum == 0 || quorum > asked)
    {
        let text = format!("there are {asked} witnesses, and at least one must cosign");
        notes.error(&path.key("witnessQuorum"), Code::Invalid, text);
    }
    let timeout = spec.witness_timeout.as_ref();
    let timeout = timeout.and_then(|text| notes.duration(&path.key("witnessTimeout"), text));
    known.timeout = timeout.unwrap_or(WITNESS_TIMEOUT);
    if known.timeout > MAX_WITNESS_TIMEOUT {
        let text = format!(
            "proxies wait for it: at most {} s",
            MAX_WITNESS_TIMEOUT.as_secs()
        );
        notes.error(&path.key("witnessTimeout"), Code::TooLarge, text);
    }
    known.danger_acknowledge_unwitnessed = spec.danger_acknowledge_unwitnessed;
    if spec.danger_acknowledge_unwitnessed {
        notes.warn(
            &path.key("dangerAcknowledgeUnwitnessed"),
            Code::Insecure,
            "records are acknowledged that no witness has cosigned, which the log's operator can rewrite",
            "leave it out where the operator must not be able to",
        );
    }
}

/// One witness; nothing where it cannot be asked.
fn asked(
    notes: &mut Notes<'_, MeshConfigSpec>,
    at: &Path,
    witness: &WitnessSpec,
    others: &[WitnessAt],
) -> Option<WitnessAt> {
    let place = place_of(&witness.url);
    if place.is_none() {
        let hint = "write http://ADDRESS:PORT, the address in digits";
        let text = "a witness is not asked there";
        notes.hint(&at.key("url"), Code::Invalid, text, hint);
    }
    let key = witness.key.trim();
    if !is_cosigner_key(key) {
        let hint = "write name+hash+key as `reeve witness` prints it";
        let text = "this is no witness's key";
        notes.hint(&at.key("key"), Code::Invalid, text, hint);
    }
    if others.iter().any(|other| other.key == key) {
        let text = "the witness is asked already";
        notes.error(&at.key("key"), Code::DuplicateObject, text);
    }
    place.map(|(address, prefix)| WitnessAt {
        address,
        prefix,
        key: key.to_owned(),
    })
}

/// `http://ADDRESS:PORT`, and perhaps a path.
fn place_of(url: &str) -> Option<(SocketAddr, String)> {
    let rest = url.strip_prefix("http://")?;
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_end_matches('/');
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    let prefix = match path {
        "" => String::new(),
        path => format!("/{path}"),
    };
    address
        .parse()
        .ok()
        .filter(|_| plain)
        .map(|address| (address, prefix))
}

/// Whether `text` looks like a key of C2SP tlog-cosignature: name, hash, and 33 bytes of which the first is 4.
fn is_cosigner_key(text: &str) -> bool {
    let mut parts = text.splitn(3, '+');
    let (name, hash, key) = (parts.next(), parts.next(), parts.next());
    let named = name.is_some_and(|name| !name.is_empty() && !name.contains(char::is_whitespace));
    let hashed =
        hash.is_some_and(|hash| hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
    let key = key.and_then(|key| BASE64_STANDARD.decode(key).ok());
    named && hashed && key.is_some_and(|key| key.len() == 33 && key.first() == Some(&4))
}

fn field_classes(
    settings: &mut MeshSettings,
    notes: &mut Notes<'_, MeshConfigSpec>,
    spec: &AuditSpec,
) {
    let path = Path::of(&["spec", "audit", "fieldClasses"]);
    let (known, spec) = (&mut settings.field_classes, &spec.field_classes);
    known.headers = classes(notes, &path.key("headers"), &spec.headers);
    for name in spec.headers.keys() {
        notes.header_name(&path.key("headers").key(name), name);
    }
    let lower = |(name, class): (String, _)| (name.to_ascii_lowercase(), class);
    known.headers = std::mem::take(&mut known.headers)
        .into_iter()
        .map(lower)
        .collect();
    known.query = classes(notes, &path.key("query"), &spec.query);
    known.claims = classes(notes, &path.key("claims"), &spec.claims);
    known.context = classes(notes, &path.key("context"), &spec.context);
    for name in spec.context.keys() {
        if !CONTEXT_FIELDS.contains(&name.as_str()) {
            let text = format!(
                "of a request's context, {} can have a class",
                CONTEXT_FIELDS.join(", ")
            );
            notes.error(&path.key("context").key(name), Code::Invalid, text);
        }
    }
}

fn classes(
    notes: &mut Notes<'_, MeshConfigSpec>,
    path: &Path,
    spec: &BTreeMap<String, String>,
) -> BTreeMap<String, FieldClass> {
    if spec.len() > MAX_FIELD_CLASSES {
        let text = format!("at most {MAX_FIELD_CLASSES} names have a class");
        notes.error(path, Code::TooLarge, text);
    }
    let mut found = BTreeMap::new();
    for (name, class) in spec {
        if let Some(class) = notes.word(&path.key(name), class, &CLASSES) {
            found.insert(name.clone(), class);
        }
    }
    found
}

/// The key from the `Secret` of the root namespace.
fn join_key(
    settings: &mut MeshSettings,
    notes: &mut Notes<'_, MeshConfigSpec>,
    (spec, secrets): (&AuditSpec, &[Object<SecretSpec>]),
) {
    let path = Path::of(&["spec", "audit", "joinKey"]);
    let Some(name) = &spec.join_key else {
        if settings.field_classes.need_key() {
            let text = "sensitive values are recorded as a keyed hash, and there is no key";
            let hint = "name a Secret of the root namespace that holds one as `join.key`";
            notes.hint(&path, Code::Missing, text, hint);
        }
        return;
    };
    let root = &settings.root_namespace;
    let found = secrets
        .iter()
        .find(|s| s.name == *name && s.namespace == *root);
    let Some(text) = found.and_then(|secret| text_of(&secret.spec, JOIN_KEY)) else {
        let text = format!("there is no Secret {root}/{name} with a text `{JOIN_KEY}`");
        notes.error(&path, Code::UnknownReference, text);
        return;
    };
    let text = text.trim();
    if !(MIN_JOIN_KEY_BYTES..=MAX_JOIN_KEY_BYTES).contains(&text.len()) {
        let text = format!("a join key has {MIN_JOIN_KEY_BYTES} to {MAX_JOIN_KEY_BYTES} bytes");
        notes.error(&path, Code::Invalid, text);
        return;
    }
    settings.field_classes.join_key = JoinKey::new(text.to_owned());
}
