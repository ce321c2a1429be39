//! What drills do here: their notes go into the audit log, and their faults into the authority, for a while.

use std::time::Duration;

use http::Extensions;
use reeve_audit::{EventKind, EventRecord};
use reeve_ca::{AuthorityFault, HeldFault, UnixPeer};
use reeve_console::{DrillNote, FaultRequest, TokenRefused};

use super::view::View;

/// Longest id or name of a drill.
const MAX_DRILL_NAME: usize = 64;
/// Longest text of a note.
const MAX_DRILL_TEXT: usize = 2048;
/// What a note can be of.
const PHASES: [&str; 3] = ["began", "step", "ended"];
/// How a drill can end.
const VERDICTS: [&str; 3] = ["passed", "failed", "rolled_back"];

impl View {
    pub(super) fn record_drill(
        &self,
        caller: &Extensions,
        note: &DrillNote,
    ) -> Result<(), TokenRefused> {
        check(note).map_err(|why| TokenRefused::Request(why.to_owned()))?;
        let mut event = event(&note.drill, &note.phase, Some(caller))
            .with("name", &note.name)
            .with("text", &note.text);
        if let Some(verdict) = &note.verdict {
            event = event.with("verdict", verdict);
        }
        self.events.record(event);
        Ok(())
    }

    pub(super) fn hold_fault(
        &self,
        caller: &Extensions,
        request: &FaultRequest,
    ) -> Result<(), TokenRefused> {
        let faults = self.ca.faults();
        if request.lease_ms == 0 {
            if let Some(held) = faults.release(&request.drill) {
                self.record_fault("fault_ended", &held, Some(caller));
            }
            return Ok(());
        }
        let fault = match request.fault.as_str() {
            "away" => AuthorityFault::Away,
            "no-renewal" => AuthorityFault::NoRenewal,
            "skew" => AuthorityFault::Skew {
                ahead_ms: request.ahead_ms,
            },
            other => {
                return Err(TokenRefused::Request(format!(
                    "there is no fault {other:?}: away, no-renewal or skew"
                )));
            }
        };
        if !is_name(&request.drill) {
            return Err(TokenRefused::Request(BAD_NAME.to_owned()));
        }
        let held = HeldFault {
            fault,
            holder: request.drill.clone(),
        };
        let fresh = faults.hold(held.clone(), Duration::from_millis(request.lease_ms));
        if fresh.map_err(|error| TokenRefused::Request(error.to_string()))? {
            self.record_fault("fault_began", &held, Some(caller));
        }
        Ok(())
    }

    /// Takes a fault out whose time is over: its drill has not asked again.
    pub(super) fn expire_faults(&self) {
        if let Some(held) = self.ca.faults().expire() {
            tracing::warn!(
                drill = held.holder,
                fault = held.fault.as_str(),
                "a fault on purpose ends by itself: its drill does not ask for it any more"
            );
            self.record_fault("fault_ended", &held, None);
        }
    }

    fn record_fault(&self, phase: &str, held: &HeldFault, caller: Option<&Extensions>) {
        tracing::info!(?held, phase, "a fault of the authority on purpose");
        let mut event = event(&held.holder, phase, caller).with("fault", held.fault.as_str());
        if let AuthorityFault::Skew { ahead_ms } = held.fault {
            event = event.with("ahead_ms", ahead_ms.to_string());
        }
        if caller.is_none() {
            event = event.with("cause", "lease over");
        }
        self.events.record(event);
    }
}

fn event(drill: &str, phase: &str, caller: Option<&Extensions>) -> EventRecord {
    let event = EventRecord::new(EventKind::Drill)
        .with("drill", drill)
        .with("phase", phase);
    match caller.and_then(|caller| caller.get::<UnixPeer>()) {
        Some(peer) => event
            .with("uid", peer.uid.to_string())
            .with("pid", peer.pid.to_string()),
        None => event,
    }
}

const BAD_NAME: &str = "a drill's id has lower-case letters, digits and hyphens, 64 at most";

fn is_name(text: &str) -> bool {
    let fits = (1..=MAX_DRILL_NAME).contains(&text.len());
    let of = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    fits && text.chars().all(of)
}

fn check(note: &DrillNote) -> Result<(), &'static str> {
    if !is_name(&note.drill) || !is_name(&note.name) {
        return Err(BAD_NAME);
    }
    if !PHASES.contains(&note.phase.as_str()) {
        return Err("a note's phase is began, step or ended");
    }
    let verdict = note.verdict.as_deref();
    if verdict.is_some_and(|verdict| !VERDICTS.contains(&verdict)) {
        return Err("a verdict is passed, failed or rolled_back");
    }
    if (note.phase == "ended") != verdict.is_some() {
        return Err("a drill has a verdict at its end, and only then");
    }
    match note.text.len() > MAX_DRILL_TEXT {
        true => Err("a note's text is too long"),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_bounded() {
        let good = DrillNote {
            drill: "rotate-root-20261122".to_owned(),
            name: "rotate-root".to_owned(),
            phase: "ended".to_owned(),
            text: "nothing was lost".to_owned(),
            verdict: Some("passed".to_owned()),
        };
        assert_eq!(check(&good), Ok(()));
        type Spoil = fn(&mut DrillNote);
        let spoils: [Spoil; 6] = [
            |note| note.drill = String::new(),
            |note| note.drill = "A b".to_owned(),
            |note| note.name = "a".repeat(65),
            |note| note.phase = "over".to_owned(),
            |note| note.verdict = None,
            |note| note.text = "x".repeat(2049),
        ];
        for (number, spoil) in spoils.into_iter().enumerate() {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(check(&bad).is_err(), "{number}");
        }
    }
}
