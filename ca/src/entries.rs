//! The registration entries in force, and who uses them at which agent.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reeve_core::{EntryName, RegistrationEntry, SpiffeId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Most uses that one agent may report.
pub(crate) const MAX_USES: usize = 1_000;
/// Most agents that may do so.
const MAX_AGENTS: usize = 16_384;

/// All entries; the configuration's, in the order in which a workload gets several identities.
pub type EntryList = Arc<Vec<RegistrationEntry>>;

/// What the authority knows of registration entries.
#[derive(Debug, Default)]
pub struct Entries {
    /// None until the configuration was read: agents go on with what they were told before.
    all: watch::Sender<Option<EntryList>>,
    uses: Mutex<Uses>,
}

#[derive(Debug, Default)]
struct Uses {
    by_agent: BTreeMap<SpiffeId, (u64, Vec<EntryUse>)>,
    reporters: u64,
}

/// A process that gets an identity of an entry now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryUse {
    /// The entry.
    pub entry: EntryName,
    /// Process id on the agent's machine.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

/// An entry and who uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryStatus {
    /// The entry.
    #[serde(flatten)]
    pub entry: RegistrationEntry,
    /// Processes that get its identity now, as its agent says.
    pub used_by: Vec<EntryUse>,
    /// Whether its agent is connected.
    pub agent_connected: bool,
}

/// An agent that reports; dropped, its uses are forgotten.
#[derive(Debug)]
pub(crate) struct Reporter {
    entries: Arc<Entries>,
    agent: SpiffeId,
    number: u64,
}

impl Entries {
    /// These hold from now on: what is no longer among them is issued no more.
    pub fn set(&self, entries: EntryList) {
        self.all.send_if_modified(|all| {
            let changed = all.as_ref() != Some(&entries);
            *all = Some(entries);
            changed
        });
    }

    /// All of them, now and as they change.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<EntryList>> {
        self.all.subscribe()
    }

    /// The entry of that name, as it is now.
    pub(crate) fn named(&self, name: &EntryName) -> Option<RegistrationEntry> {
        let all = self.all.borrow();
        let found = all.as_ref()?.iter().find(|entry| entry.name == *name);
        found.cloned()
    }

    /// All of them, and who uses them.
    pub fn status(&self) -> Vec<EntryStatus> {
        let all = self.all.borrow().clone().unwrap_or_default();
        let uses = self.lock();
        let status = all.iter().map(|entry| {
            let agent = uses.by_agent.get(&entry.parent);
            let used = agent.map(|(_, uses)| uses.as_slice()).unwrap_or_default();
            let used = used.iter().filter(|used| used.entry == entry.name);
            EntryStatus {
                used_by: used.cloned().collect(),
                agent_connected: agent.is_some(),
                entry: entry.clone(),
            }
        });
        status.collect()
    }

    /// An agent reports from now on; whoever reported as it before is heard no more. None if too many do.
    pub(crate) fn reporter(self: &Arc<Self>, agent: SpiffeId) -> Option<Reporter> {
        let mut uses = self.lock();
        if uses.by_agent.len() >= MAX_AGENTS && !uses.by_agent.contains_key(&agent) {
            return None;
        }
        uses.reporters += 1;
        let number = uses.reporters;
        uses.by_agent.insert(agent.clone(), (number, Vec::new()));
        Some(Reporter {
            entries: Arc::clone(self),
            agent,
            number,
        })
    }

    /// Whether this is an agent that is connected and has entries.
    pub(crate) fn is_reporting(&self, agent: &SpiffeId) -> bool {
        let all = self.all.borrow().clone().unwrap_or_default();
        let has_entries = all.iter().any(|entry| entry.parent == *agent);
        has_entries && self.lock().by_agent.contains_key(agent)
    }

    fn lock(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter {
    /// Who uses entries at this agent: all of them; those beyond [`MAX_USES`] are left out.
    pub(crate) fn report(&self, mut uses: Vec<EntryUse>) {
        uses.truncate(MAX_USES);
        uses.sort();
        let mut known = self.entries.lock();
        if let Some((number, known)) = known.by_agent.get_mut(&self.agent)
            && *number == self.number
        {
            *known = uses;
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let mut known = self.entries.lock();
        let ours = known.by_agent.get(&self.agent);
        if ours.is_some_and(|(number, _)| *number == self.number) {
            known.by_agent.remove(&self.agent);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const AGENT: &str = "spiffe://mesh.local/agent";

    /// An entry of that agent's, with nothing but what an entry must have.
    pub(crate) fn entry_of(name: &str, agent: &str) -> RegistrationEntry {
        RegistrationEntry {
            name: EntryName::parse(&format!("batch/{name}")).unwrap(),
            id: format!("spiffe://mesh.local/ns/batch/sa/{name}")
                .parse()
                .unwrap(),
            parent: agent.parse().unwrap(),
            selectors: ["unix:uid:1".parse().unwrap()].into_iter().collect(),
            x509_ttl: None,
            jwt_ttl: None,
            dns_names: Vec::new(),
            jwt_audiences: Vec::new(),
            hint: String::new(),
        }
    }

    fn entry(name: &str) -> RegistrationEntry {
        entry_of(name, AGENT)
    }

    #[test]
    fn uses_are_those_that_the_agent_said_last_and_end_with_it() {
        let entries = Arc::new(Entries::default());
        entries.set(Arc::new(vec![entry("job"), entry("other")]));
        let seen = || {
            let status = entries.status();
            let job = &status[0];
            (job.used_by.len(), job.agent_connected)
        };
        assert_eq!(seen(), (0, false));
        let agent = entry("job").parent;
        let used = |pid| EntryUse {
            entry: entry("job").name,
            pid,
            uid: 1,
        };
        let first = entries.reporter(agent.clone()).unwrap();
        first.report(vec![used(2), used(1)]);
        assert_eq!(seen(), (2, true));
        let second = entries.reporter(agent).unwrap();
        assert_eq!(seen(), (0, true), "a new stream says anew");
        first.report(vec![used(1)]);
        drop(first);
        assert_eq!(seen(), (0, true), "the old one is heard no more");
        second.report((0..2_000).map(used).collect());
        assert_eq!(seen(), (MAX_USES, true));
        assert_eq!(entries.status()[1].used_by.len(), 0);
        drop(second);
        assert_eq!(seen(), (0, false));
    }

    #[test]
    fn an_entry_that_is_gone_is_found_no_more() {
        let entries = Entries::default();
        let name = entry("job").name;
        entries.set(Arc::new(vec![entry("job")]));
        assert_eq!(entries.named(&name), Some(entry("job")));
        let watch = entries.watch();
        entries.set(Arc::new(vec![entry("job")]));
        assert!(!watch.has_changed().unwrap(), "nothing is new");
        entries.set(EntryList::default());
        assert_eq!(entries.named(&name), None);
        assert!(watch.has_changed().unwrap());
    }
}
