//! Locked namespaces: what the operator asks for, done and put into the audit log, refused openings included.

use http::Extensions;
use reeve_audit::{EventKind, EventRecord};
use reeve_ca::UnixPeer;
use reeve_console::{LockRequest, TokenRefused, UnlockRequest};
use reeve_control::migration::{LockRefused, SignedApproval, UnlockRefused};
use reeve_core::error_chain;
use serde_json::Value;

use super::view::View;

/// Longest name of whoever asks, and text on what evidence.
const MAX_LOCK_TEXT: usize = 1024;

impl View {
    pub(super) fn lock_namespace(
        &self,
        caller: &Extensions,
        request: &LockRequest,
    ) -> Result<Value, TokenRefused> {
        bounded(&[&request.by, &request.why])?;
        let approvers = request.approvers.clone();
        let locked = self
            .controller
            .lock(&request.namespace, request.by.clone(), approvers);
        let lock = locked.map_err(|error| match matches!(error, LockRefused::Unkept(_)) {
            true => TokenRefused::Ourselves(error_chain(&error)),
            false => TokenRefused::Request(error.to_string()),
        })?;
        let approvers: Vec<_> = lock.approvers.iter().map(ToString::to_string).collect();
        let open: Vec<_> = lock.open.iter().map(String::as_str).collect();
        let event = EventRecord::new(EventKind::MtlsLocked)
            .with("lock", &lock.id)
            .with("namespace", lock.namespace.as_str())
            .with("approvers", approvers.join(" "))
            .with("open", cut(&open.join(" ")))
            .with("by", &lock.by)
            .with("why", &request.why);
        self.events.record(asked_by(event, caller));
        serde_json::to_value(lock).map_err(|error| TokenRefused::Ourselves(error.to_string()))
    }

    pub(super) fn unlock_namespace(
        &self,
        caller: &Extensions,
        request: &UnlockRequest,
    ) -> Result<Value, TokenRefused> {
        bounded(&[&request.by])?;
        let signed = SignedApproval::read(request.approval.as_bytes());
        let signed = signed.map_err(|error| TokenRefused::Request(error.to_string()))?;
        let approval = &signed.approval;
        let event = EventRecord::new(EventKind::MtlsUnlocked)
            .with("lock", cut(&approval.lock))
            .with("namespace", approval.namespace.as_str())
            .with("approver", signed.signer.to_string())
            .with("why", &approval.reason)
            .with("by", &request.by);
        let event = asked_by(event, caller);
        match self.controller.unlock(&signed) {
            Ok(lock) => {
                self.events.record(event.with("outcome", "unlocked"));
                serde_json::to_value(lock)
                    .map_err(|error| TokenRefused::Ourselves(error.to_string()))
            }
            Err(error) => {
                self.events
                    .record(event.with("outcome", format!("refused: {error}")));
                Err(match matches!(error, UnlockRefused::Unkept(_)) {
                    true => TokenRefused::Ourselves(error_chain(&error)),
                    false => TokenRefused::Request(error.to_string()),
                })
            }
        }
    }
}

fn bounded(texts: &[&str]) -> Result<(), TokenRefused> {
    match texts.iter().all(|text| text.len() <= MAX_LOCK_TEXT) {
        true => Ok(()),
        false => Err(TokenRefused::Request(format!(
            "who asks and why have {MAX_LOCK_TEXT} bytes at most"
        ))),
    }
}

/// As much of a text as a record keeps.
fn cut(text: &str) -> String {
    text.chars().take(MAX_LOCK_TEXT).collect()
}

fn asked_by(event: EventRecord, caller: &Extensions) -> EventRecord {
    match caller.get::<UnixPeer>() {
        Some(peer) => event
            .with("uid", peer.uid.to_string())
            .with("pid", peer.pid.to_string()),
        None => event,
    }
}
