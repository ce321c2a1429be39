//! What all proxies hold open.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reeve_core::{InstanceName, model::OpenCircuit};
use tokio::{sync::watch, time::Instant};

/// Collects what proxies hold open.
#[derive(Debug)]
pub struct CircuitHub {
    held: Mutex<BTreeMap<InstanceName, Held>>,
    /// Counts changes.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Held {
    circuits: Vec<OpenCircuit>,
    since: Instant,
    /// The stream that it came by: a newer one takes its place.
    stream: u64,
}

impl Default for CircuitHub {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl CircuitHub {
    /// Everything that is open, with those who hold it so, and the longest that it stays.
    pub fn open(&self) -> Vec<OpenCircuit> {
        self.open_but(None)
    }

    /// The same, but for what `own` holds open itself.
    pub(super) fn open_but(&self, own: Option<&InstanceName>) -> Vec<OpenCircuit> {
        let mut open: Vec<OpenCircuit> = Vec::new();
        for (proxy, held) in &*self.held() {
            if Some(proxy) == own {
                continue;
            }
            let age = u64::try_from(held.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            for circuit in &held.circuits {
                let left_ms = circuit.left_ms.saturating_sub(age);
                if left_ms == 0 {
                    continue;
                }
                match open
                    .iter_mut()
                    .find(|known| known.is_about_the_same(circuit))
                {
                    Some(known) => {
                        known.left_ms = known.left_ms.max(left_ms);
                        known.held_by.push(proxy.clone());
                    }
                    None => open.push(OpenCircuit {
                        left_ms,
                        held_by: vec![proxy.clone()],
                        ..circuit.clone()
                    }),
                }
            }
        }
        open
    }

    /// Takes in what `proxy` holds open now.
    pub(super) fn hold(&self, proxy: &InstanceName, stream: u64, circuits: Vec<OpenCircuit>) {
        let held = Held {
            circuits,
            since: Instant::now(),
            stream,
        };
        self.held().insert(proxy.clone(), held);
        self.changed();
    }

    /// The stream of `proxy` has ended.
    pub(super) fn forget(&self, proxy: &InstanceName, stream: u64) {
        let mut held = self.held();
        if held.get(proxy).is_some_and(|held| held.stream == stream) {
            held.remove(proxy);
        }
        drop(held);
        self.changed();
    }

    /// Told of changes.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<InstanceName, Held>> {
        // A panic while it was held leaves at worst a circuit out, until it is told again.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a proxy is told, at least: what others hold open ends by itself.
pub(super) const BEAT: Duration = Duration::from_secs(1);
