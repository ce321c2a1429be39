//! The bundles of other trust domains, which members are told with ours.

use std::sync::Arc;

use reeve_svid::Federated;

use super::{CaError, CertificateAuthority};

impl CertificateAuthority {
    /// Members admit the peers of these trust domains from now on, and of no others but our own. The sequence of our
    /// bundle grows with it, so that a member's report says which of them it has.
    pub fn federate(&self, federated: Arc<Federated>) -> Result<(), CaError> {
        let state = &mut *self.lock();
        if federated.says_as(&state.federated) {
            return Ok(());
        }
        let now = self.clock.now();
        let before = std::mem::replace(&mut state.federated, federated);
        let changed = self.change(state, now, |slots, _| {
            slots.sequence = slots.sequence.saturating_add(1);
            Ok(())
        });
        // What was not told is not held either, and is tried again.
        changed.inspect_err(|_| state.federated = before)
    }
}

#[cfg(test)]
mod tests;
