//! `RegistrationEntry`: which processes that are no workloads of the mesh get which identity, and on which terms.
//!
//! Tenancy: an entry gives identities below its own namespace, `spiffe://<trust domain>/ns/<namespace>/…`, and DNS names
//! of its own namespace; entries in the root namespace may give any that is nobody else's.

use std::{collections::BTreeMap, time::Duration};

use reeve_core::{
    EntryName, MAX_HINT_BYTES, RegistrationEntry, Selector, Selectors, ServiceAccount, ServiceName,
    SpiffeId, WorkloadName,
};

use super::values::Notes;
use crate::{
    Code, Fault, LocalWorkload, MeshSettings,
    kinds::{Object, RegistrationEntrySpec},
    source::path::Path,
};

/// Most entries of one agent.
const MAX_ENTRIES_OF_AGENT: usize = 500;
/// Most selectors, DNS names or audiences of one entry.
const MAX_ITEMS: usize = 16;
/// Longest audience, in bytes.
const MAX_AUDIENCE: usize = 256;
/// Longest name of an entry, in bytes: members of the mesh are named by it.
const MAX_NAME: usize = 128;
/// Shortest life of a certificate or token.
const SHORTEST: Duration = Duration::from_secs(5);
/// Longest life of a token.
const LONGEST_TOKEN: Duration = Duration::from_secs(300);

type Entry<'a> = Notes<'a, RegistrationEntrySpec>;

/// Every entry, in the order in which a workload gets several identities.
pub(super) fn resolve(
    objects: &[Object<RegistrationEntrySpec>],
    settings: &MeshSettings,
    workloads: &[LocalWorkload],
    faults: &mut Vec<Fault>,
) -> Vec<RegistrationEntry> {
    let mut entries = Vec::new();
    let mut of_agent: BTreeMap<SpiffeId, usize> = BTreeMap::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let Some(entry) = entry(&mut notes, settings, workloads) else {
            continue;
        };
        let count = of_agent.entry(entry.parent.clone()).or_default();
        *count += 1;
        if *count == MAX_ENTRIES_OF_AGENT + 1 {
            let text = format!(
                "more than {MAX_ENTRIES_OF_AGENT} entries of {}",
                entry.parent
            );
            let hint = "give other agents some of them, by parentID";
            notes.hint(&at("parentID"), Code::Exhausted, text, hint);
        }
        entries.push(entry);
    }
    entries.sort_by(|a, b| a.rank().cmp(&b.rank()));
    entries
}

fn at(key: &str) -> Path {
    Path::of(&["spec", key])
}

fn entry(
    notes: &mut Entry<'_>,
    settings: &MeshSettings,
    workloads: &[LocalWorkload],
) -> Option<RegistrationEntry> {
    let spec = &notes.object.spec;
    let name = name(notes);
    let id = identity(notes, settings, workloads);
    let parent = match &spec.parent_id {
        Some(text) => parse_id(notes, &at("parentID"), text, settings),
        None => own_agent(settings),
    };
    let selectors = selectors(notes);
    let longest = settings.certificate_ttl;
    let x509_ttl = lifetime(notes, "x509SVIDTTL", spec.x509_svid_ttl.as_ref(), longest);
    let jwt_ttl = lifetime(
        notes,
        "jwtSVIDTTL",
        spec.jwt_svid_ttl.as_ref(),
        LONGEST_TOKEN,
    );
    let dns_names = dns_names(notes, settings);
    audiences(notes);
    if spec.hint.len() > MAX_HINT_BYTES || spec.hint.chars().any(char::is_control) {
        let text = format!("a hint is one line of at most {MAX_HINT_BYTES} bytes");
        notes.error(&at("hint"), Code::Invalid, text);
    }
    Some(RegistrationEntry {
        name: name?,
        id: id?,
        parent: parent?,
        selectors,
        x509_ttl,
        jwt_ttl,
        dns_names,
        jwt_audiences: spec.jwt_audiences.clone(),
        hint: spec.hint.clone(),
    })
}

fn name(notes: &mut Entry<'_>) -> Option<EntryName> {
    let object = notes.object;
    if object.name.len() > MAX_NAME {
        let text = format!("the name of an entry is at most {MAX_NAME} bytes long");
        notes.error(&Path::of(&["metadata", "name"]), Code::Invalid, text);
    }
    Some(EntryName {
        namespace: object.namespace.clone(),
        // What is wrong with it has been said.
        name: WorkloadName::parse(&object.name).ok()?,
    })
}

/// The agent of this machine: the mesh process.
fn own_agent(settings: &MeshSettings) -> Option<SpiffeId> {
    let account = ServiceAccount::parse("control").ok()?;
    let root = &settings.root_namespace;
    Some(settings.trust_domain.workload(root, &account))
}

fn parse_id(
    notes: &mut Entry<'_>,
    path: &Path,
    text: &str,
    settings: &MeshSettings,
) -> Option<SpiffeId> {
    if text.is_empty() {
        notes.error(path, Code::Missing, "there is no SPIFFE ID");
        return None;
    }
    let id = match SpiffeId::parse(text) {
        Ok(id) => id,
        Err(error) => {
            notes.error(path, Code::Invalid, error.to_string());
            return None;
        }
    };
    let domain = &settings.trust_domain;
    if id.is_member_of(domain) && !id.path().is_empty() {
        return Some(id);
    }
    let text = format!("{id} is not of a workload of {}", domain.as_str());
    let hint = format!("write spiffe://{}/…", domain.as_str());
    notes.hint(path, Code::Invalid, text, &hint);
    None
}

