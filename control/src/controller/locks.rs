//! Locking namespaces that are strict, and opening them again with an approver's signature.

use reeve_core::{Namespace, model::SignerKey};

use super::{Controller, state::State};
use crate::{
    PolicyFolder,
    migration::{Landscape, Lock, LockRefused, Locks, SignedApproval, UnlockRefused},
    source::Source,
};

impl Controller {
    /// Locks `namespace` as it is in force. Blocks on files.
    pub fn lock(
        &self,
        namespace: &Namespace,
        by: String,
        approvers: Vec<SignerKey>,
    ) -> Result<Lock, LockRefused> {
        let source = Source::read(&self.options.folder);
        let landscape = Landscape::of_source(&source, PolicyFolder::default());
        let landscape = landscape.map_err(|_faults| LockRefused::NotInForce)?;
        let now = self.options.clock.now();
        let mut state = self.state();
        let in_force = state.mesh.as_deref();
        if !in_force.is_some_and(|mesh| mesh.means(landscape.mesh())) {
            return Err(LockRefused::NotInForce);
        }
        let lock = Lock::of(namespace, &landscape, (by, approvers), now)?;
        let more = state.locks.with(lock.clone())?;
        self.keep_locks(&mut state, more)?;
        Ok(lock)
    }

    /// Opens what `approval` says, and returns the lock that was. A configuration that was refused for it comes into force.
    /// Blocks on files.
    pub fn unlock(&self, approval: &SignedApproval) -> Result<Lock, UnlockRefused> {
        let namespace = &approval.approval.namespace;
        let now = self.options.clock.now();
        let mut state = self.state();
        let unknown = || UnlockRefused::NotLocked(namespace.clone());
        let lock = state.locks.get(namespace).cloned().ok_or_else(unknown)?;
        let mesh = state.mesh.as_deref().ok_or_else(unknown)?;
        approval.check(&lock, &mesh.settings.trust_domain, now)?;
        let fewer = state.locks.without(namespace);
        self.keep_locks(&mut state, fewer)?;
        drop(state);
        self.reload();
        Ok(lock)
    }

    /// What is locked.
    pub fn locks(&self) -> Locks {
        self.state().locks.clone()
    }

    fn keep_locks(&self, state: &mut State, locks: Locks) -> std::io::Result<()> {
        locks.write(&self.options.state)?;
        state.locks = locks;
        Ok(())
    }
}
