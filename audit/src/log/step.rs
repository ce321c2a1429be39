//! The steps of the sequencer. A crash after any of them loses nothing that was acknowledged; tests end it there.

use super::{AuditLog, LogError};

/// What the sequencer has done of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The batches are on the disk.
    Stored,
    /// So are the entries and tiles that they add.
    Extended,
    /// And the checkpoint that covers them.
    Signed,
}

impl AuditLog {
    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "tests end the round here"
    )]
    pub(super) fn reached(&self, _step: Step) -> Result<(), LogError> {
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn reached(&self, step: Step) -> Result<(), LogError> {
        let mut end = self.end_at.lock().unwrap();
        match *end == Some(step) {
            false => Ok(()),
            true => {
                *end = None;
                Err(LogError::NotSequenced {
                    what: format!("the test ends it after {step:?}"),
                })
            }
        }
    }

    /// The next round ends after `step`, as if the disk had failed.
    #[cfg(test)]
    pub(crate) fn end_at(&self, step: Step) {
        *self.end_at.lock().unwrap() = Some(step);
    }
}