fn identity(
    notes: &mut Entry<'_>,
    settings: &MeshSettings,
    workloads: &[LocalWorkload],
) -> Option<SpiffeId> {
    let object = notes.object;
    let path = at("spiffeID");
    let id = parse_id(notes, &path, &object.spec.spiffe_id, settings)?;
    let namespace = &object.namespace;
    let below = format!("/ns/{namespace}/");
    if *namespace != settings.root_namespace && !id.path().starts_with(&below) {
        let text = format!("namespace {namespace} cannot give out {id}");
        let hint = format!(
            "an entry gives identities of its own namespace ({below}…); in {} it may give any",
            settings.root_namespace
        );
        notes.hint(&path, Code::Invalid, text, &hint);
        return None;
    }
    // SECURITY: whoever had one of these would be taken for the mesh itself, or for a sidecar.
    if own_agent(settings).as_ref() == Some(&id) {
        let text = format!("{id} is the mesh process's own identity");
        notes.hint(&path, Code::Conflict, text, "give another one");
        return None;
    }
    let holder = workloads.iter().find(|w| w.identity.as_ref() == Some(&id));
    if let Some(workload) = holder {
        let text = format!(
            "{id} is the identity of workload {}, and held by its sidecars",
            workload.name
        );
        let hint = "give another one, or let the process ask at its sidecar's socket";
        notes.hint(&path, Code::Conflict, text, hint);
        return None;
    }
    Some(id)
}

fn selectors(notes: &mut Entry<'_>) -> Selectors {
    let spec = &notes.object.spec;
    let path = at("selectors");
    few(notes, &path, spec.selectors.len());
    if spec.selectors.is_empty() {
        let hint = "name at least one fact about the workload, such as unix:uid:1000";
        let text = "an entry without selectors would be everybody's";
        notes.hint(&path, Code::Missing, text, hint);
    }
    let mut found = Vec::new();
    for (n, text) in spec.selectors.iter().enumerate() {
        match Selector::parse(text) {
            Ok(selector) => found.push(selector),
            Err(error) => notes.error(&path.index(n), Code::Invalid, error.to_string()),
        }
    }
    let has = |kinds: &[&str]| found.iter().any(|s| kinds.contains(&s.kind()));
    if has(&["unix:path", "unix:sha256"]) && !has(&["unix:uid", "unix:user"]) {
        let text = "any user can run this program, and let it ask";
        let hint = "name the user as well (unix:uid:…), unless others cannot execute the file";
        notes.warn(&path, Code::Invalid, text, hint);
    }
    found.into_iter().collect()
}

fn few(notes: &mut Entry<'_>, path: &Path, count: usize) {
    if count > MAX_ITEMS {
        let text = format!("at most {MAX_ITEMS}, not {count}");
        notes.error(path, Code::TooLarge, text);
    }
}

fn lifetime(
    notes: &mut Entry<'_>,
    key: &str,
    said: Option<&String>,
    longest: Duration,
) -> Option<Duration> {
    let path = at(key);
    let ttl = notes.duration(&path, said?)?;
    if (SHORTEST..=longest).contains(&ttl) {
        return Some(ttl);
    }
    let text = format!(
        "{}s is not between {}s and the mesh's {}s",
        ttl.as_secs(),
        SHORTEST.as_secs(),
        longest.as_secs()
    );
    let hint = "an entry can shorten a life; MeshConfig.spec.certificateTtl bounds certificates";
    notes.hint(&path, Code::Invalid, text, hint);
    None
}

fn dns_names(notes: &mut Entry<'_>, settings: &MeshSettings) -> Vec<ServiceName> {
    let object = notes.object;
    let path = at("dnsNames");
    few(notes, &path, object.spec.dns_names.len());
    let namespace = &object.namespace;
    let own = [
        format!(".{namespace}.svc"),
        format!(".{namespace}.svc.cluster.local"),
    ];
    let mut names = Vec::new();
    for (n, text) in object.spec.dns_names.iter().enumerate() {
        let path = path.index(n);
        let label = |label: &str| {
            (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
        };
        let lower = !text.chars().any(|c| c.is_ascii_uppercase() || c == '_');
        match ServiceName::parse(text) {
            Ok(name) if lower && text.split('.').all(label) => {
                let ours = own.iter().any(|end| text.ends_with(end.as_str()));
                if ours || *namespace == settings.root_namespace {
                    names.push(name);
                    continue;
                }
                let said = format!("namespace {namespace} cannot give out the name {text}");
                let hint = format!("it may give NAME{}", own.join(", NAME"));
                notes.hint(&path, Code::Invalid, said, &hint);
            }
            Ok(_) | Err(_) => {
                let said = format!("{text:?} is not a DNS name in lower case, without wildcards");
                notes.error(&path, Code::Invalid, said);
            }
        }
    }
    names
}

fn audiences(notes: &mut Entry<'_>) {
    let spec = &notes.object.spec;
    let path = at("jwtAudiences");
    few(notes, &path, spec.jwt_audiences.len());
    for (n, audience) in spec.jwt_audiences.iter().enumerate() {
        if !(1..=MAX_AUDIENCE).contains(&audience.len()) {
            let text = format!("an audience is 1 to {MAX_AUDIENCE} bytes long");
            notes.error(&path.index(n), Code::Invalid, text);
        }
    }
}
